/* The schedule of learning rates, decays and momenta: a ramp, then a half cosine. */
#ifndef IBOT_TRAINER_COSINE_H
#define IBOT_TRAINER_COSINE_H

#include <stdint.h>

/* Linear from `start` to base over warmup steps (both ends included), then a half cosine from base
 * to final that never quite reaches it: entry `step` of the original's array of n_steps. */
double cosine_schedule(double start, double base, double final, int64_t warmup, int64_t n_steps,
                       int64_t step);

#endif
