/* Two sets of tensors side by side. */
#ifndef IBOT_TRAINER_WEIGHTS_WEIGHT_COMPARE_H
#define IBOT_TRAINER_WEIGHTS_WEIGHT_COMPARE_H

#include "trainer/weights/weight_file.h"

/* A tensor under the name to compare it by. */
struct weight_named {
    const char *name;
    const struct weight_entry *entry;
};

struct weight_set {
    const struct weight_file *file;
    struct weight_named *tensors; /* any order; sorted by weight_compare */
    size_t n;
};

enum weight_difference {
    WEIGHT_SAME,
    WEIGHT_ONLY_A,
    WEIGHT_ONLY_B,
    WEIGHT_SHAPE_DIFFERS,
    WEIGHT_VALUES_DIFFER, /* or the types do */
};

struct weight_comparison {
    enum weight_difference kind;
    const char *name;
    const struct weight_entry *a, *b;   /* NULL: not there */
    int64_t n_values, n_different;      /* more than the tolerance apart */
    double largest_difference, largest; /* |a - b|; |a| */
};

/* Calls `tell` for each name in order. Values are the same when |a - b| <= tolerance * max |a| (two
 * NaN are the same). One pair of tensors is in memory at a time. Errors: those of reading. */
enum status weight_compare(struct weight_set *a, struct weight_set *b, double tolerance,
                           void (*tell)(const struct weight_comparison *, void *),
                           void *context) IBOT_WARN_UNUSED;

#endif
