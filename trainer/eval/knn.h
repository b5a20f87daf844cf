/* Weighted k-NN classification of features (Wu et al. 2018, as DINO and iBOT use it). */
#ifndef IBOT_TRAINER_EVAL_KNN_H
#define IBOT_TRAINER_EVAL_KNN_H

#include <stdatomic.h>

#include "ops/device.h"
#include "ops/op_table.h"

struct knn_result {
    int32_t k;
    int64_t top1, top5; /* test rows whose class is the first, or among the first five */
};

/* Each test row is given the class with the greatest sum of exp(similarity / temperature) over its
 * k nearest training rows; equal sums: the lower class.
 *   train [n, dim], test [m, dim] f32 host memory, rows of length 1; labels in 0 .. n_classes-1
 *   results[i].k in: up to n; top1, top5 out
 *   stop: ends it when it is not 0; NULL: nothing does
 * Errors: STATUS_INVALID (k beyond n), STATUS_INTERRUPTED, STATUS_NO_MEMORY, STATUS_DEVICE. */
struct knn_args {
    const float *train, *test;
    const int32_t *train_labels, *test_labels;
    int64_t n_train, n_test;
    int32_t dim, n_classes;
    float temperature;
    struct knn_result *results;
    int32_t n_results;
    const atomic_int *stop;
};
enum status knn_classify(struct device *device, const struct op_table *ops,
                         const struct knn_args *args) IBOT_WARN_UNUSED;

#endif
