/* Projection head: three-layer MLP, bottleneck of unit length, weight-normalised last layers.
 *
 *   x [n, D] ─ linear ─ (norm) ─ act ─ linear ─ (norm) ─ act ─ linear ─> raw [n, b]
 *   z [n, b] = raw / |raw|;   logits = z W^T,   W = gain * v/|v|
 *
 * There is one W for [CLS] tokens and, unless shared, one for patches.
 *
 * In half precision the MLP and its gradients are of the compute dtype; raw, z and everything about
 * the last layers are float32, but for the operands of their products: logits = z W^T from f16
 * copies (vectors of unit length; the temperatures magnify what bf16 would lose), their gradients
 * from bf16 copies.
 *
 * Of a head that is cut after its first or second hidden layer (options.n_layers) these are made
 * and nothing else.
 *
 * The optional norm is one module used after both hidden linears (shared gain, bias and running
 * statistics), as in the original. */
#ifndef IBOT_TRAINER_MODEL_HEAD_H
#define IBOT_TRAINER_MODEL_HEAD_H

#include "ops/collective.h"
#include "ops/op_table.h"
#include "ops/workspace.h"
#include "trainer/model/binder.h"
#include "trainer/model/block.h"

/* One weight-normalised layer. */
struct last_layer {
    struct tensor gain, direction, d_gain, d_direction; /* d_gain data NULL: fixed */
    int64_t n_out;
    float *weight, *d_weight, *inverse;    /* [K, b], [K, b], [K] */
    struct tensor weight_f16, weight_bf16; /* copies of weight; absent in float32 */
};

/* What one hidden layer keeps. */
struct head_layer {
    struct tensor linear;      /* [n, H] before the norm; with a norm only (of LN: float32) */
    struct tensor pre, hidden; /* [n, H] before and after the activation */
    float *mean, *rstd;        /* [n] (LN) or [H] (BN) */
};

/* Rows that were one call of the head in the original: batch statistics are theirs alone. */
struct head_span {
    int64_t first, n;
};

struct head {
    struct device *device;
    const struct op_table *ops;
    struct collective *collective;
    struct head_options options;
    int64_t width, capacity; /* D; rows */
    enum dtype dtype;        /* of the MLP */
    bool backward;
    struct affine mlp[3], norm;
    struct head_layer layers[2][2]; /* [layer][span]: BN statistics are per span */
    float *raw, *z, *inverse;
    double *moments; /* [2, H] (BN) */
    float *running_mean, *running_var;
    bool keep_running;         /* true: leave the running statistics alone (logits made again) */
    struct last_layer last[2]; /* [CLS], patches; the second is unused when shared */
    bool shared;
    struct head_span spans[2];
    int32_t n_spans;
    struct tensor d_hidden[2]; /* [n, H] scratch of the backward */
    struct tensor d_raw;       /* [n, b] copy of a gradient as operand; absent in float32 */
    float *d_linear;           /* [n, H] gradient before the norm; with an LN in half precision */
};

/* Bottleneck vectors of n rows, and copies of them as the products of the last layers want them
 * (data NULL in float32). */
struct head_vectors {
    float *z; /* borrowed */
    struct tensor f16, bf16;
};

enum status head_plan(struct head *head, struct device *device, const struct op_table *ops,
                      struct collective *collective, const struct head_options *options,
                      enum dtype dtype, int64_t width, int64_t capacity, bool student,
                      struct workspace *workspace) IBOT_WARN_UNUSED;
enum status head_bind(struct head *head, const struct binder *binder) IBOT_WARN_UNUSED;

/* Plans the copies, of n values; `backward`: with what their gradients need. */
enum status head_plan_vectors(struct head_vectors *vectors, enum dtype dtype, int64_t n,
                              bool backward, struct workspace *workspace) IBOT_WARN_UNUSED;

/* Makes the weight-normalised matrices for the current parameters, and zeroes their gradients. */
enum status head_prepare(struct head *head) IBOT_WARN_UNUSED;

/* x [n, D] -> head->z [n, b]; with BN the spans must cover the n rows. */
enum status head_forward(struct head *head, struct tensor x, int64_t n) IBOT_WARN_UNUSED;

/* d_z [n, b] (overwritten) -> d_x [n, D]; MLP gradients are added up. */
enum status head_backward(struct head *head, struct tensor x, float *d_z, struct tensor d_x,
                          int64_t n) IBOT_WARN_UNUSED;

/* The hidden layers alone: x [n, D] -> the activations of the last of them, and what was before its
 * activation. */
enum status head_hidden_forward(struct head *head, struct tensor x, int64_t n) IBOT_WARN_UNUSED;
struct head_layer *head_last_hidden(struct head *head);
/* The gradient before that activation [n, H], which is in d_hidden[0] -> d_x [n, D]. */
enum status head_hidden_backward(struct head *head, struct tensor x, struct tensor d_x,
                                 int64_t n) IBOT_WARN_UNUSED;

/* Makes the copies of n rows of vectors->z. */
enum status head_copy_vectors(struct head *head, const struct head_vectors *vectors,
                              int64_t n) IBOT_WARN_UNUSED;

/* logits [n, K] = z W^T for [CLS] (patch false) or patch rows: of rows first .. first+n-1. */
enum status head_logits(struct head *head, bool patch, const struct head_vectors *vectors,
                        int64_t first, int64_t n, float *logits) IBOT_WARN_UNUSED;

/* The same of float32 vectors and weights, in any precision: for centres and tests. */
enum status head_exact_logits(struct head *head, bool patch, float *z, int64_t n,
                              float *logits) IBOT_WARN_UNUSED;

/* d_z [n, b] = d_logits W; dW is added up. d_logits is of the compute dtype. */
enum status head_logits_backward(struct head *head, bool patch, struct tensor d_logits,
                                 const struct head_vectors *vectors, int64_t first, int64_t n,
                                 float *d_z) IBOT_WARN_UNUSED;

/* Hands dW on to gains and directions. After the last head_logits_backward of a micro-batch. */
enum status head_finish(struct head *head) IBOT_WARN_UNUSED;

#endif
