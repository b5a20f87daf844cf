/* Pieces of the double-precision definitions that several op tests share. */
#ifndef IBOT_TESTS_SUPPORT_OP_REFERENCE_H
#define IBOT_TESTS_SUPPORT_OP_REFERENCE_H

#include <math.h>

#include "ops/linear.h"

static inline double reference_activation(enum activation activation, double x)
{
    switch (activation) {
    case ACTIVATION_GELU:
        return 0.5 * x * erfc(-x / sqrt(2.0));
    case ACTIVATION_GELU_TANH:
        return x / (1.0 + exp(-2.0 * sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case ACTIVATION_RELU:
        return fmax(x, 0.0);
    default:
        return x;
    }
}

static inline double reference_dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

#endif
