/* PNG, WebP and TIFF through libvips. All other loaders of the library are blocked, since many of
 * them are not made for files of strangers. */
#include <string.h>
#include <vips/vips.h>

#include "loader/image_internal.h"

enum { PNG_INTERLACE = 28 }; /* byte of the header */

/* The library's warnings about damaged files; failures come back as a status. */
static void ignore_warning(const gchar *domain, GLogLevelFlags level, const gchar *text,
                           gpointer context)
{
    (void)domain;
    (void)level;
    (void)text;
    (void)context;
}

enum status image_library_start(const char *program)
{
    static const char *const allowed[] = {"VipsForeignLoadPng", "VipsForeignLoadWebp",
                                          "VipsForeignLoadTiff"};

    if (VIPS_INIT(program))
        FAIL(STATUS_UNSUPPORTED, "libvips did not start: %s", vips_error_buffer());
    g_log_set_handler("VIPS", G_LOG_LEVEL_WARNING, ignore_warning, NULL);
    vips_concurrency_set(1); /* the worker threads are ours */
    vips_cache_set_max(0);
    vips_operation_block_set("VipsForeignLoad", TRUE);
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
        vips_operation_block_set(allowed[i], FALSE);
    return STATUS_OK;
}

/* The library's text; it has one for all threads, so that another's may be mixed in. */
static enum status failure(const char *what)
{
    char *text = vips_error_buffer_copy();

    for (char *c = text; *c != '\0'; c++)
        if (*c == '\n')
            *c = c[1] == '\0' ? '\0' : ' ';
    enum status status = status_set(STATUS_CORRUPT, "%s: %.300s", what, text);
    g_free(text);
    return status;
}

/* One sample to 8 bits. */
static unsigned sample(const void *row, size_t i, VipsBandFormat format, bool grey)
{
    if (format == VIPS_FORMAT_UCHAR)
        return ((const uint8_t *)row)[i];
    unsigned value = ((const uint16_t *)row)[i];
    return grey ? (value > 255 ? 255 : value) : value >> 8;
}

static size_t pixel_bytes(const VipsImage *image)
{
    return (size_t)vips_image_get_bands(image) *
           (size_t)vips_format_sizeof(vips_image_get_format(image));
}

/* First sample of a row that was prepared; the region may be wider than asked for. */
static const uint8_t *row_of(const VipsRegion *region, int y)
{
    return (const uint8_t *)region->data + (ptrdiff_t)(y - region->valid.top) * region->bpl -
           (ptrdiff_t)region->valid.left * (ptrdiff_t)pixel_bytes(region->im);
}

static void convert_row(const uint8_t *raw, size_t bands, VipsBandFormat format, bool inks,
                        struct image *out, size_t y)
{
    bool grey = bands < 3;

    for (size_t x = 0; x < (size_t)out->width; x++) {
        uint8_t *pixel = image_pixel(out, x, y);
        if (inks)
            image_put_cmyk(pixel, raw[bands * x], raw[bands * x + 1], raw[bands * x + 2],
                           raw[bands * x + 3]);
        else
            image_put(pixel, sample(raw, bands * x, format, grey),
                      sample(raw, bands * x + (grey ? 0 : 1), format, grey),
                      sample(raw, bands * x + (grey ? 0 : 2), format, grey));
    }
}

/* Row by row, so that a large image is not in memory twice. */
static enum status convert(VipsImage *image, bool inks, struct image *out)
{
    VipsRegion *region = vips_region_new(image);
    size_t bands = (size_t)vips_image_get_bands(image);
    enum status status = STATUS_OK;

    for (int y = 0; y < out->height && status == STATUS_OK; y++) {
        VipsRect row = {0, y, out->width, 1};
        if (vips_region_prepare(region, &row) != 0)
            status = failure("broken or truncated image");
        else
            convert_row(row_of(region, y), bands, vips_image_get_format(image), inks, out,
                        (size_t)y);
    }
    g_object_unref(region);
    return status;
}

/* Whether there is room for what the library keeps meanwhile: all samples of files that are not
 * read line by line. */
static enum status check_memory(const VipsImage *image, const uint8_t *bytes, size_t n_bytes)
{
    int64_t width = vips_image_get_width(image), height = vips_image_get_height(image);
    size_t raw = pixel_bytes(image) * (size_t)width * (size_t)height, left;
    bool by_lines = bytes[0] == 0x89 && n_bytes > PNG_INTERLACE && bytes[PNG_INTERLACE] == 0;

    TRY(image_check_size(width, height));
    TRY(image_memory_left(width, height, n_bytes, &left));
    if (raw > IMAGE_MAX_RAW_BYTES || (!by_lines && raw > left))
        FAIL(STATUS_CORRUPT, "%lld x %lld pixels of %zu bytes; that takes too much memory",
             (long long)width, (long long)height, pixel_bytes(image));
    return STATUS_OK;
}

static enum status copy(VipsImage *image, const uint8_t *bytes, size_t n_bytes, struct image *out)
{
    int bands = vips_image_get_bands(image);
    VipsBandFormat format = vips_image_get_format(image);
    bool inks = vips_image_get_interpretation(image) == VIPS_INTERPRETATION_CMYK && bands >= 4;

    if ((format != VIPS_FORMAT_UCHAR && format != VIPS_FORMAT_USHORT) || bands < 1 ||
        (inks && format != VIPS_FORMAT_UCHAR))
        FAIL(STATUS_UNSUPPORTED, "%d samples of type %s in a pixel; wanted 8 or 16 bits each",
             bands, vips_enum_nick(VIPS_TYPE_BAND_FORMAT, (int)format));
    if (bands > 5)
        FAIL(STATUS_UNSUPPORTED, "%d samples in a pixel; wanted at most 5", bands);
    TRY(check_memory(image, bytes, n_bytes));
    TRY(image_reserve(out, vips_image_get_width(image), vips_image_get_height(image)));
    out->orientation = vips_image_get_orientation(image);
    return convert(image, inks, out);
}

enum status image_decode_vips(const uint8_t *bytes, size_t n_bytes, struct image *out)
{
    enum status status;
    VipsImage *image =
        vips_image_new_from_buffer(bytes, n_bytes, "", "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                                   VIPS_FAIL_ON_TRUNCATED, NULL);

    status = image != NULL ? copy(image, bytes, n_bytes, out) : failure("broken image");
    if (image != NULL)
        g_object_unref(image);
    vips_error_clear();
    return status;
}
