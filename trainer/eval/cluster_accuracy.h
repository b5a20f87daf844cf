/* Accuracy of clusters that nobody has named: under the one-to-one assignment of clusters to
 * classes that makes most samples right. */
#ifndef IBOT_TRAINER_EVAL_CLUSTER_ACCURACY_H
#define IBOT_TRAINER_EVAL_CLUSTER_ACCURACY_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

/* labels[i] and clusters[i] belong to the same sample. There may be more clusters than classes, or
 * fewer: what is left over is wrong. The number of right samples. Errors: STATUS_NO_MEMORY. */
enum status cluster_accuracy(int64_t *n_right, const int32_t *labels, const int32_t *clusters,
                             size_t n) IBOT_WARN_UNUSED;

#endif
