/* Values of f32, bf16 and f16 arrays as floats: one by one, or in packs of up to 16 bytes. */
#ifndef IBOT_KERNELS_VALUE_CUH
#define IBOT_KERNELS_VALUE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "ops/tensor.h"
#include "proto/base/status.h"

typedef __nv_bfloat16 bf16;
typedef __half f16;

__device__ __forceinline__ float to_float(float value)
{
    return value;
}
__device__ __forceinline__ float to_float(bf16 value)
{
    return __bfloat162float(value);
}
__device__ __forceinline__ float to_float(f16 value)
{
    return __half2float(value);
}

template <class T> __device__ __forceinline__ T from_float(float value);
template <> __device__ __forceinline__ float from_float<float>(float value)
{
    return value;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float value)
{
    return __float2bfloat16_rn(value);
}
template <> __device__ __forceinline__ f16 from_float<f16>(float value)
{
    return __float2half_rn(value);
}

/* N values that lie together; the address must be a multiple of its size (at most 16 bytes). */
template <class T, int N> struct alignas(sizeof(T) * N) pack {
    T value[N];
};

/* N values at `from` as floats; `from` aligned as a pack. */
template <int N, class T>
__device__ __forceinline__ void load_pack(float (&to)[N], const T *__restrict__ from)
{
    pack<T, N> p = *reinterpret_cast<const pack<T, N> *>(from);
#pragma unroll
    for (int i = 0; i < N; i++)
        to[i] = to_float(p.value[i]);
}

/* N values as they lie in memory, in registers that are full: kept until they are converted. */
struct alignas(16) four_words {
    uint32_t word[4];
};
template <class T, int N>
using raw_pack = std::conditional_t<sizeof(pack<T, N>) == 16, four_words, pack<T, N>>;

template <int N, class T> __device__ __forceinline__ raw_pack<T, N> load_raw(const T *from)
{
    return *reinterpret_cast<const raw_pack<T, N> *>(from);
}

template <int N, class T>
__device__ __forceinline__ void store_raw(T *to, const raw_pack<T, N> &from)
{
    *reinterpret_cast<raw_pack<T, N> *>(to) = from;
}

template <int N, class T>
__device__ __forceinline__ void unpack(float (&to)[N], const raw_pack<T, N> &from)
{
    pack<T, N> p;
    memcpy(&p, &from, sizeof(p));
#pragma unroll
    for (int i = 0; i < N; i++)
        to[i] = to_float(p.value[i]);
}

template <int N, class T> __device__ __forceinline__ raw_pack<T, N> repack(const float (&from)[N])
{
    pack<T, N> p;
    raw_pack<T, N> raw;
#pragma unroll
    for (int i = 0; i < N; i++)
        p.value[i] = from_float<T>(from[i]);
    memcpy(&raw, &p, sizeof(p));
    return raw;
}

template <int N, class T>
__device__ __forceinline__ void store_pack(T *__restrict__ to, const float (&from)[N])
{
    pack<T, N> p;
#pragma unroll
    for (int i = 0; i < N; i++)
        p.value[i] = from_float<T>(from[i]);
    *reinterpret_cast<pack<T, N> *>(to) = p;
}

/* Host: may rows of `n` elements at `data` be read in packs of `bytes`? Absent data may. */
static inline bool is_packed(const void *data, int64_t n, enum dtype dtype, size_t bytes)
{
    return reinterpret_cast<uintptr_t>(data) % bytes == 0 &&
           static_cast<size_t>(n) * dtype_size_bytes(dtype) % bytes == 0;
}

template <class T> struct type_tag {
    typedef T type;
};

/* Host: calls f(type_tag<T>{}) for f32 or bf16:
 *   with_float_type(args->x.dtype, "op: x", [&](auto x) { using X = typename decltype(x)::type; …
 * }) Other types are STATUS_UNSUPPORTED. */
template <class F>
static inline enum status with_float_type(enum dtype dtype, const char *what, const F &f)
{
    if (dtype == DTYPE_F32)
        return f(type_tag<float>{});
    if (dtype == DTYPE_BF16)
        return f(type_tag<bf16>{});
    FAIL(STATUS_UNSUPPORTED, "%s: dtype %d; the CUDA op takes f32 or bf16", what,
         static_cast<int>(dtype));
}

/* The same with f16 besides. */
template <class F>
static inline enum status with_any_float_type(enum dtype dtype, const char *what, const F &f)
{
    if (dtype == DTYPE_F16)
        return f(type_tag<f16>{});
    return with_float_type(dtype, what, f);
}

/* The data of a tensor as T*; the caller has looked at its dtype. */
template <class T> static inline T *data_of(const struct tensor &tensor)
{
    return static_cast<T *>(tensor.data);
}

#endif
