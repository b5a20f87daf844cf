/* Decoding: bytes of a file to RGB, 8 bits, rows packed. JPEG through libjpeg-turbo, by the
 * settings of Pillow (slow integer DCT, fancy upsampling); everything else through libvips with
 * loaders for untrusted data blocked. The type is told by content. Conversions to RGB are Pillow's:
 * grey is replicated, alpha dropped, CMYK taken as inverted. EXIF orientation is ignored, as the
 * original does. */
#ifndef IBOT_LOADER_IMAGE_H
#define IBOT_LOADER_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum {
    IMAGE_MAX_SIDE_PX = 65500,
    IMAGE_MAX_PIXELS = 178956970, /* where Pillow refuses */
    IMAGE_MAX_FILE_BYTES = 1 << 30,
    IMAGE_MAX_SCANS = 100, /* of a progressive JPEG */
};

/* A decoded image; the buffer is kept and reused. Zeroed is valid and empty. */
struct image {
    uint8_t *pixels; /* [height, width, 3] */
    int32_t width, height;
    size_t capacity; /* bytes */
};

/* One thread's decoder: handles and buffers that are reused. Opaque. */
struct image_decoder;

/* Once per process, before any decoder: starts libvips, blocks its unsafe loaders. */
enum status image_library_start(const char *program) IBOT_WARN_UNUSED;

enum status image_decoder_open(struct image_decoder **out) IBOT_WARN_UNUSED;
void image_decoder_close(struct image_decoder **decoder);

/* Decodes a file in memory. Errors: STATUS_CORRUPT (not an image, truncated, too large: which). */
enum status image_decode(struct image_decoder *decoder, const void *bytes, size_t n_bytes,
                         struct image *out) IBOT_WARN_UNUSED;

/* Reads and decodes; the text names the path. Errors: also STATUS_IO. */
enum status image_read(struct image_decoder *decoder, const char *path,
                       struct image *out) IBOT_WARN_UNUSED;

/* Room for width x height pixels. */
enum status image_reserve(struct image *image, int32_t width, int32_t height) IBOT_WARN_UNUSED;
void image_release(struct image *image);

#endif
