/* The parts of struct ibot, for the files of this folder that implement ibot.h. */
#ifndef IBOT_TRAINER_MODEL_IBOT_INTERNAL_H
#define IBOT_TRAINER_MODEL_IBOT_INTERNAL_H

#include "trainer/model/backbone.h"
#include "trainer/model/head.h"
#include "trainer/model/ibot.h"
#include "trainer/model/params.h"

enum {
    PATCH_CHUNK = 1024, /* masked rows whose logits are in memory at a time */
    MAX_STEP_GRAPHS = 160,
    N_SUMS = 4, /* of struct step_numbers */
    N_GUARDS = 2,
    /* marks of the device; trainer/batch_upload has 4 and 5 */
    IBOT_MARK_STAGING = 0, /* and 1: the copy of a staging block */
    IBOT_MARK_RESULT = 2,  /* and 3: the numbers of an update */
};

/* One network: parameters, backbone, head. */
struct network {
    struct param_table table;
    float *parameters;
    struct tensor operands; /* the parameters as products take them: a bf16 copy, or themselves */
    struct backbone backbone;
    struct vit vit; /* the backbone's family: one of the two is in use */
    struct swin swin;
    struct head head;
};

/* Places in the block that the host fills for each micro-batch (ibot_staging.c). */
struct step_tables {
    struct step_control *control;    /* the block begins with it */
    int32_t *chunk_active;           /* [chunks] rows of each chunk that stand for a patch */
    float *depth;                    /* [random branches, V*B] scales of stochastic depth */
    int32_t *depth_shift;            /* [random branches, V*B] where rows of what is kept lie */
    uint8_t *mask;                   /* [G*B*N] */
    int32_t *needed, *needed_sample; /* [R] student rows that the loss reads: [CLS] rows, masked */
    int32_t *teacher_rows;           /* [G*B + M] teacher rows: [CLS], masked */
    float *patch_weight;             /* [M] */
};

/* Tables that never change. */
struct constant_tables {
    int32_t *identity;   /* [PATCH_CHUNK] 0, 1, 2, … */
    int32_t *cls_target; /* [V*B, G] */
    float *cls_weight;   /* [V*B] */
};

/* What a step measured, in one piece of memory: on the device, and in two pinned copies. */
struct step_numbers {
    double *sums;  /* [4] loss cls, loss patch, entropy cls, entropy patch: of this rank */
    double *guard; /* [2] losses of all ranks: when one is not finite the step changes nothing */
    double *norms; /* [parameters] of the gradients */
};

/* The numbers of one step on the host. */
struct step_result {
    struct step_numbers numbers; /* pinned */
    int32_t *clusters;           /* [2, B * accumulation], pinned */
    int32_t n_micro;
    int64_t n_masked;
};

/* A part of a step: all that its calls' arguments depend on. */
struct step_key {
    bool update;          /* or a micro-batch: */
    int64_t n_patch_rows; /* as planned */
    bool masked, last;    /* masks given; the last micro-batch of its step */
    bool summed;          /* update: gradients have been summed over ranks */
    int32_t n_micro;      /* update: micro-batches of the step */
};

struct step_graph {
    struct step_key key;
    int64_t n_runs;
    struct device_graph *graph; /* NULL: not recorded yet */
};

struct ibot {
    struct device *device;
    const struct op_table *ops;
    struct collective *collective;
    struct ibot_options options;
    struct network student, teacher;
    float *gradients, *moment1, *moment2;
    struct segment *segments; /* device */

    enum dtype dtype;                      /* of activations and operands */
    struct tensor patches[2];              /* normalised patches of global and local crops */
    struct step_tables tables, staging[2]; /* on the device; pinned */
    size_t tables_bytes;
    int next_staging;
    struct constant_tables constant;
    int64_t n_cls;                        /* V*B */
    int64_t n_masked, n_patch_rows;       /* of this micro-batch; rows planned for them */
    struct head_vectors student_z;        /* [R, b] rows in order: [CLS], masked */
    struct head_vectors teacher_z;        /* [G*B + M, b] */
    float *chosen_z;                      /* [R, b] of a head with batch norm: out of all rows */
    float *d_z;                           /* [R, b] */
    float *student_cls, *teacher_cls;     /* logits [V*B, K], [G*B, K] */
    float *student_patch, *teacher_patch; /* [PATCH_CHUNK, K'] */
    struct tensor d_cls, d_patch;         /* their gradients: in place, or bf16 */
    float *scratch;                       /* [2, max(G*B, PATCH_CHUNK)] softmax statistics */
    float *centre, *centre_patch;         /* [K], [K'] */
    float *bottleneck_mean;               /* [2, b] sums over micro-batches of the means */
    float *micro_mean;                    /* [b] */
    float *mean_logits;                   /* [max(K, K')] */
    struct step_numbers numbers;          /* on the device */
    size_t numbers_bytes;
    int32_t *clusters; /* device: [2, B] arg-max of teacher crop 0, student crop 1 */

    struct step_result results[2]; /* of even and odd updates */
    struct step_result *result;    /* of the step under way */
    int64_t n_updates;
    bool summed;         /* the gradients, over ranks, by the last micro-batch */
    int64_t summed_from; /* element of the gradients that the sums over ranks have come to */
    bool records;        /* parts of a step are recorded and launched again */
    bool skips_dropped;  /* what stochastic depth drops is not made: micro-batches are all different
                          */
    struct step_graph graphs[MAX_STEP_GRAPHS];
    int32_t n_graphs;
    struct workspace workspace;
};

/* Number of patches per global crop: feature tokens, and mask cells. */
static inline int64_t ibot_n_patches(const struct ibot *ibot)
{
    const struct ibot_options *o = &ibot->options;
    int64_t rows = backbone_grid(&o->backbone, o->global_size_px);
    return rows * (o->global_width_px > 0 ? backbone_grid(&o->backbone, o->global_width_px) : rows);
}

/* ---- ibot_staging.c ---- */

/* Masked patches of a micro-batch at most; rows that are planned for n_masked of them. */
int64_t ibot_patch_capacity(const struct ibot *ibot);
int64_t ibot_patch_rows(const struct ibot *ibot, int64_t n_masked);

/* Places of the tables in a block that begins at base; returns its size. */
size_t ibot_tables_layout(const struct ibot *ibot, char *base, struct step_tables *tables);

/* Points the student's blocks at their scales in the tables; all of them take all samples. */
void ibot_bind_depth(struct ibot *ibot);

/* Fills the tables for a micro-batch and queues their copy to the device. */
enum status ibot_stage(struct ibot *ibot, const struct ibot_input *input,
                       const struct step_control *control) IBOT_WARN_UNUSED;

/* ---- ibot_graph.c ---- */

/* Queues a part of a step: by calling `queue`, or as the graph of what it once queued. */
enum status ibot_run_part(struct ibot *ibot, const struct step_key *key,
                          enum status (*queue)(struct ibot *,
                                               const struct step_key *)) IBOT_WARN_UNUSED;
void ibot_release_graphs(struct ibot *ibot);

/* ---- ibot_reduce.c ---- */

/* Around a backward: gradients are summed over ranks as they are reached. */
struct gradient_watch ibot_reduce_begin(struct ibot *ibot);
enum status ibot_reduce_end(struct ibot *ibot) IBOT_WARN_UNUSED;

/* ---- ibot_features.c ---- */

/* n values of a buffer of f32 or bf16 to the host, as floats. Waits for them. */
enum status ibot_copy_floats(struct device *device, struct tensor from, int64_t n,
                             float *to) IBOT_WARN_UNUSED;

/* ---- ibot_step.c ---- */

/* A field of the control that the device reads. */
const float *ibot_control_field(const struct ibot *ibot, size_t offset);

/* The student's mask, or NULL when it sees all patches. */
uint8_t *ibot_student_mask(const struct ibot *ibot, bool masked);

/* With batch norm the head sees every token, as two calls (global crops, local crops). */
void ibot_set_spans(struct ibot *ibot);

enum status ibot_cls_attention(struct ibot *ibot, struct vit *vit, int64_t n_images,
                               float *out) IBOT_WARN_UNUSED;
/* Images for the teacher's or the student's backbone alone: at most those of a micro-batch, of the
 * planned size. Errors: STATUS_INVALID, with `what` was to be made of them. */
enum status ibot_check_images(const struct ibot *ibot, const struct tensor *pixels,
                              const char *what) IBOT_WARN_UNUSED;
/* u8 or f32 crops to patch rows. */
enum status ibot_patchify(struct ibot *ibot, struct tensor pixels,
                          struct tensor patches) IBOT_WARN_UNUSED;

#endif
