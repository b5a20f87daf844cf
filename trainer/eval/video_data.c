#include "trainer/eval/video_data.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

enum { MAX_NAMES = 1000000 };

struct names {
    char (*names)[VIDEO_MAX_NAME];
    size_t capacity;
    int32_t n;
};

static enum status add_name(struct names *list, const char *name, size_t length)
{
    if (list->n >= MAX_NAMES)
        FAIL(STATUS_INVALID, "more than %d names", MAX_NAMES);
    TRY(memory_grow(&list->names, &list->capacity, (size_t)list->n + 1, VIDEO_MAX_NAME, "names"));
    memcpy(list->names[list->n], name, length);
    list->names[list->n++][length] = '\0';
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ sequences */

/* A name is the part of a path, so that it may not lead elsewhere. */
static enum status add_sequence(struct names *list, char *line, const char *path)
{
    size_t length = strcspn(line, "\r\n");

    while (length > 0 && (line[length - 1] == ' ' || line[length - 1] == '\t'))
        length--;
    line[length] = '\0';
    if (length == 0)
        return STATUS_OK;
    if (length >= VIDEO_MAX_NAME || line[0] == '.' || strpbrk(line, "/ \t") != NULL)
        FAIL(STATUS_CORRUPT, "%s, sequence %d: '%.60s' is no name of a folder of frames", path,
             list->n + 1, line);
    for (int32_t i = 0; i < list->n; i++)
        if (strcmp(list->names[i], line) == 0)
            FAIL(STATUS_CORRUPT, "%s names '%s' twice", path, line);
    return add_name(list, line, length);
}

enum status video_data_open(struct video_data *out, const char *root, const char *resolution,
                            const char *image_set)
{
    char path[VIDEO_MAX_PATH], line[4096];
    struct names list = {0};
    enum status status = STATUS_OK;

    *out = (struct video_data){.root = root, .resolution = resolution};
    if (snprintf(path, sizeof(path), "%s/ImageSets/%s.txt", root, image_set) >= (int)sizeof(path))
        FAIL(STATUS_INVALID, "--data_path is too long");
    FILE *file = fopen(path, "r");
    if (file == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO,
             "cannot open '%s': %s: --data_path wants a folder as DAVIS has it, with JPEGImages, "
             "Annotations and ImageSets",
             path, strerror(errno));
    while (fgets(line, sizeof(line), file) != NULL)
        TRY_OUT(add_sequence(&list, line, path));
    if (ferror(file))
        FAIL_OUT(STATUS_IO, "cannot read '%s'", path);
    if (list.n == 0)
        FAIL_OUT(STATUS_INVALID, "'%s' names no sequence", path);
out:
    fclose(file);
    out->sequences = list.names;
    out->n_sequences = list.n;
    if (status != STATUS_OK)
        video_data_close(out);
    return status;
}

void video_data_close(struct video_data *data)
{
    if (data == NULL)
        return;
    memory_free(data->sequences);
    memset(data, 0, sizeof(*data));
}

/* ------------------------------------------------------------------------------ frames */

static int by_name(const void *a, const void *b)
{
    return strcmp(a, b);
}

enum status video_frames_list(struct video_frames *out, const struct video_data *data,
                              int32_t sequence)
{
    char path[VIDEO_MAX_PATH];
    struct names list = {0};
    enum status status = STATUS_OK;
    struct dirent *entry;

    memset(out, 0, sizeof(*out));
    snprintf(path, sizeof(path), "%.3000s/JPEGImages/%.500s/%s", data->root, data->resolution,
             data->sequences[sequence]);
    DIR *folder = opendir(path);
    if (folder == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO,
             "cannot open '%s', the frames of a sequence: %s", path, strerror(errno));
    while ((entry = readdir(folder)) != NULL) {
        size_t length = strlen(entry->d_name);
        if (length > 4 && length < VIDEO_MAX_NAME && entry->d_name[0] != '.' &&
            strcmp(entry->d_name + length - 4, ".jpg") == 0)
            TRY_OUT(add_name(&list, entry->d_name, length - 4));
    }
    if (list.n < 1)
        FAIL_OUT(STATUS_INVALID, "'%s' has no frames: wanted files that end in .jpg", path);
    qsort(list.names, (size_t)list.n, VIDEO_MAX_NAME, by_name);
    *out = (struct video_frames){list.names, list.n};
    list.names = NULL;
out:
    closedir(folder);
    memory_free(list.names);
    return status;
}

void video_frames_release(struct video_frames *frames)
{
    if (frames == NULL)
        return;
    memory_free(frames->names);
    memset(frames, 0, sizeof(*frames));
}

void video_frame_path(char *out, const struct video_data *data, int32_t sequence, const char *name)
{
    snprintf(out, VIDEO_MAX_PATH, "%.3000s/JPEGImages/%.200s/%s/%s.jpg", data->root,
             data->resolution, data->sequences[sequence], name);
}

void video_labels_path(char *out, const struct video_data *data, int32_t sequence, const char *name)
{
    snprintf(out, VIDEO_MAX_PATH, "%.3000s/Annotations/%.200s/%s/%s.png", data->root,
             data->resolution, data->sequences[sequence], name);
}
