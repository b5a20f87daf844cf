/* Opening, choosing and restoring checkpoints; checkpoint_save.c writes them. */
#include "trainer/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/checkpoint_names.h"

/* ------------------------------------------------------------------------------ choosing */

static int compare_steps(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

enum status checkpoint_steps(const char *folder, int64_t **steps, size_t *n)
{
    size_t capacity = 0;
    enum status status = STATUS_OK;
    struct dirent *item;
    DIR *dir = opendir(folder);

    *steps = NULL;
    *n = 0;
    if (dir == NULL) {
        if (errno == ENOENT)
            return STATUS_OK;
        FAIL(STATUS_IO, "cannot read folder '%s': %s", folder, strerror(errno));
    }
    while ((item = readdir(dir)) != NULL) {
        long long step;
        char rest;
        if (sscanf(item->d_name, "step_%lld%c", &step, &rest) != 1 || step < 0)
            continue;
        status = memory_grow(steps, &capacity, *n + 1, sizeof(int64_t), "checkpoint list");
        if (status != STATUS_OK)
            break;
        (*steps)[(*n)++] = step;
    }
    closedir(dir);
    if (status == STATUS_OK && *n > 1)
        qsort(*steps, *n, sizeof(int64_t), compare_steps);
    if (status != STATUS_OK) {
        memory_free(*steps);
        *steps = NULL;
        *n = 0;
    }
    return status;
}

enum status checkpoint_json_digest(const json_t *json, uint64_t *out)
{
    json_t *rest = json_copy((json_t *)(uintptr_t)json);

    json_object_del(rest, "state_digest");
    char *text = json_dumps(rest, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17));
    json_decref(rest);
    if (text == NULL)
        FAIL(STATUS_NO_MEMORY, "checkpoint: no memory for its state");
    *out = hash_bytes(text, strlen(text));
    free(text);
    return STATUS_OK;
}

/* A digest that the state has as a text. Errors: STATUS_CORRUPT. */
static enum status check_digest(const struct checkpoint *c, const char *name, uint64_t got,
                                const char *file)
{
    const char *hex = json_string_value(json_object_get(c->json, name));
    char *end;

    if (hex == NULL)
        FAIL(STATUS_CORRUPT, "%s/state.json: no %s", c->path, name);
    uint64_t wanted = strtoull(hex, &end, 16);
    if (*end != '\0' || got != wanted)
        FAIL(STATUS_CORRUPT, "%s/%s: digest %016llx, wanted %s: the file is damaged", c->path, file,
             (unsigned long long)got, hex);
    return STATUS_OK;
}

static enum status check_json(struct checkpoint *c)
{
    uint64_t digest;
    json_int_t format = json_integer_value(json_object_get(c->json, "format"));

    if (format != CHECKPOINT_FORMAT)
        FAIL(STATUS_MISMATCH, "%s/state.json: format %lld, wanted %d", c->path, (long long)format,
             CHECKPOINT_FORMAT);
    TRY(checkpoint_json_digest(c->json, &digest));
    TRY(check_digest(c, "state_digest", digest, "state.json"));
    if (!json_is_object(json_object_get(c->json, "options")))
        FAIL(STATUS_CORRUPT, "%s/state.json: no options", c->path);
    return check_digest(c, "model_digest", safetensors_digest(&c->model), "model.safetensors");
}

/* Opens exactly this folder. */
static enum status open_exact(struct checkpoint *out, const char *path)
{
    char file[CHECKPOINT_MAX_PATH + 32];
    json_error_t error;
    enum status status;

    memset(out, 0, sizeof(*out));
    if (snprintf(out->path, sizeof(out->path), "%s", path) >= (int)sizeof(out->path))
        FAIL(STATUS_INVALID, "checkpoint path '%s' is too long", path);
    snprintf(file, sizeof(file), "%s/model.safetensors", path);
    TRY_OUT(safetensors_open(&out->model, file));
    snprintf(file, sizeof(file), "%s/state.json", path);
    out->json = json_load_file(file, JSON_REJECT_DUPLICATES, &error);
    if (out->json == NULL)
        FAIL_OUT(STATUS_CORRUPT, "%s: %s", file, error.text);
    TRY_OUT(check_json(out));
out:
    if (status != STATUS_OK)
        checkpoint_close(out);
    return status;
}

enum status checkpoint_open_latest(struct checkpoint *out, const char *folder, bool *found)
{
    char path[CHECKPOINT_MAX_PATH];
    int64_t *steps = NULL;
    size_t n = 0;
    enum status status = checkpoint_steps(folder, &steps, &n);

    *found = false;
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        checkpoint_name(path, sizeof(path), folder, steps[i]);
        enum status opened = open_exact(out, path);
        if (opened == STATUS_OK) {
            *found = true;
            break;
        }
        log_warning("checkpoint passed over: %s", status_message());
        if (i + 1 == n)
            status = status_set(STATUS_CORRUPT,
                                "no checkpoint in '%s' is good (%zu tried): move "
                                "the folder away to start anew",
                                folder, n);
    }
    memory_free(steps);
    return status;
}

enum status checkpoint_open(struct checkpoint *out, const char *path)
{
    char inside[CHECKPOINT_MAX_PATH];
    struct stat info;
    bool found;

    memset(out, 0, sizeof(*out));
    if (stat(path, &info) != 0)
        FAIL(STATUS_NOT_FOUND, "checkpoint '%s': %s", path, strerror(errno));
    if (snprintf(inside, sizeof(inside), "%s/state.json", path) >= (int)sizeof(inside))
        FAIL(STATUS_INVALID, "checkpoint path '%s' is too long", path);
    if (stat(inside, &info) == 0)
        return open_exact(out, path);
    snprintf(inside, sizeof(inside), "%s/checkpoints", path);
    TRY(checkpoint_open_latest(out, stat(inside, &info) == 0 ? inside : path, &found));
    if (!found)
        FAIL(STATUS_NOT_FOUND,
             "'%s' holds no checkpoint: wanted a run folder, its checkpoints "
             "folder, or one step_N folder with model.safetensors and state.json",
             path);
    return STATUS_OK;
}

void checkpoint_close(struct checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    safetensors_release(&checkpoint->model);
    json_decref(checkpoint->json);
    memset(checkpoint, 0, sizeof(*checkpoint));
}

/* ------------------------------------------------------------------------------ reading */

const char *checkpoint_option(const struct checkpoint *checkpoint, const char *name)
{
    json_t *options = json_object_get(checkpoint->json, "options");
    json_t *value = json_object_get(options, name);
    return json_string_value(json_is_object(value) ? json_object_get(value, "value") : value);
}

static uint64_t hex_value(json_t *json, const char *name)
{
    const char *text = json_string_value(json_object_get(json, name));
    return text != NULL ? strtoull(text, NULL, 16) : 0;
}

static enum status copy_clusters(const struct checkpoint *c, const char *name, int64_t n,
                                 int32_t **out)
{
    const struct safetensors_entry *entry = safetensors_find(&c->model, name);

    TRY(memory_alloc(out, (size_t)n, sizeof(int32_t), "clusters"));
    if (n == 0)
        return STATUS_OK;
    if (entry == NULL || entry->tensor.data == NULL || entry->tensor.dtype != DTYPE_I32 ||
        tensor_n_elements(&entry->tensor) != n)
        FAIL(STATUS_CORRUPT, "%s: tensor '%s' does not have %lld values of I32", c->path, name,
             (long long)n);
    memcpy(*out, entry->tensor.data, (size_t)n * sizeof(int32_t));
    return STATUS_OK;
}

enum status checkpoint_state(const struct checkpoint *c, struct checkpoint_state *out)
{
    json_t *totals = json_object_get(c->json, "totals");
    json_t *entropies = json_object_get(c->json, "entropies");

    *out = (struct checkpoint_state){
        .step = json_integer_value(json_object_get(c->json, "step")),
        .steps_per_epoch = json_integer_value(json_object_get(c->json, "steps_per_epoch")),
        .index_digest = hex_value(c->json, "index_digest"),
        .n_samples = (uint64_t)json_integer_value(json_object_get(c->json, "n_samples")),
        .spec_digest = hex_value(c->json, "spec_digest"),
        .run_digest = hex_value(c->json, "run_digest"),
        .world = (int32_t)json_integer_value(json_object_get(c->json, "world")),
        .optimizer_lag = json_integer_value(json_object_get(c->json, "optimizer_lag")),
        .last_layer_lag = json_integer_value(json_object_get(c->json, "last_layer_lag")),
        .n_bad_images = json_integer_value(json_object_get(c->json, "n_bad_images")),
        .n_clusters = json_integer_value(json_object_get(c->json, "n_clusters")),
    };
    if (out->step < 0 || out->steps_per_epoch < 1 || out->n_clusters < 0 ||
        json_array_size(totals) != METRICS_TOTALS ||
        json_array_size(entropies) != CHECKPOINT_ENTROPIES)
        FAIL(STATUS_CORRUPT,
             "%s/state.json: step, steps_per_epoch, n_clusters, totals or "
             "entropies are wrong",
             c->path);
    for (size_t i = 0; i < METRICS_TOTALS; i++)
        out->totals[i] = json_number_value(json_array_get(totals, i));
    for (size_t i = 0; i < CHECKPOINT_ENTROPIES; i++)
        out->entropies[i] = json_number_value(json_array_get(entropies, i));
    enum status status = copy_clusters(c, "epoch.labels", out->n_clusters, &out->labels);
    if (status == STATUS_OK)
        status = copy_clusters(c, "epoch.clusters", out->n_clusters, &out->clusters);
    if (status != STATUS_OK) {
        memory_free(out->labels);
        memory_free(out->clusters);
        out->labels = out->clusters = NULL;
    }
    return status;
}

enum status checkpoint_restore(const struct checkpoint *c, struct ibot *ibot, struct device *device,
                               const char *prefix, struct state_counts *counts)
{
    struct state_view view = ibot_state_view(ibot);

    return state_file_restore(&c->model, c->path, &view, device, prefix, counts);
}
