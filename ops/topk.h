/* The k most similar rows of a bank: the inner loop of k-NN classification. */
#ifndef IBOT_OPS_TOPK_H
#define IBOT_OPS_TOPK_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* For every query the k greatest dot products with rows of the bank, best first; equal values
 * with the lower index first, NaN after all numbers.
 *   query [Q, D] f32, bank [N, D] f32, k <= N
 *   value [Q, k] f32 out, index [Q, k] i32 out
 * Errors: STATUS_NO_MEMORY for the block of similarities, STATUS_DEVICE. */
struct topk_args {
    struct tensor query, bank, value, index;
};

enum status topk_cpu(struct device *, const struct topk_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
