/* The index of a data set: which images there are, in the order of torchvision's ImageFolder.
 *
 * Classes are the immediate sub-folders, sorted by bytes; a folder without sub-folders is one
 * class. Within a class, folders are visited in order of their path and files in order of their
 * name. `ibot-index` writes it once; a loader maps it, or builds it in memory when there is none.
 *
 *   file: | header | entries [n] | class name offsets [n_classes] | folders [n_folders] | strings |
 */
#ifndef IBOT_LOADER_INDEX_H
#define IBOT_LOADER_INDEX_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/base/status.h"

#define INDEX_FILE_NAME ".ibot-index"

enum { INDEX_VERSION = 1, INDEX_MAX_SAMPLES = 200000000, INDEX_MAX_PATH_BYTES = 4096 };

struct index_header {
    char magic[8]; /* "IBOTIDX\n" */
    uint32_t version, n_classes;
    uint64_t n_samples, n_folders, strings_bytes;
    uint64_t digest;   /* of paths, sizes and labels */
    uint64_t checksum; /* of everything after the header */
};

struct index_entry {
    uint64_t path;   /* offset in strings: relative to the root, NUL-terminated */
    uint64_t size;   /* bytes */
    uint64_t offset; /* in the file `path`, for images inside archives; else 0 */
    uint32_t label;
    uint32_t reserved;
};

struct index_folder {
    uint64_t path; /* offset in strings */
    int64_t mtime_ns;
};

struct index {
    const struct index_header *header;
    const struct index_entry *entries;
    const uint64_t *class_names; /* offsets in strings */
    const struct index_folder *folders;
    const char *strings;
    char *root;
    void *map; /* mapped file, or NULL: memory below is owned */
    size_t map_bytes;
    void *owned;
};

/* Called now and then while folders are read; non-zero stops with STATUS_INTERRUPTED. */
typedef int index_progress(void *context, uint64_t n_found);

/* Reads the folders. Errors: STATUS_NOT_FOUND (no such folder), STATUS_INVALID (no images: what was
 * looked for), STATUS_IO. */
enum status index_build(struct index *out, const char *root, index_progress *progress,
                        void *context) IBOT_WARN_UNUSED;

/* Writes it, atomically. */
enum status index_write(const struct index *index, const char *path) IBOT_WARN_UNUSED;

/* Maps and checks a file. Errors: STATUS_NOT_FOUND, STATUS_CORRUPT (which rule). */
enum status index_open(struct index *out, const char *path, const char *root) IBOT_WARN_UNUSED;

/* Whether the folders are as they were when the index was made. */
bool index_is_current(const struct index *index);

/* The index file in `root` (or `path`, when not NULL) if it is there and current, else built. */
enum status index_load(struct index *out, const char *root, const char *path) IBOT_WARN_UNUSED;

/* Absolute path of a sample. */
enum status index_path(const struct index *index, uint32_t sample, char *out,
                       size_t size) IBOT_WARN_UNUSED;
void index_close(struct index *index);

#endif
