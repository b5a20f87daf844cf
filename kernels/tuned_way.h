/* Which of a few ways of doing one thing is the fastest on a device: measured as algorithms of
 * matrix products are, and kept in the same file (matmul_cache.h) under a name, the way's number as
 * the algorithm's first byte. */
#ifndef IBOT_KERNELS_TUNED_WAY_H
#define IBOT_KERNELS_TUNED_WAY_H

#include "kernels/matmul_plan.h"
#include "kernels/tuning_clock.h"

struct tuned_ways {
    const char *name;         /* printable, shorter than MATMUL_PRODUCT_TEXT */
    const char *const *names; /* of the ways, for the log */
    int n; /* of them, at least two; way 0 stays when the others gain too little */
    struct tuning_work work;
};

/* What the file has, if anything. */
bool tuned_way_recall(const struct matmul_tuning *tuning, const struct tuned_ways *ways, int *way);

/* Measures each way, after it has run once, unless another process has kept a choice meanwhile;
 * keeps the fastest, or takes over what came in between. Waits for the device; not in a capture. */
enum status tuned_way_measure(struct matmul_tuning *tuning, struct device *device,
                              const struct tuned_ways *ways, int *way) IBOT_WARN_UNUSED;

#endif
