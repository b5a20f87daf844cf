/* Decoders. libjpeg errors leave by longjmp; nothing that changed after setjmp is read from
 * registers: all state is in the decoder. */
#include "loader/image.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vips/vips.h>

#include <jpeglib.h> /* needs stdio.h before it */

#include <jerror.h>

#include "proto/base/memory.h"

struct image_decoder {
    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    char message[JMSG_LENGTH_MAX];
    bool truncated;
    uint8_t *file, *cmyk; /* the file's bytes; one row of CMYK */
    size_t file_capacity, cmyk_capacity;
};

/* ------------------------------------------------------------------------------ JPEG */

static void jpeg_failed(j_common_ptr common)
{
    struct image_decoder *decoder = common->client_data;
    common->err->format_message(common, decoder->message);
    longjmp(decoder->escape, 1);
}

static void jpeg_message(j_common_ptr common, int level)
{
    struct image_decoder *decoder = common->client_data;
    if (level < 0) {
        common->err->num_warnings++;
        if (common->err->msg_code == JWRN_JPEG_EOF)
            decoder->truncated = true;
    }
}

static void jpeg_silent(j_common_ptr common)
{
    (void)common;
}

/* A small progressive file can hold thousands of scans over the whole image. */
static void jpeg_watch_scans(j_common_ptr common)
{
    struct image_decoder *decoder = common->client_data;
    if (common->is_decompressor && decoder->jpeg.input_scan_number > IMAGE_MAX_SCANS) {
        snprintf(decoder->message, sizeof(decoder->message), "more than %d scans", IMAGE_MAX_SCANS);
        longjmp(decoder->escape, 1);
    }
}

enum status image_decoder_open(struct image_decoder **out)
{
    struct image_decoder *decoder;

    TRY(memory_alloc(&decoder, 1, sizeof(*decoder), "image decoder"));
    decoder->jpeg.err = jpeg_std_error(&decoder->errors);
    decoder->errors.error_exit = jpeg_failed;
    decoder->errors.emit_message = jpeg_message;
    decoder->errors.output_message = jpeg_silent;
    decoder->jpeg.client_data = decoder;
    if (setjmp(decoder->escape)) {
        memory_free(decoder);
        FAIL(STATUS_NO_MEMORY, "libjpeg did not start");
    }
    jpeg_create_decompress(&decoder->jpeg);
    decoder->progress.progress_monitor = jpeg_watch_scans;
    decoder->jpeg.progress = &decoder->progress;
    decoder->jpeg.mem->max_memory_to_use = 256L << 20;
    *out = decoder;
    return STATUS_OK;
}

void image_decoder_close(struct image_decoder **pointer)
{
    struct image_decoder *decoder = pointer != NULL ? *pointer : NULL;

    if (decoder == NULL)
        return;
    jpeg_destroy_decompress(&decoder->jpeg);
    memory_free(decoder->file);
    memory_free(decoder->cmyk);
    memory_free(decoder);
    *pointer = NULL;
}

static enum status check_size(int64_t width, int64_t height)
{
    if (width < 1 || height < 1 || width > IMAGE_MAX_SIDE_PX || height > IMAGE_MAX_SIDE_PX ||
        width * height > IMAGE_MAX_PIXELS)
        FAIL(STATUS_CORRUPT, "%lld x %lld pixels; wanted at most %d a side and %d in all",
             (long long)width, (long long)height, IMAGE_MAX_SIDE_PX, IMAGE_MAX_PIXELS);
    return STATUS_OK;
}

enum status image_reserve(struct image *image, int32_t width, int32_t height)
{
    TRY(check_size(width, height));
    TRY(memory_grow(&image->pixels, &image->capacity, (size_t)width * (size_t)height * 3, 1,
                    "decoded image"));
    image->width = width;
    image->height = height;
    return STATUS_OK;
}

void image_release(struct image *image)
{
    if (image == NULL)
        return;
    memory_free(image->pixels);
    memset(image, 0, sizeof(*image));
}

/* a*b/255 rounded, as Pillow's MULDIV255. */
static int multiply_255(int a, int b)
{
    int t = a * b + 128;
    return ((t >> 8) + t) >> 8;
}

/* Pillow: the ink values of a JPEG are inverted; R = (255-K) - C*(255-K)/255. */
static void cmyk_to_rgb(const uint8_t *cmyk, uint8_t *rgb, int32_t width)
{
    for (int32_t x = 0; x < width; x++) {
        int rest = cmyk[4 * x + 3]; /* 255 - (255 - stored) */
        for (int c = 0; c < 3; c++)
            rgb[3 * x + c] = (uint8_t)(rest - multiply_255(255 - cmyk[4 * x + c], rest));
    }
}

/* Scan lines of the opened JPEG to RGB rows; inside setjmp. */
static void jpeg_lines(struct image_decoder *decoder, struct image *out)
{
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;

    while (jpeg->output_scanline < jpeg->output_height) {
        uint8_t *row = out->pixels + (size_t)jpeg->output_scanline * (size_t)out->width * 3;
        if (jpeg->out_color_space == JCS_CMYK) {
            JSAMPROW line = decoder->cmyk;
            jpeg_read_scanlines(jpeg, &line, 1);
            cmyk_to_rgb(decoder->cmyk, row, out->width);
        } else {
            JSAMPROW line = row;
            jpeg_read_scanlines(jpeg, &line, 1);
        }
    }
    jpeg_finish_decompress(jpeg);
}

static enum status jpeg_decode(struct image_decoder *decoder, const void *bytes, size_t n_bytes,
                               struct image *out)
{
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;

    decoder->truncated = false;
    if (setjmp(decoder->escape)) {
        jpeg_abort_decompress(jpeg);
        FAIL(STATUS_CORRUPT, "JPEG: %s", decoder->message);
    }
    jpeg_mem_src(jpeg, bytes, (unsigned long)n_bytes);
    jpeg_read_header(jpeg, TRUE);
    enum status status = check_size(jpeg->image_width, jpeg->image_height);
    if (status == STATUS_OK)
        status = image_reserve(out, (int32_t)jpeg->image_width, (int32_t)jpeg->image_height);
    bool inks = jpeg->jpeg_color_space == JCS_CMYK || jpeg->jpeg_color_space == JCS_YCCK;
    if (status == STATUS_OK && inks)
        status = memory_grow(&decoder->cmyk, &decoder->cmyk_capacity, 4 * (size_t)jpeg->image_width,
                             1, "CMYK row");
    if (status != STATUS_OK) {
        jpeg_abort_decompress(jpeg);
        return status;
    }
    jpeg->out_color_space = inks ? JCS_CMYK : JCS_RGB;
    jpeg->dct_method = JDCT_ISLOW;
    jpeg->do_fancy_upsampling = TRUE;
    jpeg_start_decompress(jpeg);
    jpeg_lines(decoder, out);
    if (decoder->truncated)
        FAIL(STATUS_CORRUPT, "JPEG: the file is truncated");
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ libvips */

enum status image_library_start(const char *program)
{
    if (VIPS_INIT(program))
        FAIL(STATUS_UNSUPPORTED, "libvips did not start: %s", vips_error_buffer());
    vips_concurrency_set(1);
    vips_cache_set_max(0);
    vips_operation_block_set("VipsForeignLoad", TRUE);
    static const char *const allowed[] = {"VipsForeignLoadPng", "VipsForeignLoadWebp",
                                          "VipsForeignLoadTiff", "VipsForeignLoadPpm"};
    for (size_t i = 0; i < sizeof(allowed) / sizeof(allowed[0]); i++)
        vips_operation_block_set(allowed[i], FALSE);
    return STATUS_OK;
}

/* One sample of a row to 8 bits, as Pillow: 16-bit colour keeps its high byte, 16-bit grey clips.
 */
static uint8_t to_byte(const void *row, int64_t i, VipsBandFormat format, bool grey)
{
    if (format == VIPS_FORMAT_UCHAR)
        return ((const uint8_t *)row)[i];
    unsigned value = ((const uint16_t *)row)[i];
    if (grey)
        return (uint8_t)(value > 255 ? 255 : value);
    return (uint8_t)(value >> 8);
}

static enum status copy_vips(VipsImage *image, struct image *out)
{
    int bands = vips_image_get_bands(image);
    VipsBandFormat format = vips_image_get_format(image);
    bool grey = bands < 3;
    size_t n_bytes;

    if (format != VIPS_FORMAT_UCHAR && format != VIPS_FORMAT_USHORT)
        FAIL(STATUS_CORRUPT, "samples of type %d; wanted 8 or 16 bits", (int)format);
    TRY(image_reserve(out, vips_image_get_width(image), vips_image_get_height(image)));
    uint8_t *raw = vips_image_write_to_memory(image, &n_bytes);
    if (raw == NULL) {
        enum status status = status_set(STATUS_CORRUPT, "%s", vips_error_buffer());
        vips_error_clear();
        return status;
    }
    int64_t n = (int64_t)out->width * out->height;
    for (int64_t i = 0; i < n; i++)
        for (int c = 0; c < 3; c++)
            out->pixels[3 * i + c] = to_byte(raw, i * bands + (grey ? 0 : c), format, grey);
    g_free(raw);
    return STATUS_OK;
}

static enum status vips_decode(const void *bytes, size_t n_bytes, struct image *out)
{
    VipsImage *image = vips_image_new_from_buffer(bytes, n_bytes, "", "access",
                                                  VIPS_ACCESS_SEQUENTIAL, "fail", TRUE, NULL);
    enum status status;

    if (image == NULL) {
        vips_error_clear();
        FAIL(STATUS_CORRUPT, "not an image of a known type (JPEG, PNG, WebP, TIFF, PPM, PGM)");
    }
    status = check_size(vips_image_get_width(image), vips_image_get_height(image));
    if (status == STATUS_OK)
        status = copy_vips(image, out);
    g_object_unref(image);
    return status;
}

/* ------------------------------------------------------------------------------ both */

enum status image_decode(struct image_decoder *decoder, const void *bytes, size_t n_bytes,
                         struct image *out)
{
    const uint8_t *start = bytes;

    if (n_bytes == 0)
        FAIL(STATUS_CORRUPT, "the file is empty");
    if (n_bytes >= 2 && start[0] == 0xff && start[1] == 0xd8)
        return jpeg_decode(decoder, bytes, n_bytes, out);
    return vips_decode(bytes, n_bytes, out);
}

/* Whole file into the decoder's buffer. */
static enum status read_file(struct image_decoder *decoder, const char *path, size_t *n_bytes)
{
    enum status status = STATUS_OK;
    struct stat info;
    size_t filled = 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        FAIL(STATUS_IO, "cannot open: %s", strerror(errno));
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode) || info.st_size > IMAGE_MAX_FILE_BYTES)
        FAIL_OUT(STATUS_IO, "not a regular file of at most %d bytes", IMAGE_MAX_FILE_BYTES);
    TRY_OUT(memory_grow(&decoder->file, &decoder->file_capacity, (size_t)info.st_size + 1, 1,
                        "file buffer"));
    while (filled < (size_t)info.st_size) {
        ssize_t n = read(file, decoder->file + filled, (size_t)info.st_size - filled);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL_OUT(STATUS_IO, "cannot read: %s", strerror(errno));
        if (n == 0)
            break;
        filled += (size_t)n;
    }
    *n_bytes = filled;
out:
    close(file);
    return status;
}

enum status image_read(struct image_decoder *decoder, const char *path, struct image *out)
{
    size_t n_bytes = 0;
    enum status status = read_file(decoder, path, &n_bytes);

    if (status == STATUS_OK)
        status = image_decode(decoder, decoder->file, n_bytes, out);
    if (status != STATUS_OK)
        return status_set(status, "%s: %s", path, status_message());
    return STATUS_OK;
}
