/* What the robustness benchmarks count: their classes among the 1000 of ImageNet, and their
 * measures. */
#ifndef IBOT_TRAINER_EVAL_ROBUSTNESS_SCORES_H
#define IBOT_TRAINER_EVAL_ROBUSTNESS_SCORES_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

enum {
    IMAGENET_CLASSES = 1000,
    IN9_CLASSES = 9,
    IMAGENET_A_CLASSES = 200,
    N_CORRUPTIONS = 19,         /* of ImageNet-C */
    N_STANDARD_CORRUPTIONS = 15 /* the first ones, of which AlexNet's errors are known */
};

/* The class of ImageNet-9 (dog, bird, wheeled vehicle, reptile, carnivore, insect, musical
 * instrument, primate, fish) that a class of ImageNet belongs to; -1: none. */
int32_t in9_class(int32_t imagenet_class);

/* Classes of ImageNet-A, in order, by their number in ImageNet. */
extern const int16_t imagenet_a_classes[IMAGENET_A_CLASSES];

struct corruption {
    const char *name;
    double alexnet_error; /* mean over the five severities; 0: of the extra ones */
};
extern const struct corruption corruptions[N_CORRUPTIONS];

/* The first of the greatest. */
int32_t argmax(const float *values, int32_t n);

/* Of the classes [n] alone: the place in `classes` of the greatest logit, and its probability. */
int32_t argmax_among(const float *logits, const int16_t *classes, int32_t n, double *probability);

/* Of n answers with a confidence each: how far confidence and accuracy lie apart, as the root of
 * the mean square over groups of `group` answers of like confidence (the last has what is left
 * over). The original leaves out the group of the greatest confidence; `all` takes it too. NaN
 * where no group is left. Errors: STATUS_NO_MEMORY. */
enum status calibration_error(double *out, const double *confidence, const bool *correct, int64_t n,
                              int64_t group, bool all) IBOT_WARN_UNUSED;

/* Area under the curve of accuracy against the share of questions that are answered, the most
 * confident first: the mean over all numbers of answers. Errors: STATUS_NO_MEMORY. */
enum status response_rate_accuracy(double *out, const double *confidence, const bool *correct,
                                   int64_t n) IBOT_WARN_UNUSED;

#endif
