/* Prediction masks: block-wise (BEiT's rectangles, as iBOT uses them) or random cells. */
#ifndef IBOT_LOADER_MASK_H
#define IBOT_LOADER_MASK_H

#include <stdint.h>

#include "proto/base/rng.h"
#include "proto/wire/data_spec.h"

/* The share of cells to mask: one of the ratios, each moved by up to its half-width; 0 before
 * pred_start_epoch. */
double mask_ratio_draw(struct rng *rng, const struct data_spec *spec, int32_t epoch);

/* cells [grid, grid] out, 0 or 1. Returns how many are 1. */
int32_t mask_draw(struct rng *rng, const struct data_spec *spec, double ratio, int32_t grid,
                  uint8_t *cells);

#endif
