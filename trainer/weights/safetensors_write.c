/* The writer: header first, then one tensor after the other, into a file that appears whole
 * (atomic_file.h). */
#include "trainer/weights/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/weights/atomic_file.h"

enum { HEADER_ALIGNMENT = 64 /* data starts on a cache line */ };

/* Positions of the records in the file: wider types first, then as given. */
static enum status file_order(size_t **out, const struct weight_record *records, size_t n_records)
{
    size_t *order, n = 0;

    TRY(memory_alloc(&order, n_records, sizeof(*order), "order of tensors"));
    for (size_t width = 8; width > 0; width /= 2)
        for (size_t i = 0; i < n_records; i++)
            if (weight_dtype_bytes(records[i].dtype) == width)
                order[n++] = i;
    CHECK(n == n_records, "a type without a width of 8, 4, 2 or 1 bytes");
    *out = order;
    return STATUS_OK;
}

/* Adds one record to the header object; *offset moves on. */
static enum status record_describe(json_t *header, const struct weight_record *record,
                                   size_t *offset)
{
    size_t n_bytes = weight_record_bytes(record);

    if (strcmp(record->name, "__metadata__") == 0 || json_object_get(header, record->name) != NULL)
        FAIL(STATUS_INVALID, "two tensors to save have the name '%s'", record->name);
    if (record->data == NULL && record->read == NULL && n_bytes > 0)
        FAIL(STATUS_INVALID, "tensor '%s' to save has no data", record->name);
    json_t *shape = json_array();
    for (int32_t i = 0; i < record->rank; i++)
        json_array_append_new(shape, json_integer(record->shape[i]));
    json_t *entry =
        json_pack("{s:s, s:o, s:[I, I]}", "dtype", weight_dtype_name(record->dtype), "shape", shape,
                  "data_offsets", (json_int_t)*offset, (json_int_t)(*offset + n_bytes));
    if (entry == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory to describe tensor '%s'", record->name);
    if (json_object_set_new(header, record->name, entry) != 0)
        FAIL(STATUS_INVALID, "the name '%s' of a tensor to save is not valid UTF-8", record->name);
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
static enum status header_make(char **out, size_t *n_bytes, const struct weight_record *records,
                               const size_t *order, size_t n_records, const char *const *metadata,
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
    for (size_t i = 0; i < n_records; i++)
        TRY_OUT(record_describe(header, &records[order[i]], &offset));
    text = json_dumps(header, JSON_COMPACT | JSON_PRESERVE_ORDER);
    if (text == NULL)
        FAIL_OUT(STATUS_NO_MEMORY, "no memory for the header of a safetensors file");
    size_t length = strlen(text);
    size_t total = (8 + length + HEADER_ALIGNMENT - 1) / HEADER_ALIGNMENT * HEADER_ALIGNMENT;
    if (total - 8 > SAFETENSORS_MAX_HEADER_BYTES)
        FAIL_OUT(STATUS_INVALID, "%zu tensors need a header of %zu bytes; the format allows %d",
                 n_records, total - 8, SAFETENSORS_MAX_HEADER_BYTES);
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

enum status safetensors_write_records(const char *path, const struct weight_record *records,
                                      size_t n_records, const char *const *metadata,
                                      size_t n_metadata_pairs)
{
    enum status status = STATUS_OK;
    size_t *order = NULL, header_bytes = 0;
    struct atomic_file file = {0};
    char *header = NULL;
    void *buffer = NULL;

    TRY_OUT(file_order(&order, records, n_records));
    TRY_OUT(
        header_make(&header, &header_bytes, records, order, n_records, metadata, n_metadata_pairs));
    TRY_OUT(atomic_file_open(&file, path));
    TRY_OUT(atomic_file_write(&file, header, header_bytes));
    for (size_t i = 0; i < n_records; i++) {
        const struct weight_record *record = &records[order[i]];
        const void *bytes;
        TRY_OUT(weight_record_take(record, &bytes, &buffer));
        TRY_OUT(atomic_file_write(&file, bytes, weight_record_bytes(record)));
        memory_free(buffer);
        buffer = NULL;
    }
    TRY_OUT(atomic_file_commit(&file));
out:
    atomic_file_close(&file);
    memory_free(buffer);
    memory_free(header);
    memory_free(order);
    return status;
}

enum status safetensors_write(const char *path, const struct safetensors_item *items,
                              size_t n_items, const char *const *metadata, size_t n_metadata_pairs)
{
    struct weight_record *records;

    TRY(memory_alloc(&records, n_items, sizeof(*records), "tensors to write"));
    for (size_t i = 0; i < n_items; i++) {
        const struct tensor *tensor = &items[i].tensor;
        records[i] = (struct weight_record){
            .name = items[i].name,
            .dtype = weight_dtype_of(tensor->dtype),
            .rank = tensor->rank,
            .data = tensor->data,
        };
        memcpy(records[i].shape, tensor->shape, sizeof(tensor->shape));
    }
    enum status status =
        safetensors_write_records(path, records, n_items, metadata, n_metadata_pairs);
    memory_free(records);
    return status;
}
