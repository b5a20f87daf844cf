/* Softmax of one row: greatest value, exponentials and their sum, division. */
#include "ops/softmax_row.h"

#include <math.h>

#include "ops/vector_math.h"

float softmax_row(float *row, int64_t n)
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
