/* What a run carries over an interruption: gathered from all ranks into a checkpoint, and taken
 * from one. */
#include <stdlib.h>
#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/train/run.h"

/* ------------------------------------------------------------------------------ options */

enum status run_store_options(struct run *run)
{
    const struct options *parsed = run->parsed;

    if (run->stored == NULL)
        TRY(memory_alloc(&run->stored, parsed->n_specs, sizeof(*run->stored), "options"));
    run->n_stored = 0;
    for (size_t i = 0; i < parsed->n_specs; i++) {
        const struct option_spec *spec = &parsed->specs[i];
        if (spec->flags & OPTION_COMMAND_LINE_ONLY)
            continue;
        struct checkpoint_option *to = &run->stored[run->n_stored++];
        to->name = spec->name;
        to->digest = (spec->flags & OPTION_OUTSIDE_DIGEST) == 0;
        options_text(parsed, spec->name, to->text, sizeof(to->text));
    }
    return STATUS_OK;
}

/* Whether an option that changes results is as it was. Steps to leave out may change as long as
 * they are not made yet. */
static bool is_as_it_was(const struct run *run, const struct checkpoint_option *now,
                         const char *then, int64_t step)
{
    struct ranges skip;

    if (strcmp(then, now->text) == 0)
        return true;
    return strcmp(now->name, "skip_steps") == 0 &&
           ranges_parse(&skip, "--skip_steps", then) == STATUS_OK &&
           ranges_agree(&skip, &run->skip, step);
}

enum status run_compare_options(const struct run *run, const struct checkpoint *checkpoint)
{
    struct checkpoint_state state;
    char differ[1024] = "";
    size_t used = 0;

    TRY(checkpoint_state(checkpoint, &state));
    memory_free(state.labels);
    memory_free(state.clusters);
    for (size_t i = 0; i < run->n_stored; i++) {
        const struct checkpoint_option *now = &run->stored[i];
        const char *then = checkpoint_option(checkpoint, now->name);
        if (!now->digest || then == NULL || is_as_it_was(run, now, then, state.step))
            continue;
        int n = snprintf(differ + used, sizeof(differ) - used, "%s--%s %s (the run has %s)",
                         used > 0 ? ", " : "", now->name, now->text, then);
        used += n > 0 && used + (size_t)n < sizeof(differ) ? (size_t)n : 0;
    }
    if (used > 0)
        FAIL(STATUS_MISMATCH,
             "'%s' holds a run with other options: %s; give the same, or another "
             "--output_dir",
             checkpoint->path, differ);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ resuming */

/* Labels and clusters of all ranks may be more than this rank's own share of an epoch. */
static enum status take_clusters(struct run *run, struct checkpoint_state *state)
{
    int64_t own = run->cluster_capacity;

    if (state->n_clusters > own * run->backend.collective.world)
        FAIL(STATUS_CORRUPT, "more clusters than an epoch has images");
    if (state->n_clusters > 0) {
        size_t n = (size_t)state->n_clusters;
        memory_free(run->labels);
        memory_free(run->clusters);
        run->labels = run->clusters = NULL;
        run->cluster_capacity = own + state->n_clusters;
        TRY(memory_alloc(&run->labels, (size_t)run->cluster_capacity, sizeof(int32_t), "labels"));
        TRY(memory_alloc(&run->clusters, (size_t)run->cluster_capacity, sizeof(int32_t),
                         "clusters"));
        memcpy(run->labels, state->labels, n * sizeof(int32_t));
        memcpy(run->clusters, state->clusters, n * sizeof(int32_t));
    }
    run->n_clusters = state->n_clusters;
    return STATUS_OK;
}

enum status run_take_checkpoint(struct run *run, const struct checkpoint *checkpoint)
{
    struct checkpoint_state state = {0};
    struct state_counts counts;
    enum status status;

    TRY(checkpoint_state(checkpoint, &state));
    if (state.index_digest != run->dataset.index_digest)
        FAIL_OUT(STATUS_MISMATCH, "%s was trained on another data set (index %016llx, now %016llx)",
                 checkpoint->path, (unsigned long long)state.index_digest,
                 (unsigned long long)run->dataset.index_digest);
    if (state.steps_per_epoch != run->schedule.steps_per_epoch)
        FAIL_OUT(STATUS_MISMATCH, "%s was trained with %lld steps in an epoch, now there are %lld",
                 checkpoint->path, (long long)state.steps_per_epoch,
                 (long long)run->schedule.steps_per_epoch);
    if (state.world != run->backend.collective.world)
        FAIL_OUT(STATUS_MISMATCH, "%s was trained by %d ranks, now there are %d", checkpoint->path,
                 state.world, run->backend.collective.world);
    TRY_OUT(checkpoint_restore(checkpoint, run->ibot, &run->backend.device, "", &counts));
    run->step = run->saved_step = state.step;
    run->optimizer_lag = state.optimizer_lag;
    run->last_layer_lag = state.last_layer_lag;
    run->n_bad_images = state.n_bad_images;
    if (run->backend.collective.rank == 0) {
        metrics_set_totals(&run->metrics, state.totals);
        memcpy(run->entropies, state.entropies, sizeof(run->entropies));
        TRY_OUT(take_clusters(run, &state));
        log_info("going on from '%s': step %lld, %zu tensors", checkpoint->path,
                 (long long)run->step, counts.n_loaded);
    }
out:
    memory_free(state.labels);
    memory_free(state.clusters);
    return status;
}

/* ------------------------------------------------------------------------------ saving */

/* Adds up what each rank measured. */
static enum status gather_meters(struct run *run, struct checkpoint_state *state)
{
    struct collective *ranks = &run->backend.collective;
    double own[METRICS_TOTALS + CHECKPOINT_ENTROPIES], *all = NULL;
    size_t n = sizeof(own) / sizeof(own[0]);

    metrics_totals(&run->metrics, own);
    memcpy(own + METRICS_TOTALS, run->entropies, sizeof(run->entropies));
    TRY(memory_alloc(&all, (size_t)ranks->world * n, sizeof(double), "meters"));
    enum status status = ranks->all_gather(ranks, all, own, sizeof(own));
    memset(state->totals, 0, sizeof(state->totals));
    memset(state->entropies, 0, sizeof(state->entropies));
    for (size_t r = 0; r < (size_t)ranks->world && status == STATUS_OK; r++) {
        for (size_t i = 0; i < METRICS_TOTALS; i++)
            state->totals[i] += all[r * n + i];
        for (size_t i = 0; i < CHECKPOINT_ENTROPIES; i++)
            state->entropies[i] += all[r * n + METRICS_TOTALS + i];
    }
    memory_free(all);
    return status;
}

enum status run_gather(struct run *run, struct checkpoint_state *state)
{
    struct collective *ranks = &run->backend.collective;
    size_t world = (size_t)ranks->world;
    int64_t *counts = NULL, most = 0;
    int32_t *sent = NULL, *received = NULL;
    enum status status;

    TRY_OUT(gather_meters(run, state));
    TRY_OUT(memory_alloc(&counts, world, sizeof(int64_t), "clusters"));
    TRY_OUT(ranks->all_gather(ranks, counts, &run->n_clusters, sizeof(int64_t)));
    for (size_t r = 0; r < world; r++) {
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
        .run_digest = options_digest(run->parsed),
        .world = run->backend.collective.world,
        .optimizer_lag = run->optimizer_lag,
        .last_layer_lag = run->last_layer_lag,
        .n_bad_images = run->n_bad_images,
    };
    char folder[CHECKPOINT_MAX_PATH];
    int64_t keep = run->options->saveckp_freq * run->schedule.steps_per_epoch;

    receiver_sync(&run->receiver);
    enum status status = run_gather(run, &state);

    run_path(run, folder, sizeof(folder), "checkpoints");
    if (status == STATUS_OK && run->backend.collective.rank == 0) {
        status = checkpoint_save(folder, run->ibot, &run->backend.device, &state, run->stored,
                                 run->n_stored);
        if (status == STATUS_OK &&
            checkpoint_prune(folder, run->step, run->options->keep_checkpoints, keep) != STATUS_OK)
            log_warning("old checkpoints stay: %s", status_message());
    }
    memory_free(state.labels);
    memory_free(state.clusters);
    run->saved_ns = clock_monotonic_ns(); /* also after a failure: not again at once */
    run->save_due = false;
    if (status == STATUS_OK)
        run->saved_step = run->step;
    return status;
}
