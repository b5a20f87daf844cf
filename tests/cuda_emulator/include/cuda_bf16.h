/* bfloat16 as kernels/ uses it: stored, and converted to and from float. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_INCLUDE_CUDA_BF16_H
#define IBOT_TESTS_CUDA_EMULATOR_INCLUDE_CUDA_BF16_H

#ifdef __cplusplus
#include <stdint.h>
#include <string.h>

struct __nv_bfloat16 {
    uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 value)
{
    uint32_t wide = (uint32_t)value.bits << 16;
    float out;
    memcpy(&out, &wide, sizeof(out));
    return out;
}

/* To nearest, ties to even; every NaN is 0x7fff, as the hardware has it. */
static inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    uint32_t wide;
    memcpy(&wide, &value, sizeof(wide));
    if ((wide & 0x7fffffffu) > 0x7f800000u)
        return {0x7fff};
    wide += 0x7fffu + (wide >> 16 & 1u);
    return {(uint16_t)(wide >> 16)};
}
static inline __nv_bfloat16 __float2bfloat16(float value)
{
    return __float2bfloat16_rn(value);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value)
{
    return value.bits;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return {bits};
}
#endif

#endif
