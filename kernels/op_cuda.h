/* The CUDA twins of the ops, one per slot of the op table; contracts are in ops/. */
#ifndef IBOT_KERNELS_OP_CUDA_H
#define IBOT_KERNELS_OP_CUDA_H

#include "ops/op_table.h"

#ifdef __cplusplus
extern "C" {
#endif

#define OP_CUDA(name, args)                                                                        \
    enum status name##_cuda(struct device *, const struct args *) IBOT_WARN_UNUSED

OP_CUDA(patchify, patchify_args);
OP_CUDA(tokens_forward, tokens_args);
OP_CUDA(tokens_backward, tokens_backward_args);
OP_CUDA(position_interpolate, position_interpolate_args);
OP_CUDA(position_interpolate_backward, position_interpolate_backward_args);
OP_CUDA(rows_gather, rows_gather_args);
OP_CUDA(rows_scatter, rows_scatter_args);
OP_CUDA(rows_add, rows_add_args);
OP_CUDA(cast, cast_args);
OP_CUDA(linear_forward, linear_args);
OP_CUDA(linear_backward, linear_backward_args);
OP_CUDA(activation_forward, activation_args);
OP_CUDA(activation_backward, activation_backward_args);
OP_CUDA(residual_layernorm_forward, residual_layernorm_args);
OP_CUDA(residual_layernorm_backward, residual_layernorm_backward_args);
OP_CUDA(batchnorm_moments, batchnorm_moments_args);
OP_CUDA(batchnorm_apply, batchnorm_apply_args);
OP_CUDA(batchnorm_backward_moments, batchnorm_backward_moments_args);
OP_CUDA(batchnorm_backward_apply, batchnorm_backward_apply_args);
OP_CUDA(attention_forward, attention_args);
OP_CUDA(attention_backward, attention_backward_args);
OP_CUDA(attention_map, attention_map_args);
OP_CUDA(unit_norm_forward, unit_norm_args);
OP_CUDA(unit_norm_backward, unit_norm_backward_args);
OP_CUDA(weight_norm_forward, weight_norm_args);
OP_CUDA(weight_norm_backward, weight_norm_backward_args);
OP_CUDA(distill_loss, distill_loss_args);
OP_CUDA(centre_update, centre_update_args);
OP_CUDA(gradient_norms, gradient_norms_args);
OP_CUDA(optimizer_step, optimizer_step_args);
OP_CUDA(rows_mean, rows_mean_args);
OP_CUDA(rows_argmax, rows_argmax_args);
OP_CUDA(topk, topk_args);
OP_CUDA(cross_entropy, cross_entropy_args);
OP_CUDA(dense_cross_entropy, dense_cross_entropy_args);
OP_CUDA(photometric, photometric_args);
OP_CUDA(patch_mix, patch_mix_args);
OP_CUDA(spmm, spmm_args);
OP_CUDA(max_pool, max_pool_args);
OP_CUDA(max_pool_backward, max_pool_backward_args);
OP_CUDA(channel_scale, channel_scale_args);
OP_CUDA(region_mask, region_mask_args);
OP_CUDA(region_mask_backward, region_mask_backward_args);
OP_CUDA(patch_merge, patch_merge_args);
OP_CUDA(patch_merge_backward, patch_merge_backward_args);
OP_CUDA(region_mean, region_mean_args);
OP_CUDA(region_mean_backward, region_mean_backward_args);
OP_CUDA(window_attention_forward, window_attention_args);
OP_CUDA(window_attention_backward, window_attention_backward_args);

#undef OP_CUDA

#ifdef __cplusplus
}
#endif

#endif
