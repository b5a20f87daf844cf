/* Shape and type checks shared by the op implementations. What a caller got wrong is our own bug:
 * CHECK. A type that this backend lacks is STATUS_UNSUPPORTED. */
#ifndef IBOT_OPS_CHECK_H
#define IBOT_OPS_CHECK_H

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

/* Leaves the function when a present tensor is not float32. */
#define CHECK_F32(op, tensor)                                                                      \
    do {                                                                                           \
        if ((tensor).data != NULL && (tensor).dtype != DTYPE_F32)                                  \
            FAIL(STATUS_UNSUPPORTED, op ": " #tensor " has dtype %d; the CPU computes in float32", \
                 (int)(tensor).dtype);                                                             \
    } while (0)

#ifdef __cplusplus
}
#endif

#endif
