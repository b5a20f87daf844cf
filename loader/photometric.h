/* Colour operations on packed RGB, 8 bits, in place; every byte is Pillow's/torchvision's. */
#ifndef IBOT_LOADER_PHOTOMETRIC_H
#define IBOT_LOADER_PHOTOMETRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* pixels [n, 3] */
void photometric_brightness(uint8_t *pixels, size_t n, float factor);
void photometric_contrast(uint8_t *pixels, size_t n, float factor);
void photometric_saturation(uint8_t *pixels, size_t n, float factor);
void photometric_hue(uint8_t *pixels, size_t n, float factor); /* of a turn, -0.5 .. 0.5 */
void photometric_grayscale(uint8_t *pixels, size_t n);
void photometric_solarize(uint8_t *pixels, size_t n, int32_t threshold);

/* pixels [height, width, 3] */
void photometric_flip(uint8_t *pixels, int32_t width, int32_t height);

/* Pillow's GaussianBlur(radius): three passes of an extended box per axis, horizontal first, 8 bits
 * after each. `scratch` holds as many bytes as the image. */
void photometric_blur(uint8_t *pixels, int32_t width, int32_t height, float radius,
                      uint8_t *scratch);

#endif
