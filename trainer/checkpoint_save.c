/* Writing and removing checkpoints. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/memory.h"
#include "trainer/checkpoint.h"
#include "trainer/checkpoint_names.h"

static enum status sync_path(const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    int failed = file < 0 || fsync(file) != 0 ? errno : 0;

    if (file >= 0)
        close(file);
    if (failed != 0)
        FAIL(STATUS_IO, "cannot sync '%s': %s", path, strerror(failed));
    return STATUS_OK;
}

/* mkdir; one that is new is there after a power cut, too. */
static enum status make_folder(const char *path)
{
    char parent[CHECKPOINT_MAX_PATH];

    if (mkdir(path, 0777) != 0) {
        if (errno == EEXIST)
            return STATUS_OK;
        FAIL(STATUS_IO, "cannot make folder '%s': %s", path, strerror(errno));
    }
    snprintf(parent, sizeof(parent), "%s", path);
    return sync_path(dirname(parent));
}

/* With whatever is in it: a killed process may have left more than we write. */
static void remove_folder(const char *path)
{
    char file[CHECKPOINT_MAX_PATH + 288];
    struct dirent *item;
    DIR *dir = opendir(path);

    while (dir != NULL && (item = readdir(dir)) != NULL) {
        snprintf(file, sizeof(file), "%s/%s", path, item->d_name);
        if (strcmp(item->d_name, ".") != 0 && strcmp(item->d_name, "..") != 0)
            unlink(file);
    }
    if (dir != NULL)
        closedir(dir);
    rmdir(path);
}

/* Gives the whole folder `temporary` its name. One of that name (a run that went on from an older
 * checkpoint comes here again) is exchanged in one go, then removed. */
static enum status put_in_place(const char *temporary, const char *path)
{
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_EXCHANGE) == 0) {
        remove_folder(temporary);
        return STATUS_OK;
    }
    if (errno == EINVAL || errno == ENOSYS)
        remove_folder(path); /* a file system that cannot exchange */
    else if (errno != ENOENT)
        FAIL(STATUS_IO, "cannot put '%s' in the place of '%s': %s", temporary, path,
             strerror(errno));
    if (rename(temporary, path) != 0)
        FAIL(STATUS_IO, "cannot rename '%s': %s", temporary, strerror(errno));
    return STATUS_OK;
}

/* Model tensors, and the clusters of the epoch. */
static enum status write_model(const char *path, struct ibot *ibot, struct device *device,
                               const struct checkpoint_state *state)
{
    const struct safetensors_item clusters[] = {
        {"epoch.labels", tensor_1d(state->labels, DTYPE_I32, state->n_clusters)},
        {"epoch.clusters", tensor_1d(state->clusters, DTYPE_I32, state->n_clusters)},
    };
    const char *metadata[] = {"format", "ibot"};
    struct state_view view = ibot_state_view(ibot);
    struct state_file_options options = {
        .extra = clusters,
        .n_extra = state->n_clusters > 0 ? 2 : 0,
        .metadata = metadata,
        .n_pairs = 1,
    };

    return state_file_write(path, &view, device, &options);
}

static json_t *hex(uint64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "%016llx", (unsigned long long)value);
    return json_string(text);
}

static json_t *describe(const struct checkpoint_state *s, uint64_t digest,
                        const struct checkpoint_option *options, size_t n_options)
{
    json_t *json = json_object(), *totals = json_array(), *all = json_object();
    json_t *entropies = json_array();

    json_object_set_new(json, "format", json_integer(CHECKPOINT_FORMAT));
    json_object_set_new(json, "step", json_integer(s->step));
    json_object_set_new(json, "epoch", json_integer(s->step / s->steps_per_epoch));
    json_object_set_new(json, "steps_per_epoch", json_integer(s->steps_per_epoch));
    json_object_set_new(json, "n_samples", json_integer((json_int_t)s->n_samples));
    json_object_set_new(json, "index_digest", hex(s->index_digest));
    json_object_set_new(json, "spec_digest", hex(s->spec_digest));
    json_object_set_new(json, "run_digest", hex(s->run_digest));
    json_object_set_new(json, "world", json_integer(s->world));
    json_object_set_new(json, "optimizer_lag", json_integer(s->optimizer_lag));
    json_object_set_new(json, "last_layer_lag", json_integer(s->last_layer_lag));
    json_object_set_new(json, "n_bad_images", json_integer(s->n_bad_images));
    json_object_set_new(json, "n_clusters", json_integer(s->n_clusters));
    for (size_t i = 0; i < METRICS_TOTALS; i++)
        json_array_append_new(totals, json_real(s->totals[i]));
    json_object_set_new(json, "totals", totals);
    for (size_t i = 0; i < CHECKPOINT_ENTROPIES; i++)
        json_array_append_new(entropies, json_real(s->entropies[i]));
    json_object_set_new(json, "entropies", entropies);
    json_object_set_new(json, "model_digest", hex(digest));
    for (size_t i = 0; i < n_options; i++)
        json_object_set_new(
            all, options[i].name,
            json_pack("{s:s, s:b}", "value", options[i].text, "decides", (int)options[i].digest));
    json_object_set_new(json, "options", all);
    return json;
}

static enum status write_json(const char *path, const struct checkpoint_state *state,
                              uint64_t digest, const struct checkpoint_option *options,
                              size_t n_options)
{
    json_t *json = describe(state, digest, options, n_options);
    uint64_t own;

    enum status status = checkpoint_json_digest(json, &own);
    if (status != STATUS_OK) {
        json_decref(json);
        return status;
    }
    json_object_set_new(json, "state_digest", hex(own));
    int failed = json_dump_file(json, path, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    json_decref(json);
    if (failed != 0)
        FAIL(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    return sync_path(path);
}

enum status checkpoint_save(const char *folder, struct ibot *ibot, struct device *device,
                            const struct checkpoint_state *state,
                            const struct checkpoint_option *options, size_t n_options)
{
    char path[CHECKPOINT_MAX_PATH], temporary[CHECKPOINT_MAX_PATH + 16];
    char file[CHECKPOINT_MAX_PATH + 48];
    struct safetensors written = {0};
    enum status status;

    checkpoint_name(path, sizeof(path), folder, state->step);
    snprintf(temporary, sizeof(temporary), "%s.tmp", path);
    remove_folder(temporary);
    TRY_OUT(make_folder(folder));
    if (mkdir(temporary, 0777) != 0)
        FAIL_OUT(STATUS_IO, "cannot make folder '%s': %s", temporary, strerror(errno));
    snprintf(file, sizeof(file), "%s/model.safetensors", temporary);
    TRY_OUT(write_model(file, ibot, device, state));
    TRY_OUT(safetensors_open(&written, file));
    uint64_t digest = safetensors_digest(&written);
    snprintf(file, sizeof(file), "%s/state.json", temporary);
    TRY_OUT(write_json(file, state, digest, options, n_options));
    TRY_OUT(sync_path(temporary));
    TRY_OUT(put_in_place(temporary, path));
    TRY_OUT(sync_path(folder));
out:
    safetensors_release(&written);
    if (status != STATUS_OK) {
        status = status_set(status, "checkpoint of step %lld not saved: %s; older ones are intact",
                            (long long)state->step, status_message());
        remove_folder(temporary);
    }
    return status;
}

/* What a killed process did not finish. */
static void remove_unfinished(const char *folder)
{
    char path[CHECKPOINT_MAX_PATH + 288];
    struct dirent *item;
    DIR *dir = opendir(folder);

    while (dir != NULL && (item = readdir(dir)) != NULL) {
        size_t n = strlen(item->d_name);
        if (strncmp(item->d_name, "step_", 5) != 0 || n < 4 ||
            strcmp(item->d_name + n - 4, ".tmp") != 0)
            continue;
        snprintf(path, sizeof(path), "%s/%s", folder, item->d_name);
        remove_folder(path);
    }
    if (dir != NULL)
        closedir(dir);
}

enum status checkpoint_prune(const char *folder, int64_t step, int32_t keep_last,
                             int64_t keep_every)
{
    char path[CHECKPOINT_MAX_PATH];
    int64_t *steps = NULL;
    int32_t n_kept = 0;
    size_t n = 0;

    remove_unfinished(folder);
    TRY(checkpoint_steps(folder, &steps, &n));
    for (size_t i = 0; i < n; i++) {
        if (steps[i] > step || n_kept++ < keep_last || steps[i] == 0 ||
            (keep_every > 0 && steps[i] % keep_every == 0))
            continue;
        checkpoint_name(path, sizeof(path), folder, steps[i]);
        remove_folder(path);
    }
    memory_free(steps);
    return STATUS_OK;
}
