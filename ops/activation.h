/* An activation on its own, for where no matrix product is there to carry it (head norms). */
#ifndef IBOT_OPS_ACTIVATION_H
#define IBOT_OPS_ACTIVATION_H

#include "ops/device.h"
#include "ops/linear.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = activation(x); [N, D] f32|bf16, y may alias x. */
struct activation_args {
    struct tensor x, y;
    enum activation activation;
};
/* d_x = d_y * activation'(x); d_x may alias d_y. */
struct activation_backward_args {
    struct tensor d_y, x, d_x;
    enum activation activation;
};

enum status activation_forward_cpu(struct device *,
                                   const struct activation_args *) IBOT_WARN_UNUSED;
enum status activation_backward_cpu(struct device *,
                                    const struct activation_backward_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
