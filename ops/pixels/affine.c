/* Source: the arithmetic of Pillow's Geometry.c, Image.rotate, Filter.c and Blend.c, as formulas.
 * Products and sums are separate roundings: no contraction. */
#include "ops/pixels/affine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- rotation ---- */

enum { FRACTION_BITS = 60 };

typedef __int128 wide;

static int64_t times(int64_t a, int64_t b)
{
    return (int64_t)(((wide)a * b) >> FRACTION_BITS);
}

/* sin and cos of |x| <= 2, as fractions of 2^60, by their series. Whole numbers give every machine
 * the same digits, with eight to spare behind those of a double. */
static void sine_cosine(int64_t x, int64_t *sine, int64_t *cosine)
{
    int64_t square = times(x, x), term_s = x, term_c = (int64_t)1 << FRACTION_BITS;

    *sine = *cosine = 0;
    for (int k = 1; term_s != 0 || term_c != 0; k += 2) {
        *sine += term_s;
        *cosine += term_c;
        term_c = -times(term_c, square) / (k * (k + 1));
        term_s = -times(term_s, square) / ((k + 1) * (k + 2));
    }
}

/* To the nearest double, then to 15 decimals, as Python rounds. */
static double to_decimals(int64_t fraction)
{
    char text[32];

    snprintf(text, sizeof(text), "%.15f", ldexp((double)fraction, -FRACTION_BITS));
    return strtod(text, NULL);
}

bool affine_rotation(struct affine *affine, int32_t width, int32_t height, double degrees)
{
    static const double pi = 3.14159265358979323846;
    static const int64_t two_pi_rest = 326490430436040986;     /* (2 pi - 6) 2^60 */
    double turned = degrees < 0.0 ? degrees + 360.0 : degrees; /* Python's degrees % 360 */
    double angle = -(turned * (pi / 180.0));
    int64_t sine, cosine;

    CHECK(degrees >= -90.0 && degrees <= 90.0, "a rotation by %g degrees", degrees);
    if (turned == 0.0 || turned == 360.0)
        return false;
    int64_t x = degrees < 0.0 ? (int64_t)ldexp(angle + 6.0, FRACTION_BITS) + two_pi_rest
                              : (int64_t)ldexp(angle, FRACTION_BITS);
    sine_cosine(x, &sine, &cosine);
    double *m = affine->m, dx = width / 2.0, dy = height / 2.0;
    m[0] = m[4] = to_decimals(cosine);
    m[1] = to_decimals(sine);
    m[3] = to_decimals(-sine);
    m[2] = m[0] * -dx + m[1] * -dy + 0.0 + dx;
    m[5] = m[3] * -dx + m[4] * -dy + 0.0 + dy;
    return true;
}

/* ---- sampling ---- */

enum status affine_apply(struct planes *planes, const struct affine *affine,
                         const struct pixel_kernels *kernels, struct scratch *work)
{
    size_t n = planes_n_pixels(planes), width = (size_t)planes->width;

    TRY(scratch_reserve(work, 4 * n * sizeof(int32_t), "a picture before it is transformed"));
    int32_t *pixels = work->memory;
    for (size_t i = 0; i < n; i++) {
        for (size_t c = 0; c < 3; c++)
            pixels[4 * i + c] = planes->channel[c][i];
        pixels[4 * i + 3] = 0;
    }
    struct affine_source source = {
        .pixels = pixels,
        .width = planes->width,
        .height = planes->height,
        .cubic = affine->cubic,
        .fill = {affine->fill[0], affine->fill[1], affine->fill[2]},
    };
    memcpy(source.m, affine->m, sizeof(source.m));
    for (int32_t y = 0; y < planes->height; y++) {
        uint8_t *const rows[3] = {planes->channel[0] + (size_t)y * width,
                                  planes->channel[1] + (size_t)y * width,
                                  planes->channel[2] + (size_t)y * width};
        kernels->affine_row(rows, &source, y);
    }
    return STATUS_OK;
}

/* ---- sharpness ---- */

/* The planes as they were: three in a row. */
static enum status keep(const struct planes *planes, struct scratch *work)
{
    size_t n = planes_n_pixels(planes);

    TRY(scratch_reserve(work, 3 * n, "a picture before it is transformed"));
    for (size_t c = 0; c < 3; c++)
        memcpy((uint8_t *)work->memory + c * n, planes->channel[c], n);
    return STATUS_OK;
}

/* d + factor * (byte - d), cut off towards zero. */
static uint8_t blend(uint8_t d, uint8_t byte, float factor)
{
    float value = (float)d + factor * (float)(byte - d);

    return (uint8_t)(value <= 0.0f ? 0.0f : value >= 255.0f ? 255.0f : value);
}

/* The window has 5 in its middle and 1 around, over 13; pixels at the edge stay, and so they do in
 * a blend with themselves. */
enum status sharpness_apply(struct planes *planes, float factor, struct scratch *work)
{
    size_t width = (size_t)planes->width, n = planes_n_pixels(planes);

    if (planes->width < 3 || planes->height < 3 || factor == 1.0f)
        return STATUS_OK;
    TRY(keep(planes, work));
    for (size_t c = 0; c < 3; c++) {
        const uint8_t *kept = (const uint8_t *)work->memory + c * n;
        for (size_t y = 1; y + 1 < (size_t)planes->height; y++) {
            const uint8_t *row = kept + y * width, *above = row - width, *below = row + width;
            uint8_t *out = planes->channel[c] + y * width;
            for (size_t x = 1; x + 1 < width; x++) {
                int32_t sum = above[x - 1] + above[x] + above[x + 1] + row[x - 1] + 5 * row[x] +
                              row[x + 1] + below[x - 1] + below[x] + below[x + 1];
                out[x] = blend((uint8_t)((2 * sum + 13) / 26), row[x], factor);
            }
        }
    }
    return STATUS_OK;
}
