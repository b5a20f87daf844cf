/* Walking the folders, and what kind of data set it is. */
#include "loader/index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loader/index_internal.h"
#include "loader/tar.h"
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
    struct index_builder *builder;
    struct folder *pending; /* of the class in work, until they are sorted */
    size_t n_pending, pending_capacity;
};

/* Lists `path` and everything below it into walk->pending. */
static enum status collect(struct walk *walk, const char *path, const struct ancestor *parent)
{
    char full[INDEX_MAX_PATH_BYTES], below[INDEX_MAX_PATH_BYTES];
    struct index_listing listing;
    enum status status = STATUS_OK;

    TRY(index_join(full, sizeof(full), walk->builder->root, path));
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
    TRY_OUT(index_note_progress(walk->builder, folder->files.n));
    for (size_t i = 0; i < listing.folders.n; i++) {
        TRY_OUT(index_join(below, sizeof(below), path, listing.folders.names[i].text));
        TRY_OUT(collect(walk, below, &self));
    }
out:
    index_listing_release(&listing);
    return status;
}

static enum status add_files(struct index_builder *builder, const char *folder,
                             const struct index_names *files, uint32_t label)
{
    char relative[INDEX_MAX_PATH_BYTES];

    for (size_t i = 0; i < files->n; i++) {
        struct index_entry entry = {.size = files->names[i].size, .label = label};
        TRY(index_join(relative, sizeof(relative), folder, files->names[i].text));
        TRY(index_add_string(builder, relative, &entry.path));
        TRY(index_add_entry(builder, &entry));
    }
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
    uint32_t label = (uint32_t)walk->builder->n_classes;
    enum status status;

    TRY(index_add_class(walk->builder, name));
    TRY_OUT(collect(walk, name, root));
    qsort(walk->pending, walk->n_pending, sizeof(*walk->pending), compare_folders);
    for (size_t i = 0; i < walk->n_pending; i++) {
        TRY_OUT(index_add_folder(walk->builder, walk->pending[i].path, walk->pending[i].mtime_ns));
        TRY_OUT(add_files(walk->builder, walk->pending[i].path, &walk->pending[i].files, label));
    }
out:
    release_pending(walk);
    return status;
}

static enum status read_folders(struct index_builder *builder, const struct index_listing *root)
{
    struct walk walk = {.builder = builder};
    struct ancestor self = {NULL, root->device, root->inode};
    enum status status = STATUS_OK;

    for (size_t i = 0; i < root->folders.n && status == STATUS_OK; i++)
        status = walk_class(&walk, root->folders.names[i].text, &self);
    memory_free(walk.pending);
    return status;
}

/* Class folders; without images in them, the images of the root; without these, its archives. */
static enum status read_root(struct index_builder *builder)
{
    struct index_listing root;
    enum status status = STATUS_OK;

    TRY(index_list(&root, builder->root, true));
    TRY_OUT(index_add_folder(builder, "", root.mtime_ns));
    TRY_OUT(read_folders(builder, &root));
    builder->names = INDEX_NAMES_OF_FOLDERS;
    if (builder->n_entries == 0 && (root.files.n > 0 || root.archives.n > 0))
        builder->n_classes = 0;
    if (builder->n_entries > 0) {
        builder->n_ignored = root.files.n;
    } else if (root.files.n > 0) {
        builder->names = INDEX_NAMES_OF_FILES;
        TRY_OUT(index_add_class(builder, "."));
        TRY_OUT(add_files(builder, "", &root.files, 0));
    } else if (root.archives.n > 0) {
        builder->names = INDEX_NAMES_OF_ARCHIVES;
        TRY_OUT(index_read_archives(builder, builder->root, &root.archives));
    }
    builder->root_names = index_root_names(&root, builder->names);
    if (builder->n_entries == 0)
        FAIL_OUT(STATUS_INVALID,
                 "'%s' has no images (.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp): wanted one "
                 "folder per class, images or tar archives in the folder itself, or a file: a tar "
                 "archive or a list of images",
                 builder->root);
out:
    index_listing_release(&root);
    return status;
}

/* A data set that is a file: an archive, or a list. */
static enum status read_file(struct index_builder *builder)
{
    uint8_t start[TAR_BLOCK_BYTES];
    size_t n_read = 0;
    int file = open(builder->root, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (file < 0)
        FAIL(STATUS_IO, "'%s' can't be opened: %s", builder->root, strerror(errno));
    enum status status = tar_read(file, 0, start, sizeof(start), &n_read);
    close(file);
    if (status != STATUS_OK)
        return status_set(status, "'%s': %s", builder->root, status_message());
    if (!tar_is_archive(start, n_read))
        return index_read_list(builder);
    char folder[INDEX_MAX_PATH_BYTES];
    struct index_name name = {.text = folder};
    struct index_names archives = {&name, 1, 1};
    TRY(index_split(builder->root, folder, &name.text));
    builder->base = INDEX_BESIDE_ROOT;
    return index_read_archives(builder, folder, &archives);
}

enum status index_build(struct index *out, const char *root, index_progress *progress,
                        void *context)
{
    struct index_builder builder = {.root = root, .progress = progress, .context = context};
    struct stat info;
    uint64_t nothing;

    memset(out, 0, sizeof(*out));
    enum status status = index_add_string(&builder, "", &nothing); /* offset 0 */
    if (status == STATUS_OK)
        status = stat(root, &info) == 0 && S_ISREG(info.st_mode) ? read_file(&builder)
                                                                 : read_root(&builder);
    if (status == STATUS_OK)
        status = index_lay_out(&builder, out);
    if (status == STATUS_OK)
        status = index_set_root(out, root);
    index_builder_release(&builder);
    if (status != STATUS_OK)
        index_close(out);
    return status;
}
