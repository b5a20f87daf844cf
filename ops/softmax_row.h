/* Softmax of one row, for the attention ops of the CPU. */
#ifndef IBOT_OPS_SOFTMAX_ROW_H
#define IBOT_OPS_SOFTMAX_ROW_H

#include <math.h>
#include <stdint.h>

#include "ops/vector_math.h"

#ifdef __cplusplus
extern "C" {
#endif

/* In place; returns the row's log-sum-exp. */
static inline float softmax_row(float *row, int64_t n)
{
    float top = row[0], sum = 0.0f;

#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < n; j++)
        top = row[j] > top ? row[j] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) {
        row[j] = vector_exp(row[j] - top);
        sum += row[j];
    }
    float inverse = 1.0f / sum;
    for (int64_t j = 0; j < n; j++)
        row[j] *= inverse;
    return top + logf(sum);
}

#ifdef __cplusplus
}
#endif

#endif
