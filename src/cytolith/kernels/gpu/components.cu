// The mask of an image as runs along x. Macros: VOXEL, the type of the voxels; WARPS, warps of a block, one a row.
#define ALL 0xffffffffu
#define AT_ONCE 4

// Mask of the next AT_ONCE x 32 voxels of a row, a bit each; x is this lane's first, at or behind the end also.
__device__ __forceinline__ void read_mask(VOXEL const* line, int x, int X, VOXEL level, int everything, uint32* mask) {
    VOXEL value[AT_ONCE];  // all on their way before the first is looked at
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) value[k] = line[min(x + 32 * k, X - 1)];
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
        bool const above = value[k] > level || (everything && value[k] == value[k]);  // NaN differs from itself
        mask[k] = __ballot_sync(ALL, above && x + 32 * k < X);
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) count_runs(VOXEL const* __restrict__ image, int64 rows, int X,
                                                             VOXEL level, int everything, int* __restrict__ runs,
                                                             int* __restrict__ voxels) {
    int const lane = threadIdx.x & 31;
    int64 const row = static_cast<int64>(blockIdx.x) * WARPS + (threadIdx.x >> 5);
    if (row >= rows) return;
    int n_runs = 0, n_voxels = 0;
    uint32 before = 0;  // whether the voxel before the word belongs to the mask
    for (int first = 0; first < X; first += 32 * AT_ONCE) {
        uint32 mask[AT_ONCE];
        read_mask(image + row * X, first + lane, X, level, everything, mask);
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            n_voxels += __popc(mask[k]);
            n_runs += __popc(mask[k] & ~(mask[k] << 1 | before));
            before = mask[k] >> 31;
        }
    }
    if (lane == 0) {
        runs[row] = n_runs;
        voxels[row] = n_voxels;
    }
}

// row_start: the first run of each row and of the one behind the last. row_voxels: mask voxels before each row.
extern "C" __global__ void __launch_bounds__(32 * WARPS) find_runs(VOXEL const* __restrict__ image, int64 rows, int X,
                                                            VOXEL level, int everything,
                                                            int64 const* __restrict__ row_start,
                                                            int64 const* __restrict__ row_voxels,
                                                            int* __restrict__ start, int* __restrict__ stop,
                                                            int64* __restrict__ offset) {
    int const lane = threadIdx.x & 31;
    int64 const row = static_cast<int64>(blockIdx.x) * WARPS + (threadIdx.x >> 5);
    if (row >= rows || row_start[row] == row_start[row + 1]) return;
    int64 begun = row_start[row], ended = begun, voxels = row_voxels[row];
    uint32 before = 0;
    uint32 const earlier = (1u << lane) - 1;
    for (int first = 0; first <= X; first += 32 * AT_ONCE) {  // a run that ends with the row ends at X
        uint32 mask[AT_ONCE];
        read_mask(image + row * X, first + lane, X, level, everything, mask);
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
            int const x = first + 32 * k + lane;
            uint32 const shifted = mask[k] << 1 | before;
            uint32 const starts = mask[k] & ~shifted, stops = ~mask[k] & shifted;
            if (starts >> lane & 1) {
                int64 const run = begun + __popc(starts & earlier);
                start[run] = x;
                offset[run] = voxels + __popc(mask[k] & earlier);
            }
            if (stops >> lane & 1) stop[ended + __popc(stops & earlier)] = x;
            begun += __popc(starts);
            ended += __popc(stops);
            voxels += __popc(mask[k]);
            before = mask[k] >> 31;
        }
    }
}

// Values of the voxels of the mask, run by run; four runs of a row at a time, eight voxels each.
extern "C" __global__ void __launch_bounds__(32 * WARPS) gather(VOXEL const* __restrict__ image, int64 rows, int X,
                                                         int64 const* __restrict__ row_start,
                                                         int const* __restrict__ start, int const* __restrict__ stop,
                                                         int64 const* __restrict__ offset,
                                                         VOXEL* __restrict__ values) {
    int const lane = threadIdx.x & 31;
    int64 const row = static_cast<int64>(blockIdx.x) * WARPS + (threadIdx.x >> 5);
    if (row >= rows) return;
    int64 const last = row_start[row + 1];
    for (int64 run = row_start[row] + (lane >> 3); run < last; run += 4) {
        int const begin = start[run], end = stop[run];
        VOXEL const* const from = image + row * X;
        VOXEL* const to = values + offset[run] - begin;
        for (int x = begin + (lane & 7); x < end; x += 8) to[x] = from[x];
    }
}
