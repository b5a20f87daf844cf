/* Colour operations on planes of bytes, in place; every byte is Pillow's/torchvision's. */
#ifndef IBOT_OPS_PIXELS_PHOTOMETRIC_H
#define IBOT_OPS_PIXELS_PHOTOMETRIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/pixels/pixel_kernels.h"
#include "ops/pixels/planes.h"
#include "ops/pixels/scratch.h"

/* What is done to a view, in this order. */
enum photometric_step {
    PHOTOMETRIC_JITTER = 1,
    PHOTOMETRIC_GRAYSCALE = 2,
    PHOTOMETRIC_BLUR = 4,
    PHOTOMETRIC_SOLARIZE = 8
};

enum { PHOTOMETRIC_PARAMS_BYTES = 32, PHOTOMETRIC_MAX_BLUR_RADIUS = 100 };

/* The same with its amounts. It travels as it lies in memory (little-endian). */
struct photometric_params {
    uint32_t steps;                              /* enum photometric_step, or-ed */
    float brightness, contrast, saturation, hue; /* of jitter; hue in turns, -0.5 .. 0.5 */
    float blur_radius;                           /* standard deviation, px */
    int32_t solarize_threshold;                  /* bytes from here on are inverted */
    uint8_t order[4]; /* of jitter: 0 brightness, 1 contrast, 2 saturation, 3 hue, 4 nothing */
};

/* Whether every number is one that the operations are defined for. */
bool photometric_params_are_sound(const struct photometric_params *params);

/* The same of n of them in a row, as they come from afar. Errors: STATUS_CORRUPT (names the crop).
 */
enum status photometric_params_check(const uint8_t *params, int64_t n) IBOT_WARN_UNUSED;

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

/* The named step of params, if it is among them. Errors: STATUS_NO_MEMORY. */
enum status photometric_step(struct photometric *photometric, struct planes *planes,
                             const struct photometric_params *params,
                             enum photometric_step step) IBOT_WARN_UNUSED;

/* All steps. */
enum status photometric_apply(struct photometric *photometric, struct planes *planes,
                              const struct photometric_params *params) IBOT_WARN_UNUSED;

/* Bytes of scratch that the blur of a width x height picture needs at most. */
size_t photometric_blur_bytes(int32_t width, int32_t height);

void photometric_release(struct photometric *photometric);

#endif
