// Largest value in a region of an image. Macros: VOXEL, the type of the voxels; REAL, whether it is float.

// Unsigned numbers in the order of the values.
__device__ __forceinline__ uint32 key_of(VOXEL value) {
#if REAL
    uint32 const bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
#else
    return static_cast<uint32>(static_cast<int>(value)) ^ 0x80000000u;
#endif
}

// One warp a row of the region; `key` must be 0 before.
extern "C" __global__ void __launch_bounds__(256) largest(VOXEL const* __restrict__ image, uint32* key, int64 plane,
                                                          int width, int z0, int y0, int x0, int ny, int nx,
                                                          int64 rows) {
    int const lane = threadIdx.x % 32;
    int64 const warps = static_cast<int64>(gridDim.x) * (blockDim.x / 32);
    uint32 most = 0;
    for (int64 row = static_cast<int64>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32; row < rows; row += warps) {
        VOXEL const* at = image + (z0 + row / ny) * plane + (y0 + row % ny) * width + x0;
        for (int x = lane; x < nx; x += 32) {
            uint32 const here = key_of(at[x]);
            most = here > most ? here : most;
        }
    }
    for (int step = 16; step > 0; step /= 2) {
        uint32 const other = __shfl_xor_sync(0xffffffffu, most, step);
        most = other > most ? other : most;
    }
    if (lane == 0 && most > 0) atomicMax(key, most);
}
