/* Colour in integers and single precision. Source: the arithmetic of Pillow's Blend.c, Convert.c
 * and BoxBlur.c, as formulas. Products and sums are separate roundings: no contraction. */
#include "loader/photometric.h"

#include <math.h>
#include <string.h>

static uint8_t luma(const uint8_t *p)
{
    return (uint8_t)((19595 * p[0] + 38470 * p[1] + 7471 * p[2] + 32768) >> 16);
}

/* d + factor * (i - d), cut off towards zero; clamped only when it extrapolates. */
static uint8_t blend(uint8_t d, uint8_t i, float factor)
{
    if (factor == 0.0f)
        return d;
    if (factor == 1.0f)
        return i;
    float t = (float)d + factor * (float)((int)i - (int)d);
    if (factor > 0.0f && factor < 1.0f)
        return (uint8_t)t;
    return t <= 0.0f ? 0 : t >= 255.0f ? 255 : (uint8_t)t;
}

static void blend_constant(uint8_t *pixels, size_t n, uint8_t d, float factor)
{
    uint8_t table[256];

    for (int i = 0; i < 256; i++)
        table[i] = blend(d, (uint8_t)i, factor);
    for (size_t i = 0; i < 3 * n; i++)
        pixels[i] = table[pixels[i]];
}

void photometric_brightness(uint8_t *pixels, size_t n, float factor)
{
    blend_constant(pixels, n, 0, factor);
}

void photometric_contrast(uint8_t *pixels, size_t n, float factor)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += luma(pixels + 3 * i);
    blend_constant(pixels, n, (uint8_t)((double)sum / (double)n + 0.5), factor);
}

void photometric_saturation(uint8_t *pixels, size_t n, float factor)
{
    for (size_t i = 0; i < n; i++) {
        uint8_t *p = pixels + 3 * i, grey = luma(p);
        for (int c = 0; c < 3; c++)
            p[c] = blend(grey, p[c], factor);
    }
}

void photometric_grayscale(uint8_t *pixels, size_t n)
{
    for (size_t i = 0; i < n; i++)
        memset(pixels + 3 * i, luma(pixels + 3 * i), 3);
}

void photometric_solarize(uint8_t *pixels, size_t n, int32_t threshold)
{
    for (size_t i = 0; i < 3 * n; i++)
        pixels[i] = (uint8_t)(pixels[i] < threshold ? pixels[i] : 255 - pixels[i]);
}

/* ------------------------------------------------------------------------------ hue */

static uint8_t clip_byte(int value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void rgb_to_hsv(const uint8_t *p, uint8_t *hsv)
{
    int high = p[0] > p[1] ? p[0] : p[1], low = p[0] < p[1] ? p[0] : p[1];
    high = high > p[2] ? high : p[2];
    low = low < p[2] ? low : p[2];
    hsv[2] = (uint8_t)high;
    if (high == low) {
        hsv[0] = hsv[1] = 0;
        return;
    }
    float range = (float)(high - low), s = range / (float)high, h;
    float rc = (float)(high - p[0]) / range, gc = (float)(high - p[1]) / range;
    float bc = (float)(high - p[2]) / range;
    if (p[0] == high)
        h = bc - gc;
    else if (p[1] == high)
        h = (float)(2.0 + (double)rc - (double)bc);
    else
        h = (float)(4.0 + (double)gc - (double)rc);
    h = (float)fmod((double)h / 6.0 + 1.0, 1.0);
    hsv[0] = clip_byte((int)((double)h * 255.0));
    hsv[1] = clip_byte((int)((double)s * 255.0));
}

static void hsv_to_rgb(const uint8_t *hsv, uint8_t *rgb)
{
    uint8_t v = hsv[2];

    if (hsv[1] == 0) {
        memset(rgb, v, 3);
        return;
    }
    int k = (int)floor((double)hsv[0] * 6.0 / 255.0);
    float f = (float)((double)hsv[0] * 6.0 / 255.0 - (double)k);
    float fs = (float)((double)hsv[1] / 255.0);
    uint8_t p = clip_byte((int)round((double)v * (1.0 - (double)fs)));
    uint8_t q = clip_byte((int)round((double)v * (1.0 - (double)(fs * f))));
    uint8_t t = clip_byte((int)round((double)v * (1.0 - (double)fs * (1.0 - (double)f))));
    const uint8_t choices[6][3] = {{v, t, p}, {q, v, p}, {p, v, t},
                                   {p, q, v}, {t, p, v}, {v, p, q}};
    memcpy(rgb, choices[k % 6], 3);
}

void photometric_hue(uint8_t *pixels, size_t n, float factor)
{
    uint8_t shift = (uint8_t)(int)((double)factor * 255.0), hsv[3];

    for (size_t i = 0; i < n; i++) {
        rgb_to_hsv(pixels + 3 * i, hsv);
        hsv[0] = (uint8_t)(hsv[0] + shift);
        hsv_to_rgb(hsv, pixels + 3 * i);
    }
}

/* ------------------------------------------------------------------------------ flip, blur */

void photometric_flip(uint8_t *pixels, int32_t width, int32_t height)
{
    for (int32_t y = 0; y < height; y++) {
        uint8_t *row = pixels + (size_t)y * (size_t)width * 3;
        for (int32_t left = 0, right = width - 1; left < right; left++, right--)
            for (int c = 0; c < 3; c++) {
                uint8_t value = row[3 * left + c];
                row[3 * left + c] = row[3 * right + c];
                row[3 * right + c] = value;
            }
    }
}

/* Radius of the box whose three passes have the variance of a Gaussian. */
static float box_radius(float sigma)
{
    float s2 = sigma * sigma / 3.0f;
    float length = (float)sqrt(12.0 * (double)s2 + 1.0);
    float l = (float)floor(((double)length - 1.0) / 2.0);
    float a = (2.0f * l + 1.0f) * (l * (l + 1.0f) - 3.0f * s2);
    a /= 6.0f * (s2 - (l + 1.0f) * (l + 1.0f));
    return l + a;
}

struct box {
    int32_t radius;
    uint32_t inner, edge; /* weights in 2^24 */
};

/* One pass along lines of n pixels `step` bytes apart; three channels at a time. */
static void box_line(const uint8_t *from, uint8_t *to, int32_t n, size_t step,
                     const struct box *box)
{
    for (int32_t x = 0; x < n; x++)
        for (int c = 0; c < 3; c++) {
            uint32_t sum = 0, ends = 0;
            for (int32_t d = -box->radius - 1; d <= box->radius + 1; d++) {
                int32_t at = x + d < 0 ? 0 : x + d >= n ? n - 1 : x + d;
                uint32_t value = from[(size_t)at * step + (size_t)c];
                if (d == -box->radius - 1 || d == box->radius + 1)
                    ends += value;
                else
                    sum += value;
            }
            to[(size_t)x * step + (size_t)c] =
                (uint8_t)((sum * box->inner + ends * box->edge + (1u << 23)) >> 24);
        }
}

static void box_pass(const uint8_t *from, uint8_t *to, int32_t width, int32_t height, bool across,
                     const struct box *box)
{
    size_t row = 3 * (size_t)width;

    if (across)
        for (int32_t y = 0; y < height; y++)
            box_line(from + (size_t)y * row, to + (size_t)y * row, width, 3, box);
    else
        for (int32_t x = 0; x < width; x++)
            box_line(from + 3 * (size_t)x, to + 3 * (size_t)x, height, row, box);
}

void photometric_blur(uint8_t *pixels, int32_t width, int32_t height, float radius,
                      uint8_t *scratch)
{
    float rho = box_radius(radius);
    struct box box = {.radius = (int32_t)rho};

    box.inner = (uint32_t)((float)(1 << 24) / (rho * 2.0f + 1.0f));
    box.edge = ((1u << 24) - (uint32_t)(box.radius * 2 + 1) * box.inner) / 2;
    for (int pass = 0; pass < 6; pass++)
        box_pass(pass % 2 == 0 ? pixels : scratch, pass % 2 == 0 ? scratch : pixels, width, height,
                 pass < 3, &box);
}
