/* Opening a run, the loop over its steps, saving. */
#include "trainer/train/run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

const char *run_path(const struct run *run, char *out, size_t size, const char *name)
{
    snprintf(out, size, "%s/%s", run->options->output_dir, name);
    return out;
}

/* mkdir -p */
static enum status make_folders(const char *path)
{
    char part[CHECKPOINT_MAX_PATH];

    if (snprintf(part, sizeof(part), "%s", path) >= (int)sizeof(part))
        FAIL(STATUS_INVALID, "--output_dir '%s' is too long", path);
    for (char *at = part + 1;; at++) {
        if (*at != '/' && *at != '\0')
            continue;
        char kept = *at;
        *at = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            FAIL(STATUS_IO, "cannot make folder '%s': %s", part, strerror(errno));
        *at = kept;
        if (kept == '\0')
            return STATUS_OK;
    }
}

/* The options as text, for checkpoints and for comparing runs. */
static enum status store_options(struct run *run)
{
    const struct options_program *program = run->parsed->program;

    TRY(memory_alloc(&run->stored, program->n_specs, sizeof(*run->stored), "options"));
    for (size_t i = 0; i < program->n_specs; i++) {
        const struct option_spec *spec = &program->specs[i];
        if (spec->flags & OPTION_COMMAND_LINE_ONLY)
            continue;
        struct checkpoint_option *to = &run->stored[run->n_stored++];
        to->name = spec->name;
        to->digest = (spec->flags & OPTION_OUTSIDE_DIGEST) == 0;
        options_text(run->parsed, spec->name, to->text, sizeof(to->text));
    }
    return STATUS_OK;
}

/* A resumed run must be asked for the same thing. */
static enum status compare_options(const struct run *run, const struct checkpoint *checkpoint)
{
    char differ[1024] = "";
    size_t used = 0;

    for (size_t i = 0; i < run->n_stored; i++) {
        const struct checkpoint_option *now = &run->stored[i];
        const char *then = checkpoint_option(checkpoint, now->name);
        if (!now->digest || then == NULL || strcmp(then, now->text) == 0)
            continue;
        int n = snprintf(differ + used, sizeof(differ) - used, "%s--%s %s (the run has %s)",
                         used > 0 ? ", " : "", now->name, now->text, then);
        used += n > 0 && used + (size_t)n < sizeof(differ) ? (size_t)n : 0;
    }
    if (used > 0)
        FAIL(STATUS_MISMATCH,
             "'%s' holds a run with other options: %s; give the same, or another "
             "--output_dir",
             run->options->output_dir, differ);
    return STATUS_OK;
}

static enum status write_run_file(const struct run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    FILE *file = fopen(run_path(run, path, sizeof(path), "run.yaml"), "w");

    if (file == NULL)
        FAIL(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    fprintf(file, "# digest %016llx\n", (unsigned long long)options_digest(run->parsed));
    enum status status = options_dump(run->parsed, file);
    if (fclose(file) != 0 && status == STATUS_OK)
        status = status_set(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    return status;
}

static enum status open_receiver(struct run *run, uint64_t index_digest)
{
    const struct run_options *o = run->options;
    bool many = o->num_workers > 0;
    struct receiver_options receiver = {
        .spec = run->spec,
        .batch_size = o->batch_size_per_gpu,
        .slice_size = o->slice_size < o->batch_size_per_gpu ? o->slice_size : o->batch_size_per_gpu,
        .prefetch = o->prefetch,
        .rank = run->backend.collective.rank,
        .world = run->backend.collective.world,
        .drop_last = true,
        .listen = o->listen,
        .insecure = o->insecure,
        .data = o->data,
        .index = o->index,
        .n_loaders = o->loaders > 0                         ? o->loaders
                     : o->data != NULL && o->listen == NULL ? 1
                                                            : 0,
        .loader_threads = many ? o->num_workers : o->loader_threads,
        .index_digest = index_digest,
    };
    /* ranks stop together, between steps: alone one may leave while it waits */
    const atomic_int *stop = receiver.world == 1 ? run->stop : NULL;
    TRY(receiver_open(&run->receiver, &run->backend.device, &receiver, stop));
    return receiver_dataset(&run->receiver, &run->dataset);
}

/* Epoch length from the data set; all contradictions that only now can be seen. */
static enum status plan_epochs(struct run *run)
{
    const struct run_options *o = run->options;
    uint64_t world = (uint64_t)run->backend.collective.world;
    uint64_t share = (run->dataset.n_samples + world - 1) / world;

    run->micro_per_epoch = (int64_t)(share / (uint64_t)o->batch_size_per_gpu);
    int64_t steps = run->micro_per_epoch / o->accumulation_steps;
    if (steps < 1)
        FAIL(STATUS_INVALID,
             "%llu images over %llu ranks make no step of %d images: lower "
             "--batch_size_per_gpu (%d) or --accumulation_steps (%d)",
             (unsigned long long)run->dataset.n_samples, (unsigned long long)world,
             o->batch_size_per_gpu * o->accumulation_steps, o->batch_size_per_gpu,
             o->accumulation_steps);
    run_options_schedule(o, steps, (int)world, &run->schedule);
    TRY(schedule_check(&run->schedule));
    run->cluster_capacity = steps * o->batch_size_per_gpu * o->accumulation_steps;
    TRY(memory_alloc(&run->labels, (size_t)run->cluster_capacity, sizeof(int32_t), "labels"));
    return memory_alloc(&run->clusters, (size_t)run->cluster_capacity, sizeof(int32_t), "clusters");
}

/* Weights, step and meters of a checkpoint; of the meters and clusters rank 0 takes all. */
static enum status take_checkpoint(struct run *run, const struct checkpoint *checkpoint)
{
    struct checkpoint_state state = {0};
    struct checkpoint_counts counts;
    enum status status;

    TRY(checkpoint_state(checkpoint, &state));
    if (state.index_digest != run->dataset.index_digest)
        FAIL_OUT(STATUS_MISMATCH, "%s was trained on another data set (index %016llx, now %016llx)",
                 checkpoint->path, (unsigned long long)state.index_digest,
                 (unsigned long long)run->dataset.index_digest);
    if (state.world != run->backend.collective.world)
        FAIL_OUT(STATUS_MISMATCH, "%s was trained by %d ranks, now there are %d", checkpoint->path,
                 state.world, run->backend.collective.world);
    TRY_OUT(checkpoint_restore(checkpoint, run->ibot, &run->backend.device, "", &counts));
    run->step = state.step;
    run->n_bad_images = state.n_bad_images;
    if (run->backend.collective.rank == 0) {
        metrics_set_totals(&run->metrics, state.totals);
        if (state.n_clusters > run->cluster_capacity * run->backend.collective.world)
            FAIL_OUT(STATUS_CORRUPT, "%s: more clusters than an epoch has", checkpoint->path);
        run->n_clusters = state.n_clusters;
        if (state.n_clusters > run->cluster_capacity) { /* those of all ranks */
            memory_free(run->labels);
            memory_free(run->clusters);
            run->labels = state.labels;
            run->clusters = state.clusters;
            state.labels = state.clusters = NULL;
        } else {
            memcpy(run->labels, state.labels, (size_t)state.n_clusters * sizeof(int32_t));
            memcpy(run->clusters, state.clusters, (size_t)state.n_clusters * sizeof(int32_t));
        }
    }
    log_info("going on from %s: step %lld, %zu tensors", checkpoint->path, (long long)run->step,
             counts.n_loaded);
out:
    memory_free(state.labels);
    memory_free(state.clusters);
    return status;
}

static enum status open_outputs(struct run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    int32_t epoch = (int32_t)(run->step / run->schedule.steps_per_epoch);

    if (run->options->log_digests != NULL) {
        run->digests = fopen(run->options->log_digests, "a");
        if (run->digests == NULL)
            FAIL(STATUS_IO, "--log_digests '%s': %s", run->options->log_digests, strerror(errno));
    }
    if (run->backend.collective.rank != 0)
        return STATUS_OK;
    TRY(write_run_file(run));
    TRY(log_file_rewind(run_path(run, path, sizeof(path), "log.txt"), epoch));
    return event_file_open(&run->events, run_path(run, path, sizeof(path), "tf_logs"), epoch);
}

static void start_progress(struct run *run)
{
    struct progress_options progress = {
        .n_epochs = run->schedule.epochs,
        .steps_per_epoch = run->schedule.steps_per_epoch,
        .images_per_step = (int64_t)run->options->batch_size_per_gpu *
                           run->options->accumulation_steps * run->backend.collective.world,
        .quiet = run->backend.collective.rank != 0,
    };
    progress_init(&run->progress, &progress, run->step, clock_monotonic_ns());
}

static enum status open_model(struct run *run, const struct checkpoint *checkpoint)
{
    struct ibot_options model;

    TRY(run_options_model(run->options, &model));
    TRY(ibot_open(&run->ibot, &run->backend.device, run->backend.ops, &run->backend.collective,
                  &model));
    if (checkpoint != NULL)
        return take_checkpoint(run, checkpoint);
    TRY(ibot_initialise(run->ibot, (uint64_t)run->options->seed));
    return run_save(run); /* step 0: the random initialisation, to compare with */
}

enum status run_open(struct run *run, const struct run_options *options,
                     const struct options *parsed, const atomic_int *stop)
{
    struct checkpoint checkpoint = {0};
    struct checkpoint_state state = {0};
    char path[CHECKPOINT_MAX_PATH];
    bool found = false;
    enum status status;

    *run = (struct run){.options = options, .parsed = parsed, .stop = stop};
    metrics_init(&run->metrics);
    TRY(run_options_data(options, &run->spec));
    TRY(make_folders(options->output_dir));
    TRY(store_options(run));
    TRY_OUT(checkpoint_open_latest(&checkpoint, run_path(run, path, sizeof(path), "checkpoints"),
                                   &found));
    if (found && options->resume == RESUME_NONE)
        FAIL_OUT(STATUS_MISMATCH,
                 "'%s' holds a run already and --resume is none: choose another "
                 "--output_dir",
                 options->output_dir);
    if (found) {
        TRY_OUT(compare_options(run, &checkpoint));
        TRY_OUT(checkpoint_state(&checkpoint, &state));
        memory_free(state.labels);
        memory_free(state.clusters);
    }
    TRY_OUT(backend_open(&run->backend, (enum backend_kind)options->backend, options->threads));
    TRY_OUT(open_receiver(run, state.index_digest));
    TRY_OUT(plan_epochs(run));
    TRY_OUT(open_model(run, found ? &checkpoint : NULL));
    TRY_OUT(open_outputs(run));
    start_progress(run);
    if (run->backend.collective.rank == 0)
        log_info("%llu images, %lld steps in each of %d epochs, model of %.1f MiB in memory",
                 (unsigned long long)run->dataset.n_samples,
                 (long long)run->schedule.steps_per_epoch, run->schedule.epochs,
                 (double)ibot_device_bytes(run->ibot) / 1048576.0);
out:
    checkpoint_close(&checkpoint);
    return status;
}

/* ------------------------------------------------------------------------------ saving */

enum status run_gather(struct run *run, struct checkpoint_state *state)
{
    struct collective *ranks = &run->backend.collective;
    size_t world = (size_t)ranks->world;
    double own[METRICS_TOTALS], *all = NULL;
    int64_t *counts = NULL, most = 0;
    int32_t *sent = NULL, *received = NULL;
    enum status status;

    metrics_totals(&run->metrics, own);
    TRY_OUT(memory_alloc(&all, world * METRICS_TOTALS, sizeof(double), "meters"));
    TRY_OUT(memory_alloc(&counts, world, sizeof(int64_t), "meters"));
    TRY_OUT(ranks->all_gather(ranks, all, own, sizeof(own)));
    TRY_OUT(ranks->all_gather(ranks, counts, &run->n_clusters, sizeof(int64_t)));
    memset(state->totals, 0, sizeof(state->totals));
    for (size_t r = 0; r < world; r++) {
        for (size_t i = 0; i < METRICS_TOTALS; i++)
            state->totals[i] += all[r * METRICS_TOTALS + i];
        state->n_clusters += counts[r];
        most = counts[r] > most ? counts[r] : most;
    }
    TRY_OUT(memory_alloc(&sent, (size_t)most, 2 * sizeof(int32_t), "clusters"));
    TRY_OUT(memory_alloc(&received, world * (size_t)most, 2 * sizeof(int32_t), "clusters"));
    TRY_OUT(memory_alloc(&state->labels, (size_t)state->n_clusters, sizeof(int32_t), "labels"));
    TRY_OUT(memory_alloc(&state->clusters, (size_t)state->n_clusters, sizeof(int32_t), "clusters"));
    memcpy(sent, run->labels, (size_t)run->n_clusters * sizeof(int32_t));
    memcpy(sent + most, run->clusters, (size_t)run->n_clusters * sizeof(int32_t));
    TRY_OUT(ranks->all_gather(ranks, received, sent, 2 * (size_t)most * sizeof(int32_t)));
    int64_t at = 0;
    for (size_t r = 0; r < world; at += counts[r++]) {
        const int32_t *from = received + 2 * (int64_t)r * most;
        memcpy(state->labels + at, from, (size_t)counts[r] * sizeof(int32_t));
        memcpy(state->clusters + at, from + most, (size_t)counts[r] * sizeof(int32_t));
    }
out:
    memory_free(received);
    memory_free(sent);
    memory_free(counts);
    memory_free(all);
    return status;
}

enum status run_save(struct run *run)
{
    struct checkpoint_state state = {
        .step = run->step,
        .steps_per_epoch = run->schedule.steps_per_epoch,
        .index_digest = run->dataset.index_digest,
        .n_samples = run->dataset.n_samples,
        .spec_digest = data_spec_digest(&run->spec),
        .world = run->backend.collective.world,
        .n_bad_images = run->n_bad_images,
    };
    char folder[CHECKPOINT_MAX_PATH];
    int64_t keep = run->options->saveckp_freq * run->schedule.steps_per_epoch;
    enum status status = run_gather(run, &state);

    run_path(run, folder, sizeof(folder), "checkpoints");
    if (status == STATUS_OK && run->backend.collective.rank == 0) {
        status = checkpoint_save(folder, run->ibot, &run->backend.device, &state, run->stored,
                                 run->n_stored);
        if (status == STATUS_OK)
            status = checkpoint_prune(folder, run->options->keep_checkpoints, keep);
        if (status == STATUS_IO && run->step > 0) {
            log_error("%s; training goes on", status_message());
            status = STATUS_OK;
        }
    }
    memory_free(state.labels);
    memory_free(state.clusters);
    return status;
}

/* ------------------------------------------------------------------------------ loop */

static bool save_is_due(const struct run *run)
{
    int32_t every = run->options->checkpoint_every_steps;
    return run->step % run->schedule.steps_per_epoch == 0 || (every > 0 && run->step % every == 0);
}

enum status run_train(struct run *run)
{
    int64_t n_steps = run->schedule.steps_per_epoch * run->schedule.epochs;
    int64_t first_micro =
        run->step / run->schedule.steps_per_epoch * run->micro_per_epoch +
        run->step % run->schedule.steps_per_epoch * run->options->accumulation_steps;
    int64_t last = run->options->stop_at_step > 0 && run->options->stop_at_step < n_steps
                       ? run->options->stop_at_step
                       : n_steps;

    if (run->step < last)
        TRY(consumer_start(run->receiver.consumer, first_micro, run->schedule.epochs));
    while (run->step < last) {
        double loss = 0.0;
        int64_t waited = run->receiver.waited_ns;
        bool stop = false;
        enum status status = run_step(run, &loss, &stop);
        if (status == STATUS_INTERRUPTED) { /* alone, while it waited for data */
            stop = true;
        } else {
            TRY(status);
            progress_step(&run->progress, run->step - 1, loss, run->receiver.waited_ns - waited,
                          clock_monotonic_ns());
            if (run->step % run->schedule.steps_per_epoch == 0)
                TRY(run_end_epoch(run));
        }
        if (stop || run->step == last || save_is_due(run))
            TRY(run_save(run));
        if (stop)
            FAIL(STATUS_INTERRUPTED, "stopped after step %lld; the same command goes on from there",
                 (long long)run->step);
    }
    return STATUS_OK;
}

void run_close(struct run *run)
{
    progress_clear(&run->progress);
    receiver_close(&run->receiver);
    ibot_close(&run->ibot);
    if (run->events != NULL && event_file_close(&run->events) != STATUS_OK)
        log_warning("%s", status_message());
    if (run->digests != NULL)
        fclose(run->digests);
    backend_close(&run->backend);
    memory_free(run->labels);
    memory_free(run->clusters);
    memory_free(run->stored);
    memset(run, 0, sizeof(*run));
}
