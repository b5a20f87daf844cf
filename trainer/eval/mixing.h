/* How a batch of labelled images is mixed and erased: the draws of mixup, CutMix (batch mode) and
 * random erasing, each a pure function of (seed, batch of the run, rank), so that a run that is
 * interrupted goes on with the same ones. ops/patch_mix.h does it. */
#ifndef IBOT_TRAINER_EVAL_MIXING_H
#define IBOT_TRAINER_EVAL_MIXING_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/patch_mix.h"
#include "proto/base/rng.h"

struct mixing_options {
    double mixup, cutmix;      /* alpha of the share's Beta(alpha, alpha); 0: never */
    double probability;        /* that a batch is mixed at all */
    double switch_probability; /* of CutMix where both are on */
    double erase_probability;  /* of an image */
    int32_t side_px;           /* of the images */
    uint64_t seed;
    /* Ranks mix each its own batch, in ways of its own; an image is erased whichever rank has it.
     * Image i of a rank is the one with the number rank + i n_ranks of all. 0 of 0: alone. */
    uint32_t rank, n_ranks;
};

/* Of one batch: mixed or not; what the op does; the share of an image's own label, which after
 * CutMix is that of its own pixels. mix->seed and step are set for the noise, too. */
struct mixing {
    bool mixed;
    struct patch_mix mix;
    float label_share;
};

struct mixing mixing_draw(const struct mixing_options *options, int64_t batch);

/* Boxes of n images: area 2 % to a third of the image, aspect 0.3 to 1/0.3, both drawn again up to
 * ten times while the box does not fit; empty where nothing is erased. True: one is not empty. */
bool mixing_draw_boxes(const struct mixing_options *options, int64_t batch, int32_t n,
                       struct pixel_box *out);

/* Beta(alpha, alpha), alpha > 0, by two gamma variates (Marsaglia and Tsang 2000). */
double mixing_draw_beta(struct rng *rng, double alpha);

#endif
