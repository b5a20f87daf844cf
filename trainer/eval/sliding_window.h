/* The classes of a picture's pixels from the logits of windows that slide over it.
 *
 *   picture ─ resized ─ windows, which overlap ─ network ─> a coarse map of logits of each window
 *
 * Each map is scaled up to its window (bilinear, half-pixel centres), windows are averaged where
 * they overlap, the whole is scaled to the picture's own size, and the greatest takes the pixel.
 * All of this is linear up to the last step, and along rows and columns apart: a pixel's logits are
 * a weighted sum of few cells. So nothing of the picture's size times the classes is in memory.
 *
 * A picture that was seen at several sizes, or mirrored too, has maps of each: then the greatest
 * sum of their softmaxes takes the pixel. */
#ifndef IBOT_TRAINER_EVAL_SLIDING_WINDOW_H
#define IBOT_TRAINER_EVAL_SLIDING_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

enum {
    WINDOWS_MAX = 1024,    /* along a side */
    WINDOWS_MAX_MAPS = 16, /* of a picture */
};

/* Along one side: windows of `window` px (of all, where there is less) every `stride` px, the last
 * one moved back to where it ends with the picture. */
struct windows {
    int32_t n, window;
    int32_t first[WINDOWS_MAX]; /* px */
};

/* stride <= window. Errors: STATUS_INVALID (more than WINDOWS_MAX). */
enum status windows_plan(struct windows *out, int32_t length_px, int32_t window_px,
                         int32_t stride_px) IBOT_WARN_UNUSED;

/* Of a picture as it was seen once. */
struct window_maps {
    const float *logits; /* [down.n, across.n, rows, columns, K] */
    const struct windows *down, *across;
    int32_t rows, columns; /* cells of a window */
    int32_t n_classes;     /* K, 1 .. 256 */
    int32_t height, width; /* of the picture that windows slide over */
    bool mirrored;         /* left and right of it */
};

/* maps [n_maps], 1 .. WINDOWS_MAX_MAPS, of the same classes. labels [to_height, to_width] out: of
 * equal classes the first. values [to_height, to_width, K] out, or NULL: logits, or of several maps
 * the sum of softmaxes. Errors: STATUS_NO_MEMORY. */
enum status window_maps_classify(uint8_t *labels, float *values, int32_t to_width,
                                 int32_t to_height, const struct window_maps *maps,
                                 int32_t n_maps) IBOT_WARN_UNUSED;

#endif
