/* Which images are compared with which. */
#ifndef IBOT_TRAINER_ANALYSIS_IMAGE_PAIRS_H
#define IBOT_TRAINER_ANALYSIS_IMAGE_PAIRS_H

#include "trainer/images.h"

struct image_pair {
    int64_t image[2];
};

/* Zeroed is valid and empty. */
struct image_pairs {
    struct image_pair *pairs;
    int64_t n;
    size_t capacity;
};

/* Each image with itself: two views of it. */
enum status image_pairs_of_views(struct image_pairs *out,
                                 const struct images *images) IBOT_WARN_UNUSED;

/* The first image of a class with its second, the third with its fourth, …, in the order of the
 * later one; images without classes count as one. Errors: STATUS_INVALID (there is none). */
enum status image_pairs_of_classes(struct image_pairs *out,
                                   const struct images *images) IBOT_WARN_UNUSED;

void image_pairs_release(struct image_pairs *pairs);

#endif
