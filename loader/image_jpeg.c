/* JPEG through libjpeg-turbo. The handle is made anew for each file: a reused one keeps the tables
 * of the last file, and a file without tables of its own would then decode by them.
 *
 * libjpeg's errors leave by longjmp; everything that is read after it lives in struct session. Its
 * warnings (damage that it repairs) are counted. What it can't know, it is told: input that ends is
 * an error, not a made-up end of image, and the number of scans is limited, since a small file can
 * ask for thousands of passes over a large image. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h> /* needs stdio.h before it */

#include <jerror.h>

#include "loader/image_internal.h"
#include "proto/base/memory.h"

enum {
    LARGE_PIXELS = 16 << 20,
    FEW_SCANS = 12, /* what ordinary progressive files have */
};

struct session {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    struct jpeg_source_mgr source;
    jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
};

static void failed(j_common_ptr common)
{
    struct session *session = common->client_data;

    common->err->format_message(common, session->message);
    if (common->err->msg_code == JERR_NO_BACKING_STORE)
        snprintf(session->message, sizeof(session->message),
                 "the coefficients of a progressive image of this size take too much memory");
    longjmp(session->escape, 1);
}

static void message(j_common_ptr common, int level)
{
    if (level < 0)
        common->err->num_warnings++;
}

static void silent(j_common_ptr common)
{
    (void)common;
}

__attribute__((noreturn)) static void leave(struct session *session, const char *text)
{
    snprintf(session->message, sizeof(session->message), "%s", text);
    longjmp(session->escape, 1);
}

static void source_ignore(j_decompress_ptr jpeg)
{
    (void)jpeg;
}

static boolean source_is_empty(j_decompress_ptr jpeg)
{
    leave(jpeg->client_data, "the file is truncated");
}

static void source_skip(j_decompress_ptr jpeg, long n_bytes)
{
    struct jpeg_source_mgr *source = jpeg->src;

    if (n_bytes <= 0)
        return;
    if ((size_t)n_bytes > source->bytes_in_buffer)
        source_is_empty(jpeg);
    source->next_input_byte += n_bytes;
    source->bytes_in_buffer -= (size_t)n_bytes;
}

static void watch_scans(j_common_ptr common)
{
    struct session *session = common->client_data;
    const struct jpeg_decompress_struct *jpeg = &session->jpeg;
    int64_t n = jpeg->input_scan_number, pixels = (int64_t)jpeg->image_width * jpeg->image_height;

    if (n > IMAGE_MAX_SCANS ||
        (n > FEW_SCANS && n * pixels > IMAGE_MAX_SCAN_MEGAPIXELS * INT64_C(1000000)))
        leave(session, "more scans than an image of this size needs");
}

/* Each 8x8 block of a sequential Huffman file takes at least 2 bits. Large headers with next to
 * nothing behind them would cost seconds. */
static bool is_hollow(const struct jpeg_decompress_struct *jpeg, size_t n_bytes)
{
    int64_t n_blocks = (int64_t)jpeg->image_width * jpeg->image_height / 64;

    return n_blocks * 64 > LARGE_PIXELS && !jpeg->progressive_mode && !jpeg->arith_code &&
           n_blocks / 4 > (int64_t)n_bytes;
}

/* libjpeg-turbo writes aligned lines past the caches, and these are read again at once. */
enum { LINE_OFFSET = IMAGE_CHANNELS };

static size_t line_stride(size_t width)
{
    return (width * IMAGE_CHANNELS + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

/* Lines of the opened file to pixels; inside setjmp. */
static void read_lines(struct session *session, struct image_decoder *decoder, struct image *out)
{
    struct jpeg_decompress_struct *jpeg = &session->jpeg;
    size_t width = (size_t)out->width;
    size_t stride = line_stride(width);
    uint8_t *lines = decoder->lines + LINE_OFFSET;

    while (jpeg->output_scanline < jpeg->output_height) {
        size_t y = jpeg->output_scanline, n = 0;
        size_t left = jpeg->output_height - y, wanted = left < IMAGE_ROWS ? left : IMAGE_ROWS;
        while (n < wanted) { /* the library gives as many as it has */
            JSAMPROW rows[IMAGE_ROWS];
            for (size_t i = 0; i < wanted - n; i++)
                rows[i] = lines + (n + i) * stride;
            n += jpeg_read_scanlines(jpeg, rows, (JDIMENSION)(wanted - n));
        }
        if (jpeg->out_color_space != JCS_CMYK) {
            decoder->kernels->group_rows(image_pixel(out, 0, y), lines, stride, width);
            continue;
        }
        for (size_t i = 0; i < n * width; i++) { /* inverted: 0 is all ink */
            const uint8_t *inks = lines + i / width * stride + i % width * IMAGE_CHANNELS;
            image_put_cmyk(image_pixel(out, i % width, y + i / width), 255 - inks[0], 255 - inks[1],
                           255 - inks[2], 255 - inks[3]);
        }
    }
    jpeg_finish_decompress(jpeg);
}

static enum status prepare(struct session *session, struct image_decoder *decoder, size_t n_bytes,
                           struct image *out)
{
    struct jpeg_decompress_struct *jpeg = &session->jpeg;

    TRY(image_check_size(jpeg->image_width, jpeg->image_height));
    if (jpeg->arith_code &&
        (int64_t)jpeg->image_width * jpeg->image_height > IMAGE_MAX_ARITHMETIC_PIXELS)
        FAIL(STATUS_CORRUPT, "%u x %u pixels with arithmetic coding; wanted at most %d pixels",
             jpeg->image_width, jpeg->image_height, IMAGE_MAX_ARITHMETIC_PIXELS);
    size_t left;
    TRY(image_memory_left(jpeg->image_width, jpeg->image_height, n_bytes, &left));
    jpeg->mem->max_memory_to_use = (long)left; /* coefficients of progressive files */
    if (is_hollow(jpeg, n_bytes))
        FAIL(STATUS_CORRUPT, "%u x %u pixels can't be in %zu bytes", jpeg->image_width,
             jpeg->image_height, n_bytes);
    TRY(image_reserve(out, jpeg->image_width, jpeg->image_height));
    bool inks = jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK;
    TRY(memory_grow(&decoder->lines, &decoder->lines_capacity,
                    line_stride(jpeg->image_width) * IMAGE_ROWS + LINE_OFFSET, 1,
                    "lines of an image"));
    jpeg->out_color_space = inks ? JCS_CMYK : JCS_EXT_RGBX;
    jpeg->dct_method = JDCT_ISLOW;
    jpeg->do_fancy_upsampling = TRUE;
    return STATUS_OK;
}

enum status image_decode_jpeg(struct image_decoder *decoder, const uint8_t *bytes, size_t n_bytes,
                              struct image *out)
{
    struct session session;
    struct jpeg_decompress_struct *jpeg = &session.jpeg;
    enum status status = STATUS_OK;

    memset(&session, 0, sizeof(session));
    jpeg->err = jpeg_std_error(&session.errors);
    session.errors.error_exit = failed;
    session.errors.emit_message = message;
    session.errors.output_message = silent;
    jpeg->client_data = &session;
    if (setjmp(session.escape)) {
        decoder->n_warnings = session.errors.num_warnings;
        jpeg_destroy_decompress(jpeg);
        FAIL(STATUS_CORRUPT, "JPEG: %s", session.message);
    }
    jpeg_create_decompress(jpeg);
    session.progress.progress_monitor = watch_scans;
    jpeg->progress = &session.progress;
    session.source = (struct jpeg_source_mgr){
        .next_input_byte = bytes,
        .bytes_in_buffer = n_bytes,
        .init_source = source_ignore,
        .fill_input_buffer = source_is_empty,
        .skip_input_data = source_skip,
        .resync_to_restart = jpeg_resync_to_restart,
        .term_source = source_ignore,
    };
    jpeg->src = &session.source;
    jpeg_read_header(jpeg, TRUE);
    status = prepare(&session, decoder, n_bytes, out);
    if (status == STATUS_OK) {
        jpeg_start_decompress(jpeg);
        read_lines(&session, decoder, out);
        out->orientation = image_orientation_of_jpeg(bytes, n_bytes);
        decoder->n_warnings = session.errors.num_warnings;
    } else {
        status = status_set(status, "JPEG: %s", status_message());
    }
    jpeg_destroy_decompress(jpeg);
    return status;
}
