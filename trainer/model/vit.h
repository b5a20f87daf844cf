/* Vision Transformer backbone over one packed token buffer: global crops first, then local ones.
 *
 *   row: | crop 0, image 0: [CLS] patch patch … | crop 0, image 1 … | … | local crop 0, image 0 … |
 *
 * A student keeps what its backward needs, block by block; a teacher reuses one block's memory. */
#ifndef IBOT_TRAINER_MODEL_VIT_H
#define IBOT_TRAINER_MODEL_VIT_H

#include "trainer/model/binder.h"
#include "trainer/model/block.h"
#include "trainer/model/layout.h"

/* Crops of one size. */
struct vit_group {
    int64_t n_images, rows, columns, length; /* length = rows*columns + 1 tokens */
    int64_t most_images, n_cells;            /* that there is memory for, of n_cells each */
    int64_t first_row;
    struct tensor patches;  /* [n_images*rows*columns, 3*p*p]; borrowed: student's and teacher's */
    struct tensor embedded; /* [n_images*rows*columns, D] */
    float *pos, *d_pos;     /* [length, D] interpolated; unused when the grid is the stored one */
    bool interpolated;
};

/* Who takes more than the features: it adds to the gradient of the stream after a block, which is
 * not the last (gradients.d_stream). */
struct vit_taps {
    enum status (*backward)(void *context, int32_t block); /* NULL: nobody */
    void *context;
};

struct vit {
    struct backbone_options options;
    struct block_pass pass;
    struct vit_group groups[2];
    int32_t n_groups;
    bool without_norm; /* features are final_x */
    bool reshapes;     /* there are positions for other shapes */
    struct vit_taps taps;
    struct affine patch_embed, norm;
    struct tensor cls, pos, mask_token, d_cls, d_pos, d_mask_token; /* data NULL: none */
    struct block_weights *weights;                                  /* [depth] */
    struct block_state *states;                                     /* [depth] */
    struct block_state shared;                                      /* of all blocks: made again */
    struct block_depth *depths;                                     /* [depth] */
    struct block_rows all_rows, rows; /* rows: of the last block, for this step */
    struct tensor final_x;            /* [R, D] after the last block */
    float *final_mean, *final_rstd;   /* [R] */
    struct tensor features;           /* [R, D] normed */
    struct block_gradients gradients;
    int32_t *sample;   /* [T] crop number of each row */
    int64_t n_samples; /* crops */
};

/* Builds tables and plans all memory. */
enum status vit_plan(struct vit *vit, struct device *device, const struct op_table *ops,
                     const struct backbone_options *options, const struct backbone_layout *layout,
                     struct workspace *workspace) IBOT_WARN_UNUSED;

/* Points the weights at the flat arrays and fills constant tables. After workspace_commit. */
enum status vit_bind(struct vit *vit, const struct binder *binder) IBOT_WARN_UNUSED;

/* n images of rows x columns cells from now on, in the memory of those that were planned, where the
 * layout says so or there is no backward (which wants the planned shape), and no local crops.
 * Errors: STATUS_INVALID: none, or more cells than there is memory for. No more images than were
 * planned. */
enum status vit_reshape(struct vit *vit, int64_t n_images, int64_t rows,
                        int64_t columns) IBOT_WARN_UNUSED;

/* Patches -> features. mask [n_global_images*N] u8 in device memory, or NULL. */
enum status vit_forward(struct vit *vit, uint8_t *mask) IBOT_WARN_UNUSED;

/* gradients.d_y [R, D], or d_stream without a norm, holds the gradient of the features; parameter
 * gradients are added up. */
enum status vit_backward(struct vit *vit, uint8_t *mask,
                         const struct gradient_watch *watch) IBOT_WARN_UNUSED;

/* The forward in steps, for who wants the streams in between: embed (patches -> token buffer of the
 * first block, and its first norm), then block 0, 1, … */
enum status vit_embed(struct vit *vit, uint8_t *mask) IBOT_WARN_UNUSED;
enum status vit_block(struct vit *vit, int32_t block) IBOT_WARN_UNUSED;
/* The stream [T, D] after a block. */
struct tensor vit_stream(struct vit *vit, int32_t block);
/* features [T, D] = final norm of a stream x [T, D] (of earlier blocks). */
enum status vit_normed_stream(struct vit *vit, struct tensor x) IBOT_WARN_UNUSED;

void vit_release(struct vit *vit);

#endif
