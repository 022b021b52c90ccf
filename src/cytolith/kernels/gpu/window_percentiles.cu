// The keys of the two values around each of two percentiles in windows of an image, found digit by digit from the
// leading one. Macro: VOXEL, the type of the voxels.

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kLevels = sizeof(VOXEL);  // digits of a key, of 8 bits each
constexpr int kRanks = 4;               // two values around each percentile
constexpr int kCounters = 32 * 256;
constexpr int kBatch = 4;  // loads that a thread waits for together

// Unsigned numbers in the order of the values: the sign bit turned, negative floats inverted.
__device__ __forceinline__ uint32 key_of(uint8 value) { return value; }
__device__ __forceinline__ uint32 key_of(uint16 value) { return value; }
__device__ __forceinline__ uint32 key_of(int16 value) { return static_cast<uint16>(value) ^ 0x8000u; }
__device__ __forceinline__ uint32 key_of(float value) {
    uint32 const bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The voxels of a window: nz, ny, nx from `first` on.
struct Box {
    int64 first, plane;
    int width, nz, ny, nx;
};

// Count the digit at `shift` of all keys in a box that begin as one of the nodes does; a key begins as the root anyway.
// The counters of a digit are copies, at which lanes take turns.
template <bool ROOT, int NODES>
__device__ __forceinline__ void count_digits(VOXEL const* __restrict__ image, uint8 const* __restrict__ mask,
                                             Box const& box, uint32 const* wanted, int nodes, int shift,
                                             uint32* counters) {
    constexpr int kCopies = 32 / NODES;
    int const lane = threadIdx.x % 32;
    uint32* const mine = counters + lane % kCopies;
    uint32 beginning[NODES];
#pragma unroll
    for (int k = 0; k < NODES; ++k) beginning[k] = k < nodes ? wanted[k] : 0xffffffffu;  // no key begins so
    for (int z = 0, y = threadIdx.x / 32;; y += kWarps) {
        for (; y >= box.ny && z < box.nz; ++z) y -= box.ny;
        if (z == box.nz) break;
        int64 const row = box.first + z * box.plane + static_cast<int64>(y) * box.width;
        for (int x = lane; x < box.nx; x += 32 * kBatch) {
            VOXEL value[kBatch];
            bool counts[kBatch];
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                counts[i] = x + 32 * i < box.nx;
                if (counts[i]) value[i] = image[row + x + 32 * i];
                if (mask && counts[i]) counts[i] = mask[row + x + 32 * i] != 0;
            }
#pragma unroll
            for (int i = 0; i < kBatch; ++i) {
                if (!counts[i] || value[i] != value[i]) continue;  // NaN does not count
                uint32 const digits = key_of(value[i]) >> shift;
                int node = ROOT ? 0 : -1;
#pragma unroll
                for (int k = 0; k < NODES; ++k)
                    if (!ROOT && digits >> 8 == beginning[k]) node = k;
                if (node >= 0) atomicAdd(&mine[(node * 256 + (digits & 255u)) * kCopies], 1u);
            }
        }
    }
}

// One block of threads a window. Keys are counted by their next digit, those that begin as a key that is looked for
// does: each such beginning is a node with 256 counters. Images are nearly constant in their leading digit, so that all
// lanes would wait for one counter: counters have as many copies as there is room for.
extern "C" __global__ void __launch_bounds__(kThreads) select_keys(VOXEL const* __restrict__ image,
                                                                   uint8 const* __restrict__ mask,
                                                                   int const* __restrict__ edges, double lower,
                                                                   double upper, int Y, int X, int Gz, int Gy, int Gx,
                                                                   int64* __restrict__ counts,
                                                                   uint32* __restrict__ keys) {
    __shared__ uint32 counters[kCounters];
    __shared__ uint32 totals[kRanks][256];
    __shared__ uint32 prefix[kRanks];     // digits found so far
    __shared__ uint32 rest[kRanks];       // values with that prefix that come before the one looked for
    __shared__ int node[kRanks];          // of each rank
    __shared__ uint32 wanted[kRanks];     // prefix of each node
    __shared__ int nodes;
    __shared__ uint32 count;
    int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    unsigned const gx = blockIdx.x % Gx, gy = blockIdx.x / Gx % Gy, gz = blockIdx.x / Gx / Gy;
    int const *y_edges = edges + 2 * Gz, *x_edges = y_edges + 2 * Gy;
    int64 const plane = static_cast<int64>(Y) * X;
    Box const box = {edges[gz] * plane + static_cast<int64>(y_edges[gy]) * X + x_edges[gx], plane, X,
                     edges[Gz + gz] - edges[gz], y_edges[Gy + gy] - y_edges[gy], x_edges[Gx + gx] - x_edges[gx]};

    if (threadIdx.x < kRanks) prefix[threadIdx.x] = 0;
    __syncthreads();
    for (int level = 0; level < kLevels; ++level) {
        int const shift = 8 * (kLevels - 1 - level);
        for (int i = threadIdx.x; i < kCounters; i += kThreads) counters[i] = 0;
        if (threadIdx.x == 0) {
            int n = 0;
            for (int r = 0; r < kRanks; ++r) {
                int k = 0;
                while (k < n && wanted[k] != prefix[r]) ++k;
                if (k == n) wanted[n++] = prefix[r];
                node[r] = k;
            }
            nodes = n;
        }
        __syncthreads();

        int const n = nodes, copies = n == 1 ? 32 : n == 2 ? 16 : 8;
        if (level == 0)
            count_digits<true, 1>(image, mask, box, wanted, n, shift, counters);
        else if (n == 1)
            count_digits<false, 1>(image, mask, box, wanted, n, shift, counters);
        else if (n == 2)
            count_digits<false, 2>(image, mask, box, wanted, n, shift, counters);
        else
            count_digits<false, 4>(image, mask, box, wanted, n, shift, counters);
        __syncthreads();

        for (int k = 0; k < n; ++k) {
            uint32 const* of_digit = counters + (k * 256 + threadIdx.x) * copies;
            uint32 sum = 0;
            for (int i = 0; i < copies; ++i) sum += of_digit[(i + threadIdx.x) & (copies - 1)];  // in other banks each
            totals[k][threadIdx.x] = sum;
        }
        __syncthreads();

        if (warp < kRanks) {  // one warp a rank, 8 digits a lane
            uint32 const* of_lane = totals[node[warp]] + 8 * lane;
            uint32 rank = rest[warp];
            __syncwarp();  // before a lane changes it
            uint32 own = 0;
            for (int i = 0; i < 8; ++i) own += of_lane[i];
            uint32 until = own;
            for (int step = 1; step < 32; step *= 2) {
                uint32 const other = __shfl_up_sync(0xffffffffu, until, step);
                if (lane >= step) until += other;
            }
            uint32 const all = __shfl_sync(0xffffffffu, until, 31);
            if (level == 0) {
                if (threadIdx.x == 0) count = all;
                rank = all == 0 ? 0 : static_cast<uint32>((warp < 2 ? lower : upper) * (all - 1.0));
                if (warp % 2 == 1 && rank + 1 < all) ++rank;
            }
            if (rank >= until - own && rank < until) {
                rank -= until - own;
                int digit = 0;
                for (; rank >= of_lane[digit]; ++digit) rank -= of_lane[digit];
                prefix[warp] = prefix[warp] << 8 | (8 * lane + digit);
                rest[warp] = rank;
            }
        }
        __syncthreads();
        if (count == 0) break;
    }
    if (threadIdx.x < kRanks) keys[blockIdx.x * static_cast<int64>(kRanks) + threadIdx.x] = prefix[threadIdx.x];
    if (threadIdx.x == 0) counts[blockIdx.x] = count;
}
