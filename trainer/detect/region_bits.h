/* Masks of objects as a picture of the network's size has them, and what a mask head is to find of
 * them; and found masks back in a picture. */
#ifndef IBOT_TRAINER_DETECT_REGION_BITS_H
#define IBOT_TRAINER_DETECT_REGION_BITS_H

#include "trainer/detect/boxes.h"
#include "trainer/model/bin_span.h"

/* The part of a picture that an object's mask lies in: 0 outside of it. */
struct region_bits {
    int32_t left, top, width, height;
    const uint8_t *bits; /* [height, width] 0 or 1, row by row */
};

/* target [side, side], 0 or 1: bins of the box, of which the mask has half or more. Source: He et
 * al. 2017 (Mask R-CNN). Errors: STATUS_NO_MEMORY. */
enum status region_bits_target(float *target, int32_t side, const struct region_bits *bits,
                               const struct box *box, int32_t picture_height,
                               int32_t picture_width) IBOT_WARN_UNUSED;

/* bits [height, width] of a picture: 1 where the map [side, side] of probabilities, stretched to
 * the box, is at least a half. All else 0. */
void region_bits_paste(uint8_t *bits, int32_t height, int32_t width, const float *map, int32_t side,
                       const struct box *box);

#endif
