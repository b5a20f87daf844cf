/* Any bytes as a data set that is a file: a tar archive or a list. Blocks that look like headers
 * get their right checksum, so that what is behind it is reached. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "loader/index.h"
#include "loader/tar.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void seal_headers(uint8_t *bytes, size_t n_bytes)
{
    for (size_t at = 0; at + TAR_BLOCK_BYTES <= n_bytes; at += TAR_BLOCK_BYTES) {
        uint8_t *header = bytes + at;
        unsigned sum = 0;
        if (memcmp(header + 257, "ustar", 5) != 0)
            continue;
        memset(header + 148, ' ', 8);
        for (size_t i = 0; i < TAR_BLOCK_BYTES; i++)
            sum += header[i];
        snprintf((char *)header + 148, 8, "%06o", sum);
    }
}

/* Whatever the index says can be asked for. */
static void touch(const struct index *index)
{
    struct image_place place;
    char path[INDEX_MAX_PATH_BYTES];

    for (uint32_t i = 0; i < index->header->n_samples; i++) {
        if (index->entries[i].label >= index->header->n_classes)
            abort();
        if (index_image(index, i, path, &place) == STATUS_OK && strstr(path, "/../") != NULL)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct index index;
    char path[64];
    int descriptor = memfd_create("archive", MFD_CLOEXEC);
    uint8_t *copy = malloc(n_bytes + 1);

    if (descriptor < 0 || copy == NULL)
        abort();
    memcpy(copy, bytes, n_bytes);
    seal_headers(copy, n_bytes);
    if (write(descriptor, copy, n_bytes) != (ssize_t)n_bytes)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    if (index_build(&index, path, NULL, NULL) == STATUS_OK) {
        touch(&index);
        index_close(&index);
    }
    close(descriptor);
    free(copy);
    return 0;
}
