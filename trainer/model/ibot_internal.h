/* The parts of struct ibot, for the files of this folder that implement ibot.h. */
#ifndef IBOT_TRAINER_MODEL_IBOT_INTERNAL_H
#define IBOT_TRAINER_MODEL_IBOT_INTERNAL_H

#include "trainer/model/backbone.h"
#include "trainer/model/head.h"
#include "trainer/model/ibot.h"
#include "trainer/model/params.h"

enum { PATCH_CHUNK = 1024 }; /* masked rows whose logits are in memory at a time */

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

/* Per-step index tables, filled on the host and copied in. */
struct step_tables {
    int32_t *needed, *needed_sample; /* [R] student rows that the loss reads: [CLS] rows, masked */
    int32_t *teacher_rows;           /* [G*B + M] teacher rows: [CLS], masked */
    float *patch_weight;             /* [M] */
    int32_t *identity;               /* [PATCH_CHUNK] 0, 1, 2, … */
    int32_t *cls_target;             /* [V*B, G] constant */
    float *cls_weight;               /* [V*B] constant */
};

struct ibot {
    struct device *device;
    const struct op_table *ops;
    struct collective *collective;
    struct ibot_options options;
    struct network student, teacher;
    float *gradients, *moment1, *moment2;
    struct segment *segments; /* device */
    struct segment *host_segments;
    double *norms, *host_norms;
    struct step_control *control; /* device */

    enum dtype dtype;                     /* of activations and operands */
    struct tensor patches[2];             /* normalised patches of global and local crops */
    uint8_t *mask;                        /* device [G*B*N] */
    struct step_tables host, tables;      /* host memory; device memory */
    int64_t n_cls, n_masked, n_needed;    /* V*B; this micro-batch; sum */
    struct head_vectors student_z;        /* [R, b] rows in order: [CLS], masked */
    struct head_vectors teacher_z;        /* [G*B + M, b] */
    float *d_z;                           /* [R, b] */
    float *student_cls, *teacher_cls;     /* logits [V*B, K], [G*B, K] */
    float *student_patch, *teacher_patch; /* [PATCH_CHUNK, K'] */
    struct tensor d_cls, d_patch;         /* their gradients: in place, or bf16 */
    float *scratch;                       /* [2, max(G*B, PATCH_CHUNK)] softmax statistics */
    float *centre, *centre_patch;         /* [K], [K'] */
    float *bottleneck_mean;               /* [2, b] sums over micro-batches of the means */
    float *micro_mean;                    /* [b] */
    float *mean_logits;                   /* [max(K, K')] */
    double *sums;      /* device: loss cls, loss patch, entropy cls, entropy patch */
    int32_t *clusters; /* device: [2, B] arg-max of teacher crop 0, student crop 1 */

    int32_t n_micro;        /* micro-batches since ibot_zero_gradients */
    int64_t n_masked_sum;   /* masked patches since then */
    int32_t *host_clusters; /* [2, B * accumulation] */
    double gradient_norm_sum, gradient_norm_max;
    struct workspace workspace;
    size_t host_bytes;
};

/* Number of patches per global crop: feature tokens, and mask cells. */
static inline int64_t ibot_n_patches(const struct ibot *ibot)
{
    int64_t grid = backbone_grid(&ibot->options.backbone, ibot->options.global_size_px);
    return grid * grid;
}

/* Fills mask and row tables for one micro-batch. */
enum status ibot_prepare_rows(struct ibot *ibot, const uint8_t *masks) IBOT_WARN_UNUSED;

/* Stochastic depth scales of this micro-batch. */
enum status ibot_prepare_depth(struct ibot *ibot, const struct ibot_input *input) IBOT_WARN_UNUSED;

/* u8 or f32 crops to patch rows. */
enum status ibot_patchify(struct ibot *ibot, struct tensor pixels,
                          struct tensor patches) IBOT_WARN_UNUSED;

#endif
