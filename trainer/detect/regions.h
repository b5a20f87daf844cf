/* Regions of pictures whose features are cut out of a pyramid: which they are in training, on which
 * level each lies, and the tables to cut them out. */
#ifndef IBOT_TRAINER_DETECT_REGIONS_H
#define IBOT_TRAINER_DETECT_REGIONS_H

#include "trainer/detect/anchors.h"
#include "trainer/detect/proposals.h"
#include "trainer/model/map_tables.h"

enum { REGION_LEVELS = 4 };

struct region {
    int32_t image;
    struct box box;
    int32_t object; /* of its picture; REGION_BACKGROUND; REGION_UNUSED: it fills up */
    int32_t label;  /* the object's class; the number of classes: background */
    bool truth;     /* it is the object's annotated box */
    int32_t origin; /* which it was before they were sorted */
};

/* Zeroed is valid and empty. */
struct regions {
    struct region *items; /* [n] level by level */
    int32_t n, on_level[REGION_LEVELS];
    size_t capacity;
};

/* Level by the size of the box: 56 px and less on the finest one, twice that on the next, … */
int32_t region_level(const struct box *box);

/* Its origin is the number that it gets. */
enum status regions_add(struct regions *regions, const struct region *item) IBOT_WARN_UNUSED;
/* Back to the order of their origins. */
enum status regions_unsort(struct regions *regions) IBOT_WARN_UNUSED;
/* Brings them in the order of their levels: of a level as they were. */
enum status regions_sort(struct regions *regions) IBOT_WARN_UNUSED;
void regions_clear(struct regions *regions);
void regions_release(struct regions *regions);

/* What is trained on in a picture: a choice of `all` of its candidates and annotated boxes, a
 * quarter of them with objects where there are so many, which overlap by `overlap` or more. Where
 * there are fewer than `all`, the last ones are repeated, unused. */
struct region_choice {
    int32_t all, n_classes;
    float overlap;
};
enum status regions_choose(struct regions *regions, int32_t image, const struct box *candidates,
                           int32_t n, const struct region_truth *truth,
                           const struct region_choice *how, struct rng *rng) IBOT_WARN_UNUSED;

/* Tables of `side` x `side` bins for the regions of each level, of maps of n pictures. */
enum status regions_tables(struct map_tables *tables, struct map_pair pairs[REGION_LEVELS],
                           const struct regions *regions, int32_t side, int32_t n,
                           const struct pyramid_level *levels) IBOT_WARN_UNUSED;

#endif
