/* Labels of a video's first frame carried from frame to frame by how alike patches are: each patch
 * of a frame takes the labels of the patches most like it, in the first frame and the frames
 * before, within a window around its own place.
 *
 *   affinity = exp(cosine / temperature), of the topk greatest (and what equals the last of them)
 *   labels   = sum of affinity * labels of the source / sum of affinity
 *
 * Source: Jabri et al. 2020, as DINO and iBOT evaluate on DAVIS 2017. */
#ifndef IBOT_TRAINER_EVAL_LABEL_PROPAGATION_H
#define IBOT_TRAINER_EVAL_LABEL_PROPAGATION_H

#include <stdint.h>

#include "ops/device.h"
#include "ops/op_table.h"

struct label_propagation_options {
    int32_t rows, columns;          /* patches of a frame */
    int32_t width, n_labels;        /* of a patch's features; 1 .. 256 */
    int32_t n_last_frames;          /* besides the first; 7 */
    int32_t size_mask_neighborhood; /* patches up, down, left and right; 0: all of the frame; 12 */
    int32_t topk;                   /* 5 */
    float temperature;              /* 0.1 */
};

struct label_propagation {
    struct label_propagation_options options;
    struct device *device;      /* borrowed */
    const struct op_table *ops; /* borrowed */
    int64_t cells;              /* patches of a frame */
    int32_t n_sources, next;    /* frames that there are; where the next one goes */
    int32_t block_rows;         /* rows of patches whose similarities are made at a time */
    float *features;            /* device: [1 + n_last_frames + 1, cells, width] of length 1; the
                                   last is the frame under way */
    float *similarity;          /* device: those of a block, frame by frame */
    float *host_similarity;
    float *labels; /* [1 + n_last_frames, cells, n_labels] */
};

/* Zeroed is valid and empty. Errors: STATUS_NO_MEMORY, STATUS_DEVICE. */
enum status
label_propagation_open(struct label_propagation *out, struct device *device,
                       const struct op_table *ops,
                       const struct label_propagation_options *options) IBOT_WARN_UNUSED;
void label_propagation_close(struct label_propagation *propagation);

/* The first frame: tokens [cells, width] and labels [cells, n_labels] in host memory. Errors:
 * STATUS_NOT_FINITE, STATUS_DEVICE. */
enum status label_propagation_begin(struct label_propagation *propagation, const float *tokens,
                                    const float *labels) IBOT_WARN_UNUSED;

/* The frame that follows: labels [cells, n_labels] out. Errors: the same. */
enum status label_propagation_next(struct label_propagation *propagation, float *labels,
                                   const float *tokens) IBOT_WARN_UNUSED;

#endif
