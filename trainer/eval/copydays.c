#include "trainer/eval/copydays.h"

#include <stdio.h>
#include <string.h>

#include "trainer/checkpoint.h"
#include "trainer/eval/folder_names.h"

enum { PER_FAMILY = 9, PREFIX = 4 };

static const char strong[] = "strong";

/* What is downloaded together: a folder of images, or of folders with these numbers. */
static const struct family {
    const char *name;
    int32_t n, numbers[PER_FAMILY];
} families[] = {
    {strong, 0, {0}},
    {"jpegqual", PER_FAMILY, {3, 5, 8, 10, 15, 20, 30, 50, 75}},
    {"crops", PER_FAMILY, {10, 15, 20, 30, 40, 50, 60, 70, 80}},
};

static bool same_prefix(const struct copydays *data, int64_t a, int64_t b)
{
    return strncmp(image_paths_name(&data->paths, (size_t)a),
                   image_paths_name(&data->paths, (size_t)b), PREFIX) == 0;
}

bool copydays_is_copy(const struct copydays *data, const struct copydays_block *block, int64_t i,
                      int64_t original)
{
    return strcmp(block->name, strong) != 0 ? i == original
                                            : same_prefix(data, block->first + i, original);
}

/* Each has an original. */
static enum status check_strong(const struct copydays *data, const struct copydays_block *block)
{
    for (int64_t i = 0; i < block->n; i++) {
        int64_t original = 0;
        while (original < data->blocks[0].n && !copydays_is_copy(data, block, i, original))
            original++;
        if (original == data->blocks[0].n)
            FAIL(STATUS_CORRUPT,
                 "'%s' is a copy of no image in original/: wanted one there whose name begins with "
                 "the same %d characters",
                 data->paths.paths[block->first + i], PREFIX);
    }
    return STATUS_OK;
}

static enum status check_places(struct copydays *data, const struct copydays_block *block,
                                const char *path)
{
    if (block->n != data->blocks[0].n)
        FAIL(STATUS_CORRUPT,
             "'%s' has %lld images (*.jpg), wanted %lld, one for each in original/: unpack the "
             "archives again",
             path, (long long)block->n, (long long)data->blocks[0].n);
    for (int64_t i = 0; i < block->n && data->odd < 0; i++)
        if (!same_prefix(data, block->first + i, i))
            data->odd = block->first + i;
    return STATUS_OK;
}

static enum status add_block(struct copydays *data, const char *folder, const char *name)
{
    struct copydays_block *block = &data->blocks[data->n_blocks];
    char path[CHECKPOINT_MAX_PATH];

    CHECK(data->n_blocks < COPYDAYS_MAX_BLOCKS);
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", folder, name) >= sizeof(path))
        FAIL(STATUS_INVALID, "--data %.80s…: the path is too long", folder);
    snprintf(block->name, sizeof(block->name), "%s", name);
    block->first = (int64_t)data->paths.n;
    TRY(image_paths_add_folder(&data->paths, path, ".jpg", "folder of Copydays"));
    block->n = (int64_t)data->paths.n - block->first;
    data->n_blocks++;
    return strcmp(name, strong) == 0 ? check_strong(data, block) : check_places(data, block, path);
}

static enum status add_family(struct copydays *data, const char *folder,
                              const struct family *family)
{
    char path[CHECKPOINT_MAX_PATH + 16], name[32];
    size_t n = strlen(data->missing);

    snprintf(path, sizeof(path), "%s/%s", folder, family->name);
    if (!is_folder(path)) {
        snprintf(data->missing + n, sizeof(data->missing) - n, "%s%s", n > 0 ? ", " : "",
                 family->name);
        return STATUS_OK;
    }
    if (family->n == 0)
        return add_block(data, folder, family->name);
    for (int32_t i = 0; i < family->n; i++) {
        snprintf(name, sizeof(name), "%s/%d", family->name, family->numbers[i]);
        TRY(add_block(data, folder, name));
    }
    return STATUS_OK;
}

enum status copydays_open(struct copydays *out, const char *folder)
{
    enum status status;

    *out = (struct copydays){.odd = -1};
    status = add_block(out, folder, "original");
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]) && status == STATUS_OK; i++)
        status = add_family(out, folder, &families[i]);
    if (status != STATUS_OK)
        copydays_close(out);
    return status;
}

void copydays_close(struct copydays *data)
{
    if (data == NULL)
        return;
    image_paths_release(&data->paths);
    *data = (struct copydays){0};
}
