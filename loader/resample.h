/* Pillow's resize: separable, antialiased, 22-bit integer weights, 8 bits between the passes.
 * Every byte is Pillow's. */
#ifndef IBOT_LOADER_RESAMPLE_H
#define IBOT_LOADER_RESAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum resample_filter { RESAMPLE_BICUBIC, RESAMPLE_BILINEAR };

/* A region of an image: no pixel outside it is read. */
struct region {
    int32_t left, top, width, height;
};

/* One thread's working memory, reused. Zeroed is valid and empty. */
struct resampler {
    int32_t *weights[2]; /* x, y: [n_out, taps] */
    int32_t *bounds[2];  /* [n_out, 2]: first input, count */
    double *exact;       /* weights of one output before rounding */
    uint8_t *middle;     /* [rows, width_out, 3] */
    size_t weight_capacity[2], bound_capacity[2], exact_capacity, middle_capacity;
};

/* source [.., source_width, 3] -> out [height, width, 3]. Errors: STATUS_NO_MEMORY. The region must
 * lie in the image. */
enum status resample(struct resampler *resampler, const uint8_t *source, int32_t source_width,
                     struct region region, enum resample_filter filter, uint8_t *out, int32_t width,
                     int32_t height) IBOT_WARN_UNUSED;

void resampler_release(struct resampler *resampler);

#endif
