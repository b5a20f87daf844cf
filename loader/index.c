/* Index files: mapped, checked, written atomically. */
#include "loader/index.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/memory.h"

static enum status write_all(int file, const char *bytes, size_t n)
{
    while (n > 0) {
        ssize_t written = write(file, bytes, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            FAIL(STATUS_IO, "%s", strerror(errno));
        bytes += written;
        n -= (size_t)written;
    }
    return STATUS_OK;
}

enum status index_write(const struct index *index, const char *path)
{
    char temporary[INDEX_MAX_PATH_BYTES];
    enum status status;

    if (snprintf(temporary, sizeof(temporary), "%s.%d.tmp", path, (int)getpid()) >=
        (int)sizeof(temporary))
        FAIL(STATUS_INVALID, "index path '%s' is too long", path);
    int file = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0)
        FAIL(STATUS_IO, "cannot write index '%s': %s; choose another place with --output", path,
             strerror(errno));
    status = write_all(file, (const char *)index->header, index->map_bytes);
    if (status == STATUS_OK && fsync(file) != 0)
        status = status_set(STATUS_IO, "%s", strerror(errno));
    close(file);
    if (status == STATUS_OK && rename(temporary, path) != 0)
        status = status_set(STATUS_IO, "%s", strerror(errno));
    if (status != STATUS_OK) {
        unlink(temporary);
        return status_set(status, "cannot write index '%s': %s", path, status_message());
    }
    return STATUS_OK;
}

static bool string_is_inside(const struct index *index, uint64_t offset)
{
    uint64_t n = index->header->strings_bytes;
    return offset < n && memchr(index->strings + offset, 0, n - offset) != NULL;
}

/* Sizes, checksum, offsets: after this nothing in the file can mislead. */
static enum status check_map(struct index *index, const char *path)
{
    const struct index_header *header = index->map;
    size_t rest = index->map_bytes - sizeof(*header);

    if (index->map_bytes < sizeof(*header) || memcmp(header->magic, "IBOTIDX\n", 8) != 0)
        FAIL(STATUS_CORRUPT, "'%s' is not an index file", path);
    if (header->version != INDEX_VERSION)
        FAIL(STATUS_MISMATCH, "index '%s' has version %u, wanted %d: make it again with ibot-index",
             path, header->version, INDEX_VERSION);
    if (header->n_samples == 0 || header->n_samples > INDEX_MAX_SAMPLES || header->n_classes == 0 ||
        header->n_classes > header->n_samples + 1000000 || header->n_folders > INDEX_MAX_SAMPLES ||
        header->strings_bytes > rest ||
        rest != header->n_samples * sizeof(struct index_entry) +
                    header->n_classes * sizeof(uint64_t) +
                    header->n_folders * sizeof(struct index_folder) + header->strings_bytes)
        FAIL(STATUS_CORRUPT, "index '%s': its sizes do not add up: make it again with ibot-index",
             path);
    if (hash_bytes(header + 1, rest) != header->checksum)
        FAIL(STATUS_CORRUPT, "index '%s': wrong checksum: make it again with ibot-index", path);
    index->header = header;
    index->entries = (const struct index_entry *)(const void *)(header + 1);
    index->class_names = (const uint64_t *)(const void *)(index->entries + header->n_samples);
    index->folders =
        (const struct index_folder *)(const void *)(index->class_names + header->n_classes);
    index->strings = (const char *)(const void *)(index->folders + header->n_folders);
    if (header->strings_bytes == 0 || index->strings[header->strings_bytes - 1] != '\0')
        FAIL(STATUS_CORRUPT, "index '%s': a path has no end", path);
    for (uint64_t i = 0; i < header->n_samples; i++)
        if (index->entries[i].path >= header->strings_bytes ||
            index->entries[i].label >= header->n_classes)
            FAIL(STATUS_CORRUPT, "index '%s': entry %llu points outside", path,
                 (unsigned long long)i);
    for (uint32_t i = 0; i < header->n_classes; i++)
        if (!string_is_inside(index, index->class_names[i]))
            FAIL(STATUS_CORRUPT, "index '%s': class %u points outside", path, i);
    for (uint64_t i = 0; i < header->n_folders; i++)
        if (!string_is_inside(index, index->folders[i].path))
            FAIL(STATUS_CORRUPT, "index '%s': folder %llu points outside", path,
                 (unsigned long long)i);
    return STATUS_OK;
}

enum status index_open(struct index *out, const char *path, const char *root)
{
    enum status status = STATUS_OK;
    struct stat info;

    memset(out, 0, sizeof(*out));
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot open index '%s': %s", path,
             strerror(errno));
    if (fstat(file, &info) != 0 || info.st_size < (off_t)sizeof(struct index_header))
        FAIL_OUT(STATUS_CORRUPT, "'%s' is not an index file", path);
    out->map_bytes = (size_t)info.st_size;
    out->map = mmap(NULL, out->map_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (out->map == MAP_FAILED) {
        out->map = NULL;
        FAIL_OUT(STATUS_IO, "cannot map index '%s': %s", path, strerror(errno));
    }
    TRY_OUT(check_map(out, path));
    TRY_OUT(memory_strdup(&out->root, root));
out:
    close(file);
    if (status != STATUS_OK)
        index_close(out);
    return status;
}

bool index_is_current(const struct index *index)
{
    char path[2 * INDEX_MAX_PATH_BYTES];
    struct stat info;

    for (uint64_t i = 0; i < index->header->n_folders; i++) {
        const char *folder = index->strings + index->folders[i].path;
        snprintf(path, sizeof(path), "%s/%s", index->root, folder);
        if (stat(path, &info) != 0)
            return false;
        int64_t mtime = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
        if (folder[0] != '\0' && mtime != index->folders[i].mtime_ns)
            return false; /* the root itself changes when the index is written into it */
    }
    return true;
}

enum status index_load(struct index *out, const char *root, const char *path)
{
    char inside[INDEX_MAX_PATH_BYTES];

    if (path != NULL) {
        TRY(index_open(out, path, root));
        return STATUS_OK;
    }
    snprintf(inside, sizeof(inside), "%s/%s", root, INDEX_FILE_NAME);
    if (index_open(out, inside, root) == STATUS_OK) {
        if (index_is_current(out))
            return STATUS_OK;
        index_close(out);
    }
    return index_build(out, root, NULL, NULL);
}

enum status index_path(const struct index *index, uint32_t sample, char *out, size_t size)
{
    CHECK(sample < index->header->n_samples);
    const char *relative = index->strings + index->entries[sample].path;
    if (snprintf(out, size, "%s/%s", index->root, relative) >= (int)size)
        FAIL(STATUS_INVALID, "path of sample %u is longer than %zu bytes", sample, size - 1);
    return STATUS_OK;
}

void index_close(struct index *index)
{
    if (index == NULL)
        return;
    if (index->map != NULL)
        munmap(index->map, index->map_bytes);
    memory_free(index->owned);
    memory_free(index->root);
    memset(index, 0, sizeof(*index));
}
