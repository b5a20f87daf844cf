/* What building and opening an index share. */
#ifndef IBOT_LOADER_INDEX_INTERNAL_H
#define IBOT_LOADER_INDEX_INTERNAL_H

#include "loader/index.h"

/* A name in a folder, and what is known of it. */
struct index_name {
    char *text;
    uint64_t size; /* of files */
};

/* Names of one folder, sorted by bytes. Zeroed is valid and empty. */
struct index_names {
    struct index_name *names;
    size_t n, capacity;
};

/* What one folder holds. */
struct index_listing {
    struct index_names files, folders; /* files: those with an image's ending */
    int64_t mtime_ns;
    uint64_t device, inode;
};

/* Lists a folder, following links; with_sizes looks at each file. Errors: STATUS_NOT_FOUND,
 * STATUS_IO, STATUS_NO_MEMORY; nothing to release then. */
enum status index_list(struct index_listing *out, const char *path,
                       bool with_sizes) IBOT_WARN_UNUSED;
void index_listing_release(struct index_listing *listing);

/* Hash of what matters in the root: the folders, or the files of a flat data set. */
uint64_t index_root_names(const struct index_listing *root, bool flat);

#endif
