/* Boxes that may hold an object, as the maps of a region proposal network say, and its losses. On
 * the host: few numbers, many decisions. Source: Ren et al. 2015 (Faster R-CNN). */
#ifndef IBOT_TRAINER_DETECT_PROPOSALS_H
#define IBOT_TRAINER_DETECT_PROPOSALS_H

#include "trainer/detect/anchors.h"
#include "trainer/detect/region_targets.h"

/* What the network says, of all pictures: of level i, cell by cell, picture by picture,
 *   objectness [n*rows*columns, ANCHOR_SHAPES]       logits
 *   delta      [n*rows*columns, ANCHOR_SHAPES * 4]   box_encode of the anchor, std 1
 * and the places of their gradients, zeroed by the caller. */
struct proposal_maps {
    struct pyramid_level levels[PYRAMID_LEVELS];
    const float *objectness[PYRAMID_LEVELS], *delta[PYRAMID_LEVELS];
    float *d_objectness[PYRAMID_LEVELS], *d_delta[PYRAMID_LEVELS];
};

struct proposal_options {
    int32_t before, most; /* boxes of a level that compete; boxes of a picture that are left */
    float threshold;      /* of suppression */
};

/* Boxes of picture `image`, at most `most`, by falling score. */
enum status proposals_find(struct box *out, int32_t *n_out, const struct proposal_maps *maps,
                           int64_t image, const struct box_frame *frame,
                           const struct proposal_options *options) IBOT_WARN_UNUSED;

/* What a picture is to find. */
struct region_truth {
    const struct box *boxes;
    const int32_t *classes;
    int32_t n;
};

struct proposal_losses {
    double objectness, box;
};

/* Losses over n pictures: of `sampled` anchors of each, half of them with an object where there are
 * so many, cross-entropy and smooth L1 (beta 1/9), over the number of all of them; and their
 * gradients, times `scale`. rng [n]: of each picture. */
enum status proposals_loss(struct proposal_losses *out, const struct proposal_maps *maps, int64_t n,
                           const struct box_frame *frames, const struct region_truth *truths,
                           struct rng *rngs, int32_t sampled, float scale) IBOT_WARN_UNUSED;

#endif
