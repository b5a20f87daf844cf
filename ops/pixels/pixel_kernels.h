/* The inner loops of the loader, once in plain C and once for each vector instruction set. The set
 * is chosen once, at start, by what the processor has; every entry of every table gives the same
 * bytes, which a randomised test checks.
 *
 * Rows of four: the resampler keeps four picture rows in one line, their bytes side by side, so
 * that a vector instruction that sums four products per lane runs along either axis:
 *
 *   middle: [row group][channel][column][row in group]
 */
#ifndef IBOT_OPS_PIXELS_PIXEL_KERNELS_H
#define IBOT_OPS_PIXELS_PIXEL_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum simd { SIMD_NONE, SIMD_SSE4, SIMD_AVX2, SIMD_AVX512, SIMD_NEON, SIMD_COUNT };

enum {
    RESAMPLE_BITS = 22,     /* of a weight's fraction */
    RESAMPLE_GROUP = 4,     /* taps, and rows, that are taken together */
    RESAMPLE_COLUMNS = 16,  /* middle lines are padded to a multiple of this */
    RESAMPLE_MAX_PACKED = 4 /* words of one group of taps */
};

/* Weights along one axis, as a kernel wants them. Output x is the sum over n_groups[x] groups of
 * four inputs, beginning with input first[x]; weights past the filter's ends are 0. */
struct resample_axis {
    int32_t n_out, n_in;
    int32_t max_groups;
    int32_t *first, *n_groups; /* [n_out] */
    int32_t *packed;           /* [max_groups, RESAMPLE_MAX_PACKED, n_out] */
};

enum filter_kernel { FILTER_BICUBIC, FILTER_BILINEAR, FILTER_LANCZOS };

/* What the weights along an axis are computed from. Slot k of output x is input start + k; it
 * counts from `low` to before `high`. */
struct filter_taps {
    int32_t n_out, n_slots;
    enum filter_kernel kernel;
    double step;                               /* filter units per input */
    const double *start, *low, *high, *centre; /* [n_out] */
};

/* One pass of a box blur: 2*radius + 1 whole neighbours, and one more in part at either end. */
struct box {
    int32_t radius;
    uint32_t inner, edge; /* weights, in 2^-24 */
};

/* A picture to transform: output (x, y) is what it has at (m[0] x + m[1] y + m[2], m[3] x + m[4] y
 * + m[5]), centres of pixels at halves, or the fill where that is outside. */
struct affine_source {
    const int32_t *pixels; /* [height, width, 4]: R, G, B, any; words, ready to be computed with */
    int32_t width, height;
    double m[6];
    bool cubic; /* else linear */
    uint8_t fill[3];
};

struct pixel_kernels {
    const char *name;

    /* whole [n_slots, n_out] <- integers of RESAMPLE_BITS that add up to 1 for each output, but for
     * rounding. exact [n_slots, n_out], sum [n_out]: scratch. */
    void (*filter_weights)(int32_t *whole, double *exact, double *sum,
                           const struct filter_taps *taps);

    /* packed [n_groups, RESAMPLE_MAX_PACKED, n] <- whole [4 * n_groups, n]: the form that the two
     * passes want. */
    void (*pack_weights)(int32_t *packed, const int32_t *whole, int32_t n, int32_t n_groups);

    /* columns [n_in, row 4, channel 4]: four rows of an image, see image.h -> one row group of
     * middle: three lines of `stride` bytes. May read up to three columns past the last input, and
     * writes whole columns of 16. */
    void (*resample_across)(uint8_t *middle, size_t stride, const uint8_t *columns,
                            const struct resample_axis *axis);

    /* Middle -> output row y of each plane, n columns. */
    void (*resample_down)(uint8_t *const out[3], const uint8_t *middle, size_t stride, size_t n,
                          const struct resample_axis *axis, int32_t y);

    /* bytes [n]: d + factor * (byte - d), cut off towards zero, clamped to a byte. */
    void (*blend)(uint8_t *bytes, size_t n, uint8_t d, float factor);

    /* bytes [n]: those at the threshold and above are inverted. */
    void (*solarize)(uint8_t *bytes, size_t n, int32_t threshold);

    /* Sum of the luma of n pixels. */
    uint64_t (*luma_sum)(uint8_t *const rgb[3], size_t n);

    /* All channels become the luma. */
    void (*grey)(uint8_t *const rgb[3], size_t n);

    /* Each channel blended with the luma: luma + factor * (channel - luma). */
    void (*saturate)(uint8_t *const rgb[3], size_t n, float factor);

    /* Hue moved by shift / 255 turns, by way of 8-bit HSV. */
    void (*hue)(uint8_t *const rgb[3], size_t n, uint8_t shift);

    /* Three box passes along the rows, or the columns, of a plane, in place. Scratch: BOX_SCRATCH.
     */
    void (*blur_across)(uint8_t *plane, int32_t width, int32_t height, const struct box *box,
                        uint8_t *scratch);
    void (*blur_down)(uint8_t *plane, int32_t width, int32_t height, const struct box *box,
                      uint8_t *scratch);

    /* out [width, row 4, channel 4] <- four lines [width, channel 4], `stride` bytes apart. */
    void (*group_rows)(uint8_t *out, const uint8_t *lines, size_t stride, size_t width);

    /* out [3][width]: row y of the transformed picture. */
    void (*affine_row)(uint8_t *const out[3], const struct affine_source *source, int32_t y);

    /* out [n, 3] <- planes; mirrored: last pixel first. */
    void (*interleave)(uint8_t *out, const uint8_t *const rgb[3], size_t n, bool mirrored);
};

/* Luma, one channel's part in 2^-16. */
enum { LUMA_RED = 19595, LUMA_GREEN = 38470, LUMA_BLUE = 7471, LUMA_HALF = 32768 };

/* Set bits: hues (0 .. 255) that Pillow's arithmetic gives one too low where they are exact. Found
 * by going through all colours, and held against them by tests. */
#define HUE_SHORT_BITS                                                                             \
    {                                                                                              \
        0xfffffffeu, 0x00000000u, 0x11000000u, 0x00000111u, 0x222aaaaau, 0x23232222u, 0x00022222u, \
            0x00000000u                                                                            \
    }

/* Bytes of scratch for a blur of a width x height plane. */
static inline size_t blur_scratch_bytes(int32_t width, int32_t height, int32_t radius)
{
    size_t longest = (size_t)(width > height ? width : height);
    return 2 * 64 * (longest + 2 * (size_t)radius + 2 + 128); /* of either direction, and more */
}

/* The table of an instruction set, or NULL when this processor lacks it. */
const struct pixel_kernels *pixel_kernels_for(enum simd simd);

/* The best one; IBOT_SIMD=none|sse4|avx2|avx512|neon in the environment asks for a lesser one. */
const struct pixel_kernels *pixel_kernels_best(void);

#endif
