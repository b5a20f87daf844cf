/* Shape and type checks shared by the op implementations. What a caller got wrong is our own bug:
 * CHECK. A type that this backend lacks is STATUS_UNSUPPORTED. */
#ifndef IBOT_OPS_CHECK_H
#define IBOT_OPS_CHECK_H

#include <float.h>
#include <math.h>

#include "ops/tensor.h"
#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

static inline bool tensor_is_2d(const struct tensor *t, int64_t n, int64_t m)
{
    return t->rank == 2 && t->shape[0] == n && t->shape[1] == m;
}

static inline bool tensor_is_1d(const struct tensor *t, int64_t n)
{
    return tensor_n_elements(t) == n;
}

/* Host memory: every value of an f64 tensor is finite; of an absent one too. */
static inline bool all_finite(const struct tensor *t)
{
    for (int64_t i = 0; t->data != NULL && i < tensor_n_elements(t); i++)
        if (!(fabs(((const double *)t->data)[i]) <= DBL_MAX))
            return false;
    return true;
}

/* Leaves the function when a present tensor is not float32. */
#define CHECK_F32(op, tensor)                                                                      \
    do {                                                                                           \
        if ((tensor).data != NULL && (tensor).dtype != DTYPE_F32)                                  \
            FAIL(STATUS_UNSUPPORTED, op ": " #tensor " has dtype %d; this op takes float32 here",  \
                 (int)(tensor).dtype);                                                             \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
