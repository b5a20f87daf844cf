/* Builds without libvips (IBOT_PARTIAL) read JPEG, BMP and PNM alone. */
#include "loader/image_internal.h"

enum status image_library_start(const char *program)
{
    (void)program;
    return STATUS_OK;
}

enum status image_decode_vips(const uint8_t *bytes, size_t n_bytes, struct image *out)
{
    (void)bytes;
    (void)n_bytes;
    (void)out;
    FAIL(STATUS_CORRUPT, "PNG, WebP and TIFF need libvips, which this build is without");
}
