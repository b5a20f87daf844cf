/* Batch normalisation of the head's hidden layers, split where the ranks must agree: the caller
 * all-reduces `moments` between the two halves of each direction (SyncBN). */
#ifndef IBOT_OPS_BATCHNORM_H
#define IBOT_OPS_BATCHNORM_H

#include "ops/device.h"
#include "ops/linear.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* moments [2, D] f64 out: sums of x and of x*x over the N rows of x [N, D] f32|bf16. */
struct batchnorm_moments_args {
    struct tensor x, moments;
};
/* y = activation((x - mean) * rstd * gamma + beta), mean and biased variance from moments / n_rows.
 *   mean, rstd [D] f32 out; running_mean, running_var [D] f32: moved by `momentum` towards the
 *   batch's (unbiased variance), or absent; y [N, D] out; pre [N, D] out: before the activation */
struct batchnorm_apply_args {
    struct tensor x, moments, gamma, beta, y, pre, mean, rstd, running_mean, running_var;
    int64_t n_rows; /* of all ranks */
    float eps, momentum;
    enum activation activation;
};
/* moments [2, D] f64 out: sums of d_pre and of d_pre * xhat; d_gamma, d_beta [D] f32 added to.
 * d_y [N, D] is the gradient before the activation (d_pre). */
struct batchnorm_backward_moments_args {
    struct tensor d_y, x, mean, rstd, moments, d_gamma, d_beta;
};
/* d_x [N, D] out = gamma*rstd*(d_y - (moments[0] + xhat*moments[1]) / n_rows); it may lie on d_y.
 */
struct batchnorm_backward_apply_args {
    struct tensor d_y, x, mean, rstd, gamma, moments, d_x;
    int64_t n_rows;
};

enum status batchnorm_moments_cpu(struct device *,
                                  const struct batchnorm_moments_args *) IBOT_WARN_UNUSED;
enum status batchnorm_apply_cpu(struct device *,
                                const struct batchnorm_apply_args *) IBOT_WARN_UNUSED;
enum status
batchnorm_backward_moments_cpu(struct device *,
                               const struct batchnorm_backward_moments_args *) IBOT_WARN_UNUSED;
enum status
batchnorm_backward_apply_cpu(struct device *,
                             const struct batchnorm_backward_apply_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
