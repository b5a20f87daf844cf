/* OpenCV's resize of 8-bit RGB with its usual, bilinear interpolation: weights of 11 bits, no
 * antialiasing. Every byte is OpenCV's (4 and 5). */
#ifndef IBOT_OPS_PIXELS_OPENCV_RESIZE_H
#define IBOT_OPS_PIXELS_OPENCV_RESIZE_H

#include <stdint.h>

#include "proto/base/status.h"

/* from [height, width, 3], to [to_height, to_width, 3]; sides of 1 to 65536. Errors:
 * STATUS_NO_MEMORY. */
enum status opencv_resize(uint8_t *to, int32_t to_width, int32_t to_height, const uint8_t *from,
                          int32_t width, int32_t height) IBOT_WARN_UNUSED;

#endif
