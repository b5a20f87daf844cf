/* Colour operations on planes of bytes, in place; every byte is Pillow's/torchvision's. */
#ifndef IBOT_LOADER_PHOTOMETRIC_H
#define IBOT_LOADER_PHOTOMETRIC_H

#include <stddef.h>
#include <stdint.h>

#include "loader/pixel_kernels.h"
#include "loader/planes.h"
#include "loader/scratch.h"

/* One thread's tools. Zeroed but for the kernels is valid and empty. */
struct photometric {
    const struct pixel_kernels *kernels;
    struct scratch blur;
};

void photometric_brightness(struct photometric *photometric, struct planes *planes, float factor);
void photometric_contrast(struct photometric *photometric, struct planes *planes, float factor);
void photometric_saturation(struct photometric *photometric, struct planes *planes, float factor);
void photometric_hue(struct photometric *photometric, struct planes *planes,
                     float turns); /* -0.5 .. 0.5 */
void photometric_grayscale(struct photometric *photometric, struct planes *planes);
void photometric_solarize(struct photometric *photometric, struct planes *planes,
                          int32_t threshold);

/* Pillow's GaussianBlur(radius): three passes of an extended box per axis, horizontal first, 8 bits
 * after each. Errors: STATUS_NO_MEMORY. */
enum status photometric_blur(struct photometric *photometric, struct planes *planes,
                             float radius) IBOT_WARN_UNUSED;

void photometric_release(struct photometric *photometric);

#endif
