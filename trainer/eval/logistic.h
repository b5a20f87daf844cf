/* Multinomial logistic regression on features: how well a linear layer tells the classes of a
 * frozen backbone apart. The loss is that of the original's evaluation,
 *
 *   f(W) = mean over images of (logsumexp(W x) - (W x)[label]) + lambda / 2 |W|^2
 *
 * without an intercept. It is convex, so that the result does not depend on who minimises it; here
 * L-BFGS does, with products by the op table. */
#ifndef IBOT_TRAINER_EVAL_LOGISTIC_H
#define IBOT_TRAINER_EVAL_LOGISTIC_H

#include <stdatomic.h>

#include "ops/device.h"
#include "ops/op_table.h"

struct logistic_result {
    double lambda;        /* in: above 0 */
    double loss;          /* f at the end */
    double gradient_norm; /* there, as a share of that at W = 0 */
    double top1, top5;    /* percent */
    int32_t n_iterations;
};

/* Fits one classifier for each result, in their order, each from where the one before ended.
 *   train [n, dim], test [m, dim] f32 host memory; labels in 0 .. n_classes-1
 *   weight [n_results, n_classes, dim] f32 host memory out, or NULL
 * A classifier is done when its gradient is below `tolerance` of that at W = 0 (1e-4 is plenty),
 * or after max_iterations, or where float32 shows no lower point: gradient_norm and n_iterations
 * tell. stop: ends it when it is not 0; NULL: nothing does. Errors: STATUS_INVALID (a lambda of 0),
 * STATUS_INTERRUPTED, STATUS_NO_MEMORY, STATUS_DEVICE. */
struct logistic_args {
    const float *train, *test;
    const int32_t *train_labels, *test_labels;
    int64_t n_train, n_test;
    int32_t dim, n_classes, max_iterations, n_results;
    double tolerance;
    struct logistic_result *results;
    float *weight;
    const atomic_int *stop;
};
enum status logistic_classify(struct device *device, const struct op_table *ops,
                              const struct logistic_args *args) IBOT_WARN_UNUSED;

#endif
