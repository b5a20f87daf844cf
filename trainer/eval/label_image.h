/* Images of labels: PNG files whose pixels are numbers of objects, with a palette for the eye. */
#ifndef IBOT_TRAINER_EVAL_LABEL_IMAGE_H
#define IBOT_TRAINER_EVAL_LABEL_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { LABEL_IMAGE_MAX_SIDE = 16384, LABEL_IMAGE_MAX_PIXELS = 60000000, LABEL_COLOURS = 256 };

/* Zeroed is valid and empty. */
struct label_image {
    uint8_t *labels; /* [height, width], owned */
    int32_t width, height;
    uint8_t palette[LABEL_COLOURS][3];
};

/* Room for width x height labels, which are then undefined; the palette is that of PASCAL VOC,
 * which DAVIS has too. Errors: STATUS_NO_MEMORY. */
enum status label_image_open(struct label_image *out, int32_t width,
                             int32_t height) IBOT_WARN_UNUSED;

/* A PNG with a palette, whose indices are the labels, or of grey of at most 8 bits, whose values
 * are. Errors: STATUS_CORRUPT, STATUS_UNSUPPORTED (true colour, 16 bits; no PNG in this build),
 * STATUS_NO_MEMORY; of a file also STATUS_NOT_FOUND, STATUS_IO, and the text names it. */
enum status label_image_decode(struct label_image *out, const void *bytes,
                               size_t n_bytes) IBOT_WARN_UNUSED;
enum status label_image_read(struct label_image *out, const char *path) IBOT_WARN_UNUSED;

/* 8 bits with a palette; the file appears in one go. Errors: STATUS_IO, STATUS_NO_MEMORY. */
enum status label_image_write(const struct label_image *image, const char *path) IBOT_WARN_UNUSED;

void label_image_release(struct label_image *image);

#endif
