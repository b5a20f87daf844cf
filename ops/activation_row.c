/* One loop for each activation: the function is known where it is inlined, and the loop is vector
 * code, also where what it writes lies on what it reads. */
#include "ops/activation_row.h"

#include <string.h>

#include "ops/vector_math.h"

static inline __attribute__((always_inline)) void map(float *y, const float *x, int64_t n,
                                                      float (*f)(float))
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        y[i] = f(x[i]);
}

void activation_row(float *y, const float *x, int64_t n, enum activation activation)
{
    if (activation == ACTIVATION_GELU)
        map(y, x, n, vector_gelu);
    else if (activation == ACTIVATION_GELU_TANH)
        map(y, x, n, vector_gelu_tanh);
    else if (activation == ACTIVATION_RELU)
        map(y, x, n, relu);
    else if (y != x)
        memcpy(y, x, (size_t)n * sizeof(float));
}

static inline __attribute__((always_inline)) void
map_backward(float *d_x, const float *d_y, const float *x, int64_t n, float (*derivative)(float))
{
#pragma omp simd
    for (int64_t i = 0; i < n; i++)
        d_x[i] = d_y[i] * derivative(x[i]);
}

void activation_row_backward(float *d_x, const float *d_y, const float *x, int64_t n,
                             enum activation activation)
{
    if (activation == ACTIVATION_GELU)
        map_backward(d_x, d_y, x, n, vector_gelu_derivative);
    else if (activation == ACTIVATION_GELU_TANH)
        map_backward(d_x, d_y, x, n, vector_gelu_tanh_derivative);
    else if (activation == ACTIVATION_RELU) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++)
            d_x[i] = x[i] > 0.0f ? d_y[i] : 0.0f;
    } else if (d_x != d_y)
        memcpy(d_x, d_y, (size_t)n * sizeof(float));
}
