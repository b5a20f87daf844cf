/* One step: batches, gradients, agreement of the ranks, update, meters. */
#include <math.h>
#include <stdio.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "trainer/rank_agreement.h"
#include "trainer/train/run.h"

/* ------------------------------------------------------------------------------ ranks */

static bool clock_says_save(const struct run *run)
{
    double minutes = run->options->checkpoint_every_minutes;
    double since = 1e-9 * (double)(clock_monotonic_ns() - run->saved_ns);
    return run->backend.collective.rank == 0 && minutes > 0.0 && since >= 60.0 * minutes;
}

/* Before a rank touches the weights of the next step. *n_masked, of the last micro-batch, becomes
 * the greatest of the ranks: what they do together must look alike to all. */
static enum status agree(struct run *run, enum status status, int64_t *n_masked, bool *stop)
{
    struct rank_word word = {
        .stop = atomic_load(run->stop) != 0,
        .save = clock_says_save(run),
        .most = (int32_t)*n_masked,
    };

    status = rank_agree(&run->backend.collective, status, &word);
    *stop = word.stop;
    *n_masked = word.most;
    run->save_due = word.save;
    return status;
}

/* ------------------------------------------------------------------------------ oddities */

/* A teacher whose distributions are all alike (entropy ln K) or all one-hot (0) teaches nothing. */
static void watch_collapse(struct run *run, const struct ibot_result *result, int64_t step)
{
    double most = log((double)run->options->out_dim), entropy = result->teacher_entropy_cls;

    if (run->warned_collapse || run->backend.collective.rank != 0 ||
        (entropy > 0.001 * most && entropy < 0.9995 * most))
        return;
    run->warned_collapse = true;
    log_warning(
        "step %lld: the teacher's entropy is %.4f nats (ln K is %.4f): it has collapsed to "
        "%s; a lower --lr, fixed gains (--norm_last_layer on) or other temperatures may help",
        (long long)step, entropy, most,
        entropy < 1.0 ? "one prototype" : "the uniform distribution");
}

/* Puts step, rank and advice around the reason, and keeps the batch if it is still there. */
static enum status not_finite(struct run *run, const struct batch *batch, int64_t step)
{
    char reason[512];

    snprintf(reason, sizeof(reason), "%s", status_message());
    if (batch != NULL)
        run_dump_batch(run, batch);
    FAIL(STATUS_NOT_FINITE,
         "step %lld, rank %d: %s; the step changed nothing and training stops: go on from the "
         "newest checkpoint with a lower --lr or --clip_grad in another --output_dir "
         "(--load_from)",
         (long long)step, run->backend.collective.rank, reason);
}

/* ------------------------------------------------------------------------------ step */

/* Batches at the end of an epoch that make no whole step are passed over. */
static enum status skip_rest(struct run *run)
{
    struct ibot_input input;
    struct batch *batch;

    if (run->n_to_skip > 0)
        run_tell_progress(run, RANK_WAITS_FOR_DATA);
    for (; run->n_to_skip > 0; run->n_to_skip--)
        TRY(receiver_next(&run->receiver, &batch, &input));
    return STATUS_OK;
}

/* The next batch as input of the model; its labels are noted. */
static enum status receive(struct run *run, int32_t micro, struct ibot_input *input,
                           struct batch **batch)
{
    const struct run_options *o = run->options;
    const struct collective *ranks = &run->backend.collective;
    int64_t b = o->batch_size_per_gpu;
    int64_t first_label = run->n_clusters + (run->unread ? o->accumulation_steps * b : 0);

    CHECK(first_label + (micro + 1) * b <= run->cluster_capacity,
          "the epoch has no room for another step");
    *input = (struct ibot_input){
        .keep_seed = (uint64_t)o->seed,
        .step = run->step,
        .first_sample = micro * b * ranks->world + ranks->rank,
        .sample_stride = ranks->world,
    };
    run_tell_progress(run, RANK_WAITS_FOR_DATA);
    TRY(receiver_next(&run->receiver, batch, input));
    run_tell_progress(run, "computes");
    run_note_batch(run, *batch);
    for (int32_t i = 0; i < (*batch)->n_samples; i++)
        run->labels[first_label + micro * b + i] = (*batch)->samples[i].label;
    return STATUS_OK;
}

/* All micro-batches but the last, of which *input and *batch are left. Nothing that ranks do
 * together begins before the last one. */
static enum status prepare(struct run *run, const struct step_control *control,
                           struct ibot_input *input, struct batch **batch)
{
    TRY(skip_rest(run));
    TRY(ibot_zero_gradients(run->ibot));
    for (int32_t micro = 0; micro < run->options->accumulation_steps; micro++) {
        if (micro > 0)
            TRY(ibot_accumulate(run->ibot, input, control));
        TRY(receive(run, micro, input, batch));
    }
    return STATUS_OK;
}

/* The batches of a step that is left out: received, noted, used for nothing. */
static enum status pass_over(struct run *run)
{
    struct ibot_input input;
    struct batch *batch;

    TRY(skip_rest(run));
    for (int32_t micro = 0; micro < run->options->accumulation_steps; micro++) {
        run_tell_progress(run, RANK_WAITS_FOR_DATA);
        TRY(receiver_next(&run->receiver, &batch, &input));
        run_note_batch(run, batch);
    }
    return STATUS_OK;
}

static enum status leave_out(struct run *run, const struct range *range, bool *stop)
{
    int64_t none = 0;

    TRY(agree(run, pass_over(run), &none, stop));
    if (run->backend.collective.rank == 0 && !run->said_left_out)
        log_info("steps %lld to %lld are left out, as --skip_steps says: their batches are passed "
                 "over",
                 (long long)run->step, (long long)range->last);
    run->said_left_out = run->step < range->last;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ results */

static void note(struct run *run, const struct ibot_result *result, int64_t step)
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
    metrics_add(&run->metrics, METRIC_LR, schedule_lr(&run->schedule, step));
    metrics_add(&run->metrics, METRIC_WD, schedule_weight_decay(&run->schedule, step));
    metrics_add(&run->metrics, METRIC_ACC, (double)agreeing / result->n_samples);
    run->entropies[0] += result->teacher_entropy_cls;
    run->entropies[1] += 1.0;
    run->entropies[2] += result->teacher_entropy_patch * result->n_masked;
    run->entropies[3] += result->n_masked;
    run->loss = result->loss;
    watch_collapse(run, result, step);
}

/* Numbers of a step. Losses and gradients are summed over ranks: all see whether they are finite.
 */
static enum status take(struct run *run, const struct ibot_result *result, enum status status,
                        const struct batch *batch, int64_t step)
{
    if (status == STATUS_NOT_FINITE)
        return not_finite(run, batch, step);
    TRY(status);
    note(run, result, step);
    return STATUS_OK;
}

enum status run_settle(struct run *run)
{
    struct ibot_result result;

    if (!run->unread)
        return STATUS_OK;
    run->unread = false;
    return take(run, &result, ibot_result(run->ibot, &result), NULL, run->step - 1);
}

/* On the CPU a step is over when it was queued. An accelerator is left to work: what is read is the
 * step before, but for the first one. */
static enum status read_numbers(struct run *run, const struct batch *batch)
{
    bool at_once = run->backend.device.kind == DEVICE_CPU || isnan(run->loss);
    struct ibot_result result;
    enum status status = STATUS_OK;

    if (at_once)
        return take(run, &result, ibot_result(run->ibot, &result), batch, run->step);
    if (run->unread)
        status = take(run, &result, ibot_result_before(run->ibot, &result), NULL, run->step - 1);
    run->unread = true;
    return status;
}

/* Adam counts its own steps, which a run that began elsewhere may have fewer of. */
static void count_own_steps(const struct run *run, struct step_control *control)
{
    int64_t step = control->step - run->optimizer_lag;
    int64_t last_layer = control->last_layer_step - run->last_layer_lag;

    control->step = (int32_t)(step > 0 ? step : 0);
    control->last_layer_step = (int32_t)(last_layer > 0 ? last_layer : 0);
}

static enum status make_step(struct run *run, bool *stop)
{
    struct step_control control;
    struct ibot_input input = {0};
    struct batch *batch = NULL;

    schedule_fill(&run->schedule, run->step, &control);
    count_own_steps(run, &control);
    enum status status = prepare(run, &control, &input, &batch);
    if (status == STATUS_OK)
        input.most_masked = ibot_n_masked(run->ibot, input.masks);
    TRY(agree(run, status, &input.most_masked, stop));
    TRY(ibot_accumulate(run->ibot, &input, &control));
    TRY(ibot_update(run->ibot));
    return read_numbers(run, batch);
}

enum status run_step(struct run *run, bool *left_out, bool *stop)
{
    const struct range *skipped = ranges_find(&run->skip, run->step);

    *left_out = skipped != NULL;
    if (skipped != NULL) {
        TRY(run_settle(run)); /* its number is that of the step before */
        TRY(leave_out(run, skipped, stop));
    } else {
        TRY(make_step(run, stop));
    }
    run->step++;
    if (run->step % run->schedule.steps_per_epoch == 0)
        run->n_to_skip =
            run->micro_per_epoch - run->schedule.steps_per_epoch * run->options->accumulation_steps;
    return STATUS_OK;
}
