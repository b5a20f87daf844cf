/* What the decoders of the several kinds of files share. */
#ifndef IBOT_LOADER_IMAGE_INTERNAL_H
#define IBOT_LOADER_IMAGE_INTERNAL_H

#include "loader/image.h"
#include "ops/pixels/pixel_kernels.h"

struct image_decoder {
    const struct pixel_kernels *kernels;
    uint8_t *file; /* the bytes of the file being decoded */
    size_t file_capacity;
    uint8_t
        *lines; /* [IMAGE_ROWS, width, IMAGE_CHANNELS] and room between, as libjpeg makes them */
    size_t lines_capacity;
    long n_warnings; /* of the last image */
    int64_t read_ns; /* spent with reading, all in all */
};

/* The limits of image.h; to be asked before a file is believed, memory comes later. */
enum status image_check_size(int64_t width, int64_t height) IBOT_WARN_UNUSED;

/* Bytes that are left for the working memory of the decoder of a file of this size. Errors:
 * STATUS_CORRUPT: there are none. */
enum status image_memory_left(int64_t width, int64_t height, size_t n_file_bytes,
                              size_t *left) IBOT_WARN_UNUSED;

/* 1 .. 8. */
int32_t image_orientation_of_jpeg(const uint8_t *bytes, size_t n_bytes);

enum status image_decode_jpeg(struct image_decoder *decoder, const uint8_t *bytes, size_t n_bytes,
                              struct image *out) IBOT_WARN_UNUSED;
enum status image_decode_vips(const uint8_t *bytes, size_t n_bytes,
                              struct image *out) IBOT_WARN_UNUSED;
enum status image_decode_bmp(const uint8_t *bytes, size_t n_bytes,
                             struct image *out) IBOT_WARN_UNUSED;
enum status image_decode_pnm(const uint8_t *bytes, size_t n_bytes,
                             struct image *out) IBOT_WARN_UNUSED;

static inline void image_put(uint8_t *pixel, unsigned red, unsigned green, unsigned blue)
{
    pixel[0] = (uint8_t)red;
    pixel[1] = (uint8_t)green;
    pixel[2] = (uint8_t)blue;
    pixel[3] = 255;
}

/* Inks to RGB as Pillow's cmyk2rgb: R = (255-K) - C*(255-K)/255, rounded. */
static inline void image_put_cmyk(uint8_t *pixel, int cyan, int magenta, int yellow, int black)
{
    int rest = 255 - black, inks[3] = {cyan, magenta, yellow};

    for (int i = 0; i < 3; i++) {
        int t = inks[i] * rest + 128;
        pixel[i] = (uint8_t)(rest - (((t >> 8) + t) >> 8));
    }
    pixel[3] = 255;
}

#endif
