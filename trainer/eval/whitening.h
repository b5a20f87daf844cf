/* Whitening of features: centred, turned into principal directions, each of which is divided by the
 * square root of its share. As the original learns it: the mean is taken from what is whitened, and
 * not from the second moments that the directions are of; shares below 1e-5 of the greatest count
 * as that. Source: Jegou & Chum 2012. */
#ifndef IBOT_TRAINER_EVAL_WHITENING_H
#define IBOT_TRAINER_EVAL_WHITENING_H

#include <stdint.h>

#include "proto/base/status.h"

/* Zeroed is valid and empty. */
struct whitening {
    double *mean;       /* [dim] */
    double *directions; /* [dim, dim], one in each row, divided as above */
    int32_t dim;
};

/* From rows [n, dim], n > 0. Errors: STATUS_NOT_FINITE, STATUS_NO_MEMORY; *out is empty then. */
enum status whitening_learn(struct whitening *out, const float *rows, int64_t n,
                            int32_t dim) IBOT_WARN_UNUSED;

/* rows [n, dim], in place. Errors: STATUS_NO_MEMORY. */
enum status whitening_apply(const struct whitening *whitening, float *rows,
                            int64_t n) IBOT_WARN_UNUSED;
void whitening_release(struct whitening *whitening);

#endif
