/* What building and opening an index share. */
#ifndef IBOT_LOADER_INDEX_INTERNAL_H
#define IBOT_LOADER_INDEX_INTERNAL_H

#include <sys/stat.h>

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
    struct index_names archives;       /* files that end in .tar */
    int64_t mtime_ns;
    uint64_t device, inode;
};

/* Lists a folder, following links; with_sizes looks at each file. Errors: STATUS_NOT_FOUND,
 * STATUS_IO, STATUS_NO_MEMORY; nothing to release then. */
enum status index_list(struct index_listing *out, const char *path,
                       bool with_sizes) IBOT_WARN_UNUSED;
void index_listing_release(struct index_listing *listing);

/* What the content of a data set's root is judged by. */
enum index_names_of { INDEX_NAMES_OF_FOLDERS, INDEX_NAMES_OF_FILES, INDEX_NAMES_OF_ARCHIVES };

/* Hash of what matters in the root. */
uint64_t index_root_names(const struct index_listing *root, enum index_names_of names);

/* Time of last change of a file, or INDEX_TIME_UNKNOWN when it is too fresh to be sure. */
int64_t index_settled_time(const struct stat *info);

/* Everything is collected in growing arrays, then laid out as the file is. */
struct index_builder {
    const char *root;
    enum index_base base;
    enum index_names_of names;
    struct index_entry *entries;
    size_t n_entries, entry_capacity;
    struct index_folder *folders;
    size_t n_folders, folder_capacity;
    uint64_t *class_names;
    size_t n_classes, class_capacity;
    char *strings; /* begins with "" */
    size_t n_strings, string_capacity;
    uint64_t n_found, n_ignored, root_names;
    index_progress *progress;
    void *context;
};

enum status index_add_string(struct index_builder *builder, const char *text,
                             uint64_t *offset) IBOT_WARN_UNUSED;
enum status index_add_entry(struct index_builder *builder,
                            const struct index_entry *entry) IBOT_WARN_UNUSED;
enum status index_add_folder(struct index_builder *builder, const char *path,
                             int64_t mtime_ns) IBOT_WARN_UNUSED;
enum status index_add_class(struct index_builder *builder, const char *name) IBOT_WARN_UNUSED;

/* Classes "0" .. "n-1". */
enum status index_add_numbered_classes(struct index_builder *builder, int64_t n) IBOT_WARN_UNUSED;

/* n more images were found. Errors: STATUS_INTERRUPTED. */
enum status index_note_progress(struct index_builder *builder, size_t n) IBOT_WARN_UNUSED;

/* The index itself, but for its root. Errors: STATUS_NO_MEMORY. */
enum status index_lay_out(const struct index_builder *builder, struct index *out) IBOT_WARN_UNUSED;
void index_builder_release(struct index_builder *builder);

/* Reads the archives of a folder. Errors: as index_build. */
enum status index_read_archives(struct index_builder *builder, const char *folder,
                                const struct index_names *archives) IBOT_WARN_UNUSED;

/* Reads builder->root as a list. Errors: as index_build. */
enum status index_read_list(struct index_builder *builder) IBOT_WARN_UNUSED;

/* a/b. Errors: STATUS_INVALID (too long). */
enum status index_join(char *out, size_t size, const char *a, const char *b) IBOT_WARN_UNUSED;

/* Folder of a file ("" for one without) and its name, both in `folder`. Errors: STATUS_INVALID. */
enum status index_split(const char *path, char folder[INDEX_MAX_PATH_BYTES],
                        char **name) IBOT_WARN_UNUSED;

/* Sets root and base of an index whose header is there. Errors: STATUS_NO_MEMORY. */
enum status index_set_root(struct index *index, const char *root) IBOT_WARN_UNUSED;

#endif
