/* Sums and maxima over the lanes of a warp and the warps of a block, in a fixed order: every lane
 * gets the same bits, and every call gives them again. */
#ifndef IBOT_KERNELS_WARP_CUH
#define IBOT_KERNELS_WARP_CUH

#include <cuda_runtime.h>

#include "kernels/launch.cuh"

enum { WARP = 32 };
static const unsigned ALL_LANES = 0xffffffffu;

template <class T> __device__ __forceinline__ T warp_sum(T value)
{
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

template <class T> __device__ __forceinline__ T warp_max(T value)
{
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        T other = __shfl_xor_sync(ALL_LANES, value, distance);
        value = other > value ? other : value;
    }
    return value;
}

/* Sum over a block of THREADS threads (a multiple of 32), in every thread. `partial`: THREADS / 32
 * values of shared memory, free again after the next barrier. */
template <int THREADS, class T> __device__ __forceinline__ T block_sum(T value, T *partial)
{
    value = warp_sum(value);
    if (threadIdx.x % WARP == 0)
        partial[threadIdx.x / WARP] = value;
    __syncthreads();
    T sum = partial[0];
#pragma unroll
    for (int i = 1; i < THREADS / WARP; i++)
        sum += partial[i];
    return sum;
}

template <int THREADS, class T> __device__ __forceinline__ T block_max(T value, T *partial)
{
    value = warp_max(value);
    if (threadIdx.x % WARP == 0)
        partial[threadIdx.x / WARP] = value;
    __syncthreads();
    T most = partial[0];
#pragma unroll
    for (int i = 1; i < THREADS / WARP; i++)
        most = partial[i] > most ? partial[i] : most;
    return most;
}

#endif
