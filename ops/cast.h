/* Values in another type: copies of parameters and activations for products of 16-bit operands. */
#ifndef IBOT_OPS_CAST_H
#define IBOT_OPS_CAST_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* to[i] = from[i], to nearest, ties to even; beyond the range: infinity.
 *   from f32, any shape      to f32|bf16|f16 out, as many elements
 * Aliasing: none. Errors: STATUS_UNSUPPORTED for the dtypes, STATUS_DEVICE. */
struct cast_args {
    struct tensor from, to;
};

enum status cast_cpu(struct device *, const struct cast_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
