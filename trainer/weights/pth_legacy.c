/* The old format: magic number, protocol, sizes, object, keys, then for each key a u64 count of
 * elements and the bytes. */
#include "trainer/weights/pth_legacy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/memory.h"

enum { PROTOCOL = 1001 };

static enum status map(struct pth *file)
{
    enum status status = STATUS_OK;
    int descriptor = open(file->path, O_RDONLY | O_CLOEXEC);
    struct stat info;

    if (descriptor < 0)
        FAIL(STATUS_IO, "weights file '%s' can't be opened: %s", file->path, strerror(errno));
    if (fstat(descriptor, &info) != 0 || info.st_size == 0)
        FAIL_OUT(STATUS_IO, "weights file '%s' can't be read or is empty", file->path);
    file->map_bytes = (size_t)info.st_size;
    file->map = mmap(NULL, file->map_bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (file->map == MAP_FAILED) {
        file->map = NULL;
        FAIL_OUT(STATUS_IO, "weights file '%s' can't be mapped: %s", file->path, strerror(errno));
    }
out:
    close(descriptor);
    return status;
}

static enum status next_pickle(const struct pth *file, size_t *at, struct pickle *out)
{
    TRY(pickle_load(out, (const char *)file->map + *at, file->map_bytes - *at, file->path));
    *at += out->n_bytes;
    return STATUS_OK;
}

/* Magic number (which brought us here), protocol, and what the writing machine was like. */
static enum status read_preamble(const struct pth *file, size_t *at)
{
    enum status status;
    struct pickle pickle = {0};
    int64_t protocol;

    TRY(next_pickle(file, at, &pickle));
    pickle_release(&pickle);
    TRY(next_pickle(file, at, &pickle));
    if (!pickle_integer(pickle.root, &protocol) || protocol != PROTOCOL)
        FAIL_OUT(STATUS_UNSUPPORTED, "weights file '%s': its protocol is not %d", file->path,
                 PROTOCOL);
    pickle_release(&pickle);
    TRY(next_pickle(file, at, &pickle));
    const struct pickle_value *little = pickle_find(pickle.root, "little_endian");
    if (little == NULL || little->kind != PICKLE_BOOL || !little->truth)
        FAIL_OUT(STATUS_UNSUPPORTED, "weights file '%s': its data are not little-endian",
                 file->path);
    status = STATUS_OK;
out:
    pickle_release(&pickle);
    return status;
}

/* Storages in the order of their keys, to find all mentions of one. */
struct mention {
    const char *key;
    size_t index;
};

static int compare_mentions(const void *left, const void *right)
{
    const struct mention *a = left, *b = right;
    int order = strcmp(a->key, b->key);
    return order != 0 ? order : a->index < b->index ? -1 : 1;
}

/* The first mention of a key; n: there is none. */
static size_t first_mention(const struct mention *mentions, size_t n, const char *key)
{
    size_t low = 0, high = n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(mentions[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && strcmp(mentions[low].key, key) == 0 ? low : n;
}

/* The block of one key: a count, then the bytes. All mentions must agree with the count. */
static enum status place_storage(struct pth *file, const struct mention *mentions, const char *key,
                                 size_t *at)
{
    size_t n = file->object.n_storages, i = first_mention(mentions, n, key);
    uint64_t count = 0, n_bytes;

    if (i == n)
        FAIL(STATUS_CORRUPT, "weights file '%s': nothing mentions its storage '%.100s'", file->path,
             key);
    const struct pickle_storage *storage = &file->object.storages[mentions[i].index]->storage;
    if (file->places[mentions[i].index].bytes != NULL)
        FAIL(STATUS_CORRUPT, "weights file '%s': storage '%.100s' comes twice", file->path, key);
    if (file->map_bytes - *at < 8)
        FAIL(STATUS_CORRUPT, "weights file '%s' ends before storage '%.100s'; it was cut short",
             file->path, key);
    const unsigned char *bytes = (const unsigned char *)file->map + *at;
    for (int b = 0; b < 8; b++)
        count |= (uint64_t)bytes[b] << (8 * b);
    *at += 8;
    if (__builtin_mul_overflow(count, weight_dtype_bytes(storage->dtype), &n_bytes) ||
        n_bytes > file->map_bytes - *at)
        FAIL(STATUS_CORRUPT,
             "weights file '%s': storage '%.100s' has %" PRIu64 " elements, but only %zu bytes "
             "follow; it was cut short",
             file->path, key, count, file->map_bytes - *at);
    for (; i < n && strcmp(mentions[i].key, key) == 0; i++) {
        const struct pickle_storage *same = &file->object.storages[mentions[i].index]->storage;
        if (same->dtype != storage->dtype || (uint64_t)same->n_elements > count)
            FAIL(STATUS_CORRUPT,
                 "weights file '%s': storage '%.100s' has %" PRIu64 " elements of %s, wanted "
                 "%" PRId64 " of %s",
                 file->path, key, count, weight_dtype_name(storage->dtype), same->n_elements,
                 weight_dtype_name(same->dtype));
        file->places[mentions[i].index].bytes = bytes + 8;
    }
    *at += (size_t)n_bytes;
    return STATUS_OK;
}

static enum status place_storages(struct pth *file, const struct pickle_value *keys, size_t at)
{
    enum status status = STATUS_OK;
    size_t n = file->object.n_storages;
    struct mention *mentions = NULL;

    if (keys->kind != PICKLE_LIST)
        FAIL(STATUS_CORRUPT, "weights file '%s': the keys of its storages are %s, wanted a list",
             file->path, pickle_kind_name(keys->kind));
    TRY(memory_alloc(&file->places, n, sizeof(*file->places), "storages"));
    TRY_OUT(memory_alloc(&mentions, n, sizeof(*mentions), "storages"));
    for (size_t i = 0; i < n; i++)
        mentions[i] = (struct mention){file->object.storages[i]->storage.key, i};
    if (n > 1)
        qsort(mentions, n, sizeof(*mentions), compare_mentions);
    for (size_t i = 0; i < keys->sequence.n; i++) {
        const char *key = pickle_text(keys->sequence.items[i]);
        if (key == NULL)
            FAIL_OUT(STATUS_CORRUPT, "weights file '%s': the key of a storage is no text",
                     file->path);
        TRY_OUT(place_storage(file, mentions, key, &at));
    }
    for (size_t i = 0; i < n; i++)
        if (file->places[i].bytes == NULL)
            FAIL_OUT(STATUS_CORRUPT, "weights file '%s' has no data for storage '%.100s'",
                     file->path, file->object.storages[i]->storage.key);
out:
    memory_free(mentions);
    return status;
}

enum status pth_legacy_open(struct pth *file)
{
    struct pickle keys = {0};
    size_t at = 0;

    TRY(map(file));
    TRY(read_preamble(file, &at));
    TRY(next_pickle(file, &at, &file->object));
    TRY(next_pickle(file, &at, &keys));
    enum status status = place_storages(file, keys.root, at);
    pickle_release(&keys);
    return status;
}
