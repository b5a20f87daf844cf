/* exp, the normal distribution function and GELU as short branch-free float expressions, so that
 * loops over them become vector code. The polynomials are our own weighted minimax fits; the errors
 * named here include float rounding and are held by tests/ops/vector_math_test.c.
 *
 *   vector_exp   relative error below 1.5e-7 from -87.3 to 88; 0 below, e^88 above
 *   Phi(x)       normal distribution function; relative error below 8e-7 from -4 up and below 5e-6
 *                down to -13 (where (1 + erf)/2 in float has no digit left)
 *   vector_gelu  x Phi(x), the exact form by erf; error below 2e-7 max(1, |x|), as its derivative's
 *   vector_gelu_tanh  the form by tanh; the same error
 *
 * Phi near 0 is 1/2 + x Q(x^2), whose second term is erf(x/sqrt 2)/2 to a relative 1.5e-7. Further
 * out, with a = |x|, Phi(-a) = exp(-a^2/2) R(a); R falls slowly and is fitted as a polynomial in
 * t = 1/(1 + 0.35 a) (Mills' ratio; Abramowitz and Stegun 26.2.17 is the same idea). The density
 * that the derivative needs is the same exponential, so a gradient costs one exp. */
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
    float limited = x > 88.0f ? 88.0f : x;
    limited = limited < -87.3f ? -87.3f : limited;       /* in this order a NaN passes */
    float shifted = limited * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: ends in the integer */
    float n = shifted - 12582912.0f;
    float r = limited - n * 0.693145752f; /* ln 2, high and low part */
    r = r - n * 1.42860677e-6f;
    float p = 1.3814596e-3f;
    p = p * r + 8.3687175e-3f;
    p = p * r + 4.1668389e-2f;
    p = p * r + 1.6666521e-1f;
    p = p * r + 4.9999994e-1f;
    p = p * (r * r) + r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + 127) << 23; /* 2^n; of a NaN: any, as p is NaN then */
    float scale;
    memcpy(&scale, &bits, sizeof(scale));
    return x < -87.3f ? 0.0f : p * scale;
}

/* Phi(x), and exp(-x^2/2) on the way. */
static inline float vector_normal(float x, float *exponential)
{
    float a = fabsf(x), u = x * x, t = 1.0f / (1.0f + 0.35f * a);
    float e = vector_exp(-0.5f * u);
    float q = -6.8094901e-6f, r = -0.029146139f;

    q = q * u + 1.1104112e-4f;
    q = q * u - 1.1838372e-3f;
    q = q * u + 9.9722827e-3f;
    q = q * u - 6.6490211e-2f;
    q = q * u + 3.9894226e-1f;

    r = r * t + 0.14397271f;
    r = r * t - 0.25571632f;
    r = r * t + 0.1591765f;
    r = r * t - 0.023111418f;
    r = r * t + 0.10550866f;
    r = r * t + 0.1198327f;
    r = r * t + 0.1398619f;
    r = r * t + 0.13962141f;
    float tail = e * (r * t);
    *exponential = e;
    return a < 1.25f ? 0.5f + x * q : x > 0.0f ? 1.0f - tail : tail;
}

static inline float vector_normal_cdf(float x)
{
    float exponential;
    return vector_normal(x, &exponential);
}

static inline float vector_gelu(float x)
{
    return x * vector_normal_cdf(x);
}

static inline float vector_gelu_derivative(float x)
{
    float exponential, phi = vector_normal(x, &exponential);
    return phi + x * (0.39894228f * exponential);
}

/* GELU's form by tanh: x (1 + tanh(u/2))/2 = x / (1 + exp(-u)), u = 2 sqrt(2/pi) (x + 0.044715
 * x^3). */
static inline float vector_gelu_tanh(float x)
{
    float u = x * (1.5957691f + 0.071354816f * (x * x));
    return x / (1.0f + vector_exp(-u));
}

static inline float vector_gelu_tanh_derivative(float x)
{
    float u = x * (1.5957691f + 0.071354816f * (x * x));
    float e = vector_exp(-u), s = 1.0f / (1.0f + e); /* 1 - s is e s: no digit is lost */
    return s + x * (e * s) * s * (1.5957691f + 0.21406445f * (x * x));
}

#ifdef __cplusplus
}
#endif

#endif
