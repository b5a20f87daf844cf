/* The pickle, opcode by opcode (each is named beside its byte in pickle.c), and the archive. */
#include "trainer/weights/pth_write.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "trainer/weights/zip_store.h"

static void emit(struct pth_writer *w, const void *bytes, size_t n)
{
    if (w->status == STATUS_OK)
        w->status = memory_grow(&w->pickle, &w->capacity, w->n_bytes + n, 1, "pickle");
    if (w->status != STATUS_OK)
        return;
    memcpy(w->pickle + w->n_bytes, bytes, n);
    w->n_bytes += n;
}

static void emit_code(struct pth_writer *w, unsigned char code)
{
    emit(w, &code, 1);
}

static void emit_number(struct pth_writer *w, uint64_t value, size_t width)
{
    unsigned char bytes[8];

    for (size_t i = 0; i < width; i++)
        bytes[i] = (unsigned char)(value >> (8 * i));
    emit(w, bytes, width);
}

static void emit_global(struct pth_writer *w, const char *module, const char *name)
{
    emit_code(w, 'c');
    emit(w, module, strlen(module));
    emit_code(w, '\n');
    emit(w, name, strlen(name));
    emit_code(w, '\n');
}

void pth_writer_open(struct pth_writer *out)
{
    memset(out, 0, sizeof(*out));
    emit(out, "\x80\x02", 2);
}

void pth_begin_dict(struct pth_writer *w)
{
    emit(w, "}(", 2);
}

static void emit_ordered_dict(struct pth_writer *w)
{
    emit_global(w, "collections", "OrderedDict");
    emit(w, ")R", 2);
}

void pth_begin_state_dict(struct pth_writer *w)
{
    emit_ordered_dict(w);
    emit_code(w, '(');
}

void pth_end_dict(struct pth_writer *w)
{
    emit_code(w, 'u');
}

void pth_begin_list(struct pth_writer *w)
{
    emit(w, "](", 2);
}

void pth_end_list(struct pth_writer *w)
{
    emit_code(w, 'e');
}

void pth_begin_tuple(struct pth_writer *w)
{
    emit_code(w, '(');
}

void pth_end_tuple(struct pth_writer *w)
{
    emit_code(w, 't');
}

void pth_text(struct pth_writer *w, const char *text)
{
    emit_code(w, 'X');
    emit_number(w, strlen(text), 4);
    emit(w, text, strlen(text));
}

void pth_integer(struct pth_writer *w, int64_t value)
{
    if (value >= 0 && value < 256) {
        emit_code(w, 'K');
        emit_number(w, (uint64_t)value, 1);
    } else if (value >= INT32_MIN && value <= INT32_MAX) {
        emit_code(w, 'J');
        emit_number(w, (uint64_t)value, 4);
    } else {
        emit(w, "\x8a\x08", 2);
        emit_number(w, (uint64_t)value, 8);
    }
}

void pth_real(struct pth_writer *w, double value)
{
    uint64_t bits;
    unsigned char bytes[9] = {'G'};

    memcpy(&bits, &value, sizeof(bits));
    for (int i = 0; i < 8; i++)
        bytes[8 - i] = (unsigned char)(bits >> (8 * i));
    emit(w, bytes, sizeof(bytes));
}

void pth_truth(struct pth_writer *w, bool value)
{
    emit_code(w, value ? 0x88 : 0x89);
}

void pth_none(struct pth_writer *w)
{
    emit_code(w, 'N');
}

/* The number of the record's storage; the same data has one already. */
static size_t storage_of(struct pth_writer *w, const struct weight_record *record)
{
    for (size_t i = 0; i < w->n_records; i++) {
        const struct weight_record *other = w->records[i];
        if (weight_record_bytes(record) > 0 && other->data == record->data &&
            other->file == record->file && other->entry == record->entry &&
            other->dtype == record->dtype &&
            weight_record_bytes(other) == weight_record_bytes(record))
            return i;
    }
    if (w->status == STATUS_OK)
        w->status = memory_grow(&w->records, &w->records_capacity, w->n_records + 1,
                                sizeof(*w->records), "tensors to write");
    if (w->status != STATUS_OK)
        return 0;
    w->records[w->n_records] = record;
    return w->n_records++;
}

void pth_tensor(struct pth_writer *w, const struct weight_record *record)
{
    int64_t n = (int64_t)(weight_record_bytes(record) / weight_dtype_bytes(record->dtype));
    int64_t strides[WEIGHT_MAX_RANK], stride = 1;
    char key[24];

    snprintf(key, sizeof(key), "%zu", storage_of(w, record));
    for (int32_t i = record->rank; i-- > 0; stride *= record->shape[i])
        strides[i] = stride;
    emit_global(w, "torch._utils", "_rebuild_tensor_v2");
    pth_begin_tuple(w);
    pth_begin_tuple(w);
    pth_text(w, "storage");
    emit_global(w, "torch", weight_dtype_storage(record->dtype));
    pth_text(w, key);
    pth_text(w, "cpu");
    pth_integer(w, n);
    pth_end_tuple(w);
    emit_code(w, 'Q');
    pth_integer(w, 0);
    pth_begin_tuple(w);
    for (int32_t i = 0; i < record->rank; i++)
        pth_integer(w, record->shape[i]);
    pth_end_tuple(w);
    pth_begin_tuple(w);
    for (int32_t i = 0; i < record->rank; i++)
        pth_integer(w, strides[i]);
    pth_end_tuple(w);
    pth_truth(w, false);
    emit_ordered_dict(w);
    pth_end_tuple(w);
    emit_code(w, 'R');
}

/* The archive's name, which is the folder of its entries: PATH without folders and ending. */
static void archive_name(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/');

    snprintf(out, size, "%s", slash != NULL ? slash + 1 : path);
    char *dot = strrchr(out, '.');
    if (dot != NULL && dot > out)
        *dot = '\0';
    if (strstr(out, "..") != NULL || out[0] == '\0')
        snprintf(out, size, "archive");
}

enum status pth_writer_commit(struct pth_writer *w, const char *path)
{
    struct zip_store zip = {0};
    char archive[128], name[192];
    void *buffer = NULL;
    enum status status;

    emit_code(w, '.');
    TRY_OUT(w->status);
    TRY_OUT(zip_store_open(&zip, path));
    archive_name(path, archive, sizeof(archive));
    snprintf(name, sizeof(name), "%s/data.pkl", archive);
    TRY_OUT(zip_store_add(&zip, name, w->pickle, w->n_bytes));
    snprintf(name, sizeof(name), "%s/byteorder", archive);
    TRY_OUT(zip_store_add(&zip, name, "little", 6));
    for (size_t i = 0; i < w->n_records; i++) {
        const void *bytes;
        TRY_OUT(weight_record_take(w->records[i], &bytes, &buffer));
        snprintf(name, sizeof(name), "%s/data/%zu", archive, i);
        TRY_OUT(zip_store_add(&zip, name, bytes, weight_record_bytes(w->records[i])));
        memory_free(buffer);
        buffer = NULL;
    }
    snprintf(name, sizeof(name), "%s/version", archive);
    TRY_OUT(zip_store_add(&zip, name, "3\n", 2));
    TRY_OUT(zip_store_commit(&zip));
out:
    memory_free(buffer);
    zip_store_close(&zip);
    return status;
}

void pth_writer_close(struct pth_writer *w)
{
    if (w == NULL)
        return;
    memory_free(w->pickle);
    memory_free(w->records);
    memset(w, 0, sizeof(*w));
}
