/* Walking the folders. Everything is collected in growing arrays, then laid out as the file is. */
#include "loader/index.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "loader/index_internal.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

/* A folder below the root, with its files. */
struct folder {
    char *path; /* relative to the root */
    struct index_names files;
    int64_t mtime_ns;
};

/* The folders that lead to the one being read: a link back to one of them would never end. */
struct ancestor {
    const struct ancestor *parent;
    uint64_t device, inode;
};

struct walk {
    const char *root;
    struct folder *pending; /* of the class in work, until they are sorted */
    size_t n_pending, pending_capacity;
    struct index_entry *entries;
    size_t n_entries, entry_capacity;
    struct index_folder *folders;
    size_t n_folders, folder_capacity;
    uint64_t *class_names;
    size_t n_classes, class_capacity;
    char *strings;
    size_t n_strings, string_capacity;
    uint64_t n_found, n_ignored, root_names;
    index_progress *progress;
    void *context;
};

static enum status add_string(struct walk *walk, const char *text, uint64_t *offset)
{
    size_t n = strlen(text) + 1;

    TRY(memory_grow(&walk->strings, &walk->string_capacity, walk->n_strings + n, 1, "index paths"));
    memcpy(walk->strings + walk->n_strings, text, n);
    *offset = walk->n_strings;
    walk->n_strings += n;
    return STATUS_OK;
}

static enum status join(char *out, size_t size, const char *a, const char *b)
{
    int n = a[0] == '\0'   ? snprintf(out, size, "%s", b)
            : b[0] == '\0' ? snprintf(out, size, "%s", a)
                           : snprintf(out, size, "%s/%s", a, b);
    if (n < 0 || (size_t)n >= size)
        FAIL(STATUS_INVALID, "path '%.100s/%.100s' is longer than %zu bytes", a, b, size - 1);
    return STATUS_OK;
}

static enum status note_progress(struct walk *walk, size_t n)
{
    uint64_t before = walk->n_found / 1000;

    walk->n_found += n;
    if (walk->progress != NULL && walk->n_found / 1000 != before &&
        walk->progress(walk->context, walk->n_found) != 0)
        FAIL(STATUS_INTERRUPTED, "stopped after %llu images", (unsigned long long)walk->n_found);
    return STATUS_OK;
}

/* Lists `path` and everything below it into walk->pending. */
static enum status collect(struct walk *walk, const char *path, const struct ancestor *parent)
{
    char full[INDEX_MAX_PATH_BYTES], below[INDEX_MAX_PATH_BYTES];
    struct index_listing listing;
    enum status status = STATUS_OK;

    TRY(join(full, sizeof(full), walk->root, path));
    TRY(index_list(&listing, full, true));
    struct ancestor self = {parent, listing.device, listing.inode};
    for (const struct ancestor *a = parent; a != NULL; a = a->parent)
        if (a->device == self.device && a->inode == self.inode)
            FAIL_OUT(STATUS_INVALID,
                     "'%s' is a link to a folder that it lies in; reading it would never end",
                     full);
    TRY_OUT(memory_grow(&walk->pending, &walk->pending_capacity, walk->n_pending + 1,
                        sizeof(*walk->pending), "index folders"));
    struct folder *folder = &walk->pending[walk->n_pending];
    *folder = (struct folder){.mtime_ns = listing.mtime_ns};
    TRY_OUT(memory_strdup(&folder->path, path));
    folder->files = listing.files;
    listing.files = (struct index_names){0};
    walk->n_pending++;
    TRY_OUT(note_progress(walk, folder->files.n));
    for (size_t i = 0; i < listing.folders.n; i++) {
        TRY_OUT(join(below, sizeof(below), path, listing.folders.names[i].text));
        TRY_OUT(collect(walk, below, &self));
    }
out:
    index_listing_release(&listing);
    return status;
}

static enum status add_files(struct walk *walk, const char *folder, const struct index_names *files,
                             uint32_t label)
{
    char relative[INDEX_MAX_PATH_BYTES];

    if (walk->n_entries + files->n > INDEX_MAX_SAMPLES)
        FAIL(STATUS_UNSUPPORTED, "more than %d images under '%s'", INDEX_MAX_SAMPLES, walk->root);
    TRY(memory_grow(&walk->entries, &walk->entry_capacity, walk->n_entries + files->n,
                    sizeof(*walk->entries), "index entries"));
    for (size_t i = 0; i < files->n; i++) {
        struct index_entry *entry = &walk->entries[walk->n_entries];
        *entry = (struct index_entry){.size = files->names[i].size, .label = label};
        TRY(join(relative, sizeof(relative), folder, files->names[i].text));
        TRY(add_string(walk, relative, &entry->path));
        walk->n_entries++;
    }
    return STATUS_OK;
}

static enum status add_folder(struct walk *walk, const char *path, int64_t mtime_ns)
{
    TRY(memory_grow(&walk->folders, &walk->folder_capacity, walk->n_folders + 1,
                    sizeof(*walk->folders), "index folders"));
    walk->folders[walk->n_folders].mtime_ns = mtime_ns;
    TRY(add_string(walk, path, &walk->folders[walk->n_folders].path));
    walk->n_folders++;
    return STATUS_OK;
}

static enum status add_class(struct walk *walk, const char *name)
{
    TRY(memory_grow(&walk->class_names, &walk->class_capacity, walk->n_classes + 1,
                    sizeof(uint64_t), "class names"));
    TRY(add_string(walk, name, &walk->class_names[walk->n_classes]));
    walk->n_classes++;
    return STATUS_OK;
}

static int compare_folders(const void *a, const void *b)
{
    return strcmp(((const struct folder *)a)->path, ((const struct folder *)b)->path);
}

static void release_pending(struct walk *walk)
{
    for (size_t i = 0; i < walk->n_pending; i++) {
        struct index_listing listing = {.files = walk->pending[i].files};
        index_listing_release(&listing);
        memory_free(walk->pending[i].path);
    }
    walk->n_pending = 0;
}

/* One class: its folders in order of their whole path, as Python sorts what os.walk yields ("a b"
 * comes before "a/b"). */
static enum status walk_class(struct walk *walk, const char *name, const struct ancestor *root)
{
    uint32_t label = (uint32_t)walk->n_classes;
    enum status status;

    TRY(add_class(walk, name));
    TRY_OUT(collect(walk, name, root));
    qsort(walk->pending, walk->n_pending, sizeof(*walk->pending), compare_folders);
    for (size_t i = 0; i < walk->n_pending; i++) {
        TRY_OUT(add_folder(walk, walk->pending[i].path, walk->pending[i].mtime_ns));
        TRY_OUT(add_files(walk, walk->pending[i].path, &walk->pending[i].files, label));
    }
out:
    release_pending(walk);
    return status;
}

static enum status walk_root(struct walk *walk)
{
    struct index_listing root;
    enum status status = STATUS_OK;

    TRY(index_list(&root, walk->root, true));
    struct ancestor self = {NULL, root.device, root.inode};
    TRY_OUT(add_folder(walk, "", root.mtime_ns));
    for (size_t i = 0; i < root.folders.n; i++)
        TRY_OUT(walk_class(walk, root.folders.names[i].text, &self));
    bool flat = walk->n_entries == 0;
    walk->root_names = index_root_names(&root, flat);
    walk->n_ignored = flat ? 0 : root.files.n;
    if (flat) {
        walk->n_classes = 0;
        TRY_OUT(add_class(walk, "."));
        TRY_OUT(add_files(walk, "", &root.files, 0));
    }
    if (walk->n_entries == 0)
        FAIL_OUT(STATUS_INVALID,
                 "'%s' has no images (.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp): wanted one "
                 "folder per class, or images in the folder itself",
                 walk->root);
out:
    index_listing_release(&root);
    return status;
}

/* One block of memory, laid out as the file. */
static enum status lay_out(const struct walk *walk, struct index *out)
{
    size_t entries = walk->n_entries * sizeof(*walk->entries);
    size_t classes = walk->n_classes * sizeof(uint64_t);
    size_t folders = walk->n_folders * sizeof(*walk->folders);
    size_t total = sizeof(struct index_header) + entries + classes + folders + walk->n_strings;
    char *block;
    uint64_t digest = 0;

    TRY(memory_alloc(&block, 1, total, "index"));
    struct index_header *header = (struct index_header *)(void *)block;
    char *at = block + sizeof(*header);
    memcpy(at, walk->entries, entries);
    out->entries = (const struct index_entry *)(void *)at;
    memcpy(at += entries, walk->class_names, classes);
    out->class_names = (const uint64_t *)(void *)at;
    memcpy(at += classes, walk->folders, folders);
    out->folders = (const struct index_folder *)(void *)at;
    memcpy(at += folders, walk->strings, walk->n_strings);
    out->strings = at;
    for (size_t i = 0; i < walk->n_entries; i++) {
        const struct index_entry *entry = &walk->entries[i];
        const char *path = walk->strings + entry->path;
        uint64_t numbers[3] = {entry->size, entry->offset, entry->label};
        digest = hash_bytes_seeded(path, strlen(path) + 1, digest);
        digest = hash_bytes_seeded(numbers, sizeof(numbers), digest);
    }
    *header = (struct index_header){
        .magic = "IBOTIDX\n",
        .version = INDEX_VERSION,
        .n_classes = (uint32_t)walk->n_classes,
        .n_samples = walk->n_entries,
        .n_folders = walk->n_folders,
        .strings_bytes = walk->n_strings,
        .root_names = walk->root_names,
        .digest = digest,
        .checksum = hash_bytes(block + sizeof(*header), total - sizeof(*header)),
    };
    out->header = header;
    out->owned = block;
    out->map_bytes = total;
    out->n_ignored = walk->n_ignored;
    return STATUS_OK;
}

enum status index_build(struct index *out, const char *root, index_progress *progress,
                        void *context)
{
    struct walk walk = {.root = root, .progress = progress, .context = context};

    memset(out, 0, sizeof(*out));
    enum status status = walk_root(&walk);
    if (status == STATUS_OK)
        status = lay_out(&walk, out);
    if (status == STATUS_OK)
        status = memory_strdup(&out->root, root);
    memory_free(walk.pending);
    memory_free(walk.entries);
    memory_free(walk.folders);
    memory_free(walk.class_names);
    memory_free(walk.strings);
    if (status != STATUS_OK)
        index_close(out);
    return status;
}
