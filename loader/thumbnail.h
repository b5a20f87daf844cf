/* Pillow's Image.thumbnail with the Lanczos filter: the whole of an image, its aspect ratio kept,
 * within a square. What is much too large is first averaged over whole boxes of pixels, so that the
 * filter has at most twice the size to go (its reducing_gap of 2). Never larger than the image.
 * Every byte is Pillow's. */
#ifndef IBOT_LOADER_THUMBNAIL_H
#define IBOT_LOADER_THUMBNAIL_H

#include "loader/image.h"
#include "loader/resample.h"

/* Width and height of the thumbnail of a picture of this size, both at most most_px. */
void thumbnail_size(int32_t *out_width, int32_t *out_height, int32_t width, int32_t height,
                    int32_t most_px);

/* out: the thumbnail of a region, which lies in the image. reduced: scratch. Errors:
 * STATUS_NO_MEMORY. */
enum status thumbnail(struct resampler *resampler, struct planes *out, struct image *reduced,
                      const struct image *image, struct region region,
                      int32_t most_px) IBOT_WARN_UNUSED;

#endif
