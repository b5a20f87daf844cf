/* Everything that is drawn at random for a view, without a look at a pixel: what a sample's crops
 * and masks are is a function of (data_spec, epoch, sample, view) and the size of its image. Each
 * purpose draws from a stream of its own, so each can be asked for alone. */
#ifndef IBOT_LOADER_DRAW_H
#define IBOT_LOADER_DRAW_H

#include <stdbool.h>
#include <stdint.h>

#include "loader/rand_augment.h"
#include "loader/resample.h"
#include "ops/pixels/photometric.h"
#include "proto/wire/data_spec.h"

/* Which view of which sample. View v < n_global is a global crop, the others are local ones. The
 * spec has passed data_spec_check and is one of multi-crop; borrowed. */
struct draw {
    const struct data_spec *spec;
    int32_t epoch;
    uint32_t sample; /* in the data set */
    int32_t view;
    int32_t repeat; /* of the sample in the epoch: position % spec->repeats */
};

/* Where in the permutation of an epoch the sample at a position of its order stands, and which
 * repeat of it this is. */
static inline uint64_t draw_order_position(const struct data_spec *spec, uint64_t position)
{
    return position / (uint64_t)spec->repeats;
}

static inline int32_t draw_repeat(const struct data_spec *spec, uint64_t position)
{
    return (int32_t)(position % (uint64_t)spec->repeats);
}

/* The region of an image of this size that becomes the crop. */
struct region draw_region(const struct draw *draw, int32_t width, int32_t height);

bool draw_flip(const struct draw *draw);

enum resample_filter draw_filter(const struct draw *draw);

/* steps [RAND_AUGMENT_MAX_OPS] out: of RandAugment; returns how many. */
int32_t draw_rand_augment(const struct draw *draw, struct rand_augment_step *steps);

/* Colours, blur and solarisation. */
struct photometric_params draw_photometric(const struct draw *draw);

/* cells [grid, grid] out, 0 or 1: the mask of a global view. Returns how many are 1; *ratio (may be
 * NULL): the share that was drawn. */
int32_t draw_mask(const struct draw *draw, uint8_t *cells, double *ratio);

#endif
