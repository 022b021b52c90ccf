// CUDA's execution model on one core of a CPU, so that the sources of kernels run, unchanged, where there is no GPU.
//
// A block runs at a time; its threads are fibers that run until they wait for each other. The order in which they run
// is drawn anew for each block, so that a barrier that is missing shows. Dynamic shared memory is filled with rubbish
// before each block and has a guard behind its end.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <ucontext.h>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __constant__ static
#define __shared__ static
#define __launch_bounds__(...)
#define DYNAMIC_SHARED(name) unsigned char* const name = cuda_on_cpu::dynamic_shared

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace cuda_on_cpu {

constexpr int kWarp = 32, kMostThreads = 1024, kMostShared = 232448, kGuard = 256;
constexpr size_t kStack = 64 << 10;
enum State { kReady, kAtBarrier, kAtWarp, kDone };

// A place to come back to. swapcontext would ask the system for the mask of signals each time, which takes most of the
// time of a test.
#if defined(__x86_64__)
typedef void* Place;
extern "C" __attribute__((visibility("hidden"))) void cuda_on_cpu_switch(Place* from, Place to);
asm(R"(
    .text
    .hidden cuda_on_cpu_switch
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
static void go(Place& from, Place& to) { cuda_on_cpu_switch(&from, to); }
static void begin(Place& place, unsigned char* stack, size_t size, void (*function)()) {
    void** top = reinterpret_cast<void**>(stack + size);
    *--top = nullptr;  // keeps the stack aligned as it is after a call
    *--top = reinterpret_cast<void*>(function);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    place = top;
}
#else
typedef ucontext_t Place;
static void go(Place& from, Place& to) { swapcontext(&from, &to); }
static void begin(Place& place, unsigned char* stack, size_t size, void (*function)()) {
    getcontext(&place);
    place.uc_stack.ss_sp = stack;
    place.uc_stack.ss_size = size;
    place.uc_link = nullptr;
    makecontext(&place, function, 0);
}
#endif

struct Fiber {
    Place place;
    dim3 thread;
    State state;
    uint64_t posted;   // what it tells the others of its warp
    uint64_t all[kWarp];  // what they told it
    unsigned present;
};

static Fiber fibers[kMostThreads];
static unsigned char* stacks = nullptr;
static Place scheduler;
static Fiber* current = nullptr;
static dim3 block_index, block_size, grid_size;
alignas(128) static unsigned char dynamic_shared[kMostShared + kGuard];
static void (*body)(void**) = nullptr;
static void** arguments = nullptr;
static uint32_t dice = 1;

static uint32_t draw(uint32_t below) {
    dice = dice * 1664525u + 1013904223u;
    return static_cast<uint32_t>((static_cast<uint64_t>(dice >> 8) * below) >> 24);
}

static void wait(State state) {
    current->state = state;
    go(current->place, scheduler);
}

static void run_body() {
    body(arguments);
    current->state = kDone;
    go(current->place, scheduler);
}

static uint64_t const* exchange(uint64_t value) {
    current->posted = value;
    wait(kAtWarp);
    return current->all;
}

// Let those go on whose warp has come together; whether there were any.
static bool release_warps(int n) {
    bool any = false;
    for (int first = 0; first < n; first += kWarp) {
        int last = first + kWarp < n ? first + kWarp : n;
        bool waiting = false, all = true;
        for (int i = first; i < last; ++i) {
            waiting |= fibers[i].state == kAtWarp;
            all &= fibers[i].state == kAtWarp || fibers[i].state == kDone;
        }
        if (!waiting || !all) continue;
        for (int i = first; i < last; ++i) {
            if (fibers[i].state != kAtWarp) continue;
            fibers[i].present = 0;
            for (int k = first; k < last; ++k) {
                if (fibers[k].state == kDone) continue;
                fibers[i].all[k - first] = fibers[k].posted;
                fibers[i].present |= 1u << (k - first);
            }
        }
        for (int i = first; i < last; ++i)
            if (fibers[i].state == kAtWarp) fibers[i].state = kReady;
        any = true;
    }
    return any;
}

static int run_block(int n, int shared) {
    memset(dynamic_shared, 0xA5, kMostShared + kGuard);
    int order[kMostThreads];
    for (int i = 0; i < n; ++i) {
        Fiber& f = fibers[i];
        begin(f.place, stacks + i * kStack, kStack, run_body);
        f.thread = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
        f.state = kReady;
        order[i] = i;
    }
    for (;;) {
        for (int i = n - 1; i > 0; --i) std::swap(order[i], order[draw(i + 1)]);
        int done = 0, waiting = 0;
        for (int k = 0; k < n; ++k) {
            current = &fibers[order[k]];
            if (current->state == kReady) go(scheduler, current->place);
        }
        for (int i = 0; i < n; ++i) {
            done += fibers[i].state == kDone;
            waiting += fibers[i].state == kAtBarrier;
        }
        if (done == n) break;
        if (release_warps(n)) continue;
        if (done + waiting != n) return 1;  // some at a barrier, some waiting for their warp
        for (int i = 0; i < n; ++i)
            if (fibers[i].state == kAtBarrier) fibers[i].state = kReady;
    }
    for (int i = 0; i < kGuard; ++i)
        if (dynamic_shared[shared + i] != 0xA5) return 2;
    return 0;
}

static int launch(void (*kernel)(void**), unsigned const* grid, unsigned const* block, int shared, void** args,
                  uint32_t seed) {
    grid_size = {grid[0], grid[1], grid[2]};
    block_size = {block[0], block[1], block[2]};
    int n = block_size.x * block_size.y * block_size.z;
    if (n < 1 || n > kMostThreads || shared > kMostShared) return 3;
    if (!stacks) stacks = static_cast<unsigned char*>(malloc(kStack * kMostThreads));
    body = kernel;
    arguments = args;
    dice = seed;
    for (unsigned z = 0; z < grid_size.z; ++z)
        for (unsigned y = 0; y < grid_size.y; ++y)
            for (unsigned x = 0; x < grid_size.x; ++x) {
                block_index = {x, y, z};
                if (int wrong = run_block(n, shared)) return wrong;
            }
    return 0;
}

template <class... A, size_t... I>
void apply(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<A>*>(args[I])...);
}
template <class... A>
void apply(void (*kernel)(A...), void** args) {
    apply(kernel, args, std::index_sequence_for<A...>{});
}
template <class... A>
int sizes(void (*)(A...), int* out) {
    int all[] = {static_cast<int>(sizeof(A))..., 0};
    memcpy(out, all, sizeof...(A) * sizeof(int));
    return sizeof...(A);
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::current->thread)
#define blockIdx (cuda_on_cpu::block_index)
#define blockDim (cuda_on_cpu::block_size)
#define gridDim (cuda_on_cpu::grid_size)

inline void __syncthreads() { cuda_on_cpu::wait(cuda_on_cpu::kAtBarrier); }
inline void __syncwarp(unsigned = 0xffffffffu) { cuda_on_cpu::exchange(0); }
inline void __threadfence() {}
inline unsigned __ballot_sync(unsigned, int predicate) {
    uint64_t const* all = cuda_on_cpu::exchange(predicate != 0);
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i)
        if ((cuda_on_cpu::current->present >> i & 1) && all[i]) votes |= 1u << i;
    return votes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    uint64_t theirs = cuda_on_cpu::exchange(bits)[lane & 31];
    memcpy(&value, &theirs, sizeof(T));
    return value;
}
inline int cuda_lane() {
    return (threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) & 31;
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta) {
    int from = cuda_lane() + delta;
    T other = __shfl_sync(mask, value, from < 32 ? from : cuda_lane());
    return other;
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta) {
    int from = cuda_lane() - static_cast<int>(delta);
    T other = __shfl_sync(mask, value, from >= 0 ? from : cuda_lane());
    return other;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
    return __shfl_sync(mask, value, cuda_lane() ^ bits);
}

template <class T>
T atomicAdd(T* at, T value) {
    T before = *at;
    *at = before + value;
    return before;
}
template <class T>
T atomicMax(T* at, T value) {
    T before = *at;
    if (value > before) *at = value;
    return before;
}
template <class T>
T atomicMin(T* at, T value) {
    T before = *at;
    if (value < before) *at = value;
    return before;
}
template <class T>
T atomicOr(T* at, T value) {
    T before = *at;
    *at = before | value;
    return before;
}

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline long long min(long long a, long long b) { return a < b ? a : b; }
inline long long max(long long a, long long b) { return a > b ? a : b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v ? __builtin_clz(static_cast<unsigned>(v)) : 32; }
inline unsigned __float_as_uint(float v) {
    unsigned bits;
    memcpy(&bits, &v, 4);
    return bits;
}
inline float __uint_as_float(unsigned bits) {
    float v;
    memcpy(&v, &bits, 4);
    return v;
}
template <class T>
T __ldg(T const* at) {
    return *at;
}
