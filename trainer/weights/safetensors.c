/* The reader. The JSON header is parsed by jansson, which refuses double keys and text that is not
 * UTF-8; everything after that is arithmetic on numbers from a stranger: each size is computed with
 * overflow checks and compared with what the file says before a pointer is made of it.
 *
 *   | u64 n | n bytes of JSON, padded with spaces | data: the tensors, side by side, no gap |  */
#include "trainer/weights/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/memory.h"

enum { LENGTH_BYTES = 8, ABSENT = -1 };

#define METADATA_KEY "__metadata__"

/* Every type the format knows, and ours for it. */
struct dtype_row {
    const char *name;
    int n_bits;
    int dtype; /* enum dtype or ABSENT */
};

static const struct dtype_row dtype_rows[] = {
    {"F32", 32, DTYPE_F32}, {"BF16", 16, DTYPE_BF16}, {"F16", 16, DTYPE_F16},
    {"F64", 64, DTYPE_F64}, {"U8", 8, DTYPE_U8},      {"I32", 32, DTYPE_I32},
    {"BOOL", 8, ABSENT},    {"I8", 8, ABSENT},        {"I16", 16, ABSENT},
    {"U16", 16, ABSENT},    {"U32", 32, ABSENT},      {"I64", 64, ABSENT},
    {"U64", 64, ABSENT},    {"C64", 64, ABSENT},      {"F8_E4M3", 8, ABSENT},
    {"F8_E5M2", 8, ABSENT}, {"F8_E8M0", 8, ABSENT},   {"F6_E2M3", 6, ABSENT},
    {"F6_E3M2", 6, ABSENT}, {"F4", 4, ABSENT},
};

static const struct dtype_row *dtype_row_find(const char *name)
{
    for (size_t i = 0; i < sizeof(dtype_rows) / sizeof(dtype_rows[0]); i++)
        if (strcmp(dtype_rows[i].name, name) == 0)
            return &dtype_rows[i];
    return NULL;
}

/* Maps the file and finds the header. Sets map, map_bytes and bytes. */
static enum status file_map(struct safetensors *file, size_t *header_bytes)
{
    enum status status = STATUS_OK;
    struct stat info;
    const char *path = file->path;
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);

    if (descriptor < 0)
        FAIL(errno == ENOENT || errno == ENOTDIR ? STATUS_NOT_FOUND : STATUS_IO,
             "weights file '%s' can't be opened: %s", path, strerror(errno));
    if (fstat(descriptor, &info) != 0)
        FAIL_OUT(STATUS_IO, "weights file '%s' can't be read: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        FAIL_OUT(STATUS_IO, "weights file '%s' is not a regular file", path);
    if (info.st_size < LENGTH_BYTES)
        FAIL_OUT(STATUS_CORRUPT,
                 "weights file '%s' has %jd bytes, too few for a safetensors file; it was cut "
                 "short or is something else",
                 path, (intmax_t)info.st_size);
    file->map_bytes = (size_t)info.st_size;
    file->map = mmap(NULL, file->map_bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
    if (file->map == MAP_FAILED) {
        file->map = NULL;
        FAIL_OUT(STATUS_IO, "weights file '%s' can't be mapped: %s", path, strerror(errno));
    }

    const unsigned char *start = file->map;
    uint64_t length = 0;
    for (int i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)start[i] << (8 * i);
    if (length > SAFETENSORS_MAX_HEADER_BYTES)
        FAIL_OUT(STATUS_CORRUPT,
                 "weights file '%s' says its header has %" PRIu64
                 " bytes, more than the format's limit of %d; it is not a safetensors file",
                 path, length, SAFETENSORS_MAX_HEADER_BYTES);
    if (length > file->map_bytes - LENGTH_BYTES)
        FAIL_OUT(STATUS_CORRUPT,
                 "weights file '%s' says its header has %" PRIu64
                 " bytes, but only %zu follow; it was cut short",
                 path, length, file->map_bytes - LENGTH_BYTES);
    if (length == 0 || start[LENGTH_BYTES] != '{')
        FAIL_OUT(STATUS_CORRUPT, "weights file '%s': its header does not start with '{'", path);
    *header_bytes = (size_t)length;
    file->bytes = start + LENGTH_BYTES + length;
out:
    close(descriptor);
    return status;
}

/* The JSON object of the header, and nothing but spaces after it. */
static enum status header_parse(json_t **out, const struct safetensors *file, size_t header_bytes)
{
    json_error_t error;
    const char *text = (const char *)file->map + LENGTH_BYTES;
    json_t *header =
        json_loadb(text, header_bytes, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &error);

    if (header == NULL)
        FAIL(STATUS_CORRUPT, "weights file '%s': its header is not valid JSON: %s at byte %d",
             file->path, error.text, error.position);
    for (size_t i = (size_t)error.position; i < header_bytes; i++)
        if (text[i] != ' ') {
            json_decref(header);
            FAIL(STATUS_CORRUPT,
                 "weights file '%s': byte %zu of its header follows the JSON object and is not a "
                 "space",
                 file->path, i);
        }
    *out = header;
    return STATUS_OK;
}

static enum status metadata_read(struct safetensors *file, json_t *metadata)
{
    const char *key;
    json_t *value;

    if (!json_is_object(metadata))
        FAIL(STATUS_CORRUPT, "weights file '%s': " METADATA_KEY " is not an object", file->path);
    TRY(memory_alloc(&file->metadata, json_object_size(metadata) * 2, sizeof(char *),
                     "safetensors metadata"));
    json_object_foreach(metadata, key, value)
    {
        if (!json_is_string(value))
            FAIL(STATUS_CORRUPT,
                 "weights file '%s': the value of '%.100s' in " METADATA_KEY " is not a string",
                 file->path, key);
        size_t i = 2 * file->n_metadata++; /* counted first: release frees what is there */
        TRY(memory_strdup(&file->metadata[i], key));
        TRY(memory_strdup(&file->metadata[i + 1], json_string_value(value)));
    }
    return STATUS_OK;
}

/* Shape and size: dims x type == length. */
static enum status entry_shape_read(struct safetensors_entry *entry, json_t *shape,
                                    const struct dtype_row *row, const char *path)
{
    size_t n_bits = (size_t)row->n_bits;
    bool overflow = false, empty = false;

    if (!json_is_array(shape))
        FAIL(STATUS_CORRUPT, "weights file '%s': tensor '%.100s' has no shape", path, entry->name);
    if (json_array_size(shape) > SAFETENSORS_MAX_RANK)
        FAIL(STATUS_UNSUPPORTED,
             "weights file '%s': tensor '%.100s' has %zu dimensions; at most %d can be read", path,
             entry->name, json_array_size(shape), SAFETENSORS_MAX_RANK);
    entry->file_rank = (int32_t)json_array_size(shape);
    for (int32_t i = 0; i < entry->file_rank; i++) {
        json_t *size = json_array_get(shape, (size_t)i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            FAIL(STATUS_CORRUPT,
                 "weights file '%s': dimension %d of tensor '%.100s' is not a natural number", path,
                 i, entry->name);
        entry->file_shape[i] = json_integer_value(size);
        size_t factor = (size_t)entry->file_shape[i];
        empty |= factor == 0;
        overflow |= memory_multiply_overflows(n_bits, factor == 0 ? 1 : factor, &n_bits);
    }
    /* the other dimensions of an empty tensor must fit too, in whatever order they come */
    if (overflow || n_bits > (size_t)INT64_MAX)
        FAIL(STATUS_CORRUPT, "weights file '%s': the shape of tensor '%.100s' is too large", path,
             entry->name);
    if (empty)
        n_bits = 0;
    if (n_bits % 8 != 0)
        FAIL(STATUS_CORRUPT, "weights file '%s': tensor '%.100s' of type %s ends within a byte",
             path, entry->name, row->name);
    if (n_bits / 8 != entry->n_bytes)
        FAIL(STATUS_CORRUPT,
             "weights file '%s': tensor '%.100s' takes %zu bytes by its shape and type, but its "
             "offsets span %zu",
             path, entry->name, n_bits / 8, entry->n_bytes);
    return STATUS_OK;
}

/* Offsets, within the data part. */
static enum status entry_offsets_read(struct safetensors_entry *entry, json_t *offsets,
                                      size_t data_bytes, const char *path)
{
    json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);

    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !json_is_integer(begin) ||
        !json_is_integer(end))
        FAIL(STATUS_CORRUPT,
             "weights file '%s': tensor '%.100s' has no data_offsets of two whole numbers", path,
             entry->name);
    json_int_t first = json_integer_value(begin), last = json_integer_value(end);
    if (first < 0 || last < first)
        FAIL(STATUS_CORRUPT,
             "weights file '%s': tensor '%.100s' has offsets %" JSON_INTEGER_FORMAT
             " to %" JSON_INTEGER_FORMAT ", which is no range",
             path, entry->name, first, last);
    if ((uint64_t)last > data_bytes)
        FAIL(STATUS_CORRUPT,
             "weights file '%s': tensor '%.100s' ends at byte %" JSON_INTEGER_FORMAT
             " of the data, but there are only %zu; the file was cut short",
             path, entry->name, last, data_bytes);
    entry->offset = (size_t)first;
    entry->n_bytes = (size_t)(last - first);
    return STATUS_OK;
}

/* The view that the program sees. */
static void entry_view(struct safetensors_entry *entry, const struct dtype_row *row,
                       const void *bytes)
{
    struct tensor *tensor = &entry->tensor;

    for (int i = 0; i < TENSOR_MAX_RANK; i++)
        tensor->shape[i] = 1;
    tensor->rank = entry->file_rank < TENSOR_MAX_RANK ? entry->file_rank : TENSOR_MAX_RANK;
    for (int32_t i = 0; i < entry->file_rank; i++)
        tensor->shape[i < TENSOR_MAX_RANK ? i : TENSOR_MAX_RANK - 1] *= entry->file_shape[i];
    if (row->dtype == ABSENT)
        return;
    tensor->dtype = (enum dtype)row->dtype;
    const char *data = (const char *)bytes + entry->offset;
    tensor->data = (void *)(uintptr_t)data; /* the contract says read only */
}

/* A copy where the file's address does not suit the type. */
static enum status entry_align(struct safetensors_entry *entry)
{
    const void *data = entry->tensor.data;

    if (data == NULL || (uintptr_t)data % dtype_size_bytes(entry->tensor.dtype) == 0)
        return STATUS_OK;
    TRY(memory_alloc_unset(&entry->aligned_copy, entry->n_bytes, 1, entry->name));
    memcpy(entry->aligned_copy, data, entry->n_bytes);
    entry->tensor.data = entry->aligned_copy;
    return STATUS_OK;
}

static enum status entry_read(struct safetensors_entry *entry, const struct safetensors *file,
                              const char *name, json_t *value)
{
    const char *path = file->path;
    size_t data_bytes =
        file->map_bytes - (size_t)((const char *)file->bytes - (const char *)file->map);

    TRY(memory_strdup(&entry->name, name));
    if (!json_is_object(value))
        FAIL(STATUS_CORRUPT, "weights file '%s': entry '%.100s' is not an object", path, name);
    json_t *dtype = json_object_get(value, "dtype");
    json_t *shape = json_object_get(value, "shape");
    json_t *offsets = json_object_get(value, "data_offsets");
    if (json_object_size(value) != 3 || dtype == NULL || shape == NULL || offsets == NULL)
        FAIL(STATUS_CORRUPT,
             "weights file '%s': tensor '%.100s' must have dtype, shape and data_offsets and "
             "nothing else",
             path, name);
    const struct dtype_row *row =
        json_is_string(dtype) ? dtype_row_find(json_string_value(dtype)) : NULL;
    if (row == NULL)
        FAIL(STATUS_CORRUPT, "weights file '%s': tensor '%.100s' has an unknown type '%.20s'", path,
             name, json_is_string(dtype) ? json_string_value(dtype) : "(no text)");
    strcpy(entry->file_dtype, row->name);
    TRY(entry_offsets_read(entry, offsets, data_bytes, path));
    TRY(entry_shape_read(entry, shape, row, path));
    entry_view(entry, row, file->bytes);
    return STATUS_OK;
}

static int entry_compare(const void *left, const void *right)
{
    const struct safetensors_entry *a = left, *b = right;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    if (a->n_bytes != b->n_bytes) /* empty ones first: they fill no room */
        return a->n_bytes < b->n_bytes ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* The data part is covered once, without hole or overlap. Needs the entries in file order. */
static enum status coverage_check(const struct safetensors *file)
{
    size_t position = 0;
    size_t data_bytes =
        file->map_bytes - (size_t)((const char *)file->bytes - (const char *)file->map);

    for (size_t i = 0; i < file->n_entries; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        if (entry->offset != position)
            FAIL(STATUS_CORRUPT,
                 "weights file '%s': tensor '%.100s' starts at byte %zu of the data, but the one "
                 "before it ends at %zu: %s",
                 file->path, entry->name, entry->offset, position,
                 entry->offset > position ? "a hole" : "an overlap");
        position += entry->n_bytes;
    }
    if (position != data_bytes)
        FAIL(STATUS_CORRUPT,
             "weights file '%s': its tensors end at byte %zu of the data, but there are %zu",
             file->path, position, data_bytes);
    return STATUS_OK;
}

enum status safetensors_map(struct safetensors *out, const char *path)
{
    enum status status = STATUS_OK;
    struct safetensors file = {0};
    size_t header_bytes = 0;
    json_t *header = NULL, *value;
    const char *name;

    TRY(memory_strdup(&file.path, path));
    TRY_OUT(file_map(&file, &header_bytes));
    TRY_OUT(header_parse(&header, &file, header_bytes));
    TRY_OUT(memory_alloc(&file.entries, json_object_size(header), sizeof(*file.entries),
                         "safetensors entries"));
    json_object_foreach(header, name, value)
    {
        if (strcmp(name, METADATA_KEY) == 0)
            TRY_OUT(metadata_read(&file, value));
        else
            TRY_OUT(entry_read(&file.entries[file.n_entries++], &file, name, value));
    }
    qsort(file.entries, file.n_entries, sizeof(*file.entries), entry_compare);
    TRY_OUT(coverage_check(&file));
    *out = file;
    memset(&file, 0, sizeof(file));
out:
    json_decref(header);
    safetensors_release(&file);
    return status;
}

enum status safetensors_open(struct safetensors *out, const char *path)
{
    struct safetensors file = {0};
    enum status status = STATUS_OK;

    TRY(safetensors_map(&file, path));
    for (size_t i = 0; i < file.n_entries && status == STATUS_OK; i++)
        status = entry_align(&file.entries[i]);
    if (status == STATUS_OK)
        *out = file;
    else
        safetensors_release(&file);
    return status;
}

const struct safetensors_entry *safetensors_find(const struct safetensors *file, const char *name)
{
    for (size_t i = 0; i < file->n_entries; i++)
        if (strcmp(file->entries[i].name, name) == 0)
            return &file->entries[i];
    return NULL;
}

const char *safetensors_metadata(const struct safetensors *file, const char *key)
{
    for (size_t i = 0; i < file->n_metadata; i++)
        if (strcmp(file->metadata[2 * i], key) == 0)
            return file->metadata[2 * i + 1];
    return NULL;
}

void safetensors_release(struct safetensors *file)
{
    if (file == NULL)
        return;
    for (size_t i = 0; i < file->n_entries; i++) {
        memory_free(file->entries[i].name);
        memory_free(file->entries[i].aligned_copy);
    }
    memory_free(file->entries);
    for (size_t i = 0; i < 2 * file->n_metadata; i++)
        memory_free(file->metadata[i]);
    memory_free(file->metadata);
    if (file->map != NULL)
        munmap(file->map, file->map_bytes);
    memory_free(file->path);
    memset(file, 0, sizeof(*file));
}

uint64_t safetensors_digest(const struct safetensors *file)
{
    uint64_t digest = 0;

    for (size_t i = 0; i < file->n_entries; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        digest = hash_bytes_seeded(entry->name, strlen(entry->name) + 1, digest);
        digest = hash_bytes_seeded(entry->file_dtype, strlen(entry->file_dtype) + 1, digest);
        digest = hash_bytes_seeded(entry->file_shape,
                                   (size_t)entry->file_rank * sizeof(entry->file_shape[0]), digest);
        digest =
            hash_bytes_seeded((const char *)file->bytes + entry->offset, entry->n_bytes, digest);
    }
    return digest;
}
