/* What the tables of the instruction sets share. */
#ifndef IBOT_LOADER_PIXEL_KERNELS_INTERNAL_H
#define IBOT_LOADER_PIXEL_KERNELS_INTERNAL_H

#include "loader/pixel_kernels.h"

/* One pixel, plain: the last few of a run. */
void hue_pixel(uint8_t rgb[3], uint8_t shift);

/* Boxes of any radius; vector code has the small ones only. */
void blur_across_plain(uint8_t *plane, int32_t width, int32_t height, const struct box *box,
                       uint8_t *scratch);
void blur_down_plain(uint8_t *plane, int32_t width, int32_t height, const struct box *box,
                     uint8_t *scratch);

#endif
