/* Pictures of which a part is lost, or is elsewhere: cells of a grid that are dropped or change
 * places, patches that are dropped by the attention on them. Squares of size_px; what is dropped is
 * 0 after normalisation, which is the mean colour.
 *
 * Source: the original's analysis/occlusion, after Naseer et al. 2021, "Intriguing Properties of
 * Vision Transformers". */
#ifndef IBOT_TRAINER_EVAL_OCCLUSION_H
#define IBOT_TRAINER_EVAL_OCCLUSION_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/rng.h"
#include "proto/base/status.h"

enum { CELL_GRID_MAX = 256 }; /* cells along a side */

struct cell_grid {
    int32_t rows, columns;
};

/* "4x8": 4 rows, 8 columns; "14" is 14x14. Errors: STATUS_INVALID (it is no such text, or does not
 * divide the picture evenly). */
enum status cell_grid_parse(struct cell_grid *out, const char *text,
                            int32_t size_px) IBOT_WARN_UNUSED;

/* How many of n cells are a share of them: the whole ones, as floor(ratio n). */
int32_t cell_count(double ratio, int32_t n);

/* order [n] out: 0 .. n-1 in a random order, all orders alike. */
void cell_permutation(int32_t *order, int32_t n, struct rng_key key);

/* keep [size, size] out: 0 in the cells, which lie offset_px further down and right (what leaves
 * the picture there is lost), 1 elsewhere. */
void keep_outside_cells(uint8_t *keep, int32_t size_px, struct cell_grid grid, const int32_t *cells,
                        int32_t n_cells, int32_t offset_px);

/* keep [size, size] out: of the patches [side, side] that `chosen` says are 1, or, not `inside`,
 * of the others; side divides size. */
void keep_patches(uint8_t *keep, int32_t size_px, const uint8_t *chosen, int32_t side, bool inside);

/* Share of the pixels that are not kept. */
double share_dropped(const uint8_t *keep, int32_t size_px);

/* values [3, size, size]: 0 where keep is. */
void drop_pixels(float *values, const uint8_t *keep, int32_t size_px);

/* out [size, size, 3]: cell i is the cell order[i] of rgb. */
void shuffle_cells(uint8_t *out, const uint8_t *rgb, int32_t size_px, struct cell_grid grid,
                   const int32_t *order);

#endif
