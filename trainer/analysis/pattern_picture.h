/* Mosaics of the tokens of a cluster: of patch tokens the patch with what is around it, of [CLS]
 * tokens the image. */
#ifndef IBOT_TRAINER_ANALYSIS_PATTERN_PICTURE_H
#define IBOT_TRAINER_ANALYSIS_PATTERN_PICTURE_H

#include "ops/pixels/canvas.h"

/* One picture of it. */
struct pattern_tile {
    uint8_t *rgb; /* [side, side, 3] */
    int32_t side_px;
};

/* tile out: `window` (odd) patches a side around a patch of rgb [size, size, 3], black outside; the
 * patch itself in orange where there is something around it. Returns the mean of its HSV value,
 * 0 .. 255, before that. */
double pattern_tile_of_patch(struct pattern_tile *tile, const uint8_t *rgb, int32_t size_px,
                             int32_t patch_px, int32_t patch, int32_t window);

/* A square as square as it gets of n tiles in one file, row by row. Errors: those of
 * canvas_save_png. */
enum status pattern_mosaic_save(const char *path, const uint8_t *tiles, int32_t n,
                                int32_t side_px) IBOT_WARN_UNUSED;

#endif
