/* What a call of an op must do: the one place that benchmarks take bytes and operations from.
 *
 *   flop   operations of matrix products (a multiplication and an addition are two), attention's
 *          two products among them, its backward counted as twice the forward; what a kernel does
 *          again is not counted, nor is arithmetic on single elements
 *   bytes  every tensor of the contract once: read once, written once; what is added to counts
 *          twice. Rows that lie in no group of an attention do not count
 *
 * So bytes over the copy rate and flop over the matrix rate are the least times that a device
 * could take; the larger one is the floor. Counts that only the device knows are taken at their
 * greatest (n_active of distill_loss; masked cells of region_mask). */
#ifndef IBOT_TESTS_BENCH_OP_WORK_H
#define IBOT_TESTS_BENCH_OP_WORK_H

#include "ops/op_table.h"

struct op_work {
    double flop, bytes;
};

/* Every op that a step calls: X(slot, name of its arguments' struct). */
#define STEP_OPS(X)                                                                                \
    X(patchify, patchify_args)                                                                     \
    X(tokens_forward, tokens_args)                                                                 \
    X(tokens_backward, tokens_backward_args)                                                       \
    X(position_interpolate, position_interpolate_args)                                             \
    X(position_interpolate_backward, position_interpolate_backward_args)                           \
    X(rows_gather, rows_gather_args)                                                               \
    X(rows_scatter, rows_scatter_args)                                                             \
    X(rows_add, rows_add_args)                                                                     \
    X(cast, cast_args)                                                                             \
    X(linear_forward, linear_args)                                                                 \
    X(linear_backward, linear_backward_args)                                                       \
    X(activation_forward, activation_args)                                                         \
    X(activation_backward, activation_backward_args)                                               \
    X(residual_layernorm_forward, residual_layernorm_args)                                         \
    X(residual_layernorm_backward, residual_layernorm_backward_args)                               \
    X(attention_forward, attention_args)                                                           \
    X(attention_backward, attention_backward_args)                                                 \
    X(unit_norm_forward, unit_norm_args)                                                           \
    X(unit_norm_backward, unit_norm_backward_args)                                                 \
    X(weight_norm_forward, weight_norm_args)                                                       \
    X(weight_norm_backward, weight_norm_backward_args)                                             \
    X(distill_loss, distill_loss_args)                                                             \
    X(centre_update, centre_update_args)                                                           \
    X(gradient_norms, gradient_norms_args)                                                         \
    X(optimizer_step, optimizer_step_args)                                                         \
    X(rows_mean, rows_mean_args)                                                                   \
    X(rows_argmax, rows_argmax_args)                                                               \
    X(region_mask, region_mask_args)                                                               \
    X(region_mask_backward, region_mask_backward_args)                                             \
    X(patch_merge, patch_merge_args)                                                               \
    X(patch_merge_backward, patch_merge_backward_args)                                             \
    X(region_mean, region_mean_args)                                                               \
    X(region_mean_backward, region_mean_backward_args)                                             \
    X(window_attention_forward, window_attention_args)                                             \
    X(window_attention_backward, window_attention_backward_args)

#define OP_WORK_DECLARE(slot, args) struct op_work work_of_##slot(const struct args *);
STEP_OPS(OP_WORK_DECLARE)

#endif
