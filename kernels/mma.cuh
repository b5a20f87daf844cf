/* What the kernels say to the hardware in PTX, each with a host version for the emulator: products
 * of 16 x 16 x 8 on the matrix units, matrices from shared memory as their operands, asynchronous
 * copies, fast powers of two. Nothing else in this folder contains PTX.
 *
 * Lane 4 g + t of a warp (g 0…7, t 0…3) holds of a product d [16, 8] += a [16, 16] b [16, 8]
 *
 *   a[0] = a(g, 2t…)  a[1] = a(g+8, 2t…)  a[2] = a(g, 2t+8…)  a[3] = a(g+8, 2t+8…)
 *   b0   = b(2t…, g)  b1   = b(2t+8…, g)
 *   d[0], d[1] = d(g, 2t…)                d[2], d[3] = d(g+8, 2t…)
 *
 * where "2t…" are two neighbours, the lower one in the lower half of the register. */
#ifndef IBOT_KERNELS_MMA_CUH
#define IBOT_KERNELS_MMA_CUH

#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include "kernels/launch.cuh"
#include "kernels/value.cuh"

/* Two floats as a register of T, the first in the lower half. */
template <class T> __device__ __forceinline__ uint32_t pack_halves(float low, float high)
{
    pack<T, 2> two = {{from_float<T>(low), from_float<T>(high)}};
    uint32_t bits;
    memcpy(&bits, &two, sizeof(bits));
    return bits;
}

/* The halves of a register of bf16 as floats. */
__device__ __forceinline__ float low_half(uint32_t two)
{
    return __uint_as_float(two << 16);
}
__device__ __forceinline__ float high_half(uint32_t two)
{
    return __uint_as_float(two & 0xffff0000u);
}

#ifndef IBOT_CUDA_EMULATOR

__device__ __forceinline__ uint32_t shared_address(const void *pointer)
{
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1);

template <>
__device__ __forceinline__ void mma<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<f16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* d = a b + c. */
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                    const float (&c)[4]);

template <>
__device__ __forceinline__ void mma<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1, const float (&c)[4])
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]),
          "f"(c[2]), "f"(c[3]));
}

/* Four matrices of 8 x 8 halves from shared memory. Lane 8 i + r gives the address of row r of
 * matrix i (16 bytes, aligned); to[i] gets of matrix i the places (g, 2t…), or with _transposed
 * (2t…, g). */
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/* Two matrices; the addresses of lanes 16 and on are not looked at. */
__device__ __forceinline__ void load_matrices(uint32_t (&to)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(uint32_t (&to)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(to[0]), "=r"(to[1])
                 : "r"(shared_address(row))
                 : "memory");
}

/* 16 bytes to shared memory, on their way until the thread has waited for them; zeros when not
 * `there` (`from` is then not read). Both addresses aligned to 16 bytes. */
__device__ __forceinline__ void copy_async(void *shared, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
                 : "memory");
}

/* Ends a batch of this thread's copies. */
__device__ __forceinline__ void copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most the N youngest batches of this thread are on their way. Other threads' copies
 * are seen after a barrier. */
template <int N> __device__ __forceinline__ void copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* The line of `from` is on its way to the level-2 cache. */
__device__ __forceinline__ void prefetch(const void *from)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(from)));
}

/* x, of which the compiler knows nothing: what is computed from it is computed here, and not kept
 * in registers since before a loop. */
__device__ __forceinline__ int32_t computed_here(int32_t x)
{
    asm volatile("" : "+r"(x));
    return x;
}

/* 2^x to about 2 units in the last place; 0 below -126. */
__device__ __forceinline__ float fast_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#else
#include <emulator_mma.h>
#endif

#endif
