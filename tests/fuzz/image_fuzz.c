/* Any bytes as an image file. Whatever is decoded is turned as its EXIF data say and touched, byte
 * by byte, and decoding it again gives the same: nothing is kept between files. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "loader/image.h"
#include "proto/base/hash.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static uint64_t decode(struct image_decoder *decoder, const uint8_t *bytes, size_t n_bytes,
                       struct image *image, struct image *turned)
{
    if (image_decode(decoder, bytes, n_bytes, image) != STATUS_OK)
        return 0;
    if (image->orientation < 1 || image->orientation > 8)
        abort();
    if (image->orientation != 1) {
        if (image_turn(turned, image) != STATUS_OK)
            abort();
        image = turned;
    }
    uint64_t hash = 1;
    for (size_t y = 0; y < (size_t)image->height; y++)
        for (size_t x = 0; x < (size_t)image->width; x++)
            hash = hash_bytes_seeded(image_pixel(image, x, y), 3, hash);
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    static struct image_decoder *decoder;
    struct image image = {0}, turned = {0};

    if (decoder == NULL && (image_library_start("fuzz_image") != STATUS_OK ||
                            image_decoder_open(&decoder) != STATUS_OK))
        abort();
    uint64_t first = decode(decoder, bytes, n_bytes, &image, &turned);
    if (decode(decoder, bytes, n_bytes, &image, &turned) != first)
        abort();
    image_release(&image);
    image_release(&turned);
    return 0;
}
