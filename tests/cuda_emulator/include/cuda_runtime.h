/* The runtime's calls, and in C++ what device code may use: the qualifiers, the thread's place in
 * the grid, vector types, barriers, warp votes and shuffles, atomics, arithmetic. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_INCLUDE_CUDA_RUNTIME_H
#define IBOT_TESTS_CUDA_EMULATOR_INCLUDE_CUDA_RUNTIME_H

#include <cuda_runtime_api.h>

#ifdef __cplusplus
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __constant__    static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

/* ------------------------------------------------------------------------------ vectors */

#define EMULATOR_VECTORS(type, name, half, whole)                                                  \
    struct alignas(half) name##2                                                                   \
    {                                                                                              \
        type x, y;                                                                                 \
    };                                                                                             \
    struct name##3                                                                                 \
    {                                                                                              \
        type x, y, z;                                                                              \
    };                                                                                             \
    struct alignas(whole) name##4                                                                  \
    {                                                                                              \
        type x, y, z, w;                                                                           \
    };                                                                                             \
    static inline name##2 make_##name##2(type x, type y)                                           \
    {                                                                                              \
        return {x, y};                                                                             \
    }                                                                                              \
    static inline name##3 make_##name##3(type x, type y, type z)                                   \
    {                                                                                              \
        return {x, y, z};                                                                          \
    }                                                                                              \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                           \
    {                                                                                              \
        return {x, y, z, w};                                                                       \
    }
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(unsigned, uint, 8, 16)
EMULATOR_VECTORS(unsigned char, uchar, 2, 4)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z)
    {
    }
};

/* ------------------------------------------------------------------------------ the thread's place
 */

/* Set by the scheduler before it goes on with a thread; outside kernels all are 0. */
extern __thread uint3 threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

/* ------------------------------------------------------------------------------ barriers and warps
 */

namespace emulator
{
enum warp_call { SYNC_WARP, SHUFFLE, SHUFFLE_XOR, SHUFFLE_UP, SHUFFLE_DOWN, VOTE, MATRIX };
enum { LANES = 32, MOST_LANE_BYTES = 64 };

void barrier(const char *file, int line);

/* Every lane of the mask gives `bytes` bytes; returns those of all, of lane i at i * bytes, zeros
 * for lanes outside the mask, to be read before the thread's next call. `key` is what all lanes
 * must agree in besides (the width of a shuffle). Returns when all lanes of the mask have called
 * it. */
const void *warp_exchange(warp_call call, unsigned mask, const void *mine, size_t bytes, int key,
                          const char *file, int line);

/* The same for values of one type. */
template <class T>
static inline const T *warp_exchange(warp_call call, unsigned mask, const T &mine, int key,
                                     const char *file, int line)
{
    static_assert(std::is_trivially_copyable<T>::value && sizeof(T) <= MOST_LANE_BYTES,
                  "lanes exchange small plain values");
    return static_cast<const T *>(
        warp_exchange(call, mask, static_cast<const void *>(&mine), sizeof(T), key, file, line));
}

int lane(void);
[[noreturn]] void bad_shuffle_width(warp_call call, int width, const char *file, int line);
[[noreturn]] void bad_shuffle_source(warp_call call, unsigned mask, int source, const char *file,
                                     int line);

template <class T>
static inline T shuffle(warp_call call, unsigned mask, T value, int operand, int width,
                        const char *file, int line)
{
    static_assert(sizeof(T) <= 8, "a shuffle moves 4 or 8 bytes");
    if (width < 1 || width > LANES || (width & (width - 1)) != 0)
        bad_shuffle_width(call, width, file, line);
    const T *all = warp_exchange(call, mask, value, width, file, line);
    int self = lane(), first = self & -width, source = self;

    if (call == SHUFFLE)
        source = first + (operand & (width - 1));
    else if (call == SHUFFLE_XOR)
        source = self ^ operand;
    else if (call == SHUFFLE_UP)
        source = self - operand;
    else
        source = self + operand;
    /* beyond the segment a lane keeps its own value; by xor, only beyond its end */
    if ((call != SHUFFLE_XOR && source < first) || source >= first + width)
        source = self;
    if (source < 0 || source >= LANES || (mask >> source & 1u) == 0)
        bad_shuffle_source(call, mask, source, file, line);
    return all[source];
}
} // namespace emulator

#define EMULATOR_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

static inline void __syncthreads(EMULATOR_PLACE)
{
    emulator::barrier(file, line);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, EMULATOR_PLACE)
{
    (void)emulator::warp_exchange(emulator::SYNC_WARP, mask, nullptr, 0, 0, file, line);
}
template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_PLACE)
{
    return emulator::shuffle(emulator::SHUFFLE, mask, value, source, width, file, line);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATOR_PLACE)
{
    return emulator::shuffle(emulator::SHUFFLE_XOR, mask, value, lanes, width, file, line);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, EMULATOR_PLACE)
{
    return emulator::shuffle(emulator::SHUFFLE_UP, mask, value, (int)by, width, file, line);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                                 EMULATOR_PLACE)
{
    return emulator::shuffle(emulator::SHUFFLE_DOWN, mask, value, (int)by, width, file, line);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_PLACE)
{
    unsigned char mine = predicate != 0;
    const unsigned char *all = emulator::warp_exchange(emulator::VOTE, mask, mine, 0, file, line);
    unsigned bits = 0;
    for (int i = 0; i < emulator::LANES; i++)
        bits |= (unsigned)all[i] << i;
    return bits;
}
static inline int __any_sync(unsigned mask, int predicate, EMULATOR_PLACE)
{
    return __ballot_sync(mask, predicate, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, EMULATOR_PLACE)
{
    return __ballot_sync(mask, predicate, file, line) == mask;
}

static inline void __threadfence_block(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void __threadfence(void)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* ------------------------------------------------------------------------------ atomics */

namespace emulator
{
template <class T, class F> static inline T atomic_update(T *at, const F &f)
{
    T before, after;
    __atomic_load(at, &before, __ATOMIC_SEQ_CST);
    do
        after = f(before);
    while (
        !__atomic_compare_exchange(at, &before, &after, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return before;
}
} // namespace emulator

#define EMULATOR_ATOMIC(type, name, expression)                                                    \
    static inline type name(type *at, type value)                                                  \
    {                                                                                              \
        return emulator::atomic_update(at, [value](type old) -> type { return expression; });      \
    }
#define EMULATOR_ATOMICS_OF_INTEGERS(type)                                                         \
    EMULATOR_ATOMIC(type, atomicAdd, (type)(old + value))                                          \
    EMULATOR_ATOMIC(type, atomicMax, old < value ? value : old)                                    \
    EMULATOR_ATOMIC(type, atomicMin, value < old ? value : old)                                    \
    EMULATOR_ATOMIC(type, atomicExch, ((void)old, value))                                          \
    EMULATOR_ATOMIC(type, atomicAnd, old &value)                                                   \
    EMULATOR_ATOMIC(type, atomicOr, old | value)                                                   \
    static inline type atomicCAS(type *at, type expected, type value)                              \
    {                                                                                              \
        return emulator::atomic_update(                                                            \
            at, [=](type old) -> type { return old == expected ? value : old; });                  \
    }
EMULATOR_ATOMICS_OF_INTEGERS(int)
EMULATOR_ATOMICS_OF_INTEGERS(unsigned)
EMULATOR_ATOMICS_OF_INTEGERS(unsigned long long)
EMULATOR_ATOMIC(unsigned, atomicInc, old >= value ? 0 : old + 1)
EMULATOR_ATOMIC(float, atomicAdd, old + value)
EMULATOR_ATOMIC(float, atomicExch, ((void)old, value))
EMULATOR_ATOMIC(double, atomicAdd, old + value)
#undef EMULATOR_ATOMICS_OF_INTEGERS
#undef EMULATOR_ATOMIC

/* ------------------------------------------------------------------------------ arithmetic */

template <class T> static inline T __ldg(const T *pointer)
{
    return *pointer;
}
template <class T> static inline T __ldcs(const T *pointer)
{
    return *pointer;
}
template <class T> static inline void __stcs(T *pointer, T value)
{
    *pointer = value;
}
static inline float rsqrtf(float x)
{
    return 1.0f / sqrtf(x);
}
static inline double rsqrt(double x)
{
    return 1.0 / sqrt(x);
}
/* macros: the C library has such names for itself */
#define __expf(x) expf(x)
#define __logf(x) logf(x)
#define cospif(x) static_cast<float>(cos(3.141592653589793 * static_cast<double>(x)))
#define sinpif(x) static_cast<float>(sin(3.141592653589793 * static_cast<double>(x)))
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline float __fadd_rn(float a, float b)
{
    return a + b;
}
static inline float __fsub_rn(float a, float b)
{
    return a - b;
}
static inline float __fmul_rn(float a, float b)
{
    return a * b;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline double __dadd_rn(double a, double b)
{
    return a + b;
}
static inline double __dmul_rn(double a, double b)
{
    return a * b;
}
/* NaN gives 0 and what does not fit the nearest end, as the hardware converts. */
static inline int __float2int_rn(float x)
{
    float y = rintf(x);
    return isnan(y) ? 0 : y >= 2147483648.0f ? INT32_MAX : y < -2147483648.0f ? INT32_MIN : (int)y;
}
static inline int __float2int_rz(float x)
{
    return __float2int_rn(truncf(x));
}
static inline int __float2int_rd(float x)
{
    return __float2int_rn(floorf(x));
}
static inline int __float2int_ru(float x)
{
    return __float2int_rn(ceilf(x));
}
static inline unsigned __float_as_uint(float x)
{
    unsigned bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}
static inline int __float_as_int(float x)
{
    return (int)__float_as_uint(x);
}
static inline float __uint_as_float(unsigned bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}
static inline float __int_as_float(int bits)
{
    return __uint_as_float((unsigned)bits);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}
static inline int __clzll(long long x)
{
    return x == 0 ? 64 : __builtin_clzll((unsigned long long)x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1u) << (31 - i);
    return y;
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)((unsigned long long)a * b >> 32);
}
static inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector)
{
    unsigned long long both = (unsigned long long)high << 32 | low;
    unsigned out = 0;
    for (int i = 0; i < 4; i++)
        out |= (unsigned)(both >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return out;
}

#define EMULATOR_MIN_MAX(type)                                                                     \
    static inline type min(type a, type b)                                                         \
    {                                                                                              \
        return b < a ? b : a;                                                                      \
    }                                                                                              \
    static inline type max(type a, type b)                                                         \
    {                                                                                              \
        return a < b ? b : a;                                                                      \
    }
EMULATOR_MIN_MAX(int)
EMULATOR_MIN_MAX(unsigned)
EMULATOR_MIN_MAX(long)
EMULATOR_MIN_MAX(unsigned long)
EMULATOR_MIN_MAX(long long)
EMULATOR_MIN_MAX(unsigned long long)
#undef EMULATOR_MIN_MAX
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}
static inline double min(double a, double b)
{
    return fmin(a, b);
}
static inline double max(double a, double b)
{
    return fmax(a, b);
}

#endif
#endif
