/* Multi-head self-attention over groups of equal-length sequences in one packed token buffer. */
#ifndef IBOT_OPS_ATTENTION_H
#define IBOT_OPS_ATTENTION_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { ATTENTION_MAX_GROUPS = 8 };

/* n_sequences sequences of `length` tokens, the first token being row first_row. */
struct attention_group {
    int64_t first_row, n_sequences, length;
};

/* out = concat over heads of softmax(q k^T / sqrt(Dh)) v, within each sequence.
 *   qkv [T, 3D] f32|bf16      a row: q of all heads, then k, then v; head h at h*Dh, D = H*Dh
 *   out [T, D]  f32|bf16 out  rows outside the groups are neither read nor written; no aliasing
 *   lse [T, H]  f32 out       log of the softmax denominator, saved for the backward; or absent. A
 *                             sequence that begins at row r has its part, [H, L], at r * H
 * Source: Vaswani et al. 2017. Errors: STATUS_UNSUPPORTED, STATUS_DEVICE. */
struct attention_args {
    struct tensor qkv, out, lse;
    struct attention_group groups[ATTENTION_MAX_GROUPS];
    int32_t n_groups, n_heads;
    bool changing; /* the next call has other numbers of sequences: nothing is planned for these */
};

/* d_qkv [T, 3D] out, from d_out [T, D] and the forward's qkv, out, lse. */
struct attention_backward_args {
    struct tensor d_out, qkv, out, lse, d_qkv;
    struct attention_group groups[ATTENTION_MAX_GROUPS];
    int32_t n_groups, n_heads;
    bool changing;
};

/* map [n_sequences, H, L, L] f32 out: the attention probabilities of one group (analysis). */
struct attention_map_args {
    struct tensor qkv, map;
    struct attention_group group;
    int32_t n_heads;
};

enum status attention_forward_cpu(struct device *device,
                                  const struct attention_args *args) IBOT_WARN_UNUSED;
enum status attention_backward_cpu(struct device *device,
                                   const struct attention_backward_args *args) IBOT_WARN_UNUSED;
enum status attention_map_cpu(struct device *device,
                              const struct attention_map_args *args) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
