/* The plain entries, and which table is used. */
#include "ops/pixels/pixel_kernels.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops/pixels/pixel_kernels_internal.h"

/* ------------------------------------------------------------------------------ resize */

#include "ops/pixels/affine_row.inc"
#include "ops/pixels/filter_weights.inc"

static void pack_weights(int32_t *packed, const int32_t *whole, int32_t n, int32_t n_groups)
{
    memcpy(packed, whole, 4 * (size_t)n * (size_t)n_groups * sizeof(int32_t));
}

static uint8_t clip(int32_t sum)
{
    int32_t value = sum >> RESAMPLE_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void resample_across(uint8_t *middle, size_t stride, const uint8_t *columns,
                            const struct resample_axis *axis)
{
    for (int32_t x = 0; x < axis->n_out; x++) {
        const int32_t *weights = axis->packed + x;
        int32_t n = axis->n_groups[x] * RESAMPLE_GROUP;
        for (size_t row = 0; row < 4; row++) {
            const uint8_t *from = columns + 16 * (size_t)axis->first[x] + 4 * row;
            int32_t sums[3] = {1 << (RESAMPLE_BITS - 1), 1 << (RESAMPLE_BITS - 1),
                               1 << (RESAMPLE_BITS - 1)};
            for (int32_t k = 0; k < n; k++)
                for (int32_t c = 0; c < 3; c++)
                    sums[c] += from[16 * k + c] * weights[(int64_t)k * axis->n_out];
            for (size_t c = 0; c < 3; c++)
                middle[c * stride + 4 * (size_t)x + row] = clip(sums[c]);
        }
    }
}

static void resample_down(uint8_t *const out[3], const uint8_t *middle, size_t stride, size_t n,
                          const struct resample_axis *axis, int32_t y)
{
    const int32_t *weights = axis->packed + y;
    size_t step = (size_t)axis->n_out;
    const uint8_t *from = middle + (size_t)(axis->first[y] / RESAMPLE_GROUP) * 3 * stride;

    for (size_t c = 0; c < 3; c++)
        for (size_t x = 0; x < n; x++) {
            int32_t sum = 1 << (RESAMPLE_BITS - 1);
            for (int32_t g = 0; g < axis->n_groups[y]; g++)
                for (size_t k = 0; k < 4; k++)
                    sum += from[((size_t)g * 3 + c) * stride + 4 * x + k] *
                           weights[(4 * (size_t)g + k) * step];
            out[c][x] = clip(sum);
        }
}

/* ------------------------------------------------------------------------------ colour */

static uint8_t blended(int value, int d, float factor)
{
    float t = (float)d + factor * (float)(value - d);
    return t <= 0.0f ? 0 : t >= 255.0f ? 255 : (uint8_t)t;
}

static void blend(uint8_t *bytes, size_t n, uint8_t d, float factor)
{
    uint8_t table[256];

    for (int i = 0; i < 256; i++)
        table[i] = blended(i, d, factor);
    for (size_t i = 0; i < n; i++)
        bytes[i] = table[bytes[i]];
}

static void solarize(uint8_t *bytes, size_t n, int32_t threshold)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] >= threshold)
            bytes[i] = (uint8_t)(255 - bytes[i]);
}

static unsigned luma(uint8_t *const rgb[3], size_t i)
{
    return luma_pixel(rgb[0][i], rgb[1][i], rgb[2][i]);
}

static uint64_t luma_sum(uint8_t *const rgb[3], size_t n)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += luma(rgb, i);
    return sum;
}

static void grey(uint8_t *const rgb[3], size_t n)
{
    for (size_t i = 0; i < n; i++)
        rgb[0][i] = rgb[1][i] = rgb[2][i] = (uint8_t)luma(rgb, i);
}

static void saturate(uint8_t *const rgb[3], size_t n, float factor)
{
    for (size_t i = 0; i < n; i++) {
        int d = (int)luma(rgb, i);
        for (int c = 0; c < 3; c++)
            rgb[c][i] = blended(rgb[c][i], d, factor);
    }
}

static void hue_pixel(uint8_t rgb[3], uint8_t shift)
{
    int red = rgb[0], green = rgb[1], blue = rgb[2];
    int high = red > green ? red : green, low = red < green ? red : green;

    high = high > blue ? high : blue;
    low = low < blue ? low : blue;
    if (high == low)
        return; /* saturation 0: grey stays as it is */
    float range = (float)(high - low), h;
    float rc = (float)(high - red) / range, gc = (float)(high - green) / range;
    float bc = (float)(high - blue) / range;
    if (red == high)
        h = bc - gc;
    else if (green == high)
        h = (float)(2.0 + (double)rc - (double)bc);
    else
        h = (float)(4.0 + (double)gc - (double)rc);
    h = (float)fmod((double)h / 6.0 + 1.0, 1.0);
    int saturation = (int)((double)(range / (float)high) * 255.0);
    unsigned hue = ((unsigned)((double)h * 255.0) + shift) & 255;

    if (saturation == 0) {
        memset(rgb, high, 3);
        return;
    }
    int sector = (int)floor((double)hue * 6.0 / 255.0);
    float f = (float)((double)hue * 6.0 / 255.0 - (double)sector);
    float fs = (float)((double)saturation / 255.0);
    uint8_t v = (uint8_t)high;
    uint8_t p = (uint8_t)round((double)high * (1.0 - (double)fs));
    uint8_t q = (uint8_t)round((double)high * (1.0 - (double)(fs * f)));
    uint8_t t = (uint8_t)round((double)high * (1.0 - (double)fs * (1.0 - (double)f)));
    const uint8_t choices[6][3] = {{v, t, p}, {q, v, p}, {p, v, t},
                                   {p, q, v}, {t, p, v}, {v, p, q}};
    memcpy(rgb, choices[sector % 6], 3);
}

const uint32_t hue_short_bits[8] = HUE_SHORT_BITS;

static void hue(uint8_t *const rgb[3], size_t n, uint8_t shift)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t pixel[3] = {rgb[0][i], rgb[1][i], rgb[2][i]};
        hue_pixel(pixel, shift);
        for (int c = 0; c < 3; c++)
            rgb[c][i] = pixel[c];
    }
}

/* ------------------------------------------------------------------------------ blur */

/* One pass along n bytes, `step` apart, to `to` side by side. */
static void box_line(uint8_t *to, const uint8_t *from, size_t step, int32_t n,
                     const struct box *box)
{
    int32_t reach = box->radius + 1;

    for (int32_t x = 0; x < n; x++) {
        uint32_t sum = 0, ends = 0;
        for (int32_t d = -reach; d <= reach; d++) {
            int32_t at = x + d < 0 ? 0 : x + d >= n ? n - 1 : x + d;
            if (d == -reach || d == reach)
                ends += from[(size_t)at * step];
            else
                sum += from[(size_t)at * step];
        }
        to[x] = (uint8_t)((sum * box->inner + ends * box->edge + (1u << 23)) >> 24);
    }
}

static void blur_lines(uint8_t *plane, size_t n_lines, size_t line_step, int32_t n, size_t step,
                       const struct box *box, uint8_t *scratch)
{
    uint8_t *second = scratch + n;

    for (size_t i = 0; i < n_lines; i++) {
        uint8_t *line = plane + i * line_step;
        box_line(scratch, line, step, n, box);
        box_line(second, scratch, 1, n, box);
        box_line(scratch, second, 1, n, box);
        for (int32_t x = 0; x < n; x++)
            line[(size_t)x * step] = scratch[x];
    }
}

void blur_across_plain(uint8_t *plane, int32_t width, int32_t height, const struct box *box,
                       uint8_t *scratch)
{
    blur_lines(plane, (size_t)height, (size_t)width, width, 1, box, scratch);
}

void blur_down_plain(uint8_t *plane, int32_t width, int32_t height, const struct box *box,
                     uint8_t *scratch)
{
    blur_lines(plane, (size_t)width, 1, height, (size_t)width, box, scratch);
}

/* ------------------------------------------------------------------------------ packing */

static void group_rows(uint8_t *out, const uint8_t *lines, size_t stride, size_t width)
{
    for (size_t x = 0; x < width; x++)
        for (size_t i = 0; i < 4; i++)
            memcpy(out + 16 * x + 4 * i, lines + i * stride + 4 * x, 4);
}

void interleave_plain(uint8_t *out, const uint8_t *const rgb[3], size_t n, bool mirrored)
{
    for (size_t i = 0; i < n; i++) {
        size_t from = mirrored ? n - 1 - i : i;
        for (size_t c = 0; c < 3; c++)
            out[3 * i + c] = rgb[c][from];
    }
}

const struct pixel_kernels pixel_kernels_plain = {
    .name = "none",
    .filter_weights = filter_weights,
    .pack_weights = pack_weights,
    .resample_across = resample_across,
    .resample_down = resample_down,
    .blend = blend,
    .solarize = solarize,
    .luma_sum = luma_sum,
    .grey = grey,
    .saturate = saturate,
    .hue = hue,
    .blur_across = blur_across_plain,
    .blur_down = blur_down_plain,
    .group_rows = group_rows,
    .affine_row = affine_row,
    .interleave = interleave_plain,
};

/* ------------------------------------------------------------------------------ choice */

const struct pixel_kernels *pixel_kernels_for(enum simd simd)
{
    switch (simd) {
    case SIMD_NONE:
        return &pixel_kernels_plain;
#ifdef __x86_64__
    case SIMD_SSE4:
        return __builtin_cpu_supports("sse4.1") ? &pixel_kernels_sse4 : NULL;
    case SIMD_AVX2:
        return __builtin_cpu_supports("avx2") ? &pixel_kernels_avx2 : NULL;
    case SIMD_AVX512:
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                       __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi")
                   ? &pixel_kernels_avx512
                   : NULL;
#endif
#ifdef __aarch64__
    case SIMD_NEON:
        return &pixel_kernels_neon;
#endif
    default:
        return NULL;
    }
}

const struct pixel_kernels *pixel_kernels_best(void)
{
    const char *wanted = getenv("IBOT_SIMD");

    for (int i = SIMD_COUNT - 1; i > 0; i--) {
        const struct pixel_kernels *kernels = pixel_kernels_for((enum simd)i);
        if (kernels != NULL && (wanted == NULL || strcmp(wanted, kernels->name) == 0))
            return kernels;
    }
    return &pixel_kernels_plain;
}
