#include "trainer/state_file.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"

/* Those tensors that the options want; the number of them. */
static size_t list(const struct state_view *view, const struct state_file_options *o,
                   struct ibot_state_entry *entries)
{
    const char *prefix = o->prefix != NULL ? o->prefix : "";
    size_t n = 0;

    for (size_t i = 0; i < view->n; i++) {
        view->entry(view->model, i, &entries[n]);
        n += strncmp(entries[n].name, prefix, strlen(prefix)) == 0;
    }
    return n;
}

enum status state_file_write(const char *path, const struct state_view *view, struct device *device,
                             const struct state_file_options *o)
{
    struct safetensors_item *items = NULL;
    struct ibot_state_entry *entries = NULL;
    char *buffer = NULL;
    enum status status;
    size_t total = 0;

    TRY_OUT(memory_alloc(&items, view->n + o->n_extra, sizeof(*items), "state"));
    TRY_OUT(memory_alloc(&entries, view->n + 1, sizeof(*entries), "state"));
    size_t n = list(view, o, entries);
    for (size_t i = 0; i < n; i++)
        total += tensor_size_bytes(&entries[i].tensor);
    TRY_OUT(memory_alloc(&buffer, device->kind == DEVICE_CPU ? 0 : total, 1, "state"));
    for (size_t i = 0, at = 0; i < n; i++) {
        size_t bytes = tensor_size_bytes(&entries[i].tensor);
        const char *name = o->rename != NULL ? o->rename(entries[i].name) : entries[i].name;
        items[i] = (struct safetensors_item){name, entries[i].tensor};
        if (device->kind == DEVICE_CPU)
            continue;
        TRY_OUT(device->copy_out(device, buffer + at, entries[i].tensor.data, bytes));
        items[i].tensor.data = buffer + at;
        at += bytes;
    }
    TRY_OUT(device->synchronize(device));
    if (o->n_extra > 0)
        memcpy(items + n, o->extra, o->n_extra * sizeof(*items));
    TRY_OUT(safetensors_write(path, items, n + o->n_extra, o->metadata, o->n_pairs));
out:
    memory_free(buffer);
    memory_free(entries);
    memory_free(items);
    return status;
}

/* ------------------------------------------------------------------------------ reading */

static enum status restore_one(const char *path, struct device *device,
                               const struct ibot_state_entry *state,
                               const struct safetensors_entry *entry)
{
    if (entry->tensor.data == NULL || entry->tensor.dtype != state->tensor.dtype ||
        entry->tensor.rank != state->tensor.rank ||
        memcmp(entry->tensor.shape, state->tensor.shape,
               (size_t)state->tensor.rank * sizeof(int64_t)) != 0) {
        char got[96] = "", wanted[96] = "";
        for (int32_t i = 0; i < entry->tensor.rank; i++)
            snprintf(got + strlen(got), sizeof(got) - strlen(got), " %lld",
                     (long long)entry->tensor.shape[i]);
        for (int32_t i = 0; i < state->tensor.rank; i++)
            snprintf(wanted + strlen(wanted), sizeof(wanted) - strlen(wanted), " %lld",
                     (long long)state->tensor.shape[i]);
        FAIL(STATUS_MISMATCH, "%s: '%s' is %s [%s ], wanted F32 [%s ]: another architecture", path,
             state->name, entry->file_dtype, got, wanted);
    }
    return device->copy_in(device, state->tensor.data, entry->tensor.data,
                           tensor_size_bytes(&state->tensor));
}

enum status state_file_restore(const struct safetensors *file, const char *path,
                               const struct state_view *view, struct device *device,
                               const char *prefix, struct state_counts *counts)
{
    struct ibot_state_entry state;
    char first_missing[128] = "";

    *counts = (struct state_counts){0};
    for (size_t i = 0; i < view->n; i++) {
        view->entry(view->model, i, &state);
        if (strncmp(state.name, prefix, strlen(prefix)) != 0)
            continue;
        const struct safetensors_entry *entry = safetensors_find(file, state.name);
        if (entry == NULL) {
            if (counts->n_missing++ == 0)
                snprintf(first_missing, sizeof(first_missing), "%s", state.name);
            continue;
        }
        TRY(restore_one(path, device, &state, entry));
        counts->n_loaded++;
    }
    for (size_t i = 0; i < file->n_entries; i++) {
        const char *name = file->entries[i].name;
        counts->n_unexpected +=
            strncmp(name, prefix, strlen(prefix)) == 0 && strncmp(name, "epoch.", 6) != 0;
    }
    counts->n_unexpected -= counts->n_loaded;
    TRY(view->written(view->model));
    TRY(device->synchronize(device));
    if (counts->n_missing > 0 || counts->n_unexpected > 0 || counts->n_loaded == 0)
        FAIL(STATUS_MISMATCH,
             "%s: of the tensors '%s*' %zu were loaded, %zu are missing%s%s, %zu "
             "are unexpected: another architecture",
             path, prefix, counts->n_loaded, counts->n_missing,
             counts->n_missing > 0 ? ", first " : "", first_missing, counts->n_unexpected);
    return STATUS_OK;
}
