/* What the tables of the instruction sets share. */
#ifndef IBOT_OPS_PIXELS_PIXEL_KERNELS_INTERNAL_H
#define IBOT_OPS_PIXELS_PIXEL_KERNELS_INTERNAL_H

#include "ops/pixels/pixel_kernels.h"

extern const struct pixel_kernels pixel_kernels_plain;
#ifdef __x86_64__
extern const struct pixel_kernels pixel_kernels_sse4, pixel_kernels_avx2, pixel_kernels_avx512;
#endif
#ifdef __aarch64__
extern const struct pixel_kernels pixel_kernels_neon;
#endif

extern const uint32_t hue_short_bits[8];

static inline unsigned luma_pixel(unsigned red, unsigned green, unsigned blue)
{
    return ((unsigned)LUMA_RED * red + (unsigned)LUMA_GREEN * green + (unsigned)LUMA_BLUE * blue +
            (unsigned)LUMA_HALF) >>
           16;
}

/* What vector code leaves to plain C: large boxes, runs shorter than a vector. */
void blur_across_plain(uint8_t *plane, int32_t width, int32_t height, const struct box *box,
                       uint8_t *scratch);
void blur_down_plain(uint8_t *plane, int32_t width, int32_t height, const struct box *box,
                     uint8_t *scratch);
void interleave_plain(uint8_t *out, const uint8_t *const rgb[3], size_t n, bool mirrored);

#endif
