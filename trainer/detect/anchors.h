/* Where a region proposal network looks: on each level of a feature pyramid, a box of three shapes
 * around the corner of each cell. Source: Ren et al. 2015 (Faster R-CNN), Lin et al. 2017 (FPN). */
#ifndef IBOT_TRAINER_DETECT_ANCHORS_H
#define IBOT_TRAINER_DETECT_ANCHORS_H

#include <stdint.h>

#include "trainer/detect/boxes.h"

enum { ANCHOR_SHAPES = 3, ANCHOR_SCALE = 8, PYRAMID_LEVELS = 5, PYRAMID_FINEST_PX = 4 };

/* A level's map: cells of stride px. */
struct pyramid_level {
    int32_t rows, columns, stride;
};

/* Anchors of a level, cell by cell, and all of them. */
int64_t anchors_of_level(const struct pyramid_level *level);
int64_t anchors_of_all(const struct pyramid_level *levels);

/* The boxes of a level: ANCHOR_SCALE strides wide where they are square, and as large in the
 * shapes of half and twice the height for the width. Wide, square, high. */
struct box anchor_box(const struct pyramid_level *level, int64_t number);
void anchors_fill(struct box *out, const struct pyramid_level *levels);

/* Does all of it lie in the picture? */
bool anchor_inside(const struct box *anchor, const struct box_frame *frame);

#endif
