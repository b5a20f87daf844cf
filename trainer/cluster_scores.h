/* How well clusters (the teacher's assignments) match labels, as scikit-learn measures it: any
 * number of classes and clusters, named by any integers. */
#ifndef IBOT_TRAINER_CLUSTER_SCORES_H
#define IBOT_TRAINER_CLUSTER_SCORES_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

struct cluster_scores {
    double nmi; /* normalised mutual information, arithmetic mean of the entropies */
    double ari; /* adjusted Rand index */
    double fmi; /* Fowlkes-Mallows index */
    int64_t n_clusters, n_classes;
};

/* labels[i] and clusters[i] belong to the same sample; n up to 2^31. Without samples, and with one
 * class and one cluster, nmi and ari are 1 as in scikit-learn. Allocates; at the end of an epoch.
 * Errors: STATUS_NO_MEMORY. */
enum status cluster_scores_compute(struct cluster_scores *out, const int32_t *labels,
                                   const int32_t *clusters, size_t n) IBOT_WARN_UNUSED;

#endif
