/* Which boxes stand for which objects in training, and which of them are taken: each box for the
 * object that it overlaps most, if that is enough; of both kinds a random few. Source: Ren et al.
 * 2015 (Faster R-CNN), Cai and Vasconcelos 2018 (Cascade R-CNN). */
#ifndef IBOT_TRAINER_DETECT_REGION_TARGETS_H
#define IBOT_TRAINER_DETECT_REGION_TARGETS_H

#include "proto/base/rng.h"
#include "trainer/detect/boxes.h"

enum { REGION_BACKGROUND = -1, REGION_UNUSED = -2 };

struct region_assignment {
    float positive;  /* overlaps from here on stand for the object, */
    float negative;  /* those below for none, what is between is not used */
    float least;     /* from here on, the boxes that overlap an object most stand for it */
    bool best_boxes; /* … whatever else they overlap; false: `least` means nothing */
};

/* object [n]: of each box the number of its object, REGION_BACKGROUND, or REGION_UNUSED; as are
 * those that `usable` [n] says 0 for (NULL: all are). */
void region_assign(int32_t *object, const struct box *boxes, const uint8_t *usable, int64_t n,
                   const struct box *objects, int32_t n_objects,
                   const struct region_assignment *how);

/* A random choice of boxes: at most `positives` of those with an object, and of the background as
 * many as make it `all`, or as there are. Those that stand for an object come first, each kind in
 * rising order. chosen [all] */
struct region_sample {
    int64_t *chosen;
    int32_t n, n_positive;
};
enum status region_sample(struct region_sample *out, const int32_t *object, int64_t n,
                          int32_t positives, int32_t all, struct rng *rng) IBOT_WARN_UNUSED;

#endif
