/* A pre-norm transformer block over a packed token buffer, forward and backward.
 *
 *   y1 = LN1(x)            (made by whoever wrote x: the fused residual op of the block before)
 *   sum1 = x + s * proj(attention(qkv(y1)));   y2 = LN2(sum1)
 *   out = sum1 + s * fc2(gelu(fc1(y2)));       y_next = LN_next(out)
 *
 * The residual stream and its gradient are float32, or bf16 where all is (--residual_stream), which
 * halves what its sums and norms move; what is computed of them is float32 either way. Statistics
 * and the norms' gains are float32; what is between is of the pass's dtype, as are the weights of
 * the layers.
 *
 * The last block may go on with chosen rows only after its attention: the loss reads no others. Its
 * queries are made of all rows: of 24 D^2 a token 18 are spared, not 20. For the rest attention
 * would have to take sequences of many lengths, for half a percent of a step.
 *
 * Stochastic depth drops a branch of a sample: what it would have made is multiplied by 0. Where
 * the host has said which samples those are (struct block_kept) it is not made: the rows of the
 * others lie close together from the norm in front of the branch to the sum behind it.
 *
 *   x        | s0 s0 s0 | s1 s1 s1 | s2 s2 s2 |     y1, qkv, …   | s0 s0 s0 | s2 s2 s2 |
 */
#ifndef IBOT_TRAINER_MODEL_BLOCK_H
#define IBOT_TRAINER_MODEL_BLOCK_H

#include "ops/op_table.h"
#include "ops/workspace.h"
#include "trainer/model/buffer.h"
#include "trainer/model/params.h"

/* A weight and a bias, or a gain and a bias, and where their gradients go (data NULL: nowhere). */
struct affine {
    struct tensor weight, bias, d_weight, d_bias;
};

/* Attention within windows of a map, with relative position bias. */
struct block_window {
    int32_t side, shift; /* side 0: attention over whole sequences instead */
    struct tensor table, d_table;
    struct tensor pad; /* [3D] f32: qkv of a padding token of zeros, the bias of that layer */
};

struct block_weights {
    struct affine norm1, qkv, proj, norm2, fc1, fc2;
    struct block_window window;
};

/* What a block keeps for its backward; a network without one uses one set for all blocks. What is
 * made again in the backward (enum recompute) lies in memory that all blocks share. */
struct block_state {
    struct tensor x; /* [T, D] residual stream coming in */
    struct tensor y1;
    float *mean1, *rstd1;
    struct tensor qkv, attention;
    float *lse;
    struct tensor branch; /* [T, D] scratch: output of proj, then of fc2 (shared by all blocks) */
    struct tensor x_rows; /* [R, D] chosen rows of x, and of attention; last block only */
    struct tensor attention_rows;
    struct tensor sum1;
    struct tensor y2;
    float *mean2, *rstd2;
    struct tensor pre, hidden; /* [R, 4D] */
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
    enum dtype dtype;         /* of activations and weights */
    enum dtype stream;        /* of the residual stream and its gradient */
    enum activation gelu;     /* its form */
    int32_t *sample;          /* [T] i32: sample of each row, for stochastic depth */
    bool backward;            /* keep what the backward needs, */
    enum recompute recompute; /* but for this */
};

/* Plans the memory of one block of the pass, with room for [n_stream] elements of the stream in
 * place of T * D (a state that blocks of several widths share). chosen_rows: it is the last one. */
enum status block_plan(struct block_state *state, const struct block_pass *pass, int64_t n_stream,
                       bool chosen_rows, struct workspace *workspace) IBOT_WARN_UNUSED;

/* Plans what the blocks of a pass share when it is made again: [n_stream] elements of the stream,
 * of `tokens` rows, and [n_lse] statistics of the attention. */
enum status block_plan_shared(struct block_state *shared, const struct block_pass *pass,
                              int64_t n_stream, int64_t tokens, int64_t n_lse,
                              struct workspace *workspace) IBOT_WARN_UNUSED;

/* After workspace_commit: a block gets its part of what was planned to be shared. */
void block_share(struct block_state *state, const struct block_state *shared,
                 const struct block_pass *pass);

/* The samples that a branch takes; zeroed: all. Not of blocks with windows or chosen rows. */
struct block_kept {
    int32_t *shift;                            /* [S] where their rows lie (ops/residual.h) */
    int64_t n_rows;                            /* theirs; at least 1 */
    int64_t n_sequences[ATTENTION_MAX_GROUPS]; /* of each group */
};

/* Stochastic depth of one block: scales of its two branches [S], or NULL; and what is left of them.
 */
struct block_depth {
    float *attention_scale, *mlp_scale;
    int64_t n_samples;
    struct block_kept attention, mlp;
};

/* Which rows go on after the attention; n_rows == T and index NULL: all. */
struct block_rows {
    int32_t *index, *sample; /* [R] device memory */
    int64_t n_rows;
};

/* What follows the block: the norm of the next one, and where stream and normed rows go. */
struct block_next {
    struct affine norm;
    struct tensor x;
    struct tensor y; /* data NULL: no norm */
    float *mean, *rstd;
    const struct block_kept *kept; /* of the branch that takes y; NULL: all */
};

enum status block_forward(const struct block_pass *pass, const struct block_weights *weights,
                          struct block_state *state, const struct block_depth *depth,
                          const struct block_rows *rows,
                          const struct block_next *next) IBOT_WARN_UNUSED;

/* Who wants to know how far a backward is: `from` on, gradients in the flat array are final. */
struct gradient_watch {
    enum status (*reached)(void *context, const float *from); /* NULL: nobody */
    void *context;
};

/* After the backward of a block whose first norm is undone later: what lies beyond that norm. */
static inline enum status block_reached(const struct gradient_watch *watch,
                                        const struct block_weights *weights)
{
    const struct tensor *last = &weights->norm1.d_bias;

    return watch->reached == NULL
               ? STATUS_OK
               : watch->reached(watch->context, (const float *)last->data + last->shape[0]);
}

/* Scratch of the backward, shared by all blocks.
 *
 * Gradients of weights and biases of a block's linear layers may go to branch 2 of the device,
 * beside the chain of gradients that the backward is: nobody waits for them but the optimizer (and
 * ranks that sum them).
 *
 *   branch 0   norm ─ fc2 ─ fc1 ─ norm ─ proj ─ attention ─ qkv ─ norm of the block before …
 *   branch 2          fc2 ─ fc1 ─────────── proj ───────────── qkv
 *
 * They read what the chain has made, which therefore has two sets of memory, taken in turns: a
 * block waits for the weights of the block but one behind it. The same products in either case, so
 * the same bits. */
struct block_gradients {
    struct tensor d_stream;    /* [T, D] in: gradient of the stream after the block; out: before it,
                                  LN1 left out */
    struct tensor d_rows;      /* [T, D] */
    struct tensor d_y;         /* [T, D] in: gradient of y_next; out: gradient of y1 */
    struct tensor d_branch[2]; /* [T, D] in front of fc2; and of proj, unless apart */
    struct tensor d_proj[2];   /* [T, D] apart: in front of proj */
    struct tensor d_hidden[2]; /* [T, 4D] */
    struct tensor d_qkv[2];    /* [T, 3D] */
    bool apart;                /* weights on a branch of their own: both of each, else the first */
    bool used;                 /* that branch, in this backward */
    bool pending[2];           /* weights that read this set, and were not waited for */
    int turn;                  /* the set of the block under way */
};

/* Room for streams of `any` elements, and for blocks of streams of `n_stream`, of mlp_ratio. */
enum status block_plan_gradients(struct block_gradients *gradients, enum dtype dtype,
                                 enum dtype stream, int64_t n_stream, int64_t any,
                                 int32_t mlp_ratio, bool apart,
                                 struct workspace *workspace) IBOT_WARN_UNUSED;

/* A backward begins; and branch 0 waits for all weights so far: before what they read is written
 * over by others than block_backward, and at the end. */
void block_gradients_begin(struct block_gradients *gradients);
enum status block_gradients_settle(const struct block_pass *pass,
                                   struct block_gradients *gradients) IBOT_WARN_UNUSED;

/* The branch in use, not 0, waits for all weights so far. */
enum status block_gradients_follow(struct device *device, const struct block_gradients *gradients,
                                   int branch) IBOT_WARN_UNUSED;

/* Makes again what the pass does not keep. Before the backward of every block but the last one,
 * whose values are those that the forward left. Writes over what the blocks share: whoever still
 * reads that of the block behind, on another branch of the device, must be done. */
enum status block_restore(const struct block_pass *pass, const struct block_weights *weights,
                          struct block_state *state, const struct block_depth *depth,
                          const struct block_rows *rows) IBOT_WARN_UNUSED;

/* y_next's norm, if it has one, is undone here, that of y1 by the block before (or by the caller
 * for the first). */
enum status block_backward(const struct block_pass *pass, const struct block_weights *weights,
                           const struct block_state *state, const struct block_depth *depth,
                           const struct block_rows *rows, const struct block_next *next,
                           struct block_gradients *gradients) IBOT_WARN_UNUSED;

#endif
