// Background at positions and near them. Macros: VOXEL and CORRECTED, the types of the voxels of both images;
// DIFFERENCE, the type in which the CPU takes the difference of two voxels.

__device__ __forceinline__ DIFFERENCE background(VOXEL before, CORRECTED after) {
    return static_cast<DIFFERENCE>(before) - static_cast<DIFFERENCE>(static_cast<VOXEL>(after));
}

__device__ __forceinline__ DIFFERENCE larger(DIFFERENCE a, DIFFERENCE b) {
    return b > a ? b : a;
}

// A warp a position; it goes through the box around the window plane by plane, rows together.
extern "C" __global__ void __launch_bounds__(256) background_near(
    VOXEL const* __restrict__ image, CORRECTED const* __restrict__ corrected, int64 const* __restrict__ positions,
    int64 n, int height, int width, int rz, int ry, int rx, int const* __restrict__ half_widths, int z0, int z1, int y0,
    int y1, int x0, int x1, double* __restrict__ own, double* __restrict__ largest) {
    int64 const at = static_cast<int64>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (at >= n) return;
    int const lane = threadIdx.x % 32;
    int const z = positions[3 * at], y = positions[3 * at + 1], x = positions[3 * at + 2];
    int64 const here = (static_cast<int64>(z) * height + y) * width + x;
    DIFFERENCE const there = background(image[here], corrected[here]);
    DIFFERENCE most = there;
    int const length = 2 * rx + 1, down = 32 / length, right = 32 % length;
    for (int row_z = max(z - rz, z0); row_z < min(z + rz + 1, z1); ++row_z) {
        int dy = lane / length - ry, dx = lane % length - rx;
        while (dy <= ry) {
            int const row_y = y + dy, row_x = x + dx, half = half_widths[dy + ry];
            if (dx >= -half && dx <= half && row_y >= y0 && row_y < y1 && row_x >= x0 && row_x < x1) {
                int64 const place = (static_cast<int64>(row_z) * height + row_y) * width + row_x;
                most = larger(most, background(image[place], corrected[place]));
            }
            dy += down;
            dx += right;
            if (dx > rx) {
                dx -= length;
                ++dy;
            }
        }
    }
    for (int step = 16; step > 0; step /= 2) most = larger(most, __shfl_xor_sync(0xffffffffu, most, step));
    if (lane == 0) {
        own[at] = static_cast<double>(there);
        largest[at] = static_cast<double>(most);
    }
}
