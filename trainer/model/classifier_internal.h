/* The parts of struct classifier, for the files of this folder that implement classifier.h. */
#ifndef IBOT_TRAINER_MODEL_CLASSIFIER_INTERNAL_H
#define IBOT_TRAINER_MODEL_CLASSIFIER_INTERNAL_H

#include "trainer/model/backbone.h"
#include "trainer/model/classifier.h"
#include "trainer/model/head.h"
#include "trainer/model/upernet.h"

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
    uint8_t *map;            /* [B*S*S] dense */
    float *share;            /* [B] */
    struct pixel_box *erase; /* [B] */
    float *depth;            /* [random branches, B] scales of stochastic depth */
    int32_t *depth_shift;    /* the same of what it leaves, unless all is made */
    float *channels[2]; /* [B, D], [B, 256] scales of UPerNet's channels, and its auxiliary's */
};

/* The numbers of an update, in pinned memory. */
struct classifier_numbers {
    float *loss;      /* [scores * accumulation] */
    float *auxiliary; /* the same of the auxiliary head, behind them */
    int32_t *rank;    /* [scores * accumulation]; dense: pixels that are right */
    double *norms;    /* [parameters] */
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

/* What blocks leave of patches, side by side: row i of the features holds that of patch i. UPerNet
 * takes them one after the other instead: [taps, B*N, D]. */
struct tap_features {
    int32_t *cells;       /* [B*N] rows of the patches among the tokens */
    int32_t *places;      /* [taps, B*N] rows of their taps among the features as [B*N*taps, D] */
    struct tensor normed; /* [T, D] of a tap, normed or cast */
    float *mean[CLASSIFIER_MAX_TAPS], *rstd[CLASSIFIER_MAX_TAPS]; /* [T], for the backward */
    struct tensor one;                                            /* [B*N, D] of a tap */
    struct tensor features, d_features;                           /* [B*N, taps*D] */
    struct tensor d_tokens;                                       /* [T, D] of a tap */
    float *lse, *d_logits;                                        /* [B*S*S]; [n_rows, K] */
    /* of UPerNet's auxiliary head: */
    struct tensor d_auxiliary; /* [B*N, K] as an operand */
    float *auxiliary_d_logits, *auxiliary_loss;
    int32_t *auxiliary_rank; /* [scores]: nobody reads them */
};

struct classifier {
    struct device *device;
    const struct op_table *ops;
    struct classifier_options options;
    enum dtype dtype; /* of activations and operands */

    struct param_table table;
    /* average NULL: none is kept. Gradients and moments begin with parameter first_trained. */
    float *parameters, *gradients, *moment1, *moment2, *average;
    size_t first_trained;
    bool skips_dropped;     /* what stochastic depth drops is not made */
    struct tensor operands; /* the parameters as products take them: a bf16 copy, or themselves */
    struct segment *segments;
    double *norms; /* [parameters] */

    struct backbone backbone;
    struct vit vit;
    struct swin swin;
    struct tensor patches[2];             /* the second is absent */
    int32_t *pooled_rows, *pooled_sample; /* rows that the last block goes on with, their images */
    struct mean_pooling pooling;
    struct tap_features taps;
    struct upernet upernet;
    struct head head;          /* unless options.n_head_layers is 0 */
    struct head_vectors z;     /* of a whole head: bottleneck vectors, */
    float *d_z, *projection;   /* their gradient [B, b]; its logits [B, out] */
    struct tensor projected;   /* the same as an operand; in float32 itself */
    struct tensor d_projected; /* [B, out] */
    struct affine linear;
    int64_t n_rows;         /* that are classified: B, or B*N, with UPerNet 16*B*N */
    float *logits;          /* [n_rows, K]; their gradient, in float32, unless it is dense */
    struct tensor d_logits; /* [n_rows, K] as an operand; in float32 itself */
    float *loss;            /* [scores] */
    int32_t *rank;          /* [scores] */

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

/* Losses of a micro-batch: of images, or of rows of pixels. */
int64_t classifier_n_scores(const struct classifier *c);

/* That train together. */
int64_t classifier_n_ranks(const struct classifier *c);

/* Elements of the flat array before the first parameter that is trained. */
int64_t classifier_untrained(const struct classifier *c);

/* ---- classifier_layers.c ---- */

/* The depth scales in the tables, with the samples that staging has left of them; or none. */
void classifier_set_depth(struct classifier *c, bool random);
/* float32 to an operand of the pass; nothing where these are the same. */
enum status classifier_copy_as(struct classifier *c, float *from, struct tensor to,
                               int64_t n) IBOT_WARN_UNUSED;

/* Patches -> logits; with `random` by the depth scales in the tables. */
enum status classifier_forward(struct classifier *c, bool random) IBOT_WARN_UNUSED;
/* d_logits -> gradients of all parameters, added up. */
enum status classifier_backward(struct classifier *c) IBOT_WARN_UNUSED;

/* ---- classifier_step.c ---- */

/* Pixels [n, 3, H, W] f32 or [n, H, W, 3] u8 to patches. */
enum status classifier_patchify(struct classifier *c, struct tensor pixels) IBOT_WARN_UNUSED;

/* ---- classifier_dense.c: the same for a dense one ---- */

/* Of the loss of UPerNet's auxiliary head. */
#define DENSE_AUXILIARY_SHARE 0.4f

enum status dense_plan(struct classifier *c) IBOT_WARN_UNUSED;
enum status dense_bind(struct classifier *c, const struct binder *binder) IBOT_WARN_UNUSED;
/* n images of height x width px from now on. */
enum status dense_reshape(struct classifier *c, int64_t n, int32_t height_px,
                          int32_t width_px) IBOT_WARN_UNUSED;
/* For images like these. */
enum status dense_reshape_for(struct classifier *c, struct tensor pixels) IBOT_WARN_UNUSED;
enum status dense_forward(struct classifier *c, bool random) IBOT_WARN_UNUSED;
/* With a decoder: losses and all gradients. */
enum status dense_decode(struct classifier *c) IBOT_WARN_UNUSED;
enum status dense_loss(struct classifier *c) IBOT_WARN_UNUSED;
enum status dense_backward(struct classifier *c) IBOT_WARN_UNUSED;

#endif
