/* To HSV in integers: quotients of 12 bits, rounded. Back in floats, as OpenCV's vector code does
 * it: products and sums of one rounding, and cut off at the end (its code for the last pixels of
 * rows that are no multiple of a vector rounds). */
#include "ops/pixels/opencv_hsv.h"

#include <math.h>

enum { BITS = 12 };

/* numerator / denominator of BITS bits; 0 of 0. */
static int32_t quotient(int32_t numerator, int32_t denominator)
{
    return denominator == 0 ? 0 : (int32_t)rint((double)(numerator << BITS) / (double)denominator);
}

static int32_t rounded(int32_t value)
{
    return (value + (1 << (BITS - 1))) >> BITS;
}

static int32_t max_of(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

void opencv_rgb_to_hsv(uint8_t hsv[3], const uint8_t rgb[3])
{
    int32_t r = rgb[0], g = rgb[1], b = rgb[2];
    int32_t value = max_of(r, max_of(g, b)), least = -max_of(-r, max_of(-g, -b));
    int32_t range = value - least;
    int32_t hue = value == r ? g - b : value == g ? b - r + 2 * range : r - g + 4 * range;

    hue = rounded(hue * quotient(OPENCV_HUES, 6 * range));
    hsv[0] = (uint8_t)(hue < 0 ? hue + OPENCV_HUES : hue);
    hsv[1] = (uint8_t)rounded(range * quotient(255, value));
    hsv[2] = (uint8_t)value;
}

void opencv_hsv_to_rgb(uint8_t rgb[3], const uint8_t hsv[3])
{
    /* which of `of` red, green and blue are, in each sixth of the circle */
    static const uint8_t which[6][3] = {{0, 3, 1}, {2, 0, 1}, {1, 0, 3},
                                        {1, 2, 0}, {3, 1, 0}, {0, 1, 2}};
    float hue = (float)hsv[0] * (6.0f / OPENCV_HUES), saturation = (float)hsv[1] * (1.0f / 255.0f);
    float value = (float)hsv[2] * (1.0f / 255.0f);
    int sixth = (int)floorf(hue);
    float part = hue - (float)sixth;
    const float of[4] = {value, value * (1.0f - saturation), value * fmaf(-saturation, part, 1.0f),
                         value * fmaf(-saturation, 1.0f - part, 1.0f)};

    for (int c = 0; c < 3; c++)
        rgb[c] = (uint8_t)(of[which[sixth % 6][c]] * 255.0f);
}

void opencv_hsv_saturate(uint8_t *rgb, size_t n, const uint8_t saturation[256])
{
    for (size_t i = 0; i < n; i++, rgb += 3) {
        uint8_t hsv[3];
        opencv_rgb_to_hsv(hsv, rgb);
        hsv[1] = saturation[hsv[1]];
        opencv_hsv_to_rgb(rgb, hsv);
    }
}

void opencv_hsv_shift(uint8_t *rgb, size_t n, int32_t shift)
{
    for (size_t i = 0; i < n; i++, rgb += 3) {
        uint8_t hsv[3];
        opencv_rgb_to_hsv(hsv, rgb);
        hsv[0] = (uint8_t)((hsv[0] + shift) % OPENCV_HUES);
        opencv_hsv_to_rgb(rgb, hsv);
    }
}
