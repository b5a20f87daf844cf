/* The parts of struct classifier, for the files of this folder that implement classifier.h. */
#ifndef IBOT_TRAINER_MODEL_CLASSIFIER_INTERNAL_H
#define IBOT_TRAINER_MODEL_CLASSIFIER_INTERNAL_H

#include "trainer/model/backbone.h"
#include "trainer/model/classifier.h"
#include "trainer/model/head.h"

enum {
    /* marks of the device; trainer/batch_upload has 4 and 5 */
    CLASSIFIER_MARK_STAGING = 0, /* and 1: the copy of a staging block */
    CLASSIFIER_MARK_RESULT = 2,  /* and 3: the numbers of an update */
};

/* What a micro-batch needs from the host besides its pixels: one block, filled in pinned memory. */
struct classifier_tables {
    struct step_control *control; /* the block begins with it */
    struct patch_mix *mix;
    int32_t *label, *other;  /* [B] */
    float *share;            /* [B] */
    struct pixel_box *erase; /* [B] */
    float *depth;            /* [random branches, B] scales of stochastic depth */
};

/* The numbers of an update, in pinned memory. */
struct classifier_numbers {
    float *loss;   /* [B * accumulation] */
    int32_t *rank; /* [B * accumulation] */
    double *norms; /* [parameters] */
    int32_t n_micro;
};

/* The mean of a ViT's tokens and its norm. The last block makes the rows of the patches alone, so
 * that those of an image are a map. */
struct mean_pooling {
    struct affine norm;
    struct tensor rows;   /* [B*(N+1), D] means and tokens */
    struct tensor pooled; /* [B, D] */
    struct tensor normed; /* [B, D] */
    float *mean, *rstd;   /* [B] */
    int32_t *index;       /* [B] rows of the means */
    struct tensor d_rows, d_pooled, d_normed;
};

struct classifier {
    struct device *device;
    const struct op_table *ops;
    struct classifier_options options;
    enum dtype dtype; /* of activations and operands */

    struct param_table table;
    float *parameters, *gradients, *moment1, *moment2, *average; /* average NULL: none is kept */
    struct tensor operands; /* the parameters as products take them: a bf16 copy, or themselves */
    struct segment *segments;
    double *norms; /* [parameters] */

    struct backbone backbone;
    struct vit vit;
    struct swin swin;
    struct tensor patches[2];             /* the second is absent */
    int32_t *pooled_rows, *pooled_sample; /* rows that the last block goes on with, their images */
    struct mean_pooling pooling;
    struct head head;          /* unless options.n_head_layers is 0 */
    struct head_vectors z;     /* of a whole head: bottleneck vectors, */
    float *d_z, *projection;   /* their gradient [B, b]; its logits [B, out] */
    struct tensor projected;   /* the same as an operand; in float32 itself */
    struct tensor d_projected; /* [B, out] */
    struct affine linear;
    float *logits;          /* [B, K]; their gradient, in float32 */
    struct tensor d_logits; /* [B, K] as an operand; in float32 itself */
    float *loss;            /* [B] */
    int32_t *rank;          /* [B] */

    struct classifier_tables tables, staging[2]; /* on the device; pinned */
    size_t tables_bytes;
    int next_staging;
    struct classifier_numbers numbers[2]; /* of even and odd updates */
    int64_t n_updates;
    struct workspace workspace;
};

/* ---- classifier.c ---- */

/* Places of the tables in a block that begins at base; returns its size. */
size_t classifier_tables_layout(const struct classifier *c, char *base,
                                struct classifier_tables *tables);

/* ---- classifier_layers.c ---- */

/* Patches -> logits; with `random` by the depth scales in the tables. */
enum status classifier_forward(struct classifier *c, bool random) IBOT_WARN_UNUSED;
/* d_logits -> gradients of all parameters, added up. */
enum status classifier_backward(struct classifier *c) IBOT_WARN_UNUSED;

#endif
