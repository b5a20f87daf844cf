/* Pictures of files as rectangles of RGB, upright, for evaluations that read them themselves: in
 * order or with labels beside them, which is not what loaders make. */
#ifndef IBOT_TRAINER_EVAL_PICTURE_FILE_H
#define IBOT_TRAINER_EVAL_PICTURE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

/* Memory is kept for the next. Zeroed is valid and empty. */
struct picture {
    uint8_t *rgb; /* [height, width, 3], owned */
    int32_t width, height;
    size_t n_bytes; /* there is room for */
};
/* Room for width x height px, which are then undefined. Errors: STATUS_NO_MEMORY. */
enum status picture_reserve(struct picture *out, int32_t width, int32_t height) IBOT_WARN_UNUSED;
void picture_release(struct picture *picture);

struct picture_readers; /* opaque */
/* n of them, for as many threads. Errors: STATUS_NO_MEMORY, and what the image library says. */
enum status picture_readers_open(struct picture_readers **out, int n) IBOT_WARN_UNUSED;
void picture_readers_close(struct picture_readers **readers);

/* By reader number `which`: decoded with the loader's own code, turned as the file says. Errors:
 * STATUS_NOT_FOUND, STATUS_CORRUPT, STATUS_UNSUPPORTED, STATUS_IO, STATUS_NO_MEMORY; the text names
 * the file. */
enum status picture_read(struct picture_readers *readers, int which, struct picture *out,
                         const char *path) IBOT_WARN_UNUSED;

/* As OpenCV does it, bilinear. Errors: STATUS_NO_MEMORY. */
enum status picture_resize(struct picture *out, const struct picture *from, int32_t width,
                           int32_t height) IBOT_WARN_UNUSED;

#endif
