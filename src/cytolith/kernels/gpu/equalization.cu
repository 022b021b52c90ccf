// Division by local percentiles that are interpolated between the points of a grid: along x, then z, then y.
//
// Macros: VOXEL, the type of the voxels; WEIGHTED, whether points weigh more or less.

constexpr int kThreads = 256;
constexpr int kRows = 32;  // of a block of threads: rows between the same points share what is interpolated to x and z
constexpr int kLayers = WEIGHTED ? 3 : 2;

__device__ __forceinline__ float between(float low, float high, float fraction) {
    return low + (high - low) * fraction;
}

// `layers` are the lower and the upper percentile and the weights, (Gz, Gy, Gx) each; `point` is the point of the grid
// before each z, y and x, `fraction` how far behind it they lie.
extern "C" __global__ void __launch_bounds__(kThreads) divide(VOXEL const* __restrict__ image, float* __restrict__ out,
                                                              float const* __restrict__ layers,
                                                              int const* __restrict__ point,
                                                              float const* __restrict__ fraction, int Z, int Y, int X,
                                                              int Gz, int Gy, int Gx, float scale) {
    unsigned const across = (X + kThreads - 1) / kThreads, down = (Y + kRows - 1) / kRows;
    int const x = blockIdx.x % across * kThreads + threadIdx.x;
    int const first = blockIdx.x / across % down * kRows, z = blockIdx.x / across / down;
    if (x >= X) return;
    int const z0 = point[z], x0 = point[Z + Y + x];
    float const along_z = fraction[z], along_x = fraction[Z + Y + x];
    // what lies on a point depends on no other one
    int const z1 = z0 + (along_z > 0), x1 = x0 + (along_x > 0);
    auto const at_row = [&](int layer, int gy) {
        float const* below = layers + ((static_cast<int64>(layer) * Gz + z0) * Gy + gy) * Gx;
        float const* above = below + static_cast<int64>(z1 - z0) * Gy * Gx;
        return between(between(below[x0], below[x1], along_x), between(above[x0], above[x1], along_x), along_z);
    };
    int y0 = -1, y1 = -1;
    float low[kLayers], high[kLayers];
    for (int y = first; y < min(first + kRows, Y); ++y) {
        int64 const at = (static_cast<int64>(z) * Y + y) * X + x;
        VOXEL const value = image[at];
        float const along_y = fraction[Z + y];
        int const here = point[Z + y], next = here + (along_y > 0);
        if (here != y0 || next != y1) {
            y0 = here;
            y1 = next;
#pragma unroll
            for (int q = 0; q < kLayers; ++q) {
                low[q] = at_row(q, y0);
                high[q] = at_row(q, y1);
            }
        }
        float lower = between(low[0], high[0], along_y), upper = between(low[1], high[1], along_y);
#if WEIGHTED
        float const weight = between(low[2], high[2], along_y);
        lower = weight > 0 ? lower / weight : 0.0f;
        upper = weight > 0 ? upper / weight : 0.0f;
#endif
        float divisor = 1.0f;
        if (lower > divisor) divisor = lower;
        if (upper * scale > divisor) divisor = upper * scale;
        out[at] = static_cast<float>(value) / divisor;
    }
}
