/* OpenCV's 8-bit HSV: hue 0 .. 179 (half degrees), saturation and value 0 .. 255. Every byte is
 * OpenCV's (4 and 5, of rows of whole vectors on x86). */
#ifndef IBOT_OPS_PIXELS_OPENCV_HSV_H
#define IBOT_OPS_PIXELS_OPENCV_HSV_H

#include <stddef.h>
#include <stdint.h>

enum { OPENCV_HUES = 180 };

/* Of n pixels, there and back: saturation by a table, the hue shifted by 0 .. OPENCV_HUES - 1. */
void opencv_hsv_saturate(uint8_t *rgb, size_t n, const uint8_t saturation[256]);
void opencv_hsv_shift(uint8_t *rgb, size_t n, int32_t shift);

/* One pixel. */
void opencv_rgb_to_hsv(uint8_t hsv[3], const uint8_t rgb[3]);
void opencv_hsv_to_rgb(uint8_t rgb[3], const uint8_t hsv[3]);

#endif
