/* PNG, WebP and TIFF through libvips. All other loaders of the library are blocked, since many of
 * them are not made for files of strangers. */
#include <string.h>
#include <vips/vips.h>

#include "loader/image_internal.h"

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

static void convert(const uint8_t *raw, size_t bands, VipsBandFormat format, bool inks,
                    struct image *out)
{
    size_t width = (size_t)out->width, n = width * (size_t)out->height;
    bool grey = bands < 3;

    for (size_t i = 0; i < n; i++) {
        uint8_t *pixel = image_pixel(out, i % width, i / width);
        if (inks)
            image_put_cmyk(pixel, raw[bands * i], raw[bands * i + 1], raw[bands * i + 2],
                           raw[bands * i + 3]);
        else
            image_put(pixel, sample(raw, bands * i, format, grey),
                      sample(raw, bands * i + (grey ? 0 : 1), format, grey),
                      sample(raw, bands * i + (grey ? 0 : 2), format, grey));
    }
}

static enum status copy(VipsImage *image, struct image *out)
{
    int bands = vips_image_get_bands(image);
    VipsBandFormat format = vips_image_get_format(image);
    bool inks = vips_image_get_interpretation(image) == VIPS_INTERPRETATION_CMYK && bands >= 4;
    size_t n_bytes;

    if ((format != VIPS_FORMAT_UCHAR && format != VIPS_FORMAT_USHORT) || bands < 1 ||
        (inks && format != VIPS_FORMAT_UCHAR))
        FAIL(STATUS_UNSUPPORTED, "%d samples of type %s in a pixel; wanted 8 or 16 bits each",
             bands, vips_enum_nick(VIPS_TYPE_BAND_FORMAT, (int)format));
    if (bands > 5)
        FAIL(STATUS_UNSUPPORTED, "%d samples in a pixel; wanted at most 5", bands);
    TRY(image_reserve(out, vips_image_get_width(image), vips_image_get_height(image)));
    uint8_t *raw = vips_image_write_to_memory(image, &n_bytes);
    if (raw == NULL)
        return failure("broken or truncated image");
    convert(raw, (size_t)bands, format, inks, out);
    g_free(raw);
    return STATUS_OK;
}

enum status image_decode_vips(const uint8_t *bytes, size_t n_bytes, struct image *out)
{
    enum status status;
    VipsImage *image =
        vips_image_new_from_buffer(bytes, n_bytes, "", "access", VIPS_ACCESS_SEQUENTIAL, "fail_on",
                                   VIPS_FAIL_ON_TRUNCATED, NULL);

    status = image != NULL ? copy(image, out) : failure("broken image");
    if (image != NULL)
        g_object_unref(image);
    vips_error_clear();
    return status;
}
