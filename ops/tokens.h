/* Pixels to tokens: normalised patches, the token buffer with mask, [CLS] and position, the
 * interpolation of the position grid; and rows of the buffer picked out and put back. */
#ifndef IBOT_OPS_TOKENS_H
#define IBOT_OPS_TOKENS_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Cuts images into patches, one row each, ordered as the weight of a convolution: c, y, x.
 *   pixels  [n, H, W, 3] u8  -> (u8/255 - mean[c]) / std[c] in float, as the original does; or
 *           [n, 3, H, W] f32 -> taken as they are
 *   patches [n*h*w, 3*p*p] f32|bf16 out, h = H / patch_size, w = W / patch_size, row by row;
 *           trailing pixels are left out */
struct patchify_args {
    struct tensor pixels, patches;
    int32_t patch_size;
    float mean[3], std[3];
};

/* What every value of a byte becomes, in the order of roundings that PyTorch has. */
void patchify_table(float table[3][256], const float mean[3], const float std[3]);

/* Token buffer of n images: row i*(N+1) is cls + pos[0]; row i*(N+1)+1+j is
 * (mask[i, j] ? mask_token : patches[i, j]) + pos[1+j].
 *   patches    [n*N, D] f32|bf16   projected patches, bias included
 *   mask       [n*N] u8, or absent;  mask_token [D] f32, absent with mask
 *   cls        [D] f32
 *   pos        [N+1, D] f32        at this resolution
 *   tokens     [n*(N+1), D] f32|bf16 out */
struct tokens_args {
    struct tensor patches, mask, mask_token, cls, pos, tokens;
};

/*   d_tokens  [n*(N+1), D] f32|bf16
 *   d_patches [n*N, D] f32|bf16 out: 0 at masked positions
 *   d_mask_token, d_cls [D], d_pos [N+1, D] f32: added to */
struct tokens_backward_args {
    struct tensor d_tokens, mask, d_patches, d_mask_token, d_cls, d_pos;
};

/* Bicubic interpolation (a = -0.75, half pixel, edges clamped, no antialiasing) of a position
 * grid, with the scale factor (size + 0.1)/n passed through as PyTorch does: source coordinate of
 * output i is (i + 0.5)/scale - 0.5. With `exact` the scale is size/n, as of an explicit size.
 *   grid [n*n, D] f32     out [h*w, D] f32 out
 * Backward: d_grid [n*n, D] is added to. Source: spec of the official ViT; Keys 1981. */
struct position_interpolate_args {
    struct tensor grid, out;
    int32_t grid_size, height, width;
    bool exact;
};
struct position_interpolate_backward_args {
    struct tensor d_out, d_grid;
    int32_t grid_size, height, width;
};

/* to[i] = from[index[i]], i < n rows of D f32|bf16; of a negative index: zeros. */
struct rows_gather_args {
    struct tensor from, index, to; /* [T, D], [n] i32, [n, D] */
};

/* to[index[i]] = from[i]; the other rows of `to` are zeroed when `zero_others`. Indices differ,
 * except negative ones, whose rows go nowhere. */
struct rows_scatter_args {
    struct tensor from, index, to; /* [n, D], [n] i32, [T, D] */
    bool zero_others;
};

/* to += from; [n, D] f32 each. */
struct rows_add_args {
    struct tensor from, to;
};

enum status patchify_cpu(struct device *, const struct patchify_args *) IBOT_WARN_UNUSED;
enum status tokens_forward_cpu(struct device *, const struct tokens_args *) IBOT_WARN_UNUSED;
enum status tokens_backward_cpu(struct device *,
                                const struct tokens_backward_args *) IBOT_WARN_UNUSED;
enum status position_interpolate_cpu(struct device *,
                                     const struct position_interpolate_args *) IBOT_WARN_UNUSED;
enum status position_interpolate_backward_cpu(
    struct device *, const struct position_interpolate_backward_args *) IBOT_WARN_UNUSED;
enum status rows_gather_cpu(struct device *, const struct rows_gather_args *) IBOT_WARN_UNUSED;
enum status rows_scatter_cpu(struct device *, const struct rows_scatter_args *) IBOT_WARN_UNUSED;
enum status rows_add_cpu(struct device *, const struct rows_add_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
