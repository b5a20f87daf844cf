/* Reading one folder. */
#include "loader/index_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "proto/base/clock.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

/* A folder that changed this recently may change again within the same tick of the file system's
 * clock. */
#define TICK_NS INT64_C(50000000)

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct index_name *)a)->text, ((const struct index_name *)b)->text);
}

static void names_sort(struct index_names *names)
{
    if (names->n > 1)
        qsort(names->names, names->n, sizeof(*names->names), compare_names);
}

static void names_release(struct index_names *names)
{
    for (size_t i = 0; i < names->n; i++)
        memory_free(names->names[i].text);
    memory_free(names->names);
    memset(names, 0, sizeof(*names));
}

static enum status names_add(struct index_names *names, const char *name, uint64_t size)
{
    TRY(memory_grow(&names->names, &names->capacity, names->n + 1, sizeof(*names->names),
                    "file names"));
    TRY(memory_strdup(&names->names[names->n].text, name));
    names->names[names->n++].size = size;
    return STATUS_OK;
}

bool index_is_image_name(const char *name)
{
    static const char *const endings[] = {".jpg", ".jpeg", ".png",  ".ppm", ".bmp",
                                          ".pgm", ".tif",  ".tiff", ".webp"};
    const char *dot = strrchr(name, '.');

    for (size_t i = 0; dot != NULL && i < sizeof(endings) / sizeof(endings[0]); i++)
        if (strcasecmp(dot, endings[i]) == 0)
            return true;
    return false;
}

static bool is_archive_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot != NULL && strcasecmp(dot, ".tar") == 0;
}

static enum status add_item(struct index_listing *out, DIR *dir, const struct dirent *item,
                            bool with_sizes)
{
    struct stat info = {0};
    bool is_image = index_is_image_name(item->d_name);
    bool is_archive = is_archive_name(item->d_name);
    bool unclear = item->d_type == DT_LNK || item->d_type == DT_UNKNOWN;

    if (item->d_type == DT_DIR)
        return names_add(&out->folders, item->d_name, 0);
    if (!is_image && !is_archive && !unclear)
        return STATUS_OK;
    /* A link that leads nowhere is a bad image later, as any file that can't be read. */
    bool known = (unclear || with_sizes) && fstatat(dirfd(dir), item->d_name, &info, 0) == 0;
    if (known && S_ISDIR(info.st_mode))
        return names_add(&out->folders, item->d_name, 0);
    if (is_archive)
        return names_add(&out->archives, item->d_name, 0);
    return is_image ? names_add(&out->files, item->d_name, known ? (uint64_t)info.st_size : 0)
                    : STATUS_OK;
}

int64_t index_settled_time(const struct stat *info)
{
    int64_t mtime_ns = (int64_t)info->st_mtim.tv_sec * 1000000000 + info->st_mtim.tv_nsec;
    bool settled = (int64_t)(clock_wall_seconds() * 1e9) - mtime_ns >= TICK_NS;
    return settled ? mtime_ns : INDEX_TIME_UNKNOWN;
}

enum status index_list(struct index_listing *out, const char *path, bool with_sizes)
{
    enum status status = STATUS_OK;
    struct stat info;
    struct dirent *item;
    DIR *dir = opendir(path);

    memset(out, 0, sizeof(*out));
    if (dir == NULL)
        FAIL(errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
             "folder '%s' can't be read: %s", path, strerror(errno));
    if (fstat(dirfd(dir), &info) != 0)
        FAIL_OUT(STATUS_IO, "folder '%s' can't be read: %s", path, strerror(errno));
    out->device = info.st_dev;
    out->inode = info.st_ino;
    out->mtime_ns = index_settled_time(&info);
    while (errno = 0, (item = readdir(dir)) != NULL)
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
            TRY_OUT(add_item(out, dir, item, with_sizes));
    if (errno != 0)
        FAIL_OUT(STATUS_IO, "folder '%s' can't be read: %s", path, strerror(errno));
    names_sort(&out->files);
    names_sort(&out->folders);
    names_sort(&out->archives);
out:
    closedir(dir);
    if (status != STATUS_OK)
        index_listing_release(out);
    return status;
}

void index_listing_release(struct index_listing *listing)
{
    names_release(&listing->files);
    names_release(&listing->folders);
    names_release(&listing->archives);
}

uint64_t index_root_names(const struct index_listing *root, enum index_names_of names)
{
    const struct index_names *of = names == INDEX_NAMES_OF_FOLDERS ? &root->folders
                                   : names == INDEX_NAMES_OF_FILES ? &root->files
                                                                   : &root->archives;
    uint64_t hash = names;

    for (size_t i = 0; i < of->n; i++)
        hash = hash_bytes_seeded(of->names[i].text, strlen(of->names[i].text) + 1, hash);
    return hash;
}
