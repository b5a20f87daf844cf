/* A backbone as student, teacher and loss see it, whichever family it is of: crops in, rows of
 * features out, [CLS] (or what stands for it) and then the patches of each image.
 *
 *   row: | crop 0, image 0: [CLS] patch patch … | crop 0, image 1 … | … | local crop 0, image 0 … |
 */
#ifndef IBOT_TRAINER_MODEL_BACKBONE_H
#define IBOT_TRAINER_MODEL_BACKBONE_H

#include "trainer/model/swin.h"
#include "trainer/model/vit.h"

/* Crops of one size, in the rows of all features. */
struct backbone_group {
    int64_t n_images, length, first_row; /* length: patches + 1 */
};

struct backbone {
    struct vit *vit; /* borrowed; one of the two, the other is NULL */
    struct swin *swin;
    struct backbone_group groups[2];
    int32_t n_groups;
    int64_t n_tokens, width;          /* all rows; features of each */
    int64_t n_samples;                /* crops */
    struct block_rows all_rows, rows; /* rows: those that the next forward makes */
    struct tensor features;           /* [rows, width] of the last forward */
    /* [blocks] no depth is random until the caller says where the scales are */
    struct block_depth *depths;
};

/* Plans the family that the options name in `vit` or `swin`, which must outlive the backbone. */
enum status backbone_plan(struct backbone *backbone, struct vit *vit, struct swin *swin,
                          struct device *device, const struct op_table *ops,
                          const struct backbone_options *options,
                          const struct backbone_layout *layout,
                          struct workspace *workspace) IBOT_WARN_UNUSED;

/* After workspace_commit. patches: [2] patch rows of both groups, borrowed. */
enum status backbone_bind(struct backbone *backbone, const struct binder *binder,
                          const struct tensor patches[2]) IBOT_WARN_UNUSED;

/* n images of height x width px from now on: of a ViT, as in vit_reshape. Errors:
 * STATUS_UNSUPPORTED (a Swin), STATUS_INVALID. */
enum status backbone_reshape(struct backbone *backbone, int64_t n_images, int32_t height_px,
                             int32_t width_px) IBOT_WARN_UNUSED;

/* Patches -> features. mask [n_global_images*cells] u8 in device memory, or NULL. */
enum status backbone_forward(struct backbone *backbone, uint8_t *mask) IBOT_WARN_UNUSED;

/* The samples that a branch takes, by its scales [S] on the host. shift [S], host: where their rows
 * lie, to be read from `on_device` by the time the branch is made. Zeroed, which is all of them,
 * when none is dropped, and when all are: that costs little where it can happen, which is in
 * batches of a few images. Of a ViT, but for its last block, whose chosen rows are those of all
 * samples. */
struct block_kept backbone_keep(const struct backbone *backbone, const float *scales,
                                int32_t *shift, int32_t *on_device);

/* Where the gradient of the features [rows, width] goes before backbone_backward. */
struct tensor backbone_d_features(struct backbone *backbone);

/* What its backward has under way, on which branches. */
const struct block_gradients *backbone_gradients(const struct backbone *backbone);

/* Parameter gradients are added up; `watch` hears how far they are. */
enum status backbone_backward(struct backbone *backbone, uint8_t *mask,
                              const struct gradient_watch *watch) IBOT_WARN_UNUSED;

void backbone_release(struct backbone *backbone);

#endif
