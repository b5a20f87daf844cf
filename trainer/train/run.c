/* Opening a run, and the loop over its steps. */
#include "trainer/train/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/rank_agreement.h"
#include "trainer/train/batch_size.h"

/* ------------------------------------------------------------------------------ opening */

/* Local loaders of this rank, and the threads of each. */
static void share_out(const struct run_options *o, int32_t *n_loaders, int32_t *threads_each)
{
    *n_loaders = o->loaders;
    if (*n_loaders == 0 && o->data != NULL && o->listen == NULL)
        *n_loaders = 1;
    *threads_each = o->loader_threads;
    if (o->num_workers > 0 && *n_loaders > 0)
        *threads_each = (o->num_workers + *n_loaders - 1) / *n_loaders;
}

static enum status open_receiver(struct run *run, uint64_t index_digest)
{
    const struct run_options *o = run->options;
    int32_t n_loaders, threads_each;
    uint64_t wanted;

    TRY(run_options_index_digest(o, &wanted));
    if (wanted != 0 && index_digest != 0 && wanted != index_digest)
        FAIL(STATUS_MISMATCH, "--index_digest %016llx: the run that goes on has data set %016llx",
             (unsigned long long)wanted, (unsigned long long)index_digest);
    index_digest = wanted != 0 ? wanted : index_digest;

    share_out(o, &n_loaders, &threads_each);
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
        .key = o->key,
        .allow = o->allow,
        .ops = run->backend.ops,
        .data = o->data,
        .index = o->index,
        .n_loaders = n_loaders,
        .loader_threads = threads_each,
        .index_digest = index_digest,
        .notify = &run->notify,
        .alive = &run->monitor.alive_ns,
        .record = o->record != NULL && o->record[0] != '\0' ? o->record : NULL,
        .record_pixels = o->record_kind == RECORD_PIXELS,
    };
    /* Batch norm makes ranks talk within a step: there none may leave while it waits for data. */
    bool free_to_leave = receiver.world == 1 || o->norm_in_head < 2;
    const atomic_int *stop = free_to_leave ? run->stop : NULL;
    TRY(receiver_open(&run->receiver, &run->backend.device, &receiver, stop));
    run_monitor_listening(&run->monitor, run->receiver.consumer);
    notify_ready(&run->notify); /* loaders may be started now */
    run_tell_progress(run, RANK_WAITS_FOR_DATA);
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

static enum status open_model(struct run *run, const struct run_source *source)
{
    struct ibot_options model;

    TRY(run_options_model(run->options, &model));
    TRY(ibot_open(&run->ibot, &run->backend.device, run->backend.ops, &run->backend.collective,
                  &model));
    return run_source_take(run, source);
}

static enum status open_monitor(struct run *run)
{
    const char *listen = run->options->metrics;

    if (listen == NULL)
        return STATUS_OK;
    TRY(run_monitor_open(&run->monitor, listen, run->backend.collective.rank));
    log_info("metrics at http://%s/metrics", monitor_address(run->monitor.monitor));
    return STATUS_OK;
}

/* --batch_size_per_gpu auto, of a run that begins. */
static enum status choose_batch_size(struct run *run, struct run_options *options)
{
    struct batch_size_fit fit;
    struct ibot_options model;

    if (options->batch_size_per_gpu > 0)
        return STATUS_OK;
    TRY(run_options_model(options, &model));
    TRY(batch_size_choose(&fit, &run->backend, &model, &run->spec));
    options->batch_size_per_gpu = fit.batch_size;
    if (run->backend.collective.rank == 0)
        log_info("--batch_size_per_gpu auto: %d images, planned memory %.1f MiB, with %.1f of %.1f "
                 "MiB free",
                 fit.batch_size, (double)fit.planned_bytes / 0x1p20,
                 (double)fit.free_bytes / 0x1p20, (double)fit.total_bytes / 0x1p20);
    return run_store_options(run);
}

enum status run_open(struct run *run, struct run_options *options, const struct options *parsed,
                     const atomic_int *stop)
{
    struct run_source source = {0};
    struct checkpoint_state state = {0};
    enum status status;

    *run = (struct run){
        .options = options, .parsed = parsed, .stop = stop, .saved_step = -1, .loss = NAN};
    TRY(backend_meet(&run->backend, (enum backend_kind)options->backend.kind, stop));
    metrics_init(&run->metrics);
    if (notify_open(&run->notify) != STATUS_OK)
        log_warning("%s", status_message());
    TRY(run_options_data(options, &run->spec));
    TRY(ranges_parse(&run->skip, "--skip_steps", options->skip_steps));
    TRY(run_folder_open(run));
    TRY_OUT(run_source_find(run, &source));
    if (options->batch_size_per_gpu == 0)
        options->batch_size_per_gpu = run_source_batch_size(&source);
    TRY_OUT(run_store_options(run));
    TRY_OUT(run_source_compare(run, &source));
    if (source.found && !source.official) {
        TRY_OUT(checkpoint_state(&source.checkpoint, &state));
        memory_free(state.labels);
        memory_free(state.clusters);
    }
    TRY_OUT(backend_options_open(&run->backend, &run->options->backend, &run->options->network));
    TRY_OUT(rank_compare_options(&run->backend.collective, parsed));
    TRY_OUT(choose_batch_size(run, options));
    TRY_OUT(open_monitor(run));
    TRY_OUT(open_receiver(run, state.index_digest));
    TRY_OUT(plan_epochs(run));
    TRY_OUT(open_model(run, &source));
    TRY_OUT(run_folder_start(run));
    start_progress(run);
    run->saved_ns = clock_monotonic_ns();
    run_monitor_start(&run->monitor, run->schedule.steps_per_epoch * run->schedule.epochs,
                      run->step);
    if (run->backend.collective.rank == 0)
        log_info("%llu images, %lld steps in each of %d epochs, model of %.1f MiB in memory",
                 (unsigned long long)run->dataset.n_samples,
                 (long long)run->schedule.steps_per_epoch, run->schedule.epochs,
                 (double)ibot_device_bytes(run->ibot) / 1048576.0);
out:
    run_source_close(&source);
    return status;
}

/* ------------------------------------------------------------------------------ loop */

static bool save_is_due(const struct run *run)
{
    int32_t every = run->options->checkpoint_every_steps;

    return run->save_due || run->step % run->schedule.steps_per_epoch == 0 ||
           (every > 0 && run->step % every == 0);
}

/* A checkpoint that is missing is only an inconvenience while the run lives: it goes on, loudly. */
static enum status save(struct run *run, bool last_chance)
{
    if (run->saved_step == run->step)
        return STATUS_OK;
    TRY(run_settle(run));
    int64_t begin_ns = clock_monotonic_ns();
    run_tell_progress(run, "saves a checkpoint");
    enum status status = run_save(run);
    if (status == STATUS_OK && run->saved_step == run->step)
        run_monitor_note_checkpoint(&run->monitor, run->step, clock_monotonic_ns() - begin_ns);
    if (status != STATUS_IO || last_chance)
        return status;
    log_error("%s; training goes on", status_message());
    return STATUS_OK;
}

/* What follows a step that was made. */
static enum status after_step(struct run *run, bool left_out, int64_t begin_ns, int64_t waited_ns)
{
    const struct run_options *o = run->options;
    int64_t now_ns = clock_monotonic_ns();
    struct run_monitor_step step = {
        .step = run->step,
        .epoch = (int32_t)((run->step - 1) / run->schedule.steps_per_epoch),
        .n_images = (int64_t)o->batch_size_per_gpu * o->accumulation_steps,
        .loss = run->loss,
        .step_ns = now_ns - begin_ns,
        .waited_ns = waited_ns,
    };

    if (!left_out) {
        run->progress.n_loaders = receiver_loaders(&run->receiver);
        progress_step(&run->progress, run->step - 1, run->loss, waited_ns, now_ns);
        run_monitor_note_step(&run->monitor, &step);
    }
    notify_alive(&run->notify, now_ns);
    notify_status(&run->notify, now_ns, "step %lld of %lld, loss %.4f", (long long)run->step,
                  (long long)(run->schedule.steps_per_epoch * run->schedule.epochs), run->loss);
    if (run->step % run->schedule.steps_per_epoch != 0)
        return STATUS_OK;
    TRY(run_settle(run));
    return run_end_epoch(run);
}

enum status run_train(struct run *run)
{
    const struct schedule *s = &run->schedule;
    int64_t n_steps = s->steps_per_epoch * s->epochs, last = n_steps;
    int64_t first_batch = run->step / s->steps_per_epoch * run->micro_per_epoch +
                          run->step % s->steps_per_epoch * run->options->accumulation_steps;

    if (run->options->stop_at_step > 0 && run->options->stop_at_step < n_steps)
        last = run->options->stop_at_step;
    if (run->step < last)
        TRY(receiver_start(&run->receiver, first_batch, s->epochs));
    while (run->step < last) {
        int64_t waited = run->receiver.waited_ns, begin_ns = clock_monotonic_ns();
        bool stop = false, left_out = false;
        enum status status = run_step(run, &left_out, &stop);
        if (status == STATUS_OK)
            status = after_step(run, left_out, begin_ns, run->receiver.waited_ns - waited);
        if (status != STATUS_INTERRUPTED)
            TRY(status);
        if (stop || run->step == last)
            notify_stopping(&run->notify);
        if (stop || run->step == last || save_is_due(run))
            TRY(save(run, stop || run->step == last));
        if (stop && run->step < last) {
            run->backend.collective.ending = true;
            FAIL(STATUS_INTERRUPTED, "stopped after step %lld; the same command goes on from there",
                 (long long)run->step);
        }
    }
    return STATUS_OK;
}

void run_close(struct run *run)
{
    if (run->options == NULL)
        return;
    progress_clear(&run->progress);
    run_monitor_close(&run->monitor);
    receiver_close(&run->receiver);
    ibot_close(&run->ibot);
    run_folder_close(run);
    backend_close(&run->backend);
    notify_close(&run->notify);
    memory_free(run->labels);
    memory_free(run->clusters);
    memory_free(run->stored);
    memset(run, 0, sizeof(*run));
}
