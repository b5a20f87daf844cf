/* PNG through libpng. What it does not like ends in a jump back to the caller here. */
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/eval/label_image.h"
#include "trainer/weights/atomic_file.h"

struct png_source {
    const uint8_t *bytes;
    size_t n_bytes, at;
};

struct png_complaint {
    jmp_buf back;
    char text[160];
};

static void complain(png_structp png, const char *text)
{
    struct png_complaint *complaint = png_get_error_ptr(png);

    snprintf(complaint->text, sizeof(complaint->text), "%s", text);
    longjmp(complaint->back, 1);
}

static void overlook(png_structp png, const char *text)
{
    (void)png;
    (void)text;
}

static void take_bytes(png_structp png, png_bytep to, png_size_t n)
{
    struct png_source *source = png_get_io_ptr(png);

    if (n > source->n_bytes - source->at)
        png_error(png, "it ends too early");
    memcpy(to, source->bytes + source->at, n);
    source->at += n;
}

/* ------------------------------------------------------------------------------ reading */

struct png_reader {
    png_structp png;
    png_infop info;
    png_bytep *rows;
};

static enum status check_header(const struct png_reader *r)
{
    png_uint_32 width = png_get_image_width(r->png, r->info);
    png_uint_32 height = png_get_image_height(r->png, r->info);
    int type = png_get_color_type(r->png, r->info), bits = png_get_bit_depth(r->png, r->info);

    if (type != PNG_COLOR_TYPE_PALETTE && type != PNG_COLOR_TYPE_GRAY)
        FAIL(STATUS_UNSUPPORTED, "a PNG of colours: wanted one with a palette, whose indices are "
                                 "the labels, or of grey");
    if (bits > 8)
        FAIL(STATUS_UNSUPPORTED, "a PNG of %d bits: wanted labels of at most 8", bits);
    if (width < 1 || height < 1 || width > LABEL_IMAGE_MAX_SIDE || height > LABEL_IMAGE_MAX_SIDE ||
        (uint64_t)width * height > LABEL_IMAGE_MAX_PIXELS)
        FAIL(STATUS_CORRUPT, "a PNG of %u x %u px: wanted sides of 1 to %d, and at most %d px",
             (unsigned)width, (unsigned)height, LABEL_IMAGE_MAX_SIDE, LABEL_IMAGE_MAX_PIXELS);
    return STATUS_OK;
}

static enum status read_rows(struct png_reader *r, struct label_image *out)
{
    png_uint_32 width = png_get_image_width(r->png, r->info);
    png_uint_32 height = png_get_image_height(r->png, r->info);
    png_colorp palette = NULL;
    int n_colours = 0;

    TRY(check_header(r));
    TRY(label_image_open(out, (int32_t)width, (int32_t)height));
    TRY(memory_alloc_unset(&r->rows, height, sizeof(*r->rows), "labels"));
    for (size_t y = 0; y < height; y++)
        r->rows[y] = out->labels + y * width;
    if (png_get_PLTE(r->png, r->info, &palette, &n_colours) != 0)
        for (int i = 0; i < n_colours && i < LABEL_COLOURS; i++) {
            out->palette[i][0] = palette[i].red;
            out->palette[i][1] = palette[i].green;
            out->palette[i][2] = palette[i].blue;
        }
    png_set_packing(r->png);
    png_set_interlace_handling(r->png);
    png_read_update_info(r->png, r->info);
    CHECK(png_get_rowbytes(r->png, r->info) == width);
    png_read_image(r->png, r->rows);
    png_read_end(r->png, NULL);
    return STATUS_OK;
}

/* All that a jump may end: not inlined, so that the reader is in memory when it comes back. */
static __attribute__((noinline)) enum status read_png(struct png_reader *r,
                                                      struct png_complaint *complaint,
                                                      struct label_image *out,
                                                      struct png_source *source)
{
    r->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, complaint, complain, overlook);
    r->info = r->png != NULL ? png_create_info_struct(r->png) : NULL;
    if (r->info == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a PNG reader");
    png_set_read_fn(r->png, source, take_bytes);
    png_set_user_limits(r->png, LABEL_IMAGE_MAX_SIDE, LABEL_IMAGE_MAX_SIDE);
    png_set_chunk_malloc_max(r->png, 1 << 20);
    png_set_chunk_cache_max(r->png, 64);
    png_read_info(r->png, r->info);
    return read_rows(r, out);
}

enum status label_image_decode(struct label_image *out, const void *bytes, size_t n_bytes)
{
    struct png_source source = {.bytes = bytes, .n_bytes = n_bytes};
    struct png_complaint complaint = {.text = ""};
    struct png_reader reader = {0};
    volatile enum status status = STATUS_CORRUPT;

    memset(out, 0, sizeof(*out));
    if (setjmp(complaint.back) == 0)
        status = read_png(&reader, &complaint, out, &source);
    else
        status_set(STATUS_CORRUPT, "no PNG that can be read: %s", complaint.text);
    memory_free(reader.rows);
    png_destroy_read_struct(&reader.png, &reader.info, NULL);
    if (status != STATUS_OK)
        label_image_release(out);
    return status;
}

/* ------------------------------------------------------------------------------ writing */

struct png_sink {
    struct atomic_file file;
    enum status status;
};

static void give_bytes(png_structp png, png_bytep from, png_size_t n)
{
    struct png_sink *sink = png_get_io_ptr(png);

    if (sink->status == STATUS_OK)
        sink->status = atomic_file_write(&sink->file, from, n);
}

static void give_nothing(png_structp png)
{
    (void)png;
}

static void write_png(png_structp png, png_infop info, const struct label_image *image)
{
    png_color palette[LABEL_COLOURS];

    for (int i = 0; i < LABEL_COLOURS; i++)
        palette[i] = (png_color){image->palette[i][0], image->palette[i][1], image->palette[i][2]};
    png_set_IHDR(png, info, (png_uint_32)image->width, (png_uint_32)image->height, 8,
                 PNG_COLOR_TYPE_PALETTE, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_set_PLTE(png, info, palette, LABEL_COLOURS);
    png_write_info(png, info);
    for (int32_t y = 0; y < image->height; y++)
        png_write_row(png, image->labels + (size_t)y * (size_t)image->width);
    png_write_end(png, info);
}

enum status label_image_write(const struct label_image *image, const char *path)
{
    struct png_sink sink = {.status = STATUS_OK};
    struct png_complaint complaint = {.text = ""};
    png_structp png =
        png_create_write_struct(PNG_LIBPNG_VER_STRING, &complaint, complain, overlook);
    png_infop info = png != NULL ? png_create_info_struct(png) : NULL;
    volatile enum status status = STATUS_NO_MEMORY;

    if (info == NULL)
        FAIL_OUT(STATUS_NO_MEMORY, "no memory for a PNG writer");
    status = atomic_file_open(&sink.file, path);
    if (status != STATUS_OK)
        goto out;
    png_set_write_fn(png, &sink, give_bytes, give_nothing);
    if (setjmp(complaint.back) == 0) {
        write_png(png, info, image);
        status = sink.status;
    } else {
        status = status_set(STATUS_IO, "cannot write '%s': %s", path, complaint.text);
    }
    if (status == STATUS_OK)
        status = atomic_file_commit(&sink.file);
out:
    atomic_file_close(&sink.file);
    png_destroy_write_struct(&png, &info);
    return status;
}
