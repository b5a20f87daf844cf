/* How well the mask of an object agrees with the annotated one, as the DAVIS 2017 challenge
 * measures it: region similarity J and boundary accuracy F of a frame, and what becomes of them
 * over the frames of a sequence. Source: Perazzi et al. 2016; Pont-Tuset et al. 2017. */
#ifndef IBOT_TRAINER_EVAL_MASK_SCORES_H
#define IBOT_TRAINER_EVAL_MASK_SCORES_H

#include <stdint.h>

#include "proto/base/status.h"

/* Pixels of which `label` is the object: of what was found, and of what is true. */
struct mask_pair {
    const uint8_t *found, *truth; /* [height, width] labels */
    int32_t width, height;
    uint8_t label;
};

/* J: pixels of both over pixels of either; 1 where neither has any. */
double mask_similarity(const struct mask_pair *pair);

/* F: harmonic mean of precision and recall of boundary pixels; one counts when the other boundary
 * is within ceil(0.008 diagonals). A boundary pixel is one whose right, lower, or lower right
 * neighbour is of the other kind. Neither has any: 1; one of them has none: 0. Errors:
 * STATUS_NO_MEMORY. */
enum status mask_boundary(double *out, const struct mask_pair *pair) IBOT_WARN_UNUSED;

/* Of an object's values over the n >= 1 frames of a sequence: their mean, the share above 0.5, and
 * the mean of the first quarter less that of the last. */
struct mask_statistics {
    double mean, recall, decay;
};
struct mask_statistics mask_statistics(const double *values, int32_t n);

#endif
