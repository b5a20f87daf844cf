/* How far an op may be from its definition in double precision, by op and type: the one place.
 *
 * The error of an array is the greatest |got - want| divided by the greatest |want| of that array
 * (or by 1e-30, if that is greater). float32 rows leave about a factor of four above what was
 * measured on random and extreme inputs; bf16 rows are two roundings of an 8-bit mantissa. */
#ifndef IBOT_TESTS_SUPPORT_TOLERANCES_H
#define IBOT_TESTS_SUPPORT_TOLERANCES_H

#include "ops/tensor.h"

struct tolerance {
    const char *op;
    double f32, bf16;
};

static const struct tolerance tolerances[] = {
    {"linear_forward", 2e-6, 8e-3},
    {"linear_backward", 3e-6, 1e-2},
    {"activation_forward", 5e-7, 8e-3},
    {"activation_backward", 5e-7, 8e-3},
    {"residual_layernorm_forward", 4e-6, 8e-3},
    {"residual_layernorm_backward", 1e-5, 2e-2},
    {"attention_forward", 5e-6, 1e-2},
    {"attention_backward", 2e-5, 2e-2},
    {"attention_map", 5e-6, 1e-2},
    {"unit_norm_forward", 1e-6, 8e-3},
    {"unit_norm_backward", 2e-6, 8e-3},
    {"weight_norm_forward", 1e-6, 8e-3},
    {"weight_norm_backward", 3e-6, 8e-3},
    {"batchnorm_moments", 1e-7, 1e-3},
    {"batchnorm_apply", 2e-6, 8e-3},
    {"batchnorm_backward_moments", 1e-6, 1e-2},
    {"batchnorm_backward_apply", 4e-6, 1e-2},
    {"patchify", 0.0, 8e-3},
    {"tokens_forward", 1e-7, 8e-3},
    {"tokens_backward", 2e-7, 8e-3},
    {"position_interpolate", 4e-6, 4e-6},
    {"position_interpolate_backward", 4e-6, 4e-6},
    {"rows_gather", 0.0, 0.0},
    {"rows_scatter", 0.0, 0.0},
    {"rows_add", 1e-7, 1e-7},
    {"distill_loss", 1e-5, 2e-2},
    {"centre_update", 3e-7, 3e-7},
    {"gradient_norms", 1e-6, 1e-6},
    {"optimizer_step", 2e-6, 2e-6},
    {"rows_mean", 1e-7, 1e-7},
    {"rows_argmax", 0.0, 0.0},
    {"topk", 0.0, 0.0},
    {"cross_entropy", 1e-6, 1e-6},
    {"dense_cross_entropy", 4e-6, 4e-6},
    {"patch_mix", 2e-6, 8e-3},
    {"spmm", 2e-6, 8e-3},
    {"max_pool", 0.0, 0.0},
    {"max_pool_backward", 1e-7, 8e-3},
    {"channel_scale", 1e-7, 8e-3},
    {"region_mask", 0.0, 0.0},
    {"region_mask_backward", 2e-7, 8e-3},
    {"patch_merge", 0.0, 0.0},
    {"patch_merge_backward", 0.0, 0.0},
    {"region_mean", 2e-7, 8e-3},
    {"region_mean_backward", 3e-7, 8e-3},
    {"window_attention_forward", 5e-6, 1e-2},
    {"window_attention_backward", 2e-5, 2e-2},
};

#endif
