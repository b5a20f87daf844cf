/* A pre-norm transformer block over a packed token buffer, forward and backward.
 *
 *   y1 = LN1(x)            (made by whoever wrote x: the fused residual op of the block before)
 *   sum1 = x + s * proj(attention(qkv(y1)));   y2 = LN2(sum1)
 *   out = sum1 + s * fc2(gelu(fc1(y2)));       y_next = LN_next(out)
 *
 * The last block may go on with chosen rows only after its attention: the loss reads no others. */
#ifndef IBOT_TRAINER_MODEL_BLOCK_H
#define IBOT_TRAINER_MODEL_BLOCK_H

#include "ops/op_table.h"
#include "ops/workspace.h"
#include "trainer/model/params.h"

/* A weight and a bias, or a gain and a bias, and where their gradients go (data NULL: nowhere). */
struct affine {
    struct tensor weight, bias, d_weight, d_bias;
};

/* Attention within windows of a map, with relative position bias. */
struct block_window {
    int32_t side, shift; /* side 0: attention over whole sequences instead */
    struct tensor table, d_table;
};

struct block_weights {
    struct affine norm1, qkv, proj, norm2, fc1, fc2;
    struct block_window window;
};

/* What a block keeps for its backward; a network without one uses one set for all blocks. */
struct block_state {
    float *x; /* [T, D] residual stream coming in */
    float *y1, *mean1, *rstd1;
    float *qkv, *attention, *lse;
    float *branch; /* [T, D] scratch: output of proj, then of fc2 (shared by all blocks) */
    float *x_rows; /* [R, D] chosen rows of x, and of attention; last block only */
    float *attention_rows;
    float *sum1, *y2, *mean2, *rstd2;
    float *pre, *hidden; /* [R, 4D] */
};

/* What all blocks of one pass have in common. */
struct block_pass {
    struct device *device;
    const struct op_table *ops;
    struct attention_group groups[ATTENTION_MAX_GROUPS]; /* sequences, or */
    struct region_group regions[REGION_MAX_GROUPS];      /* maps, for blocks with a window */
    int32_t n_groups, n_heads;
    int64_t n_tokens, width, hidden; /* T, D, 4D */
    float eps;
    int32_t *sample; /* [T] i32: sample of each row, for stochastic depth */
    bool backward;   /* keep what the backward needs */
};

/* Stochastic depth of one block: scales of its two branches [S], or NULL. */
struct block_depth {
    float *attention_scale, *mlp_scale;
    int64_t n_samples;
};

/* Which rows go on after the attention; n_rows == T and index NULL: all. */
struct block_rows {
    int32_t *index, *sample; /* [R] device memory */
    int64_t n_rows;
};

/* What follows the block: the norm of the next one, and where stream and normed rows go. */
struct block_next {
    struct affine norm;
    float *x, *y, *mean, *rstd; /* y NULL: no norm */
};

enum status block_forward(const struct block_pass *pass, const struct block_weights *weights,
                          struct block_state *state, const struct block_depth *depth,
                          const struct block_rows *rows,
                          const struct block_next *next) IBOT_WARN_UNUSED;

/* Scratch of the backward, shared by all blocks. */
struct block_gradients {
    float *d_stream; /* [T, D] in: gradient of the stream after the block; out: before it, LN1 left
                        out */
    float *d_y;      /* [T, D] in: gradient of y_next; out: gradient of y1 */
    float *d_branch; /* [T, D] */
    float *d_hidden; /* [T, 4D] */
    float *d_qkv;    /* [T, 3D] */
    float *d_rows;   /* [T, D] */
};

/* y_next's norm, if it has one, is undone here, that of y1 by the block before (or by the caller
 * for the first). */
enum status block_backward(const struct block_pass *pass, const struct block_weights *weights,
                           const struct block_state *state, const struct block_depth *depth,
                           const struct block_rows *rows, const struct block_next *next,
                           struct block_gradients *gradients) IBOT_WARN_UNUSED;

#endif
