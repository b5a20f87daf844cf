/* Small reductions: means of rows, arg-max per row. */
#ifndef IBOT_OPS_REDUCE_H
#define IBOT_OPS_REDUCE_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* mean [D] f32 out: mean of rows first, first+1, … of x [N, D] f32|bf16 that are not skipped: with
 * period > 0 the rows whose (row mod period) is 0 are left out ([CLS] rows), with period < 0 only
 * those are taken. Sums in double, in a fixed order. At least one row must be left. */
struct rows_mean_args {
    struct tensor x, mean;
    int64_t period;
};

/* index [N] i32 out: the first column that holds the greatest value of each row of x [N, K]. */
struct rows_argmax_args {
    struct tensor x, index;
};

enum status rows_mean_cpu(struct device *, const struct rows_mean_args *) IBOT_WARN_UNUSED;
enum status rows_argmax_cpu(struct device *, const struct rows_argmax_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
