/* 16-bit floats as bits, on the host: bf16 (8 bits of exponent, 7 of mantissa) and f16 (5 and 10).
 * To nearest, ties to even; a NaN stays one. */
#ifndef IBOT_OPS_HALF_FLOAT_H
#define IBOT_OPS_HALF_FLOAT_H

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline uint32_t half_float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float half_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint16_t half_float_to_bf16(float value)
{
    uint32_t bits = half_float_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float half_float_from_bf16(uint16_t bits)
{
    return half_float_of_bits((uint32_t)bits << 16);
}

static inline uint16_t half_float_to_f16(float value)
{
    uint32_t bits = half_float_bits(value);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;

    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* 65520 rounds to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* below 2^-14: 1/2 has the last place of the subnormals */
        uint32_t sum = half_float_bits(half_float_of_bits(magnitude) + 0.5f);
        return (uint16_t)(sign | (sum - 0x3f000000));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000) >> 13);
}

static inline float half_float_from_f16(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31;
    uint32_t mantissa = bits & 0x3ff;

    if (exponent == 31)
        return half_float_of_bits(sign | 0x7f800000 | mantissa << 13);
    if (exponent == 0) {
        float value = (float)mantissa * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    return half_float_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

#ifdef __cplusplus
}
#endif

#endif
