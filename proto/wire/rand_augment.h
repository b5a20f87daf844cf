/* RandAugment (Cubuk et al. 2020) as timm parametrises it: how many operations, how strong. What is
 * drawn from it and done to pixels is in loader/rand_augment.h. */
#ifndef IBOT_PROTO_WIRE_RAND_AUGMENT_H
#define IBOT_PROTO_WIRE_RAND_AUGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

enum {
    RAND_AUGMENT_MAX_OPS = 8,
    RAND_AUGMENT_MAX_MAGNITUDE = 10,
    RAND_AUGMENT_UNIFORM_STD = 100, /* above it magnitudes are uniform in 0 .. magnitude */
};

/* Zeroed: no RandAugment. */
struct rand_augment {
    int32_t n_ops; /* drawn for each view, with replacement; 0: none, and nothing below counts */
    float probability;   /* that a drawn operation is applied */
    float magnitude;     /* 0 .. 10 */
    float magnitude_std; /* of the normal that each magnitude is drawn from, held to 0 .. 10 */
    bool increasing;     /* the operations that all grow stronger with the magnitude */
    int32_t fill[3];     /* R, G, B of what comes in from outside the picture */
};

/* The official parameters, rand-m9-mstd0.5-inc1: two operations, each applied half the time, filled
 * with the mean colour of ImageNet. */
struct rand_augment rand_augment_official(void);

/* The parameters as timm writes them: "rand-m9-mstd0.5-inc1", in any order after "rand":
 *   mN     magnitude, an integer (10)           nN     operations (2)
 *   mstdX  standard deviation (0)               pX     probability (0.5)
 *   inc0|inc1  which set of operations (inc0)
 * The fill stays that of rand_augment_official. Errors: STATUS_INVALID (names the section). */
enum status rand_augment_parse(struct rand_augment *out, const char *text) IBOT_WARN_UNUSED;

/* Errors: STATUS_INVALID (names the field). */
enum status rand_augment_check(const struct rand_augment *rand_augment) IBOT_WARN_UNUSED;

#endif
