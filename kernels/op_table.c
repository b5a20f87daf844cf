/* The CUDA column of the op table. */
#include "kernels/op_cuda.h"

#include "kernels/kernels.h"

#ifdef IBOT_CUDA_EMULATOR
#define COLUMN_NAME "cuda_emulated"
#else
#define COLUMN_NAME "cuda"
#endif

static const struct op_table op_table_cuda = {
    .name = COLUMN_NAME,
    .patchify = patchify_cuda,
    .tokens_forward = tokens_forward_cuda,
    .tokens_backward = tokens_backward_cuda,
    .position_interpolate = position_interpolate_cuda,
    .position_interpolate_backward = position_interpolate_backward_cuda,
    .rows_gather = rows_gather_cuda,
    .rows_scatter = rows_scatter_cuda,
    .rows_add = rows_add_cuda,
    .cast = cast_cuda,
    .linear_forward = linear_forward_cuda,
    .linear_backward = linear_backward_cuda,
    .activation_forward = activation_forward_cuda,
    .activation_backward = activation_backward_cuda,
    .residual_layernorm_forward = residual_layernorm_forward_cuda,
    .residual_layernorm_backward = residual_layernorm_backward_cuda,
    .batchnorm_moments = batchnorm_moments_cuda,
    .batchnorm_apply = batchnorm_apply_cuda,
    .batchnorm_backward_moments = batchnorm_backward_moments_cuda,
    .batchnorm_backward_apply = batchnorm_backward_apply_cuda,
    .attention_forward = attention_forward_cuda,
    .attention_backward = attention_backward_cuda,
    .attention_map = attention_map_cuda,
    .unit_norm_forward = unit_norm_forward_cuda,
    .unit_norm_backward = unit_norm_backward_cuda,
    .weight_norm_forward = weight_norm_forward_cuda,
    .weight_norm_backward = weight_norm_backward_cuda,
    .distill_loss = distill_loss_cuda,
    .centre_update = centre_update_cuda,
    .gradient_norms = gradient_norms_cuda,
    .optimizer_step = optimizer_step_cuda,
    .rows_mean = rows_mean_cuda,
    .rows_argmax = rows_argmax_cuda,
    .topk = topk_cuda,
    .cross_entropy = cross_entropy_cuda,
    .dense_cross_entropy = dense_cross_entropy_cuda,
    .photometric = photometric_cuda,
    .patch_mix = patch_mix_cuda,
    .spmm = spmm_cuda,
    .max_pool = max_pool_cuda,
    .max_pool_backward = max_pool_backward_cuda,
    .channel_scale = channel_scale_cuda,
    .region_mask = region_mask_cuda,
    .region_mask_backward = region_mask_backward_cuda,
    .patch_merge = patch_merge_cuda,
    .patch_merge_backward = patch_merge_backward_cuda,
    .region_mean = region_mean_cuda,
    .region_mean_backward = region_mean_backward_cuda,
    .window_attention_forward = window_attention_forward_cuda,
    .window_attention_backward = window_attention_backward_cuda,
};

enum status kernels_op_table(const struct op_table **out)
{
    *out = &op_table_cuda;
    return STATUS_OK;
}
