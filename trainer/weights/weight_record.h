/* A tensor on its way into a file: what it is called, what it is like, and where its bytes come
 * from. Writers take the bytes of one record at a time, so that files may be larger than memory. */
#ifndef IBOT_TRAINER_WEIGHTS_WEIGHT_RECORD_H
#define IBOT_TRAINER_WEIGHTS_WEIGHT_RECORD_H

#include "proto/base/memory.h"
#include "trainer/weights/weight_dtype.h"

struct weight_record {
    const char *name;
    enum weight_dtype dtype;
    int32_t rank;
    int64_t shape[WEIGHT_MAX_RANK];
    const void *data; /* C order; or NULL, and then: */
    enum status (*read)(const struct weight_record *record, void *out);
    const void *file, *entry; /* for read */
};

static inline size_t weight_record_bytes(const struct weight_record *record)
{
    size_t n = weight_dtype_bytes(record->dtype);
    for (int32_t i = 0; i < record->rank; i++)
        n *= (size_t)record->shape[i];
    return n;
}

/* The bytes: record->data, or a copy in *buffer (the caller's, memory_free, also on failure). */
static inline enum status weight_record_take(const struct weight_record *record, const void **bytes,
                                             void **buffer)
{
    *buffer = NULL;
    *bytes = record->data;
    if (record->data != NULL || record->read == NULL)
        return STATUS_OK;
    TRY(memory_alloc_unset(buffer, weight_record_bytes(record), 1, record->name));
    *bytes = *buffer;
    return record->read(record, *buffer);
}

#endif
