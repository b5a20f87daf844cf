/* A cascade of region networks on a backbone's taps: finds objects in pictures, their boxes and
 * masks (Cascade Mask R-CNN). The networks compute on the device (region_heads.h); what they say is
 * few numbers, of which the host makes decisions, losses and their gradients, alike for every
 * backend.
 *
 *   taps ─ feature pyramid ─┬─ proposal head ──> proposals ─┐
 *                           └─ 7x7 of each region ─ box head 0 ──> classes, boxes ─ … box head 2
 *                           └─ 14x14 ─ mask head 0 … 2 ──> masks
 *
 * Each stage takes the boxes that the one before has moved, and wants more overlap with an object:
 * 0.5, 0.6, 0.7. Losses: of the proposals; of stage i, times 1, 0.5, 0.25, cross-entropy of the
 * class, 10 times 1 - GIoU of the box, binary cross-entropy of the mask of the object's class.
 * Sources: Cai and Vasconcelos 2018 (Cascade R-CNN), He et al. 2017 (Mask R-CNN); numbers as in the
 * spec of the original and mmdetection 2. */
#ifndef IBOT_TRAINER_DETECT_DETECTOR_H
#define IBOT_TRAINER_DETECT_DETECTOR_H

#include "trainer/detect/feature_pyramid.h"
#include "trainer/detect/region_bits.h"
#include "trainer/detect/region_heads.h"
#include "trainer/detect/regions.h"
#include "trainer/model/decoder.h"

struct detector_options {
    int32_t n_classes;
    int64_t channels, hidden; /* of the pyramid and the heads; of the box heads' layer */
    int32_t patch_px;
    struct proposal_options train, test;
    int32_t anchors, regions; /* of a picture in training */
    float least_score;        /* of a detection */
    float threshold;          /* of suppression among the detections of a class */
    int32_t detections;       /* of a picture, at most */
};
struct detector_options detector_options_default(void);

/* A picture of a batch: its part that is not padding, and in training what is in it. */
struct detector_picture {
    struct box_frame frame;
    struct region_truth truth;
    const struct region_bits *masks; /* [truth.n] */
    struct rng_key key;              /* of its random choices; purpose and view are set here */
};

struct detector_losses {
    double proposal_class, proposal_box;
    double class[CASCADE_STAGES], box[CASCADE_STAGES], mask[CASCADE_STAGES];
    double all; /* what was descended, of this batch */
};

/* A found object. mask: probabilities [MASK_SIDE, MASK_SIDE] of its box. */
struct detection {
    int32_t image, label;
    float score;
    struct box box;
    float mask[MASK_SIDE * MASK_SIDE];
};

struct detector; /* opaque */

/* What stands behind the taps of a classifier (trainer/model/decoder.h); the detector outlives it.
 * Errors: STATUS_INVALID, STATUS_NO_MEMORY. */
enum status detector_open(struct detector **out,
                          const struct detector_options *options) IBOT_WARN_UNUSED;
const struct classifier_decoder *detector_decoder(const struct detector *detector);

/* For the next classifier_accumulate: its pictures [n], borrowed until that is done. */
void detector_pictures(struct detector *detector, const struct detector_picture *pictures);
/* Losses of the last one. */
struct detector_losses detector_last_losses(const struct detector *detector);

/* Objects in pictures whose taps classifier_taps has made: by falling score, picture by picture,
 * owned by the detector until the next call. Errors: those of the ops, STATUS_NOT_FINITE. */
enum status detector_find(struct detector *detector, struct tensor taps,
                          const struct box_frame *frames, const struct detection **found,
                          int32_t *n_found) IBOT_WARN_UNUSED;

void detector_close(struct detector **detector);

#endif
