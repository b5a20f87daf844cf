/* Any bytes as an index file, with a right checksum, so that the rules behind it are reached:
 * opened, every entry, name and path touched, closed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "loader/index.h"
#include "proto/base/hash.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void touch(const struct index *index)
{
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;
    uint64_t *counts = calloc(index->header->n_classes, sizeof(*counts));
    size_t sum = 0;

    for (uint64_t i = 0; i < index->header->n_samples; i++) {
        if (index_image(index, (uint32_t)i, path, &place) == STATUS_OK &&
            (strstr(path, "/../") != NULL || path[0] != '/'))
            abort();
        sum += (size_t)index->entries[i].size;
    }
    if (counts != NULL)
        index_class_counts(index, counts);
    for (uint32_t i = 0; i < index->header->n_classes; i++)
        sum += strlen(index_class_name(index, i));
    free(counts);
    static volatile size_t sink;
    sink = sum + index_is_current(index);
    (void)sink;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct index index;
    char path[64];
    int descriptor = memfd_create("index", MFD_CLOEXEC);
    uint8_t *copy = malloc(n_bytes + 1);

    if (descriptor < 0 || copy == NULL)
        abort();
    memcpy(copy, bytes, n_bytes);
    if (n_bytes >= sizeof(struct index_header)) {
        uint64_t checksum =
            hash_bytes(copy + sizeof(struct index_header), n_bytes - sizeof(struct index_header));
        memcpy(copy + offsetof(struct index_header, checksum), &checksum, sizeof(checksum));
    }
    if (write(descriptor, copy, n_bytes) != (ssize_t)n_bytes)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    if (index_open(&index, path, "/nowhere") == STATUS_OK) {
        touch(&index);
        index_close(&index);
    }
    close(descriptor);
    free(copy);
    return 0;
}
