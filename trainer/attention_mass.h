/* The mass of a [CLS] token's attention over patches: which of them hold how much of it. */
#ifndef IBOT_TRAINER_ATTENTION_MASS_H
#define IBOT_TRAINER_ATTENTION_MASS_H

#include <stdint.h>

#include "proto/base/status.h"

/* keep [n] out: 1 for the patches that hold the share `threshold` of the mass: from the least
 * weight on, those at which the running sum, of 1 in all, exceeds 1 - threshold. weights are >= 0
 * and not all 0. Of equal weights the first counts as the less. Errors: STATUS_NO_MEMORY. */
enum status attention_threshold(uint8_t *keep, const float *weights, int32_t n,
                                double threshold) IBOT_WARN_UNUSED;

/* mean [n] out: of the maps [n_heads, n]. */
void attention_mean(float *mean, const float *maps, int32_t n_heads, int32_t n);

#endif
