/* Two pictures side by side, and lines between their patches. */
#ifndef IBOT_TRAINER_ANALYSIS_CORRESPONDENCE_PICTURE_H
#define IBOT_TRAINER_ANALYSIS_CORRESPONDENCE_PICTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

struct correspondence_line {
    int32_t from, to; /* patches of the left and the right picture */
    bool wrong;       /* known to be another place: drawn thin */
};

struct correspondence_view {
    const uint8_t *left, *right; /* [size, size, 3] */
    int32_t size_px, grid;
    const struct correspondence_line *lines;
    int32_t n_lines;
    const char *caption;
};

/* Errors: those of canvas_save_png. */
enum status correspondence_picture_save(const struct correspondence_view *view,
                                        const char *path) IBOT_WARN_UNUSED;

#endif
