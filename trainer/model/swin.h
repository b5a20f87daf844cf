/* Swin Transformer backbone: stages of blocks whose attention stays within windows, every other
 * block with the windows shifted, and between stages four neighbouring tokens merged into one.
 *
 *   patches ─ linear ─ norm ─ (mask token) ─> stage 0: maps of side g,  width C
 *                                    merge ─> stage 1: maps of side g/2, width 2C … ─ norm ─┐
 *   features: per image one row, the mean of its tokens, in place of [CLS], then its tokens <┘
 *
 * All crops of a step share one packed buffer per stage, globals first, each map row by row. */
#ifndef IBOT_TRAINER_MODEL_SWIN_H
#define IBOT_TRAINER_MODEL_SWIN_H

#include "trainer/model/binder.h"
#include "trainer/model/block.h"
#include "trainer/model/layout.h"

struct swin_stage {
    struct block_pass pass;        /* width, heads, maps of this stage */
    int32_t first_block, n_blocks; /* in the numbering over all stages */
    int32_t *sample;               /* [T] crop number of each row */
    /* Towards the next stage; unused in the last one. */
    struct affine merge_norm, reduction; /* [4C]; [2C, 4C] without bias */
    struct tensor end;                   /* [T, C] stream after the last block */
    struct tensor merged;                /* [T', 4C] */
    struct tensor normed;                /* [T', 4C] */
    float *mean, *rstd;                  /* [T'] */
};

struct swin {
    struct backbone_options options;
    struct device *device;
    const struct op_table *ops;
    enum dtype dtype, stream; /* of activations and operands; of the residual stream */
    bool backward;
    struct swin_stage stages[BACKBONE_MAX_STAGES];
    struct block_weights *weights; /* [blocks of all stages] */
    struct block_state *states;
    struct block_state shared; /* of all blocks: made again */
    struct block_depth *depths;
    struct affine patch_embed, patch_norm, norm;
    struct tensor mask_token, d_mask_token; /* data NULL: none */
    int64_t n_samples;                      /* crops */
    struct tensor patches[2];               /* [T0 of the group, 48]; borrowed */
    struct tensor projected;                /* [T0, C] before the patch norm */
    float *patch_mean, *patch_rstd;         /* [T0] */
    struct tensor final_x;                  /* [T, F] of the last stage */
    float *final_mean, *final_rstd;         /* [T] */
    struct tensor final_y;                  /* [T, F] normed */
    int64_t n_rows;                         /* [T + crops]: rows with the means */
    int64_t first_row[2];                   /* of each group in them */
    struct tensor all, features;            /* [n_rows, F]; [R, F] the chosen ones */
    struct tensor d_features, d_all;
    struct block_rows all_rows, rows; /* chosen for this step */
    struct block_gradients gradients;
};

/* Builds tables and plans all memory. Errors: STATUS_UNSUPPORTED (a backend without the ops). */
enum status swin_plan(struct swin *swin, struct device *device, const struct op_table *ops,
                      const struct backbone_options *options, const struct backbone_layout *layout,
                      struct workspace *workspace) IBOT_WARN_UNUSED;

/* Points the weights at the flat arrays and fills constant tables. After workspace_commit. */
enum status swin_bind(struct swin *swin, const struct binder *binder) IBOT_WARN_UNUSED;

/* Patches -> features [R, F]. mask [n_global_images*cells] u8 in device memory, or NULL. */
enum status swin_forward(struct swin *swin, uint8_t *mask) IBOT_WARN_UNUSED;

/* d_features [R, F] holds the gradient of the features; parameter gradients are added up. */
enum status swin_backward(struct swin *swin, uint8_t *mask,
                          const struct gradient_watch *watch) IBOT_WARN_UNUSED;

/* The forward in steps, for who wants the streams in between: embed, then block 0, 1, …; after the
 * last block of a stage its tokens are merged for the next. */
enum status swin_embed(struct swin *swin, uint8_t *mask) IBOT_WARN_UNUSED;
enum status swin_block(struct swin *swin, int32_t block) IBOT_WARN_UNUSED;
/* Stage that a block belongs to, and the stream [T, C] after it (until the next swin_block). */
const struct swin_stage *swin_stage_of(const struct swin *swin, int32_t block);
struct tensor swin_stream(const struct swin *swin, int32_t block);
/* final_y [T, F] = final norm of a stream of the last stage. */
enum status swin_normed_stream(struct swin *swin, struct tensor x) IBOT_WARN_UNUSED;

/* Side of the windows of a block, and how far they are shifted. They follow from the map of a crop
 * of image_size_px and stay the same for crops of other sizes, as in the original: a map no larger
 * than the window is one window, unshifted. */
void swin_window(const struct backbone_options *options, int32_t stage, int32_t block_of_stage,
                 int32_t *side, int32_t *shift);

void swin_release(struct swin *swin);

#endif
