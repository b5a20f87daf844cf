/* Walking the folders. Everything is collected in growing arrays, then laid out as the file is. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "loader/index.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

enum { MAX_DEPTH = 64 }; /* of folders: symbolic links may go round */

struct walk {
    const char *root;
    struct index_entry *entries;
    size_t n_entries, entry_capacity;
    struct index_folder *folders;
    size_t n_folders, folder_capacity;
    uint64_t *class_names;
    size_t n_classes, class_capacity;
    char *strings;
    size_t n_strings, string_capacity;
    index_progress *progress;
    void *context;
};

/* Names of one folder, sorted by bytes. */
struct names {
    char **names;
    size_t n, capacity;
};

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_release(struct names *names)
{
    for (size_t i = 0; i < names->n; i++)
        memory_free(names->names[i]);
    memory_free(names->names);
    memset(names, 0, sizeof(*names));
}

static enum status add_name(struct names *names, const char *name)
{
    TRY(memory_grow(&names->names, &names->capacity, names->n + 1, sizeof(char *), "file names"));
    TRY(memory_strdup(&names->names[names->n], name));
    names->n++;
    return STATUS_OK;
}

static bool is_image_name(const char *name)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png",  ".ppm", ".bmp",
                                          ".pgm", ".tif",  ".tiff", ".webp"};
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot != NULL && i < sizeof(endings) / sizeof(endings[0]); i++)
        if (strcasecmp(dot, endings[i]) == 0)
            return true;
    return false;
}

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
    int n = a[0] == '\0' ? snprintf(out, size, "%s", b) : snprintf(out, size, "%s/%s", a, b);
    if (n < 0 || (size_t)n >= size)
        FAIL(STATUS_INVALID, "path '%s/%s' is longer than %zu bytes", a, b, size - 1);
    return STATUS_OK;
}

/* Lists root/folder into files and sub-folders, following links; remembers its time. */
static enum status list(struct walk *walk, const char *folder, struct names *files,
                        struct names *folders)
{
    enum status status = STATUS_OK;
    char path[INDEX_MAX_PATH_BYTES], below[INDEX_MAX_PATH_BYTES];
    struct stat info;
    struct dirent *item;

    TRY(join(path, sizeof(path), walk->root, folder[0] != '\0' ? folder : "."));
    DIR *dir = opendir(path);
    if (dir == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "cannot read folder '%s': %s", path,
             strerror(errno));
    TRY_OUT(memory_grow(&walk->folders, &walk->folder_capacity, walk->n_folders + 1,
                        sizeof(*walk->folders), "index folders"));
    if (fstat(dirfd(dir), &info) != 0)
        FAIL_OUT(STATUS_IO, "cannot look at folder '%s': %s", path, strerror(errno));
    struct index_folder *entry = &walk->folders[walk->n_folders];
    entry->mtime_ns = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    TRY_OUT(add_string(walk, folder, &entry->path));
    walk->n_folders++;
    while ((item = readdir(dir)) != NULL) {
        if (strcmp(item->d_name, ".") == 0 || strcmp(item->d_name, "..") == 0)
            continue;
        TRY_OUT(join(below, sizeof(below), path, item->d_name));
        bool is_folder = item->d_type == DT_DIR;
        if (item->d_type == DT_LNK || item->d_type == DT_UNKNOWN)
            is_folder = stat(below, &info) == 0 && S_ISDIR(info.st_mode);
        if (is_folder)
            TRY_OUT(add_name(folders, item->d_name));
        else if (files != NULL && is_image_name(item->d_name))
            TRY_OUT(add_name(files, item->d_name));
    }
    if (folders->n > 1)
        qsort(folders->names, folders->n, sizeof(char *), compare_names);
    if (files != NULL && files->n > 1)
        qsort(files->names, files->n, sizeof(char *), compare_names);
out:
    closedir(dir);
    return status;
}

static enum status add_file(struct walk *walk, const char *folder, const char *name, uint32_t label)
{
    char relative[INDEX_MAX_PATH_BYTES], path[INDEX_MAX_PATH_BYTES];
    struct stat info = {0};

    TRY(join(relative, sizeof(relative), folder, name));
    TRY(join(path, sizeof(path), walk->root, relative));
    (void)!stat(path, &info); /* a broken link is a bad image later, as any unreadable file */
    if (walk->n_entries >= INDEX_MAX_SAMPLES)
        FAIL(STATUS_UNSUPPORTED, "more than %d images under '%s'", INDEX_MAX_SAMPLES, walk->root);
    TRY(memory_grow(&walk->entries, &walk->entry_capacity, walk->n_entries + 1,
                    sizeof(*walk->entries), "index entries"));
    struct index_entry *entry = &walk->entries[walk->n_entries++];
    *entry = (struct index_entry){.size = (uint64_t)info.st_size, .label = label};
    TRY(add_string(walk, relative, &entry->path));
    if (walk->progress != NULL && walk->n_entries % 1000 == 0 &&
        walk->progress(walk->context, walk->n_entries) != 0)
        FAIL(STATUS_INTERRUPTED, "stopped after %zu images", walk->n_entries);
    return STATUS_OK;
}

/* All folders below (and with) `folder`, sorted by path, as Python sorts what os.walk yields. */
static enum status collect_folders(struct walk *walk, const char *folder, struct names *all,
                                   int depth)
{
    struct names below = {0};
    char path[INDEX_MAX_PATH_BYTES];
    enum status status = add_name(all, folder);

    if (status == STATUS_OK && depth > MAX_DEPTH)
        status =
            status_set(STATUS_INVALID, "folders nest deeper than %d at '%s': a link in a ring?",
                       MAX_DEPTH, folder);
    if (status == STATUS_OK)
        status = list(walk, folder, NULL, &below);
    for (size_t i = 0; i < below.n && status == STATUS_OK; i++) {
        status = join(path, sizeof(path), folder, below.names[i]);
        if (status == STATUS_OK)
            status = collect_folders(walk, path, all, depth + 1);
    }
    names_release(&below);
    return status;
}

static enum status add_class(struct walk *walk, const char *folder, const char *name)
{
    struct names all = {0}, files = {0}, ignored = {0};
    uint32_t label = (uint32_t)walk->n_classes;
    enum status status = STATUS_OK;

    TRY(memory_grow(&walk->class_names, &walk->class_capacity, walk->n_classes + 1,
                    sizeof(uint64_t), "class names"));
    TRY(add_string(walk, name, &walk->class_names[walk->n_classes]));
    walk->n_classes++;
    TRY_OUT(collect_folders(walk, folder, &all, 0));
    qsort(all.names, all.n, sizeof(char *), compare_names);
    for (size_t i = 0; i < all.n; i++) {
        size_t n_folders = walk->n_folders;
        TRY_OUT(list(walk, all.names[i], &files, &ignored));
        walk->n_folders = n_folders; /* known already */
        for (size_t j = 0; j < files.n; j++)
            TRY_OUT(add_file(walk, all.names[i], files.names[j], label));
        names_release(&files);
        names_release(&ignored);
    }
out:
    names_release(&all);
    names_release(&files);
    names_release(&ignored);
    return status;
}

static enum status walk_root(struct walk *walk)
{
    struct names classes = {0}, files = {0};
    enum status status = list(walk, "", &files, &classes);

    for (size_t i = 0; i < classes.n && status == STATUS_OK; i++)
        status = add_class(walk, classes.names[i], classes.names[i]);
    if (classes.n == 0 && status == STATUS_OK) {
        status = memory_grow(&walk->class_names, &walk->class_capacity, 1, sizeof(uint64_t),
                             "class names");
        if (status == STATUS_OK)
            status = add_string(walk, ".", &walk->class_names[0]);
        walk->n_classes = 1;
        for (size_t i = 0; i < files.n && status == STATUS_OK; i++)
            status = add_file(walk, "", files.names[i], 0);
    }
    names_release(&classes);
    names_release(&files);
    if (status == STATUS_OK && walk->n_entries == 0)
        FAIL(STATUS_INVALID,
             "'%s' has no images (.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp): wanted one "
             "folder per class, or images in the folder itself",
             walk->root);
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
        .digest = digest,
        .checksum = hash_bytes(block + sizeof(*header), total - sizeof(*header)),
    };
    out->header = header;
    out->owned = block;
    out->map_bytes = total;
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
    memory_free(walk.entries);
    memory_free(walk.folders);
    memory_free(walk.class_names);
    memory_free(walk.strings);
    if (status != STATUS_OK)
        index_close(out);
    return status;
}
