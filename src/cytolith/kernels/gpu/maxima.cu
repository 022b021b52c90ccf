// Local maxima. Macros: VOXEL, the type of the voxels; WARPS, warps of a block. Each warp takes rows of the image; a
// row has `words` words of marks, one bit a voxel.
#define ALL 0xffffffffu
#define AT_ONCE 4

// Whether a voxel of the box of `planes` x `lines` x `voxels` that begins at `first` is greater than v.
__device__ __forceinline__ bool exceeded(VOXEL const* first, int planes, int lines, int voxels, int64 plane, int X,
                                         VOXEL v) {
    for (int z = 0; z < planes; ++z) {
        VOXEL const* at = first + z * plane;
        for (int y = 0; y < lines; ++y, at += X) {
            bool greater = false;  // asked once a line, so that its voxels are on their way at the same time
            for (int x = 0; x < voxels; ++x) greater |= at[x] > v;
            if (greater) return true;
        }
    }
    return false;
}

// Marks the voxels >= lowest that none of their neighbours across a face exceeds, towards the faces that the window
// looks at (`sides`: a bit each for z down, z up, y down, y up, x down, x up). Counts them.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 4) mark_candidates(
    VOXEL const* __restrict__ image, VOXEL lowest, int Z, int Y, int X, int sides, int words,
    uint32* __restrict__ marks, uint64* __restrict__ marked) {
    int const lane = threadIdx.x & 31;
    uint32 const rows = Z * Y;
    int64 const plane = static_cast<int64>(Y) * X;
    uint64 count = 0;
    for (uint32 row = blockIdx.x * WARPS + (threadIdx.x >> 5); row < rows; row += gridDim.x * WARPS) {
        int const z = row / Y, y = row % Y;
        // a neighbour that is not looked at is the voxel itself, which never exceeds itself
        int64 const before = (sides & 1) && z > 0 ? -plane : 0, after = (sides & 2) && z < Z - 1 ? plane : 0;
        int64 const up = (sides & 4) && y > 0 ? -X : 0, down = (sides & 8) && y < Y - 1 ? X : 0;
        VOXEL const* const line = image + static_cast<int64>(row) * X;
        uint32* const out = marks + static_cast<int64>(row) * words;
        for (int word = 0; word < words; word += AT_ONCE) {
            VOXEL value[AT_ONCE];
#pragma unroll
            for (int k = 0; k < AT_ONCE; ++k) value[k] = line[min(32 * (word + k) + lane, X - 1)];
            uint32 mine = 0;
#pragma unroll
            for (int k = 0; k < AT_ONCE; ++k) {
                int const x = 32 * (word + k) + lane;
                VOXEL const v = value[k];
                bool candidate = x < X && v >= lowest;
                if (candidate) {
                    VOXEL const* const at = line + x;
                    int const left = (sides & 16) && x > 0 ? -1 : 0, right = (sides & 32) && x < X - 1 ? 1 : 0;
                    candidate = !((at[left] > v) | (at[right] > v));
                    if (candidate) candidate = !((at[up] > v) | (at[down] > v) | (at[before] > v) | (at[after] > v));
                }
                uint32 const found = __ballot_sync(ALL, candidate);
                count += __popc(found);
                if (lane == k) mine = found;
            }
            if (lane < AT_ONCE && word + lane < words) out[word + lane] = mine;
        }
    }
    if (lane == 0 && count > 0) atomicAdd(marked, count);
}

// Lists the marked voxels that no voxel of their window exceeds, in any order. Counts all, lists the first `room`.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 4) list_maxima(
    VOXEL const* __restrict__ image, int Z, int Y, int X, int z0, int z1, int y0, int y1, int x0, int x1, int words,
    uint32 const* __restrict__ marks, uint64 room, int64* __restrict__ list, uint64* __restrict__ listed) {
    int const lane = threadIdx.x & 31;
    uint32 const rows = Z * Y;
    int64 const plane = static_cast<int64>(Y) * X;
    for (uint32 row = blockIdx.x * WARPS + (threadIdx.x >> 5); row < rows; row += gridDim.x * WARPS) {
        int const z = row / Y, y = row % Y;
        int64 const begin = static_cast<int64>(row) * X;
        VOXEL const* const line = image + begin;
        uint32 const* const of_line = marks + static_cast<int64>(row) * words;
        int const down_z = min(z, z0), up_z = min(Z - 1 - z, z1), down_y = min(y, y0), up_y = min(Y - 1 - y, y1);
        VOXEL const* const corner = line - down_z * plane - static_cast<int64>(down_y) * X;
        // and the part of the window that is next to the voxel, where what exceeds it most often is
        int const near_z = min(down_z, 1), near_y = min(down_y, 1);
        VOXEL const* const near_corner = line - near_z * plane - static_cast<int64>(near_y) * X;
        for (int first = 0; first < words; first += 32) {
            uint32 const own = first + lane < words ? of_line[first + lane] : 0;
            for (uint32 left = __ballot_sync(ALL, own != 0); left != 0; left &= left - 1) {
                int const from = __ffs(static_cast<int>(left)) - 1;
                uint32 const word = __shfl_sync(ALL, own, from);
                int const x = 32 * (first + from) + lane;
                bool maximum = word >> lane & 1;
                if (maximum) {
                    VOXEL const v = line[x];
                    int const down_x = min(x, x0), up_x = min(X - 1 - x, x1), near_x = min(down_x, 1);
                    maximum = !exceeded(near_corner + x - near_x, near_z + min(up_z, 1) + 1, near_y + min(up_y, 1) + 1,
                                        near_x + min(up_x, 1) + 1, plane, X, v) &&
                              !exceeded(corner + x - down_x, down_z + up_z + 1, down_y + up_y + 1, down_x + up_x + 1,
                                        plane, X, v);
                }
                uint32 const found = __ballot_sync(ALL, maximum);
                if (found == 0) continue;
                uint64 place = 0;
                if (lane == 0) place = atomicAdd(listed, static_cast<uint64>(__popc(found)));
                place = __shfl_sync(ALL, place, 0) + __popc(found & ((1u << lane) - 1));
                if (maximum && place < room) list[place] = begin + x;
            }
        }
    }
}
