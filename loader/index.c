/* Index files: mapped, checked, found, written atomically. */
#include "loader/index.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loader/index_internal.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

enum { KEEP_SAMPLES = 50000 }; /* smaller data sets are read again in no time */

#define REMEDY "make it again with ibot-index"

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
    uint64_t number;

    /* A name that nobody else has: loaders on many machines, or in containers where each has the
     * same process id, may write the same index at once. */
    if (getrandom(&number, sizeof(number), 0) != sizeof(number))
        FAIL(STATUS_IO, "index '%s': getrandom: %s", path, strerror(errno));
    if (snprintf(temporary, sizeof(temporary), "%s.tmp-%016llx", path,
                 (unsigned long long)number) >= (int)sizeof(temporary))
        FAIL(STATUS_INVALID, "index path '%s' is too long", path);
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file < 0)
        FAIL(STATUS_IO, "index '%s' can't be written: %s; choose another place with --output", path,
             strerror(errno));
    enum status status = write_all(file, (const char *)index->header, index->map_bytes);
    if (status == STATUS_OK && fsync(file) != 0)
        status = status_set(STATUS_IO, "%s", strerror(errno));
    close(file);
    if (status == STATUS_OK && rename(temporary, path) != 0)
        status = status_set(STATUS_IO, "%s", strerror(errno));
    if (status != STATUS_OK) {
        unlink(temporary);
        return status_set(status, "index '%s' can't be written: %s", path, status_message());
    }
    return STATUS_OK;
}

enum status index_write_below(const struct index *index, const char *path)
{
    char folder[INDEX_MAX_PATH_BYTES];

    if (snprintf(folder, sizeof(folder), "%s", path) >= (int)sizeof(folder))
        FAIL(STATUS_INVALID, "index path '%s' is too long", path);
    for (char *slash = strchr(folder + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(folder, 0755); /* if that fails, writing says so */
        *slash = '/';
    }
    return index_write(index, path);
}

/* ------------------------------------------------------------------------------ opening */

enum status index_split(const char *path, char folder[INDEX_MAX_PATH_BYTES], char **name)
{
    if (snprintf(folder, INDEX_MAX_PATH_BYTES, "%s", path) >= INDEX_MAX_PATH_BYTES - 2)
        FAIL(STATUS_INVALID, "path '%.100s…' is longer than %d bytes", path,
             INDEX_MAX_PATH_BYTES - 3);
    char *slash = strrchr(folder, '/');
    if (slash == NULL) { /* in the current folder */
        memmove(folder + 2, folder, strlen(folder) + 1);
        folder[0] = '.';
        slash = folder + 1;
    } else if (slash == folder) { /* in the root of the file system */
        memmove(folder + 1, folder, strlen(folder) + 1);
        slash = folder + 1;
    }
    *slash = '\0';
    *name = slash + 1;
    return STATUS_OK;
}

enum status index_set_root(struct index *index, const char *root)
{
    char folder[INDEX_MAX_PATH_BYTES], *name;
    const char *base = root;

    if (index->header->base == INDEX_AT_FILE_SYSTEM)
        base = "/";
    if (index->header->base == INDEX_BESIDE_ROOT) {
        TRY(index_split(root, folder, &name));
        base = folder;
    }
    TRY(memory_strdup(&index->root, root));
    return memory_strdup(&index->base, base);
}

static bool is_string(const struct index *index, uint64_t offset)
{
    return offset < index->header->strings_bytes; /* the last byte of all strings is NUL */
}

/* Relative, and without a way out of the root. */
static bool is_path_below(const char *path)
{
    if (path[0] == '/')
        return false;
    for (const char *part = path; part != NULL;) {
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return false;
        part = strchr(part, '/');
        part = part != NULL ? part + 1 : NULL;
    }
    return true;
}

static enum status check_strings(const struct index *index, const char *path)
{
    const struct index_header *header = index->header;

    if (header->strings_bytes == 0 || index->strings[header->strings_bytes - 1] != '\0')
        FAIL(STATUS_CORRUPT, "index '%s': a path has no end; " REMEDY, path);
    for (uint64_t i = 0; i < header->n_samples; i++) {
        const struct index_entry *entry = &index->entries[i];
        if (!is_string(index, entry->path) || entry->label >= header->n_classes)
            FAIL(STATUS_CORRUPT, "index '%s': entry %llu points outside; " REMEDY, path,
                 (unsigned long long)i);
        if (!is_string(index, entry->name))
            FAIL(STATUS_CORRUPT, "index '%s': entry %llu points outside; " REMEDY, path,
                 (unsigned long long)i);
        if (i > 0 && entry->path == entry[-1].path)
            continue; /* the same archive */
        const char *text = index->strings + entry->path;
        if (text[0] == '\0' || !is_path_below(text))
            FAIL(STATUS_CORRUPT, "index '%s': entry %llu has the path '%.100s'; " REMEDY, path,
                 (unsigned long long)i, text);
    }
    for (uint32_t i = 0; i < header->n_classes; i++)
        if (!is_string(index, index->class_names[i]))
            FAIL(STATUS_CORRUPT, "index '%s': class %u points outside; " REMEDY, path, i);
    for (uint64_t i = 0; i < header->n_folders; i++)
        if (!is_string(index, index->folders[i].path) ||
            !is_path_below(index->strings + index->folders[i].path))
            FAIL(STATUS_CORRUPT, "index '%s': folder %llu points outside; " REMEDY, path,
                 (unsigned long long)i);
    return STATUS_OK;
}

/* Sizes, checksum, offsets. */
static enum status check_map(struct index *index, const char *path)
{
    const struct index_header *header = index->map;
    size_t rest = index->map_bytes - sizeof(*header);

    if (memcmp(header->magic, "IBOTIDX\n", 8) != 0)
        FAIL(STATUS_CORRUPT, "'%s' is not an index file", path);
    if (header->version != INDEX_VERSION)
        FAIL(STATUS_MISMATCH, "index '%s' has version %u, wanted %d; " REMEDY, path,
             header->version, INDEX_VERSION);
    /* limits first: then no product below overflows */
    if (header->n_samples == 0 || header->n_samples > INDEX_MAX_SAMPLES || header->n_classes == 0 ||
        header->n_classes > INT32_MAX || header->base > INDEX_AT_FILE_SYSTEM ||
        header->names > INDEX_NAMES_OF_ARCHIVES || header->n_folders > UINT32_MAX ||
        header->strings_bytes > rest ||
        rest != header->n_samples * sizeof(struct index_entry) +
                    header->n_classes * sizeof(uint64_t) +
                    header->n_folders * sizeof(struct index_folder) + header->strings_bytes)
        FAIL(STATUS_CORRUPT, "index '%s': its sizes do not add up; it was cut short? " REMEDY,
             path);
    if (hash_bytes(header + 1, rest) != header->checksum)
        FAIL(STATUS_CORRUPT, "index '%s': wrong checksum; " REMEDY, path);
    index->header = header;
    index->entries = (const struct index_entry *)(const void *)(header + 1);
    index->class_names = (const uint64_t *)(const void *)(index->entries + header->n_samples);
    index->folders =
        (const struct index_folder *)(const void *)(index->class_names + header->n_classes);
    index->strings = (const char *)(const void *)(index->folders + header->n_folders);
    return check_strings(index, path);
}

enum status index_open(struct index *out, const char *path, const char *root)
{
    enum status status = STATUS_OK;
    struct stat info;

    memset(out, 0, sizeof(*out));
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "index '%s' can't be opened: %s", path,
             strerror(errno));
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode) ||
        info.st_size < (off_t)sizeof(struct index_header))
        FAIL_OUT(STATUS_CORRUPT, "'%s' is not an index file", path);
    out->map_bytes = (size_t)info.st_size;
    out->map = mmap(NULL, out->map_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    if (out->map == MAP_FAILED) {
        out->map = NULL;
        FAIL_OUT(STATUS_IO, "index '%s' can't be mapped: %s", path, strerror(errno));
    }
    TRY_OUT(check_map(out, path));
    TRY_OUT(index_set_root(out, root));
out:
    close(file);
    if (status != STATUS_OK)
        index_close(out);
    return status;
}

/* ------------------------------------------------------------------------------ age, places */

static bool root_is_current(const struct index *index)
{
    struct index_listing root;

    if (index->header->base != INDEX_AT_ROOT)
        return true;
    if (index_list(&root, index->root, false) != STATUS_OK)
        return false;
    bool same = index_root_names(&root, (enum index_names_of)index->header->names) ==
                index->header->root_names;
    index_listing_release(&root);
    return same;
}

bool index_is_current(const struct index *index)
{
    char path[2 * INDEX_MAX_PATH_BYTES];
    struct stat info;

    for (uint64_t i = 0; i < index->header->n_folders; i++) {
        const char *folder = index->strings + index->folders[i].path;
        if (folder[0] == '\0')
            continue;
        snprintf(path, sizeof(path), "%s/%s", index->base, folder);
        if (stat(path, &info) != 0)
            return false;
        int64_t mtime = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
        if (mtime != index->folders[i].mtime_ns)
            return false;
    }
    return root_is_current(index);
}

enum status index_place(const char *root, bool cache, char *out, size_t size)
{
    char real[PATH_MAX];
    struct stat info;
    const char *home = getenv("XDG_CACHE_HOME"), *below = "";
    int n;

    if (realpath(root, real) == NULL)
        FAIL(errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
             "data folder '%s' can't be opened: %s", root, strerror(errno));
    if (home == NULL || home[0] == '\0') {
        home = getenv("HOME");
        below = "/.cache";
    }
    if (cache && (home == NULL || home[0] == '\0'))
        FAIL(STATUS_NOT_FOUND, "neither XDG_CACHE_HOME nor HOME names a place for a cache");
    if (cache)
        n = snprintf(out, size, "%s%s/ibot/%016llx%s", home, below,
                     (unsigned long long)hash_bytes(real, strlen(real)), INDEX_FILE_NAME);
    else if (stat(real, &info) == 0 && S_ISREG(info.st_mode))
        n = snprintf(out, size, "%s%s", real, INDEX_FILE_NAME);
    else
        n = snprintf(out, size, "%s/%s", real, INDEX_FILE_NAME);
    if (n < 0 || (size_t)n >= size)
        FAIL(STATUS_INVALID, "the path of the index of '%s' is longer than %zu bytes", root,
             size - 1);
    return STATUS_OK;
}

enum status index_load(struct index *out, const char *root, const char *path,
                       index_progress *progress, void *context)
{
    char place[INDEX_MAX_PATH_BYTES];
    bool has_cache = false;

    if (path != NULL)
        return index_open(out, path, root);
    for (int cache = 0; cache < 2; cache++) {
        enum status status = index_place(root, cache != 0, place, sizeof(place));
        if (status != STATUS_OK && cache == 0)
            return status;
        if (status != STATUS_OK)
            break;
        has_cache = cache != 0;
        if (index_open(out, place, root) != STATUS_OK)
            continue;
        if (index_is_current(out))
            return STATUS_OK;
        index_close(out);
    }
    TRY(index_build(out, root, progress, context));
    if (has_cache && out->header->n_samples >= KEEP_SAMPLES)
        (void)!index_write_below(out, place); /* for the next start; nothing is lost without */
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ access */

enum status index_image(const struct index *index, uint32_t sample, char path[INDEX_MAX_PATH_BYTES],
                        struct image_place *place)
{
    CHECK(sample < index->header->n_samples);
    const struct index_entry *entry = &index->entries[sample];
    const char *name = index->strings + entry->name;

    TRY(index_join(path, INDEX_MAX_PATH_BYTES, index->base, index->strings + entry->path));
    *place = (struct image_place){.path = path, .name = name};
    if (name[0] != '\0') {
        place->offset = entry->offset;
        place->size = entry->size;
    }
    return STATUS_OK;
}

void index_class_counts(const struct index *index, uint64_t *counts)
{
    memset(counts, 0, index->header->n_classes * sizeof(*counts));
    for (uint64_t i = 0; i < index->header->n_samples; i++)
        counts[index->entries[i].label]++;
}

const char *index_class_name(const struct index *index, uint32_t class)
{
    CHECK(class < index->header->n_classes);
    return index->strings + index->class_names[class];
}

void index_close(struct index *index)
{
    if (index == NULL)
        return;
    if (index->map != NULL)
        munmap(index->map, index->map_bytes);
    memory_free(index->owned);
    memory_free(index->root);
    memory_free(index->base);
    memset(index, 0, sizeof(*index));
}
