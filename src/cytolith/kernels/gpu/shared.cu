// What all kernels share. Types of fixed width: NVRTC has no <cstdint> of its own.
typedef unsigned char uint8;
typedef short int16;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef long long int64;
typedef unsigned long long uint64;

#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// Index that a mirrored border shows: ... 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
__device__ __forceinline__ int mirrored(int i, int n) {
    while (i < 0 || i >= n) i = i < 0 ? -1 - i : 2 * n - 1 - i;
    return i;
}
