/* Affine transforms of a picture onto itself, and sharpening; every byte is Pillow's. */
#ifndef IBOT_OPS_PIXELS_AFFINE_H
#define IBOT_OPS_PIXELS_AFFINE_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/pixels/pixel_kernels.h"
#include "ops/pixels/planes.h"
#include "ops/pixels/scratch.h"
#include "proto/base/status.h"

/* Output pixel (x, y) is what the picture has at
 *   (m[0] x + m[1] y + m[2], m[3] x + m[4] y + m[5]), centres of pixels at halves. */
struct affine {
    double m[6];
    bool cubic;      /* else linear, in the four neighbours; neither is antialiased */
    uint8_t fill[3]; /* R, G, B where that lies outside the picture */
};

/* About the centre of a width x height picture, counter-clockwise, by -90 .. 90 degrees. The matrix
 * is Pillow's to the last bit, whatever sin and cos this machine's C library has. Returns false,
 * and leaves the matrix, where nothing turns. */
bool affine_rotation(struct affine *affine, int32_t width, int32_t height, double degrees);

/* work: taken for the picture as it was. Errors: STATUS_NO_MEMORY. */
enum status affine_apply(struct planes *planes, const struct affine *affine,
                         const struct pixel_kernels *kernels,
                         struct scratch *work) IBOT_WARN_UNUSED;

/* The picture blended with one that a 3 x 3 window smooths: factor 0 that one, 1 the picture
 * itself, 2 as far on the other side. Errors: STATUS_NO_MEMORY. */
enum status sharpness_apply(struct planes *planes, float factor,
                            struct scratch *work) IBOT_WARN_UNUSED;

#endif
