/* A picture in work: one plane of bytes per channel, so that every operation on it is a run over
 * bytes side by side. Decoded files come as words (image.h), records are packed RGB; crops are
 * planes between the two. */
#ifndef IBOT_OPS_PIXELS_PLANES_H
#define IBOT_OPS_PIXELS_PLANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { PLANES_PADDING_BYTES = 64 }; /* may be read and written after each plane */

/* Zeroed is valid and empty. */
struct planes {
    uint8_t *channel[3]; /* R, G, B: [height, width], each aligned to a cache line */
    int32_t width, height;
    uint8_t *memory; /* owned: what the channels point into */
    size_t capacity; /* bytes */
};

/* Room for width x height pixels, which are then undefined. Errors: STATUS_NO_MEMORY. */
enum status planes_reserve(struct planes *planes, int32_t width, int32_t height) IBOT_WARN_UNUSED;
void planes_release(struct planes *planes);

/* Pixels of each plane. */
static inline size_t planes_n_pixels(const struct planes *planes)
{
    return (size_t)planes->width * (size_t)planes->height;
}

/* rgb [height, width, 3] in. Errors: STATUS_NO_MEMORY. */
enum status planes_from_rgb(struct planes *planes, const uint8_t *rgb, int32_t width,
                            int32_t height) IBOT_WARN_UNUSED;

#endif
