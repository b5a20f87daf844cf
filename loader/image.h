/* Decoding: bytes of a file to 8-bit RGB. The kind of file is told by its content. JPEG goes
 * through libjpeg-turbo with Pillow's settings (slow integer DCT, fancy upsampling), PNG, WebP and
 * TIFF through libvips, whose every other loader is blocked, BMP and PNM through readers of our
 * own. Conversions to RGB are Pillow's: grey is replicated, alpha dropped, 16-bit colour keeps its
 * high byte, 16-bit grey is cut off at 255, CMYK of a JPEG counts as inverted. Colour profiles are
 * ignored, as the original does, and so is the EXIF orientation unless image_turn is asked for; a
 * truncated file is a bad image, as for the original.
 *
 * Decoding is a function of the bytes alone: nothing of one file stays for the next. */
#ifndef IBOT_LOADER_IMAGE_H
#define IBOT_LOADER_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum {
    IMAGE_CHANNELS = 4, /* R, G, B and a byte without meaning: one pixel is one word */
    IMAGE_ROWS = 4,     /* rows that lie side by side */
    IMAGE_MAX_SIDE_PX = 65500,
    /* What one file may cost: 256 MiB and about a second. */
    IMAGE_MAX_PIXELS = 60000000,
    IMAGE_MAX_ARITHMETIC_PIXELS = 10000000, /* of a JPEG with arithmetic coding, which is slow */
    IMAGE_MAX_FILE_BYTES = 128 << 20,
    IMAGE_MAX_BYTES = 256 << 20,     /* file, image and working memory of its decoder */
    IMAGE_MAX_RAW_BYTES = 200 << 20, /* PNG, WebP, TIFF: samples before their conversion */
    IMAGE_MAX_SCANS = 500,           /* of a progressive JPEG */
    IMAGE_MAX_SCAN_MEGAPIXELS = 300, /* scans times pixels, when there are more than 12 scans */
    IMAGE_PADDING_BYTES = 64,        /* readable after the last pixel, for vector loads */
};

/* A decoded image; the buffer is kept and reused. Zeroed is valid and empty. Four rows lie side by
 * side, pixel by pixel, so that the resampler takes them in one piece; the last rows of a height
 * that is no multiple of four are undefined. */
struct image {
    uint8_t *pixels; /* [ceil(height / IMAGE_ROWS), width, IMAGE_ROWS, IMAGE_CHANNELS] */
    int32_t width, height;
    int32_t orientation; /* of its EXIF data, 1 .. 8; 1: upright, or nothing is said */
    size_t capacity;     /* bytes */
};

/* The IMAGE_CHANNELS bytes of a pixel. */
static inline uint8_t *image_pixel(const struct image *image, size_t x, size_t y)
{
    size_t column = y / IMAGE_ROWS * (size_t)image->width + x;
    return image->pixels + (column * IMAGE_ROWS + y % IMAGE_ROWS) * IMAGE_CHANNELS;
}

/* One thread's decoder: buffers that are reused. */
struct image_decoder; /* opaque */

/* Once per process, before any decoder: starts libvips, blocks its unsafe loaders. `program` is
 * borrowed for ever. */
enum status image_library_start(const char *program) IBOT_WARN_UNUSED;

enum status image_decoder_open(struct image_decoder **out) IBOT_WARN_UNUSED;
void image_decoder_close(struct image_decoder **decoder);

/* Decodes a file in memory. Errors: STATUS_CORRUPT (not an image, truncated, too large: which),
 * STATUS_UNSUPPORTED (an image, but of a kind that is not read), STATUS_NO_MEMORY. On failure the
 * content of `out` is undefined, its buffer still valid. */
enum status image_decode(struct image_decoder *decoder, const void *bytes, size_t n_bytes,
                         struct image *out) IBOT_WARN_UNUSED;

/* Where the bytes of an image lie. */
struct image_place {
    const char *path;
    const char *name;      /* in the archive `path`; NULL or "": the file itself is the image */
    uint64_t offset, size; /* bytes in the archive */
};

/* Reads and decodes; the text of an error names path and name. Errors: also STATUS_NOT_FOUND,
 * STATUS_IO. */
enum status image_read(struct image_decoder *decoder, const struct image_place *place,
                       struct image *out) IBOT_WARN_UNUSED;

/* Opens the file for image_read_from and has the system fetch the image's bytes meanwhile, without
 * waiting for them. -1: it can't be opened. */
int image_fetch(const struct image_place *place);

/* image_read from an opened file, which is closed; -1: opens it. */
enum status image_read_from(struct image_decoder *decoder, const struct image_place *place,
                            int file, struct image *out) IBOT_WARN_UNUSED;

/* Time that image_read has spent with reading, all in all. */
int64_t image_decoder_read_ns(const struct image_decoder *decoder);

/* Places where libjpeg met damage in the last image and repaired it: those images are used, as
 * Pillow does. */
uint32_t image_decoder_repairs(const struct image_decoder *decoder);

/* Room for width x height pixels, which are then undefined; upright. Errors: STATUS_CORRUPT (over
 * the limits), STATUS_NO_MEMORY. */
enum status image_reserve(struct image *image, int64_t width, int64_t height) IBOT_WARN_UNUSED;
void image_release(struct image *image);

/* out: `image` turned and mirrored so that its orientation becomes 1. Errors: STATUS_NO_MEMORY. */
enum status image_turn(struct image *out, const struct image *image) IBOT_WARN_UNUSED;

#endif
