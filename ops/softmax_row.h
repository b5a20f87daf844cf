/* Softmax of one row, for the attention ops of the CPU. */
#ifndef IBOT_OPS_SOFTMAX_ROW_H
#define IBOT_OPS_SOFTMAX_ROW_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* In place, n >= 1; returns the row's log-sum-exp. */
float softmax_row(float *row, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
