/* Room, palette and files; the format itself is label_image_png.c's. */
#include "trainer/eval/label_image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"

/* Colour i: its bits 0, 3, 6 from the highest bit of red on, 1, 4, 7 of green, 2, 5 of blue. */
static void fill_palette(uint8_t palette[LABEL_COLOURS][3])
{
    for (int i = 0; i < LABEL_COLOURS; i++)
        for (int c = 0; c < 3; c++) {
            int value = 0;
            for (int bit = 0; bit < 8; bit++)
                if (3 * bit + c < 8)
                    value |= (i >> (3 * bit + c) & 1) << (7 - bit);
            palette[i][c] = (uint8_t)value;
        }
}

enum status label_image_open(struct label_image *out, int32_t width, int32_t height)
{
    memset(out, 0, sizeof(*out));
    CHECK(width >= 1 && height >= 1);
    TRY(memory_alloc_unset(&out->labels, (size_t)width * (size_t)height, 1, "labels"));
    out->width = width;
    out->height = height;
    fill_palette(out->palette);
    return STATUS_OK;
}

void label_image_release(struct label_image *image)
{
    if (image == NULL)
        return;
    memory_free(image->labels);
    memset(image, 0, sizeof(*image));
}

enum { MAX_FILE_BYTES = 64 << 20 };

static enum status read_file(uint8_t **out, size_t *n_bytes, FILE *file, const char *path)
{
    enum status status = STATUS_OK;
    uint8_t *bytes = NULL;

    if (fseek(file, 0, SEEK_END) != 0)
        FAIL(STATUS_IO, "cannot read '%s': %s", path, strerror(errno));
    long size = ftell(file);
    if (size < 1 || size > MAX_FILE_BYTES)
        FAIL(STATUS_CORRUPT, "'%s' has %ld bytes: wanted a PNG of 1 to %d", path, size,
             MAX_FILE_BYTES);
    TRY(memory_alloc_unset(&bytes, (size_t)size, 1, "labels"));
    rewind(file);
    if (fread(bytes, 1, (size_t)size, file) != (size_t)size)
        FAIL_OUT(STATUS_IO, "cannot read '%s'", path);
    *out = bytes;
    *n_bytes = (size_t)size;
    bytes = NULL;
out:
    memory_free(bytes);
    return status;
}

enum status label_image_read(struct label_image *out, const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = NULL;
    char reason[512];
    size_t n_bytes = 0;

    memset(out, 0, sizeof(*out));
    if (file == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot open '%s': %s", path,
             strerror(errno));
    enum status status = read_file(&bytes, &n_bytes, file, path);
    fclose(file);
    TRY(status);
    status = label_image_decode(out, bytes, n_bytes);
    memory_free(bytes);
    if (status != STATUS_OK) {
        snprintf(reason, sizeof(reason), "%s", status_message());
        FAIL(status, "'%s': %s", path, reason);
    }
    return STATUS_OK;
}
