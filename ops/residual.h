/* Residual addition, stochastic depth and LayerNorm, fused both ways: the one memory-bound unit
 * between two matrix products of a pre-norm transformer block. */
#ifndef IBOT_OPS_RESIDUAL_H
#define IBOT_OPS_RESIDUAL_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Stochastic depth drops whole samples of a branch. Their rows need not be made: branch and y may
 * hold the rows of the other samples alone, in order. A table says where they are:
 *
 *   shift [S] i32   row r of a sample s lies shift[s] rows further up, at r - shift[s]; -1: the
 *                   sample is dropped, and has no rows. Absent: every row is where it is in x
 *
 * A dropped sample's branch counts as 0, its y and what would belong to that (mean, rstd) are not
 * written; the gradient of such a y is 0, that of such a branch is not written. */

/* sum = x + scale * branch;   y = (sum - mean) * rstd * gamma + beta.
 *   x      [N, D] f32|bf16   the residual stream; bf16: branch, sum and y too
 *   branch [N, D] f32|bf16   absent: sum = x, and `sum` is not written. With branch_shift as many
 *                            rows as it has
 *   scale  [S]    f32        stochastic depth: 0 or 1/keep of each sample; absent: 1
 *   sample [N]    i32        which sample a row belongs to; needed with scale and shifts
 *   branch_shift, y_shift [S] i32  where rows of branch and y lie
 *   sum    [N, D] out        of x's type; may alias x; absent when branch is
 *   gamma, beta [D] f32
 *   y      [N, D] f32|bf16 out; absent (with gamma, beta, mean, rstd): no LayerNorm. With y_shift
 *                            as many rows as it has
 *   mean, rstd [N] f32 out   saved for the backward; absent when there is none
 * y is the norm of the sum as it is stored: what is made again of a stored sum has the same bits.
 * LayerNorm: biased variance, eps. Source: Ba et al. 2016; Huang et al. 2016 (stochastic depth).
 * Errors: STATUS_UNSUPPORTED, STATUS_DEVICE. */
struct residual_layernorm_args {
    struct tensor x, branch, scale, sample, sum, gamma, beta, y, mean, rstd;
    struct tensor branch_shift, y_shift;
    float eps;
};

/* d_sum_out = d_sum + LayerNorm'(d_y);   d_branch = scale * d_sum_out.
 *   d_y    [N, D] f32|bf16   absent: no LayerNorm followed
 *   d_sum  [N, D] f32|bf16   gradient that reaches `sum` past the LayerNorm; absent: 0
 *   sum    [N, D] of d_sum's type, mean, rstd [N], gamma [D]: from the forward (sum is x without a
 *                            branch)
 *   d_sum_out [N, D] out     of d_sum's type: also the gradient of x; may alias d_sum
 *   d_branch  [N, D] out     absent when there was no branch
 *   branch_shift, y_shift [S] i32  as forward: where rows of d_branch and d_y lie
 *   d_gamma, d_beta [D] f32  added to; absent without LayerNorm
 *   d_bias    [D] f32        added to: the sums of d_branch's columns, which are the gradient of
 * the bias that the branch ends in; absent, or beside d_branch Of a bf16 stream d_y and d_branch
 * are bf16 too; d_branch is made before d_sum_out is rounded. */
struct residual_layernorm_backward_args {
    struct tensor d_y, d_sum, sum, mean, rstd, gamma, scale, sample;
    struct tensor d_sum_out, d_branch, d_gamma, d_beta, d_bias;
    struct tensor branch_shift, y_shift;
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
