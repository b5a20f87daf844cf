/* Pillow's resize: separable, antialiased, 22-bit integer weights, 8 bits between the passes.
 * Every byte is Pillow's. */
#ifndef IBOT_LOADER_RESAMPLE_H
#define IBOT_LOADER_RESAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "loader/image.h"
#include "ops/pixels/pixel_kernels.h"
#include "ops/pixels/planes.h"
#include "ops/pixels/scratch.h"
#include "proto/base/status.h"

enum resample_filter { RESAMPLE_BICUBIC, RESAMPLE_BILINEAR, RESAMPLE_LANCZOS };

struct region {
    int32_t left, top, width, height;
};

/* The source region becomes a width x height picture, of which `window` is wanted. */
struct resample_plan {
    struct region source; /* no pixel outside it has an influence */
    int32_t width, height;
    struct region window;
    enum resample_filter filter;
    /* How much of the source becomes the picture, where that is no whole number: up to one less
     * than its width and height. 0: all. */
    double source_width, source_height;
};

/* One thread's working memory, reused. Zeroed but for the kernels is valid and empty. */
struct resampler {
    const struct pixel_kernels *kernels;
    struct resample_axis axis[2];                    /* x, y */
    struct scratch first[2], n_groups[2], packed[2]; /* what the axes point into */
    struct scratch exact, whole;                     /* weights before and after rounding */
    struct scratch middle; /* rows after the horizontal pass, see pixel_kernels.h */
};

/* All of a region to width x height. */
static inline struct resample_plan resample_whole(struct region source, int32_t width,
                                                  int32_t height)
{
    return (struct resample_plan){
        .source = source, .width = width, .height = height, .window = {0, 0, width, height}};
}

/* out: the window's pixels. The source must lie in the image, the window in the picture. Errors:
 * STATUS_NO_MEMORY. */
enum status resample(struct resampler *resampler, struct planes *out, const struct image *image,
                     const struct resample_plan *plan) IBOT_WARN_UNUSED;

void resampler_release(struct resampler *resampler);

#endif
