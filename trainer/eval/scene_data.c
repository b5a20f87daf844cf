#include "trainer/eval/scene_data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "proto/base/hash.h"
#include "proto/base/memory.h"
#include "trainer/eval/folder_names.h"

enum { MAX_DEPTH = 8 };

/* Where the ending of a picture begins; NULL: it is none. */
static const char *ending_of(const char *name)
{
    const char *dot = strrchr(name, '.');

    return dot != NULL && dot != name &&
                   (strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0 ||
                    strcasecmp(dot, ".png") == 0)
               ? dot
               : NULL;
}

static enum status add(struct scene_data *data, const char *below, const char *name)
{
    size_t size = strlen(below) + strlen(name) + 1;

    TRY(memory_grow(&data->names, &data->capacity, (size_t)data->n + 1, sizeof(*data->names),
                    "names of pictures"));
    TRY(memory_alloc(&data->names[data->n], size, 1, "a name of a picture"));
    snprintf(data->names[data->n++], size, "%s%s", below, name);
    return STATUS_OK;
}

/* below: "", or the subfolder that is walked, with a slash at its end. */
static enum status walk(struct scene_data *data, const char *below, int depth)
{
    char path[SCENE_MAX_PATH];
    struct folder_names folders = {0}, files = {0};
    enum status status;

    if (depth > MAX_DEPTH || snprintf(path, sizeof(path), "%s/%s", data->images, below) > 3000)
        FAIL(STATUS_INVALID, "'%s/%s' lies too deep: wanted at most %d folders in each other",
             data->images, below, MAX_DEPTH);
    TRY_OUT(folder_names_read(&files, path, NAMES_OF_FILES, "the folder of pictures"));
    for (int i = 0; i < files.n; i++)
        if (ending_of(folder_name(&files, i)) != NULL)
            TRY_OUT(add(data, below, folder_name(&files, i)));
    TRY_OUT(folder_names_read(&folders, path, NAMES_OF_FOLDERS, "the folder of pictures"));
    for (int i = 0; i < folders.n; i++) {
        snprintf(path, sizeof(path), "%s%s/", below, folder_name(&folders, i));
        TRY_OUT(walk(data, path, depth + 1));
    }
out:
    folder_names_release(&files);
    folder_names_release(&folders);
    return status;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The same labels for two pictures, that is. */
static enum status check_names(const struct scene_data *data)
{
    for (int64_t i = 1; i < data->n; i++) {
        const char *a = data->names[i - 1], *b = data->names[i];
        size_t length = (size_t)(ending_of(a) - a);
        if (length == (size_t)(ending_of(b) - b) && strncmp(a, b, length) == 0)
            FAIL(STATUS_INVALID, "'%s' has '%s' and '%s': wanted one picture of a name",
                 data->images, a, b);
    }
    return STATUS_OK;
}

static enum status check_labels(const struct scene_data *data)
{
    char path[SCENE_MAX_PATH];
    struct stat info;

    if (data->labels == NULL)
        return STATUS_OK;
    if (!is_folder(data->labels))
        FAIL(STATUS_NOT_FOUND, "the folder of labels '%s' can't be read", data->labels);
    for (int64_t i = 0; i < data->n; i++) {
        scene_labels_path(path, data, i);
        if (stat(path, &info) != 0)
            FAIL(STATUS_NOT_FOUND, "'%s/%s' has no labels: wanted '%s'", data->images,
                 data->names[i], path);
    }
    return STATUS_OK;
}

enum status scene_data_open(struct scene_data *out, const char *images, const char *labels)
{
    enum status status;

    memset(out, 0, sizeof(*out));
    TRY_OUT(memory_strdup(&out->images, images));
    if (labels != NULL)
        TRY_OUT(memory_strdup(&out->labels, labels));
    TRY_OUT(walk(out, "", 0));
    if (out->n == 0)
        FAIL_OUT(STATUS_NOT_FOUND,
                 "'%s' has no pictures: wanted files that end in .jpg, .jpeg or .png", images);
    qsort(out->names, (size_t)out->n, sizeof(*out->names), by_name);
    TRY_OUT(check_names(out));
    TRY_OUT(check_labels(out));
out:
    if (status != STATUS_OK)
        scene_data_close(out);
    return status;
}

void scene_data_close(struct scene_data *data)
{
    if (data == NULL)
        return;
    for (int64_t i = 0; i < data->n; i++)
        memory_free(data->names[i]);
    memory_free(data->names);
    memory_free(data->images);
    memory_free(data->labels);
    memset(data, 0, sizeof(*data));
}

void scene_image_path(char *out, const struct scene_data *data, int64_t scene)
{
    snprintf(out, SCENE_MAX_PATH, "%s/%s", data->images, data->names[scene]);
}

void scene_path_in(char *out, const char *folder, const struct scene_data *data, int64_t scene)
{
    const char *name = data->names[scene];

    snprintf(out, SCENE_MAX_PATH, "%.3000s/%.*s.png", folder, (int)(ending_of(name) - name), name);
}

void scene_labels_path(char *out, const struct scene_data *data, int64_t scene)
{
    scene_path_in(out, data->labels, data, scene);
}

static enum status add_file(uint64_t *digest, const char *path)
{
    struct stat info;

    if (stat(path, &info) != 0)
        FAIL(STATUS_NOT_FOUND, "'%s' is gone", path);
    uint64_t size = (uint64_t)info.st_size;
    *digest = hash_bytes_seeded(&size, sizeof(size), *digest);
    return STATUS_OK;
}

enum status scene_data_digest(uint64_t *out, const struct scene_data *data)
{
    char path[SCENE_MAX_PATH];
    uint64_t digest = 0;

    for (int64_t i = 0; i < data->n; i++) {
        digest = hash_bytes_seeded(data->names[i], strlen(data->names[i]) + 1, digest);
        scene_image_path(path, data, i);
        TRY(add_file(&digest, path));
        if (data->labels == NULL)
            continue;
        scene_labels_path(path, data, i);
        TRY(add_file(&digest, path));
    }
    *out = digest;
    return STATUS_OK;
}
