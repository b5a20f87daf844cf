/* Activations of some values side by side, for the ops of the CPU that have them inside. */
#ifndef IBOT_OPS_ACTIVATION_ROW_H
#define IBOT_OPS_ACTIVATION_ROW_H

#include <stdint.h>

#include "ops/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = activation(x); y may be x. A NaN stays one. */
void activation_row(float *y, const float *x, int64_t n, enum activation activation);

/* d_x = d_y * activation'(x); d_x may be d_y. */
void activation_row_backward(float *d_x, const float *d_y, const float *x, int64_t n,
                             enum activation activation);

/* A NaN passes. */
static inline float relu(float x)
{
    return x < 0.0f ? 0.0f : x;
}

#ifdef __cplusplus
}
#endif

#endif
