// Sum of one or two separable, symmetric kernels: tiles in shared memory, the z, y and x pass one after the other.
//
// Macros: VOXEL, the type of the voxels; KERNELS; TAPS_Z, TAPS_Y, TAPS_X; PLANES, ROWS, COLUMNS of a tile; STRIP,
// columns of the z pass that shared memory holds at once; IN_MEMORY, whether weights are too many for arguments; CLIP,
// whether negative sums become 0.

constexpr int kThreads = 256;
constexpr int kMostKept = 48;  // taps whose values a thread keeps in registers, with loops over them unrolled
constexpr int kRows = 8;       // rows of the y pass in a thread: neighbours share what is loaded
constexpr int kColumns = 4;    // columns of the x pass in a thread
constexpr int kPairsZ = (TAPS_Z + 1) / 2, kPairsY = (TAPS_Y + 1) / 2, kPairsX = (TAPS_X + 1) / 2;
constexpr int kHeight = ROWS + TAPS_Y - 1;                      // rows of the z pass
constexpr int kWidth = COLUMNS + TAPS_X - 1;                    // columns of the z and y pass
constexpr int kPitch = (kWidth + kColumns - 1) / kColumns * kColumns;
constexpr int kDeep = PLANES + TAPS_Z - 1;  // planes of the image that a tile needs

// Of pairs, outermost first; of the x pass those of all kernels in one list.
struct Weights {
#if IN_MEMORY
    float const* z[KERNELS];
    float const* y[KERNELS];
    float const* x;
#else
    float z[KERNELS][kPairsZ];
    float y[KERNELS][kPairsY];
    float x[KERNELS * kPairsX];
#endif
};

struct alignas(16) Four {
    float value[4];
};

__device__ __forceinline__ float sum_of(float a, float b) { return a + b; }
__device__ __forceinline__ float sum_of(int a, int b) { return static_cast<float>(a + b); }  // of 16 bits each: exact

// Values load(0) ... load(COUNT - 1): from registers, or loaded whenever they are asked for.
template <int COUNT, bool KEPT, class Load>
struct Window {
    Load load;
    __device__ __forceinline__ explicit Window(Load each) : load(each) {}
    __device__ __forceinline__ auto operator()(int i) const { return load(i); }
};
template <int COUNT, class Load>
struct Window<COUNT, true, Load> {
    decltype(static_cast<Load*>(nullptr)->operator()(0)) value[COUNT];
    __device__ __forceinline__ explicit Window(Load load) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) value[i] = load(i);
    }
    __device__ __forceinline__ auto operator()(int i) const { return value[i]; }
};
template <int COUNT, bool KEPT, class Load>
__device__ __forceinline__ Window<COUNT, KEPT, Load> window(Load load) {
    return Window<COUNT, KEPT, Load>(load);
}

// Sum of weight[k] * pair(k), added up as on the CPU: in groups of three, and of two where one would be left over.
template <int PAIRS, bool UNROLLED, class Pair>
__device__ __forceinline__ float sum_pairs(float const* weight, Pair pair) {
    if constexpr (PAIRS == 1) {
        return weight[0] * pair(0);
    } else {
        constexpr int kTwos = (3 - PAIRS % 3) % 3;
        constexpr int kThrees = (PAIRS - 2 * kTwos) / 3;
        float sum = 0;
#pragma unroll (UNROLLED ? kThrees + 1 : 1)
        for (int k = 0; k < 3 * kThrees; k += 3) {
            float const group = weight[k] * pair(k) + weight[k + 1] * pair(k + 1) + weight[k + 2] * pair(k + 2);
            sum = k == 0 ? group : sum + group;
        }
#pragma unroll
        for (int k = 3 * kThrees; k < PAIRS; k += 2) {
            float const group = weight[k] * pair(k) + weight[k + 1] * pair(k + 1);
            sum = k == 0 ? group : sum + group;
        }
        return sum;
    }
}

extern "C" __global__ void __launch_bounds__(kThreads) sum_separable(VOXEL const* __restrict__ image,
                                                                     float* __restrict__ out, Weights weights, int Z,
                                                                     int Y, int X, bool aligned) {
    DYNAMIC_SHARED(shared);
    float* const second = reinterpret_cast<float*>(shared);          // y pass: planes, kernels, ROWS, kPitch
    float* const first = second + PLANES * KERNELS * ROWS * kPitch;  // z pass: planes, kernels, kHeight, STRIP
    constexpr int kSums = PLANES * KERNELS * (ROWS * kPitch + kHeight * STRIP);
    int64* const offset = reinterpret_cast<int64*>(second + kSums + kSums % 2);  // of the planes, aligned

    // tiles that share planes run at the same time, so that planes are read from memory once
    unsigned const deep = (Z + PLANES - 1) / PLANES, across = (X + COLUMNS - 1) / COLUMNS;
    int const z0 = blockIdx.x % deep * PLANES;
    int const x0 = blockIdx.x / deep % across * COLUMNS;
    int const y0 = blockIdx.x / deep / across * ROWS;
    int64 const plane = static_cast<int64>(Y) * X;
    for (int k = threadIdx.x; k < kDeep; k += kThreads) offset[k] = mirrored(z0 - TAPS_Z / 2 + k, Z) * plane;
    __syncthreads();

    for (int strip = 0; strip < kWidth; strip += STRIP) {
        for (int i = threadIdx.x; i < kHeight * STRIP; i += kThreads) {
            int const row = i / STRIP, column = i % STRIP;
            if (strip + column >= kWidth) continue;
            int const y = mirrored(y0 - TAPS_Y / 2 + row, Y), x = mirrored(x0 - TAPS_X / 2 + strip + column, X);
            VOXEL const* const at = image + static_cast<int64>(y) * X + x;
            auto const voxel = window<kDeep, TAPS_Z <= kMostKept>([&](int k) { return at[offset[k]]; });
#pragma unroll
            for (int c = 0; c < PLANES; ++c)
#pragma unroll
                for (int g = 0; g < KERNELS; ++g)
                    first[((c * KERNELS + g) * kHeight + row) * STRIP + column] =
                        sum_pairs<kPairsZ, TAPS_Z <= kMostKept>(
                            weights.z[g], [&](int k) { return sum_of(voxel(c + k), voxel(c + TAPS_Z - 1 - k)); });
        }
        __syncthreads();
#pragma unroll
        for (int g = 0; g < KERNELS; ++g)
            for (int i = threadIdx.x; i < PLANES * (ROWS / kRows) * STRIP; i += kThreads) {
                int const column = i % STRIP, row = i / STRIP % (ROWS / kRows) * kRows;
                int const c = i / STRIP / (ROWS / kRows) * KERNELS + g;
                if (strip + column >= kWidth) continue;
                float const* const from = first + (c * kHeight + row) * STRIP + column;
                float* const to = second + (c * ROWS + row) * kPitch + strip + column;
                auto const value = window<kRows + TAPS_Y - 1, TAPS_Y <= kMostKept>(
                    [&](int k) { return from[k * STRIP]; });
#pragma unroll
                for (int r = 0; r < kRows; ++r)
                    to[r * kPitch] = sum_pairs<kPairsY, TAPS_Y <= kMostKept>(
                        weights.y[g], [&](int k) { return value(r + k) + value(r + TAPS_Y - 1 - k); });
            }
        __syncthreads();
    }

    constexpr int kWindow = (kColumns + TAPS_X - 1 + 3) / 4 * 4;  // whole fours, which are loaded at once
    for (int i = threadIdx.x; i < PLANES * ROWS * (COLUMNS / kColumns); i += kThreads) {
        int const column = i % (COLUMNS / kColumns) * kColumns, row = i / (COLUMNS / kColumns) % ROWS;
        int const c = i / (COLUMNS / kColumns) / ROWS;
        int const z = z0 + c, y = y0 + row, x = x0 + column;
        if (z >= Z || y >= Y || x >= X) continue;
        float const* const from = second + (c * KERNELS * ROWS + row) * kPitch + column;
        auto const value = window<KERNELS * kWindow, TAPS_X <= kMostKept>(
            [&](int k) { return from[k / kWindow * ROWS * kPitch + k % kWindow]; });
        Four sums;
#pragma unroll
        for (int r = 0; r < kColumns; ++r) {
            float const sum = sum_pairs<KERNELS * kPairsX, TAPS_X <= kMostKept>(weights.x, [&](int k) {
                int const left = k / kPairsX * kWindow + r + k % kPairsX;
                int const right = k / kPairsX * kWindow + r + TAPS_X - 1 - k % kPairsX;
                return value(left) + value(right);
            });
            sums.value[r] = CLIP && sum < 0 ? 0.0f : sum;
        }
        float* const to = out + z * plane + static_cast<int64>(y) * X + x;
        if (aligned) {
            *reinterpret_cast<Four*>(to) = sums;
        } else {
#pragma unroll
            for (int r = 0; r < kColumns; ++r)
                if (x + r < X) to[r] = sums.value[r];
        }
    }
}
