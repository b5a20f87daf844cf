/* Boxes of objects: how much two overlap, one told by another, and the surest of many that overlap.
 * Edges in px; a box is as wide as its edges are apart. Sources: Girshick et al. 2014 (R-CNN; the
 * coding), Rezatofighi et al. 2019 (generalised IoU). */
#ifndef IBOT_TRAINER_DETECT_BOXES_H
#define IBOT_TRAINER_DETECT_BOXES_H

#include <stdint.h>

#include "proto/base/status.h"

struct box {
    float left, top, right, bottom;
};

/* Sides of a picture, to which boxes are cut; 0 x 0: they are not. */
struct box_frame {
    float height, width;
};

float box_area(const struct box *box);
/* Intersection over union, 0 to 1. */
float box_overlap(const struct box *a, const struct box *b);
struct box box_cut(const struct box *box, const struct box_frame *frame);

/* delta [4]: shift of the centre in sides of `from`, and logarithms of the ratios of the sides,
 * each divided by its std. Sides of `from` are positive, of `to` too. */
void box_encode(float *delta, const struct box *from, const struct box *to, const float *std);
/* And back; ratios of sides are kept within 16/1000 and 1000/16. */
struct box box_decode(const struct box *from, const float *delta, const float *std,
                      const struct box_frame *frame);
/* Gradient of the delta from d_box, of the four edges in their order; without a frame. */
void box_decode_backward(float *d_delta, const struct box *from, const float *delta,
                         const float *std, const float *d_box);

/* 1 - GIoU, 0 to 2, and its gradient by the four edges of `found`. */
float box_giou_loss(float *d_box, const struct box *found, const struct box *truth);

/* Of n boxes, each with a score and a group (NULL: one), those that no surer one of their group
 * overlaps by more than `threshold`: their numbers by falling score (of equals: rising number), at
 * most `most`. Returns how many. Errors: STATUS_NO_MEMORY. */
struct box_candidates {
    const struct box *boxes;
    const float *scores;
    const int32_t *groups;
    int32_t n;
};
enum status box_suppress(int32_t *keep, int32_t *n_keep, const struct box_candidates *candidates,
                         float threshold, int32_t most) IBOT_WARN_UNUSED;

#endif
