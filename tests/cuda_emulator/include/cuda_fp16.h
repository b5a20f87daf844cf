/* float16 as kernels/ uses it: stored, and converted to and from float. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_INCLUDE_CUDA_FP16_H
#define IBOT_TESTS_CUDA_EMULATOR_INCLUDE_CUDA_FP16_H

#ifdef __cplusplus
#include <stdint.h>
#include <string.h>

struct __half {
    uint16_t bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

/* An f16 is m * 2^(e - 25) with 11 bits of m (10 and e = 1 below the least normal number). */
static inline float __half2float(__half value)
{
    uint32_t sign = (uint32_t)(value.bits & 0x8000u) << 16, exponent = value.bits >> 10 & 31u;
    uint32_t fraction = value.bits & 0x3ffu, wide;
    float out;

    if (exponent == 31) {
        wide = sign | 0x7f800000u | fraction << 13;
    } else if (exponent > 0) {
        wide = sign | (exponent + 112u) << 23 | fraction << 13;
    } else {
        out = (float)fraction * 0x1p-24f;
        return sign != 0 ? -out : out;
    }
    memcpy(&out, &wide, sizeof(out));
    return out;
}

/* To nearest, ties to even; beyond 65504 infinite; every NaN is 0x7fff, as the hardware has it. */
static inline __half __float2half_rn(float value)
{
    uint32_t wide, sign, magnitude;

    memcpy(&wide, &value, sizeof(wide));
    sign = wide >> 16 & 0x8000u;
    magnitude = wide & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return {0x7fff};
    if (magnitude >= 0x477ff000u) /* 65520 and on */
        return {(uint16_t)(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) { /* below 2^-14: the sum rounds at 2^-24 */
        float sum, absolute;
        memcpy(&absolute, &magnitude, sizeof(absolute));
        sum = absolute + 0.5f;
        memcpy(&magnitude, &sum, sizeof(magnitude));
        return {(uint16_t)(sign | (magnitude - 0x3f000000u))};
    }
    magnitude += 0xfffu + (magnitude >> 13 & 1u);
    return {(uint16_t)(sign | (magnitude - 0x38000000u) >> 13)};
}
static inline __half __float2half(float value)
{
    return __float2half_rn(value);
}
static inline __half2 __floats2half2_rn(float x, float y)
{
    return {__float2half_rn(x), __float2half_rn(y)};
}
static inline unsigned short __half_as_ushort(__half value)
{
    return value.bits;
}
static inline __half __ushort_as_half(unsigned short bits)
{
    return {bits};
}
#endif

#endif
