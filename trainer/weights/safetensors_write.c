/* The writer. A reader sees the old file or the new one, never a part: all bytes go to a temporary
 * name in the same folder, reach the disk, and only then take the name (rename is atomic); the
 * folder is synced last, so that the name itself survives a power cut. */
#include "trainer/weights/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/memory.h"

enum {
    HEADER_ALIGNMENT = 64,    /* data starts on a cache line */
    MAX_WRITE_BYTES = 1 << 30 /* Linux writes at most 2 GiB at once */
};

static const char *const dtype_names[DTYPE_COUNT] = {
    [DTYPE_F32] = "F32", [DTYPE_BF16] = "BF16", [DTYPE_F16] = "F16",
    [DTYPE_F64] = "F64", [DTYPE_U8] = "U8",     [DTYPE_I32] = "I32",
};

/* Positions of the items in the file: wider types first, then as given. */
static enum status file_order(size_t **out, const struct safetensors_item *items, size_t n_items)
{
    size_t *order, n = 0;

    TRY(memory_alloc(&order, n_items, sizeof(*order), "order of tensors"));
    for (size_t width = 8; width > 0; width /= 2)
        for (size_t i = 0; i < n_items; i++)
            if (dtype_size_bytes(items[i].tensor.dtype) == width)
                order[n++] = i;
    CHECK(n == n_items, "a type without a width of 8, 4, 2 or 1 bytes");
    *out = order;
    return STATUS_OK;
}

/* Adds one item to the header object; *offset moves on. */
static enum status item_describe(json_t *header, const struct safetensors_item *item,
                                 size_t *offset)
{
    const struct tensor *tensor = &item->tensor;
    size_t n_bytes = tensor_size_bytes(tensor);

    if (strcmp(item->name, "__metadata__") == 0 || json_object_get(header, item->name) != NULL)
        FAIL(STATUS_INVALID, "two tensors to save have the name '%s'", item->name);
    if (tensor->data == NULL && n_bytes > 0)
        FAIL(STATUS_INVALID, "tensor '%s' to save has no data", item->name);
    json_t *shape = json_array();
    for (int32_t i = 0; i < tensor->rank; i++)
        json_array_append_new(shape, json_integer(tensor->shape[i]));
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_names[tensor->dtype], "shape", shape,
                  "data_offsets", (json_int_t)*offset, (json_int_t)(*offset + n_bytes));
    if (entry == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory to describe tensor '%s'", item->name);
    if (json_object_set_new(header, item->name, entry) != 0)
        FAIL(STATUS_INVALID, "the name '%s' of a tensor to save is not valid UTF-8", item->name);
    *offset += n_bytes;
    return STATUS_OK;
}

static enum status metadata_describe(json_t *header, const char *const *metadata, size_t n_pairs)
{
    json_t *object = json_object();

    if (object == NULL || json_object_set_new(header, "__metadata__", object) != 0)
        FAIL(STATUS_NO_MEMORY, "no memory for the metadata of a safetensors file");
    for (size_t i = 0; i < n_pairs; i++) {
        const char *key = metadata[2 * i];
        if (json_object_get(object, key) != NULL)
            FAIL(STATUS_INVALID, "the metadata key '%s' is there twice", key);
        if (json_object_set_new(object, key, json_string(metadata[2 * i + 1])) != 0)
            FAIL(STATUS_INVALID, "the metadata '%s' is not valid UTF-8", key);
    }
    return STATUS_OK;
}

/* The whole header with its length, padded. *out is the caller's. */
static enum status header_make(char **out, size_t *n_bytes, const struct safetensors_item *items,
                               const size_t *order, size_t n_items, const char *const *metadata,
                               size_t n_pairs)
{
    enum status status = STATUS_OK;
    json_t *header = json_object();
    char *text = NULL, *bytes = NULL;
    size_t offset = 0;

    if (header == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the header of a safetensors file");
    if (n_pairs > 0)
        TRY_OUT(metadata_describe(header, metadata, n_pairs));
    for (size_t i = 0; i < n_items; i++)
        TRY_OUT(item_describe(header, &items[order[i]], &offset));
    text = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    if (text == NULL)
        FAIL_OUT(STATUS_NO_MEMORY, "no memory for the header of a safetensors file");
    size_t length = strlen(text);
    size_t total = (8 + length + HEADER_ALIGNMENT - 1) / HEADER_ALIGNMENT * HEADER_ALIGNMENT;
    if (total - 8 > SAFETENSORS_MAX_HEADER_BYTES)
        FAIL_OUT(STATUS_INVALID, "%zu tensors need a header of %zu bytes; the format allows %d",
                 n_items, total - 8, SAFETENSORS_MAX_HEADER_BYTES);
    TRY_OUT(memory_alloc(&bytes, total, 1, "safetensors header"));
    memset(bytes, ' ', total);
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)((total - 8) >> (8 * i) & 0xff);
    memcpy(bytes + 8, text, length);
    *out = bytes;
    *n_bytes = total;
out:
    free(text);
    json_decref(header);
    return status;
}

static enum status bytes_write(int descriptor, const void *bytes, size_t n_bytes, const char *path)
{
    const char *next = bytes;

    while (n_bytes > 0) {
        size_t part = n_bytes < MAX_WRITE_BYTES ? n_bytes : MAX_WRITE_BYTES;
        ssize_t n = write(descriptor, next, part);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL(STATUS_IO,
                 "weights file '%s' can't be written: %s; what was there before is intact", path,
                 strerror(errno));
        next += n;
        n_bytes -= (size_t)n;
    }
    return STATUS_OK;
}

/* A new file beside `path`; the name is the caller's. */
static enum status temporary_open(int *descriptor, char **name, const char *path)
{
    for (int i = 0; i < 1000; i++) {
        if (asprintf(name, "%s.tmp-%ld-%d", path, (long)getpid(), i) < 0) {
            *name = NULL;
            FAIL(STATUS_NO_MEMORY, "no memory for a file name");
        }
        *descriptor = open(*name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (*descriptor >= 0)
            return STATUS_OK;
        int error = errno;
        free(*name);
        *name = NULL;
        if (error != EEXIST)
            FAIL(STATUS_IO, "weights file '%s' can't be made: %s", path, strerror(error));
    }
    FAIL(STATUS_IO, "weights file '%s': a thousand temporary files lie beside it; remove them",
         path);
}

static enum status folder_sync(const char *path)
{
    enum status status = STATUS_OK;
    char *copy = NULL;
    int descriptor = -1;

    TRY(memory_strdup(&copy, path));
    const char *folder = dirname(copy);
    descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* EINVAL: a file system that knows no such sync keeps names in order by itself */
    if (descriptor < 0 || (fsync(descriptor) != 0 && errno != EINVAL))
        status = status_set(STATUS_IO, "folder '%s' can't be synced to disk: %s", folder,
                            strerror(errno));
    if (descriptor >= 0)
        close(descriptor);
    memory_free(copy);
    return status;
}

enum status safetensors_write(const char *path, const struct safetensors_item *items,
                              size_t n_items, const char *const *metadata, size_t n_metadata_pairs)
{
    enum status status = STATUS_OK;
    size_t *order = NULL, header_bytes = 0;
    char *header = NULL, *temporary = NULL;
    int descriptor = -1;

    TRY_OUT(file_order(&order, items, n_items));
    TRY_OUT(header_make(&header, &header_bytes, items, order, n_items, metadata, n_metadata_pairs));
    TRY_OUT(temporary_open(&descriptor, &temporary, path));
    TRY_OUT(bytes_write(descriptor, header, header_bytes, path));
    for (size_t i = 0; i < n_items; i++) {
        const struct tensor *tensor = &items[order[i]].tensor;
        TRY_OUT(bytes_write(descriptor, tensor->data, tensor_size_bytes(tensor), path));
    }
    if (fsync(descriptor) != 0)
        FAIL_OUT(STATUS_IO, "weights file '%s' can't be synced to disk: %s", path, strerror(errno));
    int closed = close(descriptor);
    descriptor = -1;
    if (closed != 0)
        FAIL_OUT(STATUS_IO, "weights file '%s' can't be written: %s", path, strerror(errno));
    if (rename(temporary, path) != 0)
        FAIL_OUT(STATUS_IO, "'%s' can't be renamed to '%s': %s", temporary, path, strerror(errno));
    free(temporary);
    temporary = NULL;
    TRY_OUT(folder_sync(path));
out:
    if (descriptor >= 0)
        close(descriptor);
    if (temporary != NULL)
        unlink(temporary);
    free(temporary);
    memory_free(header);
    memory_free(order);
    return status;
}
