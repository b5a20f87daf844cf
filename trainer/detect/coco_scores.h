/* Average precision and recall of detections, as COCO measures them: over ten thresholds of the
 * intersection over union (0.5, 0.55, …, 0.95), 101 levels of recall, and sizes of objects; of
 * each category, and their means. Detections of a picture and a category are matched to its
 * objects by falling score, each to the object it overlaps most; what lies in a crowd, or is
 * matched to an object of another size, counts neither way. Source: Lin et al. 2014 (COCO), its
 * detection challenge. */
#ifndef IBOT_TRAINER_DETECT_COCO_SCORES_H
#define IBOT_TRAINER_DETECT_COCO_SCORES_H

#include "trainer/detect/coco_data.h"

enum coco_overlap { COCO_BOXES, COCO_MASKS };

enum coco_size { COCO_ALL, COCO_SMALL, COCO_MEDIUM, COCO_LARGE, COCO_SIZES };
/* Areas of small objects end, those of large ones begin, px. */
enum { COCO_SMALL_AREA = 32 * 32, COCO_LARGE_AREA = 96 * 96 };

enum { COCO_THRESHOLDS = 10, COCO_RECALLS = 101, COCO_LIMITS = 3 };

/* Shares, 0 to 1; not a number where there are no objects. */
struct coco_scores {
    /* of at most 100 detections of a category in a picture */
    double precision[COCO_SIZES];
    double precision_50, precision_75; /* at those thresholds */
    double recall[COCO_SIZES];
    double recall_at[COCO_LIMITS]; /* of at most 1, 10, 100 detections, of all sizes */
    double category_precision[COCO_MAX_CATEGORIES];
};

/* Masks: each object and detection must have one (STATUS_INVALID names the first that has none),
 * and the size of a detection is the area of its mask. Errors: STATUS_NO_MEMORY. */
enum status coco_scores_compute(struct coco_scores *out, const struct coco_data *data,
                                const struct coco_detections *detections,
                                enum coco_overlap overlap) IBOT_WARN_UNUSED;

#endif
