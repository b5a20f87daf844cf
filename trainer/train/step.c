/* One step: batches, gradients, agreement of the ranks, update, meters. And the end of an epoch. */
#include <math.h>
#include <stdio.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/cluster_scores.h"
#include "trainer/picture.h"
#include "trainer/plot.h"
#include "trainer/train/run.h"
#include "trainer/weights/safetensors.h"

/* ------------------------------------------------------------------------------ ranks */

/* What every rank must know before it touches the weights of the next step. */
struct agreement {
    int32_t stop, failed;
};

/* Does any rank want to stop, or has one failed? */
static enum status agree(struct run *run, enum status status, bool *stop)
{
    struct collective *ranks = &run->backend.collective;
    struct agreement own = {atomic_load(run->stop), status != STATUS_OK}, all[1024];

    CHECK(ranks->world <= 1024);
    if (ranks->world == 1) {
        *stop = own.stop != 0;
        return status;
    }
    if (status != STATUS_OK)
        log_error("rank %d: %s", ranks->rank, status_message());
    TRY(ranks->all_gather(ranks, all, &own, sizeof(own)));
    *stop = false;
    for (int r = 0; r < ranks->world; r++) {
        *stop = *stop || all[r].stop != 0;
        if (all[r].failed != 0 && status == STATUS_OK)
            status = status_set(STATUS_DEVICE, "rank %d failed: its message is above", r);
    }
    return status;
}

/* ------------------------------------------------------------------------------ oddities */

/* The batch that gave a loss which is not finite, for looking at it later. */
static void dump_batch(const struct run *run, const struct batch *batch)
{
    char path[CHECKPOINT_MAX_PATH], name[64];
    const struct data_spec *spec = &run->spec;
    int64_t b = batch->n_samples, grid = data_spec_mask_grid(spec);
    struct safetensors_item items[4];
    size_t n = 0;
    int32_t *indices = NULL;

    snprintf(name, sizeof(name), "not_finite_step_%lld_rank_%d.safetensors", (long long)run->step,
             run->backend.collective.rank);
    run_path(run, path, sizeof(path), name);
    if (memory_alloc(&indices, (size_t)b, sizeof(int32_t), "indices") != STATUS_OK)
        return;
    for (int64_t i = 0; i < b; i++)
        indices[i] = (int32_t)batch->samples[i].index;
    items[n++] = (struct safetensors_item){"sample", tensor_1d(indices, DTYPE_I32, b)};
    items[n++] = (struct safetensors_item){
        "globals",
        {batch->globals,
         DTYPE_U8,
         4,
         {spec->n_global * b, spec->global_size_px, spec->global_size_px, 3}}};
    if (spec->n_local > 0)
        items[n++] = (struct safetensors_item){
            "locals",
            {batch->locals,
             DTYPE_U8,
             4,
             {spec->n_local * b, spec->local_size_px, spec->local_size_px, 3}}};
    if (batch->masks != NULL)
        items[n++] = (struct safetensors_item){
            "masks", {batch->masks, DTYPE_U8, 3, {spec->n_global * b, grid, grid, 0}}};
    if (safetensors_write(path, items, n, NULL, 0) == STATUS_OK)
        log_error("the batch of step %lld is in '%s'", (long long)run->step, path);
    memory_free(indices);
}

static void report_bad_images(struct run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    struct bad_image bad;

    while (consumer_bad_image(run->receiver.consumer, &bad)) {
        run->n_bad_images++;
        log_warning("bad image, another one takes its place: %s", bad.reason);
        FILE *file = fopen(run_path(run, path, sizeof(path), "bad_images.log"), "a");
        if (file == NULL)
            continue;
        fprintf(file, "epoch %d sample %u %s: %s\n", bad.epoch, bad.index, bad.path, bad.reason);
        fclose(file);
    }
}

/* A teacher whose distributions are all alike (entropy ln K) or all one-hot (0) teaches nothing. */
static void watch_collapse(struct run *run, const struct ibot_result *result)
{
    double most = log((double)run->options->out_dim), entropy = result->teacher_entropy_cls;

    if (run->warned_collapse || run->backend.collective.rank != 0 ||
        (entropy > 0.001 * most && entropy < 0.9995 * most))
        return;
    run->warned_collapse = true;
    log_warning(
        "step %lld: the teacher's entropy is %.4f nats (ln K is %.4f): it has collapsed to "
        "%s; a lower --lr, fixed gains (--norm_last_layer on) or other temperatures may help",
        (long long)run->step, entropy, most,
        entropy < 1.0 ? "one prototype" : "the uniform distribution");
}

static void draw_sheet(struct run *run, const struct batch *batch)
{
    char path[CHECKPOINT_MAX_PATH];

    if (run->sheet_drawn || run->backend.collective.rank != 0)
        return;
    run->sheet_drawn = true;
    if (picture_contact_sheet(run_path(run, path, sizeof(path), "contact_sheet.png"), batch,
                              &run->spec, 0) != STATUS_OK)
        log_warning("no contact sheet: %s", status_message());
}

/* ------------------------------------------------------------------------------ step */

static enum status next_batch(struct run *run, struct ibot_input *input, struct batch **batch)
{
    TRY(receiver_next(&run->receiver, batch, input));
    if (run->digests != NULL)
        fprintf(run->digests, "%lld %016llx\n", (long long)(*batch)->step,
                (unsigned long long)(*batch)->digest);
    report_bad_images(run);
    return STATUS_OK;
}

/* Gradients of all micro-batches; labels are noted. */
static enum status accumulate(struct run *run, const struct step_control *control,
                              struct ibot_result *result)
{
    const struct run_options *o = run->options;
    struct collective *ranks = &run->backend.collective;
    struct batch *batch = NULL;
    int64_t first_label = run->n_clusters;

    TRY(ibot_zero_gradients(run->ibot));
    for (int32_t micro = 0; micro < o->accumulation_steps; micro++) {
        struct ibot_input input = {
            .keep_seed = (uint64_t)o->seed,
            .step = run->step,
            .first_sample = (int64_t)micro * o->batch_size_per_gpu * ranks->world + ranks->rank,
            .sample_stride = ranks->world,
        };
        TRY(next_batch(run, &input, &batch));
        draw_sheet(run, batch);
        TRY(ibot_accumulate(run->ibot, &input, control));
        CHECK(first_label + (micro + 1) * o->batch_size_per_gpu <=
              run->cluster_capacity * ranks->world);
        for (int32_t i = 0; i < batch->n_samples; i++)
            run->labels[first_label + (int64_t)micro * o->batch_size_per_gpu + i] =
                batch->samples[i].label;
    }
    enum status status = ibot_result(run->ibot, result);
    if (status == STATUS_NOT_FINITE) {
        status = status_set(status, "step %lld, rank %d: %s", (long long)run->step, ranks->rank,
                            status_message());
        char text[512];
        snprintf(text, sizeof(text), "%s", status_message());
        dump_batch(run, batch);
        status = status_set(STATUS_NOT_FINITE, "%s; a lower --lr or --clip_grad may help", text);
    }
    return status;
}

static void note(struct run *run, const struct ibot_result *result)
{
    int32_t agreeing = 0;

    for (int32_t i = 0; i < result->n_samples; i++) {
        run->clusters[run->n_clusters + i] = result->teacher_cluster[i];
        agreeing += result->teacher_cluster[i] == result->student_cluster[i];
    }
    run->n_clusters += result->n_samples;
    metrics_add(&run->metrics, METRIC_LOSS, result->loss);
    metrics_add(&run->metrics, METRIC_CLS, result->loss_cls);
    metrics_add(&run->metrics, METRIC_PATCH, result->loss_patch);
    metrics_add(&run->metrics, METRIC_LR, schedule_lr(&run->schedule, run->step));
    metrics_add(&run->metrics, METRIC_WD, schedule_weight_decay(&run->schedule, run->step));
    metrics_add(&run->metrics, METRIC_ACC, (double)agreeing / result->n_samples);
}

/* Batches at the end of an epoch that make no whole step are passed over. */
static enum status skip_rest(struct run *run)
{
    int64_t used = run->schedule.steps_per_epoch * run->options->accumulation_steps;
    bool last_epoch = run->step >= run->schedule.steps_per_epoch * run->schedule.epochs;
    struct ibot_input input;
    struct batch *batch;

    if (run->step % run->schedule.steps_per_epoch != 0 || last_epoch)
        return STATUS_OK;
    for (int64_t i = used; i < run->micro_per_epoch; i++)
        TRY(next_batch(run, &input, &batch));
    return STATUS_OK;
}

enum status run_step(struct run *run, double *loss, bool *stop)
{
    struct step_control control;
    struct ibot_result result;

    schedule_fill(&run->schedule, run->step, &control);
    enum status status = accumulate(run, &control, &result);
    if (status == STATUS_INTERRUPTED && run->backend.collective.world == 1)
        return status;
    TRY(agree(run, status, stop));
    TRY(ibot_update(run->ibot, &control));
    note(run, &result);
    watch_collapse(run, &result);
    *loss = result.loss;
    run->step++;
    return skip_rest(run);
}

/* ------------------------------------------------------------------------------ epoch */

static void write_events(struct run *run, int32_t epoch)
{
    struct event_scalar scalars[METRIC_COUNT];

    for (int i = 0; i < METRIC_COUNT; i++)
        scalars[i] = (struct event_scalar){metric_name((enum metric)i),
                                           metrics_mean(&run->metrics, (enum metric)i)};
    if (event_file_scalars(run->events, epoch, scalars, METRIC_COUNT) != STATUS_OK)
        log_warning("%s", status_message());
}

static enum status write_log(struct run *run, int32_t epoch)
{
    char log[CHECKPOINT_MAX_PATH], plot[CHECKPOINT_MAX_PATH];
    struct log_line *line;
    enum status status;

    TRY(memory_alloc(&line, 1, sizeof(*line), "log line"));
    log_line_metrics(line, &run->metrics, epoch);
    log_line_number(line, "train_images_per_second", progress_images_per_second(&run->progress));
    log_line_number(line, "train_wait_share", progress_wait_share(&run->progress));
    log_line_integer(line, "n_bad_images", run->n_bad_images);
    status = log_line_append(line, run_path(run, log, sizeof(log), "log.txt"));
    memory_free(line);
    if (status == STATUS_OK)
        status = plot_log(run_path(run, plot, sizeof(plot), "losses.svg"), log);
    return status;
}

enum status run_end_epoch(struct run *run)
{
    struct checkpoint_state all = {0};
    struct cluster_scores scores;
    int32_t epoch = (int32_t)(run->step / run->schedule.steps_per_epoch) - 1;
    enum status status = run_gather(run, &all);

    if (status == STATUS_OK && run->backend.collective.rank == 0) {
        metrics_set_totals(&run->metrics, all.totals);
        status = cluster_scores_compute(&scores, all.labels, all.clusters, (size_t)all.n_clusters);
        if (status == STATUS_OK) {
            metrics_set(&run->metrics, METRIC_NMI, scores.nmi);
            metrics_set(&run->metrics, METRIC_ARI, scores.ari);
            metrics_set(&run->metrics, METRIC_FSCORE, scores.fmi);
            write_events(run, epoch);
            status = write_log(run, epoch);
        }
        if (status == STATUS_IO) { /* a full disk costs log lines, not the run */
            log_error("%s", status_message());
            status = STATUS_OK;
        }
    }
    memory_free(all.labels);
    memory_free(all.clusters);
    metrics_init(&run->metrics);
    run->n_clusters = 0;
    run->warned_collapse = false;
    return status;
}
