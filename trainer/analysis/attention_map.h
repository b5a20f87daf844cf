/* Where heads look: weights of the [CLS] token's attention over a grid of patches, cut at their
 * mass, and put together in one picture. Maps are [grid, grid], row-major. */
#ifndef IBOT_TRAINER_ANALYSIS_ATTENTION_MAP_H
#define IBOT_TRAINER_ANALYSIS_ATTENTION_MAP_H

#include "ops/pixels/canvas.h"

enum { ATTENTION_COLOURS = 6 }; /* heads that a picture can tell apart */

/* The colour of the i-th chosen head. */
extern const struct colour attention_colours[ATTENTION_COLOURS];

struct attention_composite {
    const float *maps;    /* [n_heads, grid, grid] */
    const uint8_t *keep;  /* the same */
    const int32_t *heads; /* [n] the chosen ones: numbers below n_heads */
    int32_t n, grid;
    const uint8_t *rgb; /* [size, size, 3] the image; size is a multiple of grid */
    int32_t size_px;
    double brightness; /* of the greyed image: 0.1 */
};

/* owner [grid, grid] out: which of the chosen heads looks most at a patch (the first of equals), by
 * its place in `heads`; -1: none has kept it. */
void attention_owners(int32_t *owner, const struct attention_composite *composite);

/* out [size, size, 3]: the greyed image; over it each head's colour where it looks most, the more
 * opaque the more it looks, as sqrt of its weight between the least and the greatest of its own;
 * not below a fifth of that range. Errors: STATUS_NO_MEMORY. */
enum status attention_compose(uint8_t *out,
                              const struct attention_composite *composite) IBOT_WARN_UNUSED;

#endif
