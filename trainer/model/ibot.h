/* iBOT: student and teacher (backbone + head), the loss between them, its gradient, the optimizer
 * step and the teacher average. One definition for every backend: all work goes through the op
 * table, all memory is planned at open.
 *
 *   ibot_open ─> ibot_initialise | state loaded through ibot_state
 *   per step:   ibot_zero_gradients ─> ibot_accumulate (once per micro-batch) ─> ibot_update
 *
 * On an accelerator these calls queue their work and return: the device may be a step behind. What
 * they were given in pinned memory must stay until then; ibot_result waits.
 */
#ifndef IBOT_TRAINER_MODEL_IBOT_H
#define IBOT_TRAINER_MODEL_IBOT_H

#include <stddef.h>
#include <stdint.h>

#include "ops/collective.h"
#include "ops/device.h"
#include "ops/op_table.h"
#include "ops/step_control.h"
#include "proto/base/status.h"

/* What products are made of; sums, parameters, moments, logits and losses are float32 (or more) in
 * either, as is the residual stream unless it is said. BF16 wants an op table that has the type. */
enum ibot_precision { PRECISION_F32, PRECISION_BF16 };

/* What the student's backward makes again instead of finding it in memory, each with the ones
 * before it: GELU, the hidden activations; NORMS, the normed rows; BLOCKS, all of a block but the
 * stream that comes in. Memory for time. Gradients are the same, bit by bit; but hidden activations
 * that GELU and NORMS make again of a stored pre-activation are those of the product only up to its
 * rounding in bf16, and to that of a GELU that is fused with the product. */
enum recompute { RECOMPUTE_NONE, RECOMPUTE_GELU, RECOMPUTE_NORMS, RECOMPUTE_BLOCKS };

enum head_norm { HEAD_NORM_NONE, HEAD_NORM_LN, HEAD_NORM_BN };

enum { BACKBONE_MAX_STAGES = 4, BACKBONE_MAX_WINDOW = 64 };

struct backbone_options {
    char arch[32]; /* "vit_small", …: for messages and checkpoints */
    int32_t embed_dim, depth, n_heads, mlp_ratio;
    int32_t patch_size_px;
    int32_t image_size_px; /* size the position grid is stored for: 224 officially */
    float drop_path;       /* stochastic depth of the student's last block */
    float layer_norm_eps;  /* 1e-6 */
    /* Swin: embed_dim and n_heads are the first stage's, depth is the sum over the stages, and
     * image_size_px is the size that windows are chosen for. */
    int32_t n_stages; /* 0: a ViT */
    int32_t stage_depth[BACKBONE_MAX_STAGES], stage_heads[BACKBONE_MAX_STAGES];
    int32_t window_size;
};

struct head_options {
    int32_t hidden_dim, bottleneck_dim; /* 2048, 256 */
    int32_t out_dim, patch_out_dim;     /* K, K' */
    bool shared_student, shared_teacher;
    bool fixed_gains; /* norm_last_layer */
    enum head_norm norm;
    enum activation activation; /* gelu, relu */
    int32_t n_layers;           /* 1, 2: so many hidden layers alone; 0: all of it */
};

struct ibot_options {
    struct backbone_options backbone;
    struct head_options head;
    int32_t batch_size; /* images per micro-batch on this rank */
    int32_t n_global, global_size_px, n_local, local_size_px;
    int32_t global_width_px; /* 0: squares. Else global_size_px is the height: of a ViT with
                                inference_only */
    bool masked_im_modeling; /* replace masked tokens in the student */
    float lambda1, lambda2;
    enum optimizer_kind optimizer;
    bool clip_global_norm;
    int32_t accumulation_steps; /* micro-batches per step: losses are divided by it */
    enum ibot_precision precision;
    enum ibot_precision residual_stream; /* F32, or BF16 where precision is: kept in memory as such,
                                            its gradient too; computed in float32 either way */
    int64_t bucket_bytes;                /* gradients that ranks sum at a time; 0: 32 MiB */
    bool record_steps; /* on a device that has graphs: record steps and launch them */
    enum recompute recompute;
    bool skip_dropped;   /* a branch that stochastic depth drops is not computed to be multiplied by
                            0: the same values. Of a ViT, and not of its last block, which goes on
                            with chosen rows. Micro-batches are not recorded then */
    bool weights_apart;  /* gradients of the blocks' weights beside the rest of the backward, on a
                            branch of the device, at the cost of memory (block.h) */
    bool gelu_tanh;      /* GELU by tanh instead of the exact one, everywhere */
    bool inference_only; /* teacher backbone without gradients: evaluation */
    bool inference_head; /* and its head */
};

/* The input of one micro-batch; device memory. */
struct ibot_input {
    struct tensor
        globals; /* [G*B, S, S, 3] u8 crop-major, or [G*B, 3, S, S] f32 already normalised */
    struct tensor locals; /* [Lc*B, s, s, 3] u8 | [Lc*B, 3, s, s] f32, or absent */
    const uint8_t *masks; /* host memory: [G*B, N], 0 or 1; NULL: none masked */
    /* Stochastic depth. keep_seed draws it (Philox, RNG_DROP_PATH, keyed by `step` and crop
     * number); or explicit 0/1 values: rows of G*B (or Lc*B) for each branch with a rate > 0, block
     * by block, attention then MLP (host memory; tests). */
    uint64_t keep_seed;
    int64_t step;
    int64_t most_masked;   /* masked patches of the rank that has most; 0: this rank's own */
    int64_t first_sample;  /* number of image 0 of this micro-batch in the step, over all ranks */
    int64_t sample_stride; /* of the following images: the number of ranks; 0: 1 */
    const uint8_t *keep_globals, *keep_locals;
};

/* What one step measured, on the host, after ibot_result. Sums over micro-batches and this rank
 * only. Clusters are valid until the second ibot_zero_gradients from then. */
struct ibot_result {
    double loss, loss_cls, loss_patch; /* means, lambdas included, as the official log */
    double teacher_entropy_cls, teacher_entropy_patch; /* mean nats; ln K: uniform, 0: one-hot */
    double gradient_norm_sum; /* of per-tensor norms before clipping, last ibot_update */
    double gradient_norm_max;
    int32_t n_samples;
    const int32_t *teacher_cluster; /* [B*accumulation] arg-max of crop 0, teacher */
    const int32_t *student_cluster; /* arg-max of crop 1 (crop 0 if G is 1), student */
    int32_t n_masked;
};

/* One named piece of state: what a checkpoint stores. */
struct ibot_state_entry {
    char name[128];       /* "student.backbone.cls_token", "teacher.head.last_layer.weight_g",
                             "moment1.backbone.…", "centre.cls", … */
    struct tensor tensor; /* device memory, official shape (conv weights [D,3,p,p]: rank 4) */
};

struct ibot; /* opaque: planned memory and tables */

/* Fills embed_dim, depth, heads for a name such as "vit_small" or "deit_tiny", and what a Swin has
 * besides for one such as "swin_tiny" (its stochastic depth too: each Swin has its own); "vit_test"
 * (width 96, depth 3, 3 heads) and "swin_test" (two stages of two blocks, widths 64 and 128, cells
 * of 8 px) are for small experiments. Errors: STATUS_INVALID lists the names. */
enum status backbone_options_for(struct backbone_options *out, const char *arch) IBOT_WARN_UNUSED;
enum status backbone_options_check(const struct backbone_options *options) IBOT_WARN_UNUSED;

/* Side of the square that one token of the features stands for, which is that of a mask cell: the
 * patch size of a ViT; 32 px for a Swin of four stages. */
int32_t backbone_cell_px(const struct backbone_options *options);
/* Side of the map of feature tokens of a crop. */
int32_t backbone_grid(const struct backbone_options *options, int32_t size_px);
/* Width of the features. */
int32_t backbone_width(const struct backbone_options *options);
/* Rates of stochastic depth: float32 linspace(0, drop_path, depth). */
float backbone_drop_rate(const struct backbone_options *options, int32_t block);
/* 0, or 1/keep: what a branch (0 attention, 1 MLP) of a block is multiplied by in one crop. A pure
 * function of its arguments (Philox, RNG_DROP_PATH). */
float backbone_draw_scale(const struct backbone_options *options, int32_t block, int32_t branch,
                          uint64_t seed, uint32_t step, uint32_t sample);

/* What ibot_open would take of the device's memory: in all, and its largest buffer. Takes none. */
struct ibot_plan {
    size_t bytes, largest_bytes;
};
enum status ibot_plan(struct ibot_plan *out, struct device *device, const struct op_table *ops,
                      struct collective *collective,
                      const struct ibot_options *options) IBOT_WARN_UNUSED;

enum status ibot_open(struct ibot **out, struct device *device, const struct op_table *ops,
                      struct collective *collective,
                      const struct ibot_options *options) IBOT_WARN_UNUSED;

/* Draws the student from Philox keyed by (seed, parameter number), broadcasts it from rank 0 and
 * sets the teacher from it. */
enum status ibot_initialise(struct ibot *ibot, uint64_t seed) IBOT_WARN_UNUSED;

/* Teacher parameters = student parameters of the same name, with the original's aliases: a shared
 * last layer of the teacher takes an unshared student's patch layer (last_layer2), an unshared one
 * takes a shared student's layer twice. */
enum status ibot_teacher_from_student(struct ibot *ibot) IBOT_WARN_UNUSED;

enum status ibot_zero_gradients(struct ibot *ibot) IBOT_WARN_UNUSED;

/* Forward of teacher and student, loss, backward: gradients are added up. The centre sums of the
 * micro-batches are kept for ibot_update, so that targets use the centres of before the step. */
enum status ibot_accumulate(struct ibot *ibot, const struct ibot_input *input,
                            const struct step_control *control) IBOT_WARN_UNUSED;

/* Masked patches in the masks of a micro-batch (ibot_input). */
int64_t ibot_n_masked(const struct ibot *ibot, const uint8_t *masks);

/* All-reduces gradients (mean over ranks) and centre means, clips, steps the optimizer, moves the
 * teacher and the centres, by the control of the last ibot_accumulate. When the loss of any rank,
 * or a gradient, is not finite, all of these stay as they were. Errors: STATUS_DEVICE. */
enum status ibot_update(struct ibot *ibot) IBOT_WARN_UNUSED;

/* Waits for all that was queued and reads the numbers of the step under way (before ibot_update:
 * without norms), or of the last one. Errors: STATUS_NOT_FINITE: a loss, or a gradient, is not. */
enum status ibot_result(struct ibot *ibot, struct ibot_result *out) IBOT_WARN_UNUSED;

/* The same of the step before the last ibot_update, waiting for that one alone: the device goes on
 * with what was queued since. At least two updates must have been made. */
enum status ibot_result_before(struct ibot *ibot, struct ibot_result *out) IBOT_WARN_UNUSED;

/* State entries 0 .. n-1, in a fixed order: student parameters (each shared tensor once), teacher
 * parameters, moments, centres. Parameter views stay valid until close. */
size_t ibot_n_state(const struct ibot *ibot);
void ibot_state(const struct ibot *ibot, size_t i, struct ibot_state_entry *out);
/* To be called when parameters have been written through the views of ibot_state: copies of them
 * are made again. */
enum status ibot_state_written(struct ibot *ibot) IBOT_WARN_UNUSED;
/* Gradient of student parameter state entry i, before clipping; data NULL for other entries. */
struct tensor ibot_gradient(const struct ibot *ibot, size_t i);

enum ibot_logits_kind {
    IBOT_TEACHER_CLS,       /* [G*B, K] */
    IBOT_TEACHER_PATCH,     /* [G*B, N, K'] */
    IBOT_STUDENT_CLS,       /* [G*B, K] */
    IBOT_STUDENT_PATCH,     /* [G*B, N, K'] */
    IBOT_STUDENT_LOCAL_CLS, /* [Lc*B, K] */
};
/* Recomputes the logits from the backbone outputs of the last ibot_accumulate (before ibot_update),
 * into host memory of `n` floats. For tests and analysis: slow. */
enum status ibot_logits(struct ibot *ibot, enum ibot_logits_kind kind, float *out,
                        size_t n) IBOT_WARN_UNUSED;

/* Features for evaluation: [CLS] (token 0 after the final norm) of n_last_blocks last blocks
 * (official get_intermediate_layers: each through the final norm), concatenated, of the teacher or
 * student backbone. Of a Swin: the mean token of each block; those of the last stage go through the
 * final norm, those of earlier stages are as they are, each of its stage's width. out: host
 * [n_images, features]. pixels as in ibot_input, at most batch_size. */
struct ibot_feature_options {
    bool student;
    int32_t n_last_blocks; /* 1 */
    int32_t avgpool;       /* 0: [CLS] of each; 1: mean of patch tokens, un-normalised, last block
                              (of a Swin: normed); 2: 0's followed by the last block's mean of
                              normed patch tokens */
    int32_t topk; /* 0: as above. Else, of a ViT, the mean of this many un-normalised patch tokens
                     of the last block: those on which the [CLS] token's attention is greatest, as
                     the mean of its heads; the first of equals */
    bool reverse_top; /* or least */
};
/* pixels [n, 3] u8 -> out [3, n] f32, as the networks see them: to the bit what they make of bytes.
 * For those who change what a byte can't say; both in host memory. */
void ibot_normalise(float *out, const uint8_t *pixels, int64_t n);

/* Images of height x width px from now on, in the memory that was planned: of a ViT with
 * inference_only, and no more patches. Errors: STATUS_UNSUPPORTED (a Swin), STATUS_INVALID. */
enum status ibot_reshape(struct ibot *ibot, int32_t height_px, int32_t width_px) IBOT_WARN_UNUSED;

int32_t ibot_feature_dim(const struct ibot *ibot, const struct ibot_feature_options *options);
/* The same before there is a network. */
int32_t backbone_feature_dim(const struct backbone_options *backbone,
                             const struct ibot_feature_options *options);
enum status ibot_features(struct ibot *ibot, struct tensor pixels,
                          const struct ibot_feature_options *options, float *out) IBOT_WARN_UNUSED;

size_t ibot_device_bytes(const struct ibot *ibot);
void ibot_close(struct ibot **ibot);

#endif
