/* Files into memory, limits, and who decodes what. */
#include "loader/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loader/image_internal.h"
#include "proto/base/clock.h"
#include "proto/base/memory.h"

/* Buffers above this do not stay with a thread after the image that needed them. */
enum { KEEP_BYTES = 128 << 20 };

enum status image_decoder_open(struct image_decoder **out)
{
    TRY(memory_alloc(out, 1, sizeof(**out), "image decoder"));
    (*out)->kernels = pixel_kernels_best();
    return STATUS_OK;
}

void image_decoder_close(struct image_decoder **pointer)
{
    struct image_decoder *decoder = pointer != NULL ? *pointer : NULL;

    if (decoder == NULL)
        return;
    memory_free(decoder->file);
    memory_free(decoder->lines);
    memory_free(decoder);
    *pointer = NULL;
}

uint32_t image_decoder_repairs(const struct image_decoder *decoder)
{
    return decoder->n_warnings < UINT32_MAX ? (uint32_t)decoder->n_warnings : UINT32_MAX;
}

enum status image_check_size(int64_t width, int64_t height)
{
    if (width < 1 || height < 1 || width > IMAGE_MAX_SIDE_PX || height > IMAGE_MAX_SIDE_PX ||
        width * height > IMAGE_MAX_PIXELS)
        FAIL(STATUS_CORRUPT, "%lld x %lld pixels; wanted 1 to %d a side and at most %d in all",
             (long long)width, (long long)height, IMAGE_MAX_SIDE_PX, IMAGE_MAX_PIXELS);
    return STATUS_OK;
}

enum status image_memory_left(int64_t width, int64_t height, size_t n_file_bytes, size_t *left)
{
    size_t taken = n_file_bytes + (size_t)(width * (height + IMAGE_ROWS)) * IMAGE_CHANNELS;

    if (taken > IMAGE_MAX_BYTES)
        FAIL(STATUS_CORRUPT, "%lld x %lld pixels and a file of %zu bytes take more than %d bytes",
             (long long)width, (long long)height, n_file_bytes, IMAGE_MAX_BYTES);
    *left = IMAGE_MAX_BYTES - taken;
    return STATUS_OK;
}

enum status image_reserve(struct image *image, int64_t width, int64_t height)
{
    TRY(image_check_size(width, height));
    int64_t n_rows = (height + IMAGE_ROWS - 1) / IMAGE_ROWS * IMAGE_ROWS;
    size_t needed = (size_t)(width * n_rows) * IMAGE_CHANNELS + IMAGE_PADDING_BYTES;
    if (needed > image->capacity || (image->capacity > KEEP_BYTES && needed < KEEP_BYTES)) {
        image_release(image);
        TRY(memory_alloc(&image->pixels, needed, 1, "decoded image"));
        image->capacity = needed;
    }
    image->width = (int32_t)width;
    image->height = (int32_t)height;
    image->orientation = 1;
    return STATUS_OK;
}

void image_release(struct image *image)
{
    if (image == NULL)
        return;
    memory_free(image->pixels);
    memset(image, 0, sizeof(*image));
}

static bool starts_with(const uint8_t *bytes, size_t n_bytes, const char *magic, size_t n_magic)
{
    return n_bytes >= n_magic && memcmp(bytes, magic, n_magic) == 0;
}

enum status image_decode(struct image_decoder *decoder, const void *data, size_t n_bytes,
                         struct image *out)
{
    const uint8_t *bytes = data;

    decoder->n_warnings = 0;
    if (n_bytes == 0)
        FAIL(STATUS_CORRUPT, "the file is empty");
    if (starts_with(bytes, n_bytes, "\xff\xd8", 2))
        return image_decode_jpeg(decoder, bytes, n_bytes, out);
    if (starts_with(bytes, n_bytes, "BM", 2))
        return image_decode_bmp(bytes, n_bytes, out);
    if (bytes[0] == 'P' && n_bytes > 1 && bytes[1] >= '1' && bytes[1] <= '6')
        return image_decode_pnm(bytes, n_bytes, out);
    if (starts_with(bytes, n_bytes, "\x89PNG\r\n\x1a\n", 8) ||
        (starts_with(bytes, n_bytes, "RIFF", 4) && n_bytes >= 12 &&
         memcmp(bytes + 8, "WEBP", 4) == 0) ||
        starts_with(bytes, n_bytes, "II*\0", 4) || starts_with(bytes, n_bytes, "MM\0*", 4))
        return image_decode_vips(bytes, n_bytes, out);
    FAIL(STATUS_CORRUPT, "the content is none of JPEG, PNG, WebP, TIFF, BMP, PPM, PGM, PBM");
}

/* Room for a file; a huge one's does not stay. */
static enum status reserve_file(struct image_decoder *decoder, size_t n_bytes)
{
    if (decoder->file_capacity > KEEP_BYTES && n_bytes < KEEP_BYTES) {
        memory_free(decoder->file);
        decoder->file = NULL;
        decoder->file_capacity = 0;
    }
    return memory_grow(&decoder->file, &decoder->file_capacity, n_bytes + 1, 1, "file buffer");
}

/* Up to n_bytes from `offset` on; the file may end before. */
static enum status read_part(int file, uint64_t offset, uint8_t *out, size_t *n_bytes)
{
    size_t filled = 0;

    while (filled < *n_bytes) {
        ssize_t n = pread(file, out + filled, *n_bytes - filled, (off_t)(offset + filled));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL(STATUS_IO, "can't be read: %s", strerror(errno));
        if (n == 0)
            break;
        filled += (size_t)n;
    }
    *n_bytes = filled;
    return STATUS_OK;
}

static bool is_part(const struct image_place *place)
{
    return place->name != NULL && place->name[0] != '\0';
}

/* O_NONBLOCK: a pipe with an image's name must not hold a thread for ever. */
static int open_file(const struct image_place *place)
{
    return open(place->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

int image_fetch(const struct image_place *place)
{
    int file = open_file(place);

    /* All of it, or the part of the archive; where that does nothing, it is read later. */
    if (file >= 0)
        (void)!posix_fadvise(file, is_part(place) ? (off_t)place->offset : 0,
                             is_part(place) ? (off_t)place->size : 0, POSIX_FADV_WILLNEED);
    return file;
}

/* Bytes of an image, in memory of the decoder until its next use. Takes the file. */
static enum status load(struct image_decoder *decoder, const struct image_place *place, int file,
                        size_t *n_bytes)
{
    enum status status = STATUS_OK;
    struct stat info;

    if (file < 0)
        file = open_file(place);
    if (file < 0)
        FAIL(errno == ENOENT || errno == ENOTDIR                     ? STATUS_NOT_FOUND
             : errno == EMFILE || errno == ENFILE || errno == ENOMEM ? STATUS_NO_MEMORY
                                                                     : STATUS_IO,
             "can't be opened: %s", strerror(errno));
    if (fstat(file, &info) != 0)
        FAIL_OUT(STATUS_IO, "can't be read: %s", strerror(errno));
    if (!S_ISREG(info.st_mode))
        FAIL_OUT(STATUS_IO, "not a regular file");
    bool part = is_part(place);
    uint64_t wanted = part ? place->size : (uint64_t)info.st_size;
    if (wanted > IMAGE_MAX_FILE_BYTES)
        FAIL_OUT(STATUS_CORRUPT, "%ju bytes; wanted at most %d", (uintmax_t)wanted,
                 IMAGE_MAX_FILE_BYTES);
    TRY_OUT(reserve_file(decoder, (size_t)wanted));
    *n_bytes = (size_t)wanted;
    TRY_OUT(read_part(file, part ? place->offset : 0, decoder->file, n_bytes));
    if (part && *n_bytes < place->size)
        FAIL_OUT(STATUS_CORRUPT, "the archive ends before the image does");
out:
    close(file);
    return status;
}

int64_t image_decoder_read_ns(const struct image_decoder *decoder)
{
    return decoder->read_ns;
}

enum status image_read(struct image_decoder *decoder, const struct image_place *place,
                       struct image *out)
{
    return image_read_from(decoder, place, -1, out);
}

enum status image_read_from(struct image_decoder *decoder, const struct image_place *place,
                            int file, struct image *out)
{
    size_t n_bytes = 0;
    int64_t start_ns = clock_monotonic_ns();
    enum status status = load(decoder, place, file, &n_bytes);

    decoder->read_ns += clock_monotonic_ns() - start_ns;
    if (status == STATUS_OK)
        status = image_decode(decoder, decoder->file, n_bytes, out);
    if (status == STATUS_OK)
        return STATUS_OK;
    if (is_part(place))
        return status_set(status, "image '%s' in '%s': %s", place->name, place->path,
                          status_message());
    return status_set(status, "image '%s': %s", place->path, status_message());
}
