/* Exports. */
#include "trainer/weights/weight_export.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"

void weight_export_release(struct weight_export *export)
{
    if (export == NULL)
        return;
    for (size_t i = 0; i < export->n_owned; i++)
        memory_free(export->owned[i]);
    memory_free(export->owned);
    memory_free(export->records);
    memset(export, 0, sizeof(*export));
}

static enum status own(struct weight_export *export, void *memory)
{
    if (memory_grow(&export->owned, &export->owned_capacity, export->n_owned + 1,
                    sizeof(*export->owned), "tensors to write") != STATUS_OK) {
        memory_free(memory);
        return STATUS_NO_MEMORY;
    }
    export->owned[export->n_owned++] = memory;
    return STATUS_OK;
}

/* Adds the record under a copy of the name. */
static enum status add_record(struct weight_export *export, struct weight_record record,
                              const char *name)
{
    char *copy;

    TRY(memory_strdup(&copy, name));
    TRY(own(export, copy));
    TRY(memory_grow(&export->records, &export->capacity, export->n + 1, sizeof(*export->records),
                    "tensors to write"));
    record.name = copy;
    export->records[export->n++] = record;
    return STATUS_OK;
}

enum status weight_export_add(struct weight_export *export, const struct weight_file *file,
                              const struct weight_entry *entry, const char *name)
{
    if (!entry->known)
        FAIL(STATUS_UNSUPPORTED,
             "weights file '%s': tensor '%s' has type %s, which can't be written", file->path,
             entry->name, entry->type);
    return add_record(export, weight_file_record(file, entry, name), name);
}

enum status weight_export_add_values(struct weight_export *export, const float *values,
                                     int32_t rank, const int64_t *shape, const char *name)
{
    struct weight_record record = {.dtype = WEIGHT_F32, .rank = rank, .data = values};

    memcpy(record.shape, shape, (size_t)rank * sizeof(*shape));
    return add_record(export, record, name);
}

enum status weight_export_add_number(struct weight_export *export, int64_t value, const char *name)
{
    int64_t *memory;

    TRY(memory_alloc(&memory, 1, sizeof(*memory), name));
    *memory = value;
    TRY(own(export, memory));
    struct weight_record record = {.dtype = WEIGHT_I64, .data = memory};
    return add_record(export, record, name);
}

static const struct weight_record *find(const struct weight_export *export, const char *name)
{
    for (size_t i = 0; i < export->n; i++)
        if (strcmp(export->records[i].name, name) == 0)
            return &export->records[i];
    return NULL;
}

/* ------------------------------------------------------------------------------ additions */

static const char table_end[] = "relative_position_bias_table";

/* Row of the bias for the places of query and key in a window of side w. */
static int64_t bias_row(int64_t query, int64_t key, int64_t w)
{
    return (query / w - key / w + w - 1) * (2 * w - 1) + query % w - key % w + w - 1;
}

enum status weight_export_add_index(struct weight_export *export, const struct weight_entry *table,
                                    const char *name)
{
    size_t n = strlen(name), m = strlen(table_end);
    char index_name[WEIGHT_MAX_NAME + 16];
    int64_t *index, w, side;

    if (n < m || strcmp(name + n - m, table_end) != 0)
        return STATUS_OK;
    snprintf(index_name, sizeof(index_name), "%.*srelative_position_index", (int)(n - m), name);
    if (find(export, index_name) != NULL)
        return STATUS_OK;
    side = table->rank == 2 ? llround(sqrt((double)table->shape[0])) : 0;
    w = (side + 1) / 2;
    if (side * side != (table->rank == 2 ? table->shape[0] : -1) || side % 2 == 0 || w > 1024)
        FAIL(STATUS_MISMATCH, "tensor '%s' is no table of a square window", name);
    TRY(memory_alloc_unset(&index, (size_t)(w * w * w * w), sizeof(*index), "table of indices"));
    TRY(own(export, index));
    for (int64_t i = 0; i < w * w; i++)
        for (int64_t j = 0; j < w * w; j++)
            index[i * w * w + j] = bias_row(i, j, w);
    struct weight_record record = {
        .dtype = WEIGHT_I64, .rank = 2, .shape = {w * w, w * w}, .data = index};
    return add_record(export, record, index_name);
}

enum status weight_export_add_head_aliases(struct weight_export *export, const char *prefix)
{
    static const char *const pairs[][2] = {{"last_layer.", "last_layer2."}, {"mlp.1.", "mlp.4."}};
    char start[64], name[WEIGHT_MAX_NAME + 32];
    size_t n = export->n;

    /* with a norm, mlp.4 is the norm again; without, mlp.1 is an activation and has no tensors */
    for (size_t p = 0; p < 2; p++) {
        size_t length = (size_t)snprintf(start, sizeof(start), "%shead.%s", prefix, pairs[p][0]);
        for (size_t i = 0; i < n; i++) {
            if (strncmp(export->records[i].name, start, length) != 0)
                continue;
            snprintf(name, sizeof(name), "%shead.%s%s", prefix, pairs[p][1],
                     export->records[i].name + length);
            if (find(export, name) == NULL)
                TRY(add_record(export, export->records[i], name));
        }
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ networks */

static enum status check_backbone(const struct weight_selection *s)
{
    if (s->n_backbone == 0)
        FAIL(STATUS_NOT_FOUND, "weights file '%s': '%s' has %zu tensors, none of a backbone",
             s->file->path, s->key, s->n);
    return STATUS_OK;
}

enum status weight_export_backbone(struct weight_export *export, const struct weight_selection *s,
                                   bool with_head)
{
    TRY(check_backbone(s));
    for (size_t i = 0; i < s->n; i++) {
        if (!s->tensors[i].backbone && !with_head)
            continue;
        TRY(weight_export_add(export, s->file, s->tensors[i].entry, s->tensors[i].name));
    }
    for (size_t i = 0; i < s->n; i++)
        if (s->tensors[i].backbone)
            TRY(weight_export_add_index(export, s->tensors[i].entry, s->tensors[i].name));
    return with_head ? weight_export_add_head_aliases(export, "") : STATUS_OK;
}

enum status weight_export_timm(struct weight_export *export, const struct weight_selection *s)
{
    char name[WEIGHT_MAX_NAME];

    TRY(check_backbone(s));
    for (size_t i = 0; i < s->n; i++) {
        const struct weight_selected *from = &s->tensors[i];
        if (!from->backbone || weight_name_is_derived(from->name) ||
            strcmp(from->name, "masked_embed") == 0)
            continue;
        weight_name_timm(from->name, name);
        TRY(weight_export_add(export, s->file, from->entry, name));
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ files */

enum status weight_export_is_pth(const char *path, bool *pth)
{
    const char *slash = strrchr(path, '/');
    const char *dot = strrchr(slash != NULL ? slash : path, '.');

    *pth = dot != NULL && (strcmp(dot, ".pth") == 0 || strcmp(dot, ".pt") == 0);
    if (!*pth && (dot == NULL || strcmp(dot, ".safetensors") != 0))
        FAIL(STATUS_INVALID,
             "'%s': the ending says what to write; wanted .safetensors, or .pth for PyTorch", path);
    return STATUS_OK;
}

static void put_tensors(struct pth_writer *writer, const struct weight_export *export)
{
    pth_begin_state_dict(writer);
    for (size_t i = 0; i < export->n; i++) {
        pth_text(writer, export->records[i].name);
        pth_tensor(writer, &export->records[i]);
    }
    pth_end_dict(writer);
}

static enum status commit(struct pth_writer *writer, const char *path)
{
    enum status status = pth_writer_commit(writer, path);

    pth_writer_close(writer);
    return status;
}

enum status weight_export_write(const struct weight_export *export, const char *path,
                                const char *key, const char *const *metadata,
                                size_t n_metadata_pairs)
{
    struct pth_writer writer;
    bool pth;

    TRY(weight_export_is_pth(path, &pth));
    if (!pth)
        return safetensors_write_records(path, export->records, export->n, metadata,
                                         n_metadata_pairs);
    pth_writer_open(&writer);
    if (key != NULL) {
        pth_begin_dict(&writer);
        pth_text(&writer, key);
    }
    put_tensors(&writer, export);
    if (key != NULL)
        pth_end_dict(&writer);
    return commit(&writer, path);
}

enum status weight_export_write_classifier(const struct weight_export *export, const char *path,
                                           int64_t epoch, double top1, const char *const *metadata,
                                           size_t n_metadata_pairs)
{
    struct pth_writer writer;
    bool pth;

    TRY(weight_export_is_pth(path, &pth));
    if (!pth)
        return weight_export_write(export, path, NULL, metadata, n_metadata_pairs);
    pth_writer_open(&writer);
    pth_begin_dict(&writer);
    pth_text(&writer, "state_dict");
    put_tensors(&writer, export);
    pth_text(&writer, "epoch");
    pth_integer(&writer, epoch);
    pth_text(&writer, "best_acc");
    pth_real(&writer, top1);
    pth_text(&writer, "args");
    pth_begin_dict(&writer);
    for (size_t i = 0; i < 2 * n_metadata_pairs; i++)
        pth_text(&writer, metadata[i]);
    pth_end_dict(&writer);
    pth_end_dict(&writer);
    return commit(&writer, path);
}
