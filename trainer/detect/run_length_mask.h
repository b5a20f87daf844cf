/* Masks of objects as COCO keeps them: lengths of runs of 0 and 1 in turn, beginning with 0, down
 * the columns of a picture, one column after the other. Polygons become the pixels that COCO's own
 * tools make of them. Source: Lin et al. 2014 (COCO), and its published mask format. */
#ifndef IBOT_TRAINER_DETECT_RUN_LENGTH_MASK_H
#define IBOT_TRAINER_DETECT_RUN_LENGTH_MASK_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { MASK_MAX_SIDE = 1 << 15 }; /* px */

/* Zeroed is valid and empty. Owned; runs sum up to height*width. */
struct run_length_mask {
    int32_t height, width;
    uint32_t *runs; /* [n], those of 1 at odd places */
    size_t n, capacity;
};

/* Corners x, y in turn, in px, the picture's top left corner being (0, 0). */
struct polygon {
    const double *xy; /* [2*n] */
    size_t n;
};

/* A box in px: left, top, width, height. */
struct mask_box {
    double x, y, width, height;
};

/* What is inside of any of the polygons. Errors of all: STATUS_NO_MEMORY; STATUS_CORRUPT: a corner
 * that isn't a number or is far outside. */
enum status run_length_mask_fill(struct run_length_mask *out, const struct polygon *polygons,
                                 size_t n, int32_t height, int32_t width) IBOT_WARN_UNUSED;

/* Runs as they are, or in COCO's text: of each run (from the third on its difference to the one two
 * before) five bits a character, the lowest first, the sixth telling that more follow, plus 48.
 * Errors: STATUS_CORRUPT: they don't sum up to the picture, or break the format. */
enum status run_length_mask_set(struct run_length_mask *out, const int64_t *runs, size_t n,
                                int32_t height, int32_t width) IBOT_WARN_UNUSED;
enum status run_length_mask_parse(struct run_length_mask *out, const char *text, int32_t height,
                                  int32_t width) IBOT_WARN_UNUSED;
/* The text, owned by the caller: memory_free. */
enum status run_length_mask_text(char **out, const struct run_length_mask *mask) IBOT_WARN_UNUSED;

/* bits [height, width], row by row: 0, or 1 (from: not 0). */
enum status run_length_mask_from_bits(struct run_length_mask *out, const uint8_t *bits,
                                      int32_t height, int32_t width) IBOT_WARN_UNUSED;
void run_length_mask_bits(const struct run_length_mask *mask, uint8_t *bits);

/* What is in a or b, of one size. */
enum status run_length_mask_join(struct run_length_mask *out, const struct run_length_mask *a,
                                 const struct run_length_mask *b) IBOT_WARN_UNUSED;

int64_t run_length_mask_area(const struct run_length_mask *mask); /* px */
/* Pixels that are in both masks, of one size. */
int64_t run_length_mask_overlap(const struct run_length_mask *a, const struct run_length_mask *b);
/* Around all of it; zeros when it is empty. */
struct mask_box run_length_mask_box(const struct run_length_mask *mask);

void run_length_mask_release(struct run_length_mask *mask);

#endif
