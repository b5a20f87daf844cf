/* Square maps of tokens without a [CLS]: what a hierarchical backbone does with them between its
 * blocks. Mask tokens go in at the first map, four neighbours become one token between stages, and
 * the mean of the last map stands in for [CLS]. */
#ifndef IBOT_OPS_REGION_H
#define IBOT_OPS_REGION_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { REGION_MAX_GROUPS = 8 };

/* n_images maps of side*side tokens each, row by row, in one packed buffer; the first token of the
 * first map is row first_row. */
struct region_group {
    int64_t first_row, n_images, side;
};

/* x[i] = mask_token where the mask cell that token i lies in is set; the others stay.
 *   x          [n*side*side, D] f32|bf16 in and out: n maps
 *   mask       [n*cells*cells] u8; a cell covers a square of side/cells tokens (a whole number)
 *   mask_token [D] f32 */
struct region_mask_args {
    struct tensor x, mask, mask_token;
    int64_t side, cells;
};

/*   d_x          [n*side*side, D] in: gradient after the masking; out: before it, 0 where masked
 *   d_mask_token [D] f32, added to; or absent. Sums in double, in a fixed order. */
struct region_mask_backward_args {
    struct tensor d_x, mask, d_mask_token;
    int64_t side, cells;
};

/* Patch merging without its norm and product: token (y, x) of a map of side (side+1)/2 holds the
 * channels of (2y, 2x), (2y+1, 2x), (2y, 2x+1), (2y+1, 2x+1), in this order; past an odd side: 0.
 *   x [T, C] f32|bf16, maps of `from`      y [T', 4C] of the same type, out, maps of `to`
 * The groups correspond one to one. Source: Liu et al. 2021 (Swin Transformer), patch merging. */
struct patch_merge_args {
    struct tensor x, y;
    struct region_group from[REGION_MAX_GROUPS], to[REGION_MAX_GROUPS];
    int32_t n_groups;
};

/* d_x [T, C] out, of all rows in the groups, from d_y [T', 4C]. */
struct patch_merge_backward_args {
    struct tensor d_y, d_x;
    struct region_group from[REGION_MAX_GROUPS], to[REGION_MAX_GROUPS];
    int32_t n_groups;
};

/* Each map with its mean before it: the tokens that a head takes.
 *   x [T, D] f32|bf16                      y [R, D] of the same type, out: for image i of group g,
 *   row to_row[g] + i*(side*side + 1) is the mean of its tokens, the following rows the tokens */
struct region_mean_args {
    struct tensor x, y;
    struct region_group groups[REGION_MAX_GROUPS];
    int64_t to_row[REGION_MAX_GROUPS];
    int32_t n_groups;
};

/* d_x [T, D] out: gradient of the token itself plus its share of the mean's. */
struct region_mean_backward_args {
    struct tensor d_y, d_x;
    struct region_group groups[REGION_MAX_GROUPS];
    int64_t to_row[REGION_MAX_GROUPS];
    int32_t n_groups;
};

enum status region_mask_cpu(struct device *, const struct region_mask_args *) IBOT_WARN_UNUSED;
enum status region_mask_backward_cpu(struct device *,
                                     const struct region_mask_backward_args *) IBOT_WARN_UNUSED;
enum status patch_merge_cpu(struct device *, const struct patch_merge_args *) IBOT_WARN_UNUSED;
enum status patch_merge_backward_cpu(struct device *,
                                     const struct patch_merge_backward_args *) IBOT_WARN_UNUSED;
enum status region_mean_cpu(struct device *, const struct region_mean_args *) IBOT_WARN_UNUSED;
enum status region_mean_backward_cpu(struct device *,
                                     const struct region_mean_backward_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
