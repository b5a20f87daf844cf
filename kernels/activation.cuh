/* Activations and their derivatives in device code, as ops/linear.h names them. */
#ifndef IBOT_KERNELS_ACTIVATION_CUH
#define IBOT_KERNELS_ACTIVATION_CUH

#include <cuda_runtime.h>

#include "kernels/mma.cuh"
#include "ops/linear.h"

/* x Phi(x); by erfc, which keeps the digits of the lower tail. */
__device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * erfcf(-0.70710678f * x);
}

__device__ __forceinline__ float gelu_derivative(float x)
{
    return 0.5f * erfcf(-0.70710678f * x) + x * 0.39894228f * expf(-0.5f * x * x);
}

/* x (1 + tanh(u/2))/2 = x / (1 + exp(-u)) */
__device__ __forceinline__ float gelu_tanh(float x)
{
    float u = x * (1.5957691f + 0.071354816f * (x * x));
    return x / (1.0f + expf(-u));
}

__device__ __forceinline__ float gelu_tanh_derivative(float x)
{
    float u = x * (1.5957691f + 0.071354816f * (x * x));
    float e = expf(fminf(-u, 88.0f)), s = 1.0f / (1.0f + e); /* 1 - s is e s: no digit is lost */
    return s + x * (e * s) * s * (1.5957691f + 0.21406445f * (x * x));
}

/* The same for results of 16 bits, by the quick exponential and reciprocal: some units in the last
 * place of a float more, half the instructions. */
__device__ __forceinline__ float gelu_tanh_derivative_quick(float x)
{
    float square = x * x;
    float e = fast_exp2(x * (-2.3022082f - 0.10294325f * square));
    float s = __fdividef(1.0f, 1.0f + e);
    return s + x * (s - s * s) * (1.5957691f + 0.21406445f * square);
}

/* `kind` is the same for all threads of a launch. A NaN passes. */
__device__ __forceinline__ float activate(enum activation kind, float x)
{
    switch (kind) {
    case ACTIVATION_GELU:
        return gelu(x);
    case ACTIVATION_GELU_TANH:
        return gelu_tanh(x);
    case ACTIVATION_RELU:
        return x < 0.0f ? 0.0f : x;
    default:
        return x;
    }
}

/* d_y times the derivative at x. */
__device__ __forceinline__ float activation_gradient(enum activation kind, float d_y, float x)
{
    switch (kind) {
    case ACTIVATION_GELU:
        return d_y * gelu_derivative(x);
    case ACTIVATION_GELU_TANH:
        return d_y * gelu_tanh_derivative(x);
    case ACTIVATION_RELU:
        return x > 0.0f ? d_y : 0.0f;
    default:
        return d_y;
    }
}

#endif
