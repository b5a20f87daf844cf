/* RandAugment: which operations are drawn for a view, and what they do to its pixels. The
 * parameters are in proto/wire/rand_augment.h. Every byte is that of timm's operations on Pillow's
 * pictures. */
#ifndef IBOT_LOADER_RAND_AUGMENT_H
#define IBOT_LOADER_RAND_AUGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/pixels/photometric.h"
#include "ops/pixels/planes.h"
#include "ops/pixels/scratch.h"
#include "proto/base/rng.h"
#include "proto/wire/data_spec.h"

/* Numbered as they are drawn. Posterize to sharpness differ between the increasing operations and
 * the others in what they make of a magnitude, not in what they do. */
enum rand_augment_op {
    RAND_AUTOCONTRAST,
    RAND_EQUALIZE,
    RAND_INVERT,
    RAND_ROTATE,       /* degrees, counter-clockwise */
    RAND_POSTERIZE,    /* bits that are kept */
    RAND_SOLARIZE,     /* threshold */
    RAND_SOLARIZE_ADD, /* amount */
    RAND_COLOR,        /* factors: 0 .. 2, 1 changes nothing */
    RAND_CONTRAST,
    RAND_BRIGHTNESS,
    RAND_SHARPNESS,
    RAND_SHEAR_X, /* columns that a row moves to the left, for each row further down */
    RAND_SHEAR_Y,
    RAND_TRANSLATE_X, /* to the left, as a share of the side */
    RAND_TRANSLATE_Y,
    RAND_AUGMENT_OPS
};

extern const char *const rand_augment_names[RAND_AUGMENT_OPS]; /* "rotate" */

/* One operation with its amount, where it has one. */
struct rand_augment_step {
    enum rand_augment_op op;
    double amount;
    bool cubic;      /* of rotations, shears and translations: else linear */
    uint8_t fill[3]; /* of the same */
};

/* Whether an operation has an amount. */
bool rand_augment_has_amount(enum rand_augment_op op);

/* Whether it moves pixels, and so interpolates. */
bool rand_augment_is_geometric(enum rand_augment_op op);

/* The amount that an operation has at a magnitude of 0 .. 10; 0 where it has none. negative: of
 * those that go either way. */
double rand_augment_amount(enum rand_augment_op op, double magnitude, bool increasing,
                           bool negative);

/* steps [RAND_AUGMENT_MAX_OPS] out: what is applied, in this order. Returns how many. */
int32_t rand_augment_draw(struct rng *rng, struct rand_augment_step *steps,
                          const struct rand_augment *rand_augment,
                          enum interpolation interpolation);

/* In place. photometric: its kernels are used. Errors: STATUS_NO_MEMORY. */
enum status rand_augment_apply(struct planes *planes, const struct rand_augment_step *step,
                               struct photometric *photometric,
                               struct scratch *work) IBOT_WARN_UNUSED;

#endif
