/* Which patch of one picture is most like a patch of another one, and, of two views of one image,
 * whether it is the same place. Patches of a grid x grid are numbered row by row. */
#ifndef IBOT_TRAINER_ANALYSIS_CORRESPONDENCE_H
#define IBOT_TRAINER_ANALYSIS_CORRESPONDENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "trainer/image_box.h"

/* match [n] out: for each row of from [n, dim] the row of to [n, dim] with the greatest dot product
 * (the first of equals). Not the cosine: long tokens attract, as in the original. */
void correspondence_match(int32_t *match, const float *from, const float *to, int32_t n,
                          int32_t dim);

/* truth [grid * grid] out: the patch of view b in which the centre of a patch of view a lies; -1:
 * outside of b. */
void correspondence_truth(int32_t *truth, const struct image_box *a, const struct image_box *b,
                          int32_t grid);

/* Whether two patches are at most `radius` rows and columns apart. */
bool correspondence_is_near(int32_t patch, int32_t other, int32_t grid, int32_t radius);

struct correspondence_score {
    int64_t n_overlapping, n_correct;
};

/* Adds the patches of one pair that have a truth, and those of them whose match is near it. */
void correspondence_add(struct correspondence_score *score, const int32_t *match,
                        const int32_t *truth, int32_t grid, int32_t radius);

/* chosen [at most n_wanted] out, greatest weight first (the first of equals): patches of n with a
 * truth, all of them where `truth` is NULL. Returns how many. */
int32_t correspondence_choose(int32_t *chosen, int32_t n_wanted, const float *weight,
                              const int32_t *truth, int32_t n);

/* out [grid, grid]: a map of another grid, by the nearest of its cells. */
void correspondence_regrid(float *out, int32_t grid, const float *map, int32_t map_grid);

#endif
