/* Labels between pictures and patches, as label propagation of videos wants them. */
#ifndef IBOT_TRAINER_EVAL_LABEL_MAP_H
#define IBOT_TRAINER_EVAL_LABEL_MAP_H

#include <stdint.h>

#include "proto/base/status.h"

/* to [to_height, to_width]: the nearest of from [height, width], as Pillow takes it. Errors:
 * STATUS_NO_MEMORY. */
enum status label_map_resize(uint8_t *to, int32_t to_width, int32_t to_height, const uint8_t *from,
                             int32_t width, int32_t height) IBOT_WARN_UNUSED;

/* weights [n, n_labels]: 1 for the label, 0 for the others. */
void label_map_one_hot(float *weights, const uint8_t *labels, int64_t n, int32_t n_labels);

/* Weights of labels on a grid of patches. */
struct label_weights {
    const float *weights; /* [rows, columns, n_labels], not negative */
    int32_t rows, columns, n_labels;
};

/* labels [rows*scale, columns*scale]: weights between the centres of patches are interpolated
 * bilinearly, those of each label then stretched to 0 .. 1, and the greatest takes the place, of
 * equal ones the first. A label that has the same weight everywhere keeps 0, or has 1. At most
 * 256 labels. */
void label_map_grow(uint8_t *labels, const struct label_weights *map, int32_t scale, int n_threads);

#endif
