/* Residual addition, stochastic depth and LayerNorm, fused both ways: the one memory-bound unit
 * between two matrix products of a pre-norm transformer block. */
#ifndef IBOT_OPS_RESIDUAL_H
#define IBOT_OPS_RESIDUAL_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* sum = x + scale * branch;   y = (sum - mean) * rstd * gamma + beta.
 *   x      [N, D] f32|bf16   the residual stream; bf16: branch, sum and y too
 *   branch [N, D] f32|bf16   absent: sum = x, and `sum` is not written
 *   scale  [S]    f32        stochastic depth: 0 or 1/keep of each sample; absent: 1
 *   sample [N]    i32        which sample a row belongs to; needed with scale
 *   sum    [N, D] out        of x's type; may alias x; absent when branch is
 *   gamma, beta [D] f32
 *   y      [N, D] f32|bf16 out; absent (with gamma, beta, mean, rstd): no LayerNorm
 *   mean, rstd [N] f32 out   saved for the backward; absent when there is none
 * y is the norm of the sum as it is stored: what is made again of a stored sum has the same bits.
 * LayerNorm: biased variance, eps. Source: Ba et al. 2016; Huang et al. 2016 (stochastic depth).
 * Errors: STATUS_UNSUPPORTED, STATUS_DEVICE. */
struct residual_layernorm_args {
    struct tensor x, branch, scale, sample, sum, gamma, beta, y, mean, rstd;
    float eps;
};

/* d_sum_out = d_sum + LayerNorm'(d_y);   d_branch = scale * d_sum_out.
 *   d_y    [N, D] f32|bf16   absent: no LayerNorm followed
 *   d_sum  [N, D] f32|bf16   gradient that reaches `sum` past the LayerNorm; absent: 0
 *   sum    [N, D] of d_sum's type, mean, rstd [N], gamma [D]: from the forward (sum is x without a
 *                            branch)
 *   d_sum_out [N, D] out     of d_sum's type: also the gradient of x; may alias d_sum
 *   d_branch  [N, D] out     absent when there was no branch
 *   d_gamma, d_beta [D] f32  added to; absent without LayerNorm
 *   d_bias    [D] f32        added to: the sums of d_branch's columns, which are the gradient of
 * the bias that the branch ends in; absent, or beside d_branch Of a bf16 stream d_y and d_branch
 * are bf16 too; d_branch is made before d_sum_out is rounded. */
struct residual_layernorm_backward_args {
    struct tensor d_y, d_sum, sum, mean, rstd, gamma, scale, sample;
    struct tensor d_sum_out, d_branch, d_gamma, d_beta, d_bias;
};

enum status
residual_layernorm_forward_cpu(struct device *device,
                               const struct residual_layernorm_args *args) IBOT_WARN_UNUSED;
enum status residual_layernorm_backward_cpu(
    struct device *device, const struct residual_layernorm_backward_args *args) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
