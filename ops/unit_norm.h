/* Vectors of length one: the head's bottleneck, and the rows of its weight-normalised layer. */
#ifndef IBOT_OPS_UNIT_NORM_H
#define IBOT_OPS_UNIT_NORM_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y = x / max(|x|, eps), row by row; with a NaN in a row all of it is NaN.
 *   x [N, D], y [N, D] f32|bf16 out (may alias x), inverse [N] f32 out: 1/max(|x|, eps); or absent
 */
struct unit_norm_args {
    struct tensor x, y, inverse;
    float eps;
};
/* d_x = inverse * (d_y - y <y, d_y>);  [N, D] out, may alias d_y. */
struct unit_norm_backward_args {
    struct tensor d_y, y, inverse, d_x;
};

/* weight = gain * direction / |direction|, row by row (Salimans and Kingma 2016, no epsilon).
 *   direction [K, D] f32, gain [K] f32 or absent (1), weight [K, D] f32|bf16 out,
 *   inverse [K] f32 out: 1/|direction|; or absent */
struct weight_norm_args {
    struct tensor direction, gain, weight, inverse;
};
/* d_direction [K, D] and d_gain [K] f32 are added to (either may be absent):
 *   d_gain += <d_weight, v>/|v|;  d_v += gain/|v| * (d_weight - v <d_weight, v>/|v|^2). */
struct weight_norm_backward_args {
    struct tensor d_weight, direction, gain, inverse, d_direction, d_gain;
};

enum status unit_norm_forward_cpu(struct device *, const struct unit_norm_args *) IBOT_WARN_UNUSED;
enum status unit_norm_backward_cpu(struct device *,
                                   const struct unit_norm_backward_args *) IBOT_WARN_UNUSED;
enum status weight_norm_forward_cpu(struct device *,
                                    const struct weight_norm_args *) IBOT_WARN_UNUSED;
enum status weight_norm_backward_cpu(struct device *,
                                     const struct weight_norm_backward_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
