// Grey opening of planes and its subtraction. Macros: VOXEL, the type of the voxels; REAL, whether it is float.
//
// A plane, or a tile of one, lies in memory with all that the footprint sees around it, row behind row. Minima over the
// footprint are a chain of minima of up to four shifted copies of that run of memory; what a shift brings in from the
// next row is never looked at (kernels/gpu/background.py). Outside the plane lies the largest value.

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kLoads = 8, kBatch = 3;  // voxels that a thread has under way at once; more, and registers spill
constexpr int kStep = 8;  // numbers of a step: target, count, whether it narrows, four sources, nothing

// A voxel in a register.
#if REAL
typedef float Value;
#else
typedef int Value;
#endif

__device__ __forceinline__ Value lesser(Value a, Value b) {
    return a < b ? a : b;
}

// Turns the order of the values round without loss: what is a minimum then was a maximum.
__device__ __forceinline__ VOXEL turned(Value value) {
#if REAL
    return -value;
#else
    return static_cast<VOXEL>(~value);
#endif
}

// A voxel less its opening, but not more than what is held: the largest value, which int16 would overflow, or less.
__device__ __forceinline__ Value difference(Value value, Value opened, Value held) {
    return lesser(held, value - lesser(opened, value));
}

// A tile with what is around it, `count` voxels of rows of the length `pitch`; a warp a row.
__device__ void load_tile(VOXEL const* plane, int height, int width, int first_y, int first_x, VOXEL top, VOXEL* tile,
                          int count, int pitch) {
    int const lane = threadIdx.x % 32;
    for (int row = threadIdx.x / 32; row * pitch < count; row += kWarps) {
        int const y = first_y + row, room = min(pitch, count - row * pitch);
        int const begin = -first_x, end = y >= 0 && y < height ? width - first_x : begin;  // columns in the plane
        VOXEL const* const from = plane + static_cast<int64>(y) * width + first_x;
        VOXEL* const to = tile + row * pitch;
        for (int first = lane; first < room; first += 32 * kLoads) {
            Value values[kLoads];
#pragma unroll
            for (int k = 0; k < kLoads; ++k) {
                int const column = first + 32 * k;
                values[k] = column < room && column >= begin && column < end ? from[column] : top;
            }
#pragma unroll
            for (int k = 0; k < kLoads; ++k)
                if (first + 32 * k < room) to[first + 32 * k] = values[k];
        }
    }
}

template <bool FOUR, bool NARROW>
__device__ __forceinline__ Value least_of(VOXEL const* target, VOXEL const* const* sources, int at) {
    Value least = lesser(sources[0][at], sources[1][at]);
    if (FOUR) least = lesser(least, lesser(sources[2][at], sources[3][at]));
    if (NARROW) least = lesser(least, target[at]);
    return least;
}

template <bool FOUR, bool NARROW>
__device__ __forceinline__ void minima(VOXEL* target, VOXEL const* const* sources, int count) {
    int at = threadIdx.x;
    for (; at + (kBatch - 1) * kThreads < count; at += kBatch * kThreads) {
        Value least[kBatch];
#pragma unroll
        for (int k = 0; k < kBatch; ++k) least[k] = least_of<FOUR, NARROW>(target, sources, at + k * kThreads);
#pragma unroll
        for (int k = 0; k < kBatch; ++k) target[at + k * kThreads] = least[k];
    }
    for (; at < count; at += kThreads) target[at] = least_of<FOUR, NARROW>(target, sources, at);
}

// Minima over the footprint of what lies in the first buffer. The steps lie in shared memory too.
__device__ void run_chain(VOXEL* buffers, int const* steps, int n_steps) {
    for (int const* step = steps; step < steps + n_steps * kStep; step += kStep) {
        VOXEL* const target = buffers + step[0];
        VOXEL const* const sources[4] = {buffers + step[3], buffers + step[4], buffers + step[5], buffers + step[6]};
        if (step[2])
            minima<true, true>(target, sources, step[1]);
        else if (step[5] == step[4])  // padded
            minima<false, false>(target, sources, step[1]);
        else
            minima<true, false>(target, sources, step[1]);
        __syncthreads();
    }
}

// Shared memory: the steps, and behind them the buffers.
__device__ VOXEL* buffers_behind(int* steps, int const* given, int n_steps) {
    for (int i = threadIdx.x; i < n_steps * kStep; i += kThreads) steps[i] = given[i];
    return reinterpret_cast<VOXEL*>(steps + n_steps * kStep);
}

// A block a tile of a plane: blocks along x are tiles in rows, along y planes. Writes what is eroded, turned.
extern "C" __global__ void __launch_bounds__(512, 3) erode_tiles(
    VOXEL const* __restrict__ image, VOXEL* __restrict__ eroded, int height, int width, int tile_height, int tile_width,
    int first_y, int first_x, int const* __restrict__ given, int n_steps, int count, int pitch, int result, VOXEL top) {
    DYNAMIC_SHARED(memory);
    int* const steps = reinterpret_cast<int*>(memory);
    VOXEL* const buffers = buffers_behind(steps, given, n_steps);
    int const across = (width + tile_width - 1) / tile_width;
    int const y0 = blockIdx.x / across * tile_height, x0 = blockIdx.x % across * tile_width;
    int64 const plane = static_cast<int64>(blockIdx.y) * height * width;
    load_tile(image + plane, height, width, y0 + first_y, x0 + first_x, top, buffers, count, pitch);
    __syncthreads();
    run_chain(buffers, steps, n_steps);
    for (int row = threadIdx.x / 32; row < tile_height && y0 + row < height; row += kWarps) {
        VOXEL* const to = eroded + plane + static_cast<int64>(y0 + row) * width + x0;
        VOXEL const* const minimum = buffers + result + row * pitch;
        for (int column = threadIdx.x % 32; column < tile_width && x0 + column < width; column += 32)
            to[column] = turned(minimum[column]);
    }
}

// The same for the dilation of what is eroded and turned: writes the image less what is opened. `out` may be the image.
extern "C" __global__ void __launch_bounds__(512, 3) subtract_tiles(
    VOXEL const* __restrict__ eroded, VOXEL const* image, VOXEL* out, int height, int width, int tile_height,
    int tile_width, int first_y, int first_x, int const* __restrict__ given, int n_steps, int count, int pitch,
    int result, VOXEL top, int smaller) {
    DYNAMIC_SHARED(memory);
    int* const steps = reinterpret_cast<int*>(memory);
    VOXEL* const buffers = buffers_behind(steps, given, n_steps);
    int const across = (width + tile_width - 1) / tile_width;
    int const y0 = blockIdx.x / across * tile_height, x0 = blockIdx.x % across * tile_width;
    int64 const plane = static_cast<int64>(blockIdx.y) * height * width;
    load_tile(eroded + plane, height, width, y0 + first_y, x0 + first_x, top, buffers, count, pitch);
    __syncthreads();
    run_chain(buffers, steps, n_steps);
    int const room = min(tile_width, width - x0);
    for (int row = threadIdx.x / 32; row < tile_height && y0 + row < height; row += kWarps) {
        int64 const line = plane + static_cast<int64>(y0 + row) * width + x0;
        VOXEL const* const minimum = buffers + result + row * pitch;
        for (int first = threadIdx.x % 32; first < room; first += 32 * kBatch) {
            Value values[kBatch], held[kBatch];
#pragma unroll
            for (int k = 0; k < kBatch; ++k) {
                int const column = first + 32 * k;
                values[k] = column < room ? image[line + column] : top;
                held[k] = smaller && column < room ? out[line + column] : top;
            }
#pragma unroll
            for (int k = 0; k < kBatch; ++k) {
                int const column = first + 32 * k;
                if (column < room) out[line + column] = difference(values[k], turned(minimum[column]), held[k]);
            }
        }
    }
}

// What follows does the same with whole planes in global memory, a kernel a step.

// Planes of the source, from a place on and turned if so wanted, into the first buffer; `planes` and `region` are the
// distances of two planes in the source and in the scratch memory.
extern "C" __global__ void __launch_bounds__(256) surround_planes(
    VOXEL const* source, int64 planes, int64 source_pitch, int turn, int height, int width, VOXEL* padded, int64 region,
    int64 count, int64 pitch, int rows, int first_y, int first_x, VOXEL top) {
    int64 const column = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
    int64 const x = first_x + column;
    for (int row = blockIdx.y; row < rows; row += gridDim.y) {
        int const y = first_y + row;
        int64 const to = row * pitch + column;
        if (column >= pitch || to >= count) continue;
        Value value = top;
        if (y >= 0 && y < height && x >= 0 && x < width) {
            Value const there = source[blockIdx.z * planes + y * source_pitch + x];
            value = turn ? turned(there) : there;
        }
        padded[blockIdx.z * region + to] = value;
    }
}

// A step. Positions are those in the scratch memory of a plane.
extern "C" __global__ void __launch_bounds__(256) narrow_planes(VOXEL* scratch, int64 region, int64 target, int64 count,
                                                                int narrow, int64 a, int64 b, int64 c, int64 d) {
    VOXEL* const buffers = scratch + blockIdx.y * region;
    int64 const first = static_cast<int64>(blockIdx.x) * kBatch * blockDim.x + threadIdx.x;
    Value least[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
        int64 const at = first + k * blockDim.x;
        if (at >= count) continue;
        least[k] = lesser(lesser(buffers[a + at], buffers[b + at]), lesser(buffers[c + at], buffers[d + at]));
        if (narrow) least[k] = lesser(least[k], buffers[target + at]);
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
        int64 const at = first + k * blockDim.x;
        if (at < count) buffers[target + at] = least[k];
    }
}

extern "C" __global__ void __launch_bounds__(256) subtract_planes(
    VOXEL const* scratch, int64 region, int64 result, int64 pitch, VOXEL const* image, VOXEL* out, int height,
    int width, VOXEL top, int smaller) {
    int64 const x = static_cast<int64>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (x >= width) return;
    for (int y = blockIdx.y; y < height; y += gridDim.y) {
        int64 const at = (static_cast<int64>(blockIdx.z) * height + y) * width + x;
        VOXEL const opened = turned(scratch[blockIdx.z * region + result + y * pitch + x]);
        out[at] = difference(image[at], opened, smaller ? out[at] : top);
    }
}
