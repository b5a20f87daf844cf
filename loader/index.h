/* The index of a data set: which images there are, where their bytes lie, which class they have. A
 * data set is a folder or a file:
 *
 *   class folders    one folder per class; in the order of torchvision's ImageFolder
 *   a flat folder    images without classes
 *   archives         a tar file, or a folder of them, read without unpacking. Classes come from the
 *                    `.cls` files beside the images (WebDataset), from the archives in the archive
 *                    (ILSVRC2012_img_train.tar), from archives named as WordNet synsets
 *                    (n01440764.tar), or from the folders inside; images whose class is a name are
 *                    ordered as if unpacked
 *   a list           a text file: a path in each line, then, in each or none, a space and a class
 *                    number; relative paths start at the list's folder
 *
 * Of class folders: classes are the immediate sub-folders, sorted by bytes; a folder whose
 * sub-folders hold no images but which holds some itself is one class. Within a class, folders are
 * visited in order of their path and files in order of their name. `ibot-index` writes it once; a
 * loader maps it, or reads the folders when there is none that is up to date.
 *
 *   file: | header | entries [n] | class name offsets [n_classes] | folders [n_folders] | strings |
 *
 * An index is up to date while every folder below the root, archive and list has the time of last
 * change that it had, and the root the same names in it. (The root's own time changes when the
 * index is put there.) */
#ifndef IBOT_LOADER_INDEX_H
#define IBOT_LOADER_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "loader/image.h"
#include "proto/base/status.h"

#define INDEX_FILE_NAME ".ibot-index"

enum { INDEX_VERSION = 3, INDEX_MAX_SAMPLES = 200000000, INDEX_MAX_PATH_BYTES = 4096 };

/* Where the paths of an index start. */
enum index_base {
    INDEX_AT_ROOT,       /* in the data set, a folder */
    INDEX_BESIDE_ROOT,   /* in the folder that the data set, a file, lies in */
    INDEX_AT_FILE_SYSTEM /* at / */
};

struct index_header {
    char magic[8]; /* "IBOTIDX\n" */
    uint32_t version, n_classes;
    uint32_t base;  /* enum index_base */
    uint32_t names; /* enum index_names_of: what root_names was made from */
    uint64_t n_samples, n_folders, strings_bytes;
    uint64_t root_names; /* hash of the names in the root that matter */
    uint64_t digest;     /* of paths, sizes and labels */
    uint64_t checksum;   /* of everything after the header */
};

struct index_entry {
    uint64_t path;   /* offset in strings: relative to the base, NUL-terminated */
    uint64_t name;   /* offset in strings: of the image in the archive `path`; "" is no archive */
    uint64_t size;   /* bytes */
    uint64_t offset; /* in the archive */
    uint32_t label;
    uint32_t reserved;
};

/* A folder, archive or list that was read. */
struct index_folder {
    uint64_t path;    /* offset in strings, relative to the base; "" is the root */
    int64_t mtime_ns; /* INDEX_TIME_UNKNOWN: changed while it was read */
};

#define INDEX_TIME_UNKNOWN INT64_MIN

/* Immutable after it was opened or built. Zeroed is valid and empty. */
struct index {
    const struct index_header *header;
    const struct index_entry *entries;
    const uint64_t *class_names; /* offsets in strings */
    const struct index_folder *folders;
    const char *strings;
    char *root, *base; /* base: what paths start with */
    void *map;         /* mapped file, or NULL: memory below is owned */
    size_t map_bytes;
    void *owned;
    uint64_t n_ignored; /* when built: images beside the class folders, which belong to no class */
};

/* Called now and then while folders are read; non-zero stops with STATUS_INTERRUPTED. */
typedef int index_progress(void *context, uint64_t n_found);

/* Reads folders, archives or list. Errors: STATUS_NOT_FOUND (no such data set), STATUS_INVALID (no
 * images: what was looked for; a link that leads round; a line of a list), STATUS_CORRUPT (archive
 * and byte), STATUS_UNSUPPORTED (compressed archive), STATUS_IO. */
enum status index_build(struct index *out, const char *root, index_progress *progress,
                        void *context) IBOT_WARN_UNUSED;

/* Writes it, atomically. Errors: STATUS_IO. */
enum status index_write(const struct index *index, const char *path) IBOT_WARN_UNUSED;

/* The same; makes the folders that lead to it. */
enum status index_write_below(const struct index *index, const char *path) IBOT_WARN_UNUSED;

/* Maps and checks a file: after this nothing in it can mislead. Errors: STATUS_NOT_FOUND,
 * STATUS_IO, STATUS_CORRUPT (which rule), STATUS_MISMATCH (another version). */
enum status index_open(struct index *out, const char *path, const char *root) IBOT_WARN_UNUSED;

/* Whether the folders are as they were when the index was made. */
bool index_is_current(const struct index *index);

/* Where the index of a data set is by default: in it, or (`cache`) in the user's cache folder under
 * a name made from the data set's real path, for data that the user can't write to. Errors:
 * STATUS_NOT_FOUND (no such folder; no home for a cache), STATUS_INVALID (path too long). */
enum status index_place(const char *root, bool cache, char *out, size_t size) IBOT_WARN_UNUSED;

/* The index at `path`, whatever its age; when that is NULL, the one in the data set or in the cache
 * if it is current; else built, and, if it is large, kept in the cache where that is possible. */
enum status index_load(struct index *out, const char *root, const char *path,
                       index_progress *progress, void *context) IBOT_WARN_UNUSED;

/* Whether a file of this name may be an image. */
bool index_is_image_name(const char *name);

/* Where a sample's bytes are. path: memory for the path of the file. Errors: STATUS_INVALID (the
 * path is too long). */
enum status index_image(const struct index *index, uint32_t sample, char path[INDEX_MAX_PATH_BYTES],
                        struct image_place *place) IBOT_WARN_UNUSED;

/* counts [n_classes]: images of each class. */
void index_class_counts(const struct index *index, uint64_t *counts);
const char *index_class_name(const struct index *index, uint32_t class);

void index_close(struct index *index);

#endif
