// Illumination correction: (image - offset) * gain, plane by plane. Macro: VOXEL, the type of the voxels.

extern "C" __global__ void correct(VOXEL const* __restrict__ image, float const* __restrict__ gain,
                                   float const* __restrict__ offset, float* __restrict__ out, int64 plane, int planes) {
    int64 at = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= plane) return;
    float const factor = gain[at];
    float const below = offset ? offset[at] : 0.0f;
    for (int z = blockIdx.y; z < planes; z += gridDim.y) {
        float const value = static_cast<float>(image[z * plane + at]);
        out[z * plane + at] = offset ? (value - below) * factor : value * factor;
    }
}
