/* How well the classes of pixels agree with the annotated ones: intersection over union and
 * accuracy of each class, over all pictures together, and their means. */
#ifndef IBOT_TRAINER_EVAL_SEGMENT_SCORES_H
#define IBOT_TRAINER_EVAL_SEGMENT_SCORES_H

#include <stdint.h>

enum { SEGMENT_MAX_CLASSES = 255, SEGMENT_IGNORED = 255 };

/* Pixels by class; zeroed: none. */
struct segment_counts {
    int64_t truth[SEGMENT_MAX_CLASSES], found[SEGMENT_MAX_CLASSES], both[SEGMENT_MAX_CLASSES];
};

/* Adds n pixels, but those whose truth is SEGMENT_IGNORED. Both are below SEGMENT_MAX_CLASSES. */
void segment_counts_add(struct segment_counts *counts, const uint8_t *found, const uint8_t *truth,
                        int64_t n);

struct segment_scores {
    int32_t n_classes;
    /* Not a number for a class that is in neither, or (accuracy) not annotated. */
    double iou[SEGMENT_MAX_CLASSES], accuracy[SEGMENT_MAX_CLASSES];
    /* Means over the classes that have one; the share of all pixels that are right. */
    double mean_iou, mean_accuracy, all_accuracy;
};

void segment_scores_of(struct segment_scores *out, const struct segment_counts *counts,
                       int32_t n_classes);

#endif
