/* EXIF orientation: found in JPEG files, and undone. */
#include <string.h>

#include "loader/image_internal.h"

enum { EXIF_HEADER_BYTES = 6, TIFF_HEADER_BYTES = 8, ENTRY_BYTES = 12, ORIENTATION_TAG = 0x0112 };

static uint32_t number(const uint8_t *at, size_t n_bytes, bool little)
{
    uint32_t value = 0;

    for (size_t i = 0; i < n_bytes; i++)
        value |= (uint32_t)at[i] << (8 * (little ? i : n_bytes - 1 - i));
    return value;
}

/* The first directory of a TIFF structure. Damaged EXIF data say nothing, as for everybody. */
static int32_t orientation_of_tiff(const uint8_t *tiff, size_t n_bytes)
{
    if (n_bytes < TIFF_HEADER_BYTES ||
        (memcmp(tiff, "II*\0", 4) != 0 && memcmp(tiff, "MM\0*", 4) != 0))
        return 1;
    bool little = tiff[0] == 'I';
    size_t at = number(tiff + 4, 4, little);
    if (at > n_bytes - 2)
        return 1;
    size_t n_entries = number(tiff + at, 2, little);
    at += 2;
    for (size_t i = 0; i < n_entries && n_bytes - at >= ENTRY_BYTES; i++, at += ENTRY_BYTES)
        if (number(tiff + at, 2, little) == ORIENTATION_TAG) {
            uint32_t value = number(tiff + at + 8, 2, little);
            return value >= 1 && value <= 8 ? (int32_t)value : 1;
        }
    return 1;
}

int32_t image_orientation_of_jpeg(const uint8_t *bytes, size_t n_bytes)
{
    for (size_t at = 2; at + 4 <= n_bytes && bytes[at] == 0xff;) {
        uint8_t marker = bytes[at + 1];
        size_t length = number(bytes + at + 2, 2, false);
        if (marker == 0xff) { /* fill */
            at++;
            continue;
        }
        if (marker == 0xda || length < 2 || length > n_bytes - at - 2)
            return 1;
        const uint8_t *content = bytes + at + 4;
        if (marker == 0xe1 && length >= 2 + EXIF_HEADER_BYTES &&
            memcmp(content, "Exif\0\0", EXIF_HEADER_BYTES) == 0)
            return orientation_of_tiff(content + EXIF_HEADER_BYTES, length - 2 - EXIF_HEADER_BYTES);
        at += 2 + length;
    }
    return 1;
}

/* Orientations 5 to 8 exchange the axes; 2, 3, 6, 7 mirror the first, 3, 4, 7, 8 the second of the
 * stored ones. */
enum status image_turn(struct image *out, const struct image *image)
{
    int32_t o = image->orientation;
    bool swap = o >= 5, mirror_x = o == 2 || o == 3 || o == 7 || o == 8;
    bool mirror_y = o == 3 || o == 4 || o == 6 || o == 7;
    size_t width = (size_t)image->width, height = (size_t)image->height;

    TRY(image_reserve(out, swap ? image->height : image->width,
                      swap ? image->width : image->height));
    for (size_t y = 0; y < (size_t)out->height; y++)
        for (size_t x = 0; x < (size_t)out->width; x++) {
            size_t from_x = swap ? y : x, from_y = swap ? x : y;
            from_x = mirror_x ? width - 1 - from_x : from_x;
            from_y = mirror_y ? height - 1 - from_y : from_y;
            memcpy(image_pixel(out, x, y), image_pixel(image, from_x, from_y), IMAGE_CHANNELS);
        }
    return STATUS_OK;
}
