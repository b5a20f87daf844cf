/* The parts of struct detector, for detector.c, which plans it, detector_step.c, which trains it,
 * and detector_find.c. */
#ifndef IBOT_TRAINER_DETECT_DETECTOR_INTERNAL_H
#define IBOT_TRAINER_DETECT_DETECTOR_INTERNAL_H

#include "trainer/detect/detector.h"

extern const float detector_std[CASCADE_STAGES][4]; /* of the stages' box coding */

struct detector {
    struct detector_options options;
    struct classifier_decoder decoder;
    struct decoder_site at;
    struct conv_unit_site site;
    struct head_site heads;
    struct map_tables tables, region_tables;
    struct conv3x3_scratch scratch;
    struct map_pair cuts[REGION_LEVELS];

    struct feature_pyramid pyramid;
    struct proposal_head proposal;
    struct box_head box[CASCADE_STAGES];
    struct mask_head mask[CASCADE_STAGES];
    int64_t most_regions, most_masks; /* of a batch */
    struct tensor box_x, mask_x;      /* what is cut out: [R*49, C], [P*196, C] */
    float *mask_logits;               /* [P*784] of the regions' own classes, and their gradient */
    int32_t *mask_index;              /* where they are among all */

    int64_t images; /* at present */
    int32_t rows, columns;
    struct pyramid_level levels[PYRAMID_LEVELS];
    bool stored_fits; /* batch norms: as in upernet.h */

    /* On the host: what the heads say, and what is made of it. Pinned. */
    float *objectness, *anchor_shift, *d_objectness, *d_anchor_shift;
    float *classes, *shift, *d_classes, *d_shift, *class_sums;
    float *host_masks, *d_host_masks, *targets;
    int32_t *host_index;

    struct box_frame *frames; /* [images] */
    struct box *candidates;   /* [images, candidates_each] of the coming stage */
    int64_t candidates_each;
    int32_t *n_candidates; /* [images] */
    struct regions regions, positives;

    const struct detector_picture *pictures; /* of the coming step */
    struct detector_losses losses;
    struct detection *found;
    size_t found_capacity;
    int32_t n_found;
};

/* Proposals of all pictures to d->candidates; the maps of what the head says. */
enum status detector_propose(struct detector *d, const struct proposal_options *options,
                             struct proposal_maps *maps) IBOT_WARN_UNUSED;
/* Features of regions, n of them, sorted: to box_x or mask_x; and gradients back to the pyramid. */
enum status detector_cut(struct detector *d, const struct regions *regions, int32_t side,
                         struct tensor x) IBOT_WARN_UNUSED;
enum status detector_cut_backward(struct detector *d, const struct regions *regions, int32_t side,
                                  struct tensor d_x) IBOT_WARN_UNUSED;
/* What the box head of a stage says of n regions, to d->classes and d->shift. */
enum status detector_classify(struct detector *d, int32_t stage, int32_t n,
                              bool train) IBOT_WARN_UNUSED;
/* Logits of the masks of n regions, of a label each, to d->host_masks. */
enum status detector_draw(struct detector *d, int32_t stage,
                          const struct regions *regions) IBOT_WARN_UNUSED;
/* Region i's box, moved as d->shift says for its label (background: for the class that d->classes
 * has for the surest). */
struct box detector_moved(const struct detector *d, int32_t stage, const struct regions *regions,
                          int32_t i);
enum status detector_copy_out(struct detector *d, float *to, const float *from,
                              int64_t n) IBOT_WARN_UNUSED;

/* ---- detector_step.c ---- */
enum status detector_step(void *context, struct tensor taps, struct tensor d_taps,
                          float scale) IBOT_WARN_UNUSED;

#endif
