/* The op table: one slot per op, one column per backend. The model calls through it and knows no
 * backend; trainer/backend.c alone chooses the column. */
#ifndef IBOT_OPS_OP_TABLE_H
#define IBOT_OPS_OP_TABLE_H

#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/batchnorm.h"
#include "ops/cast.h"
#include "ops/cross_entropy.h"
#include "ops/dense_cross_entropy.h"
#include "ops/distill_loss.h"
#include "ops/feature_map.h"
#include "ops/linear.h"
#include "ops/optimizer.h"
#include "ops/patch_mix.h"
#include "ops/photometric.h"
#include "ops/reduce.h"
#include "ops/region.h"
#include "ops/residual.h"
#include "ops/tokens.h"
#include "ops/topk.h"
#include "ops/unit_norm.h"
#include "ops/window.h"

#ifdef __cplusplus
extern "C" {
#endif

#define OP_SLOT(name, args) enum status (*name)(struct device *, const struct args *)

struct op_table {
    const char *name; /* "cpu", "cuda", "cuda_emulated" */
    OP_SLOT(patchify, patchify_args);
    OP_SLOT(tokens_forward, tokens_args);
    OP_SLOT(tokens_backward, tokens_backward_args);
    OP_SLOT(position_interpolate, position_interpolate_args);
    OP_SLOT(position_interpolate_backward, position_interpolate_backward_args);
    OP_SLOT(rows_gather, rows_gather_args);
    OP_SLOT(rows_scatter, rows_scatter_args);
    OP_SLOT(rows_add, rows_add_args);
    OP_SLOT(cast, cast_args);
    OP_SLOT(linear_forward, linear_args);
    OP_SLOT(linear_backward, linear_backward_args);
    OP_SLOT(activation_forward, activation_args);
    OP_SLOT(activation_backward, activation_backward_args);
    OP_SLOT(residual_layernorm_forward, residual_layernorm_args);
    OP_SLOT(residual_layernorm_backward, residual_layernorm_backward_args);
    OP_SLOT(batchnorm_moments, batchnorm_moments_args);
    OP_SLOT(batchnorm_apply, batchnorm_apply_args);
    OP_SLOT(batchnorm_backward_moments, batchnorm_backward_moments_args);
    OP_SLOT(batchnorm_backward_apply, batchnorm_backward_apply_args);
    OP_SLOT(attention_forward, attention_args);
    OP_SLOT(attention_backward, attention_backward_args);
    OP_SLOT(attention_map, attention_map_args);
    OP_SLOT(unit_norm_forward, unit_norm_args);
    OP_SLOT(unit_norm_backward, unit_norm_backward_args);
    OP_SLOT(weight_norm_forward, weight_norm_args);
    OP_SLOT(weight_norm_backward, weight_norm_backward_args);
    OP_SLOT(distill_loss, distill_loss_args);
    OP_SLOT(centre_update, centre_update_args);
    OP_SLOT(gradient_norms, gradient_norms_args);
    OP_SLOT(optimizer_step, optimizer_step_args);
    OP_SLOT(rows_mean, rows_mean_args);
    OP_SLOT(rows_argmax, rows_argmax_args);
    OP_SLOT(topk, topk_args);
    OP_SLOT(cross_entropy, cross_entropy_args);
    OP_SLOT(dense_cross_entropy, dense_cross_entropy_args);
    OP_SLOT(photometric, photometric_args);
    OP_SLOT(patch_mix, patch_mix_args);
    /* Decoders of dense tasks. */
    OP_SLOT(spmm, spmm_args);
    OP_SLOT(max_pool, max_pool_args);
    OP_SLOT(max_pool_backward, max_pool_backward_args);
    OP_SLOT(channel_scale, channel_scale_args);
    /* Hierarchical backbones. As of all ops, no backend lacks any: a test says so. */
    OP_SLOT(region_mask, region_mask_args);
    OP_SLOT(region_mask_backward, region_mask_backward_args);
    OP_SLOT(patch_merge, patch_merge_args);
    OP_SLOT(patch_merge_backward, patch_merge_backward_args);
    OP_SLOT(region_mean, region_mean_args);
    OP_SLOT(region_mean_backward, region_mean_backward_args);
    OP_SLOT(window_attention_forward, window_attention_args);
    OP_SLOT(window_attention_backward, window_attention_backward_args);
};

extern const struct op_table op_table_cpu;

#ifdef __cplusplus
}
#endif

#endif
