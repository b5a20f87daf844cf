/* exp and erf as short branch-free float expressions, so that loops over them become vector code.
 *
 *   vector_exp   relative error below 2e-7 on [-87, 88]; clamped outside
 *   vector_erfc  of |x|: relative error of the rational form 1.2e-7 plus float rounding
 *                (Chebyshev fit of Press et al., Numerical Recipes, 2nd ed., 6.2)
 *   vector_gelu  x * Phi(x), the exact form by erf; error below 4e-7 * max(1, |x|) */
#ifndef IBOT_OPS_VECTOR_MATH_H
#define IBOT_OPS_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline float vector_exp(float x)
{
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* nearest integer, by rounding */
    float r = x - n * 0.693145752f;                          /* ln 2, high and low part */
    r = r - n * 1.42860677e-6f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    uint32_t bits = ((uint32_t)(int32_t)n + 127) << 23; /* of a NaN: any; p is NaN then */
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return p * scale;
}

static inline float vector_erfc(float magnitude)
{
    float t = 1.0f / (1.0f + 0.5f * magnitude);
    float p = 0.17087277f;
    p = p * t - 0.82215223f;
    p = p * t + 1.48851587f;
    p = p * t - 1.13520398f;
    p = p * t + 0.27886807f;
    p = p * t - 0.18628806f;
    p = p * t + 0.09678418f;
    p = p * t + 0.37409196f;
    p = p * t + 1.00002368f;
    p = p * t - 1.26551223f;
    return t * vector_exp(-magnitude * magnitude + p);
}

/* Phi(x), the normal distribution function. */
static inline float vector_normal_cdf(float x)
{
    float half = 0.5f * vector_erfc(fabsf(x) * 0.70710678f);
    return x > 0.0f ? 1.0f - half : half;
}

static inline float vector_gelu(float x)
{
    return x * vector_normal_cdf(x);
}

static inline float vector_gelu_derivative(float x)
{
    return vector_normal_cdf(x) + x * 0.39894228f * vector_exp(-0.5f * x * x);
}

#ifdef __cplusplus
}
#endif

#endif
