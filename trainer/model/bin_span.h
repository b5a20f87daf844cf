/* The cells that a bin of a region reads along one direction, and with what weights: the mean of as
 * many bilinear samples as the bin has cells, rounded up, of which those outside of the map by more
 * than a cell are 0. Both directions together are the products of the weights. Source: He et al.
 * 2017 (Mask R-CNN, RoIAlign), with the shift by half a cell that came later. */
#ifndef IBOT_TRAINER_MODEL_BIN_SPAN_H
#define IBOT_TRAINER_MODEL_BIN_SPAN_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

/* Zeroed is valid and empty; it may be filled again. The last weight may be 0, past the map. */
struct bin_span {
    int32_t first, n;
    float *weights; /* [n] */
    size_t capacity;
};

/* Bin `which` of those that begin at `start` and are `bin` wide, in cells, on a map of `size`. */
enum status bin_span_fill(struct bin_span *span, float start, float bin, int32_t which,
                          int32_t size) IBOT_WARN_UNUSED;
void bin_span_release(struct bin_span *span);

#endif
