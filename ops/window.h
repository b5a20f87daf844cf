/* Multi-head self-attention within the windows of token maps, with relative position bias.
 *
 * A window is a square of `window` x `window` tokens. The map is padded at bottom and right to a
 * whole number of windows, then rolled by -shift in both directions, then cut. Rows of the buffers
 * stay in the order of the map: padding, rolling, cutting and the way back happen in the addresses
 * that the op reads and writes, and no windowed copy of the tokens is ever in memory.
 *
 *   map 5 x 5, window 4, shift 2:     rolled and cut, padding as dots:
 *     a b c d e                         m n o .|. . k l
 *     f g h i j                         r s t .|. . p q
 *     k l m n o            ──>          w x y .|. . u v
 *     p q r s t                         . . . .|. . . .
 *     u v w x y                         ───────┼───────
 *                                       . . . .|. . . .
 *                                       . . . .|. . . .
 *                                       c d e .|. . a b
 *                                       h i j .|. . f g
 *
 * The last row and column of windows hold tokens that were no neighbours before the roll; they are
 * told apart by the region they lie in. */
#ifndef IBOT_OPS_WINDOW_H
#define IBOT_OPS_WINDOW_H

#include "ops/region.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = concat over heads of softmax(q k^T / sqrt(Dh) + bias + mask) v, within each window.
 *   qkv   [T, 3D] f32|bf16       a row: q of all heads, then k, then v; head h at h*Dh, D = H*Dh
 *   pad   [3D] f32               q, k, v of a padding token: they are not masked out, real tokens
 *                                attend to them (a token of zeros has the bias of the qkv layer)
 *   table [(2w-1)^2, H] f32      bias of query (yi, xi) for key (yj, xj), places in the window:
 *                                row (yi - yj + w-1) * (2w-1) + (xi - xj + w-1)
 *   out   [T, D] f32|bf16 out
 *   lse   [H, T] f32 out         log of the softmax denominator, saved for the backward; or absent
 * mask: 0 within a region of the rolled map, -100 (as in the original; not minus infinity) between
 * regions. Rows and columns are parted at Hp - window and Hp - shift, Hp the padded side; shift 0:
 * no mask. Rows outside the groups are neither read nor written. Aliasing: none.
 * Source: Liu et al. 2021 (Swin Transformer), eq. 4. Errors: STATUS_UNSUPPORTED, STATUS_DEVICE. */
struct window_attention_args {
    struct tensor qkv, pad, table, out, lse;
    struct region_group groups[REGION_MAX_GROUPS];
    int32_t n_groups, n_heads, window, shift; /* 0 <= shift < window */
};

/* From d_out [T, D] and the forward's tensors.
 *   d_qkv   [T, 3D] out
 *   d_pad   [3D] f32, added to: k and v of the padding (no query of it goes anywhere); or absent
 *   d_table [(2w-1)^2, H] f32, added to; or absent */
struct window_attention_backward_args {
    struct tensor d_out, qkv, pad, table, out, lse, d_qkv, d_pad, d_table;
    struct region_group groups[REGION_MAX_GROUPS];
    int32_t n_groups, n_heads, window, shift;
};

enum status window_attention_forward_cpu(struct device *,
                                         const struct window_attention_args *) IBOT_WARN_UNUSED;
enum status
window_attention_backward_cpu(struct device *,
                              const struct window_attention_backward_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
