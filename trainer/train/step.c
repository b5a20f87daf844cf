/* One step: batches, gradients, agreement of the ranks, update, meters. */
#include <math.h>
#include <stdio.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "trainer/train/run.h"

/* ------------------------------------------------------------------------------ ranks */

enum outcome { OUTCOME_OK, OUTCOME_NO_BATCH, OUTCOME_FAILED };

/* What every rank must know before it touches the weights of the next step. */
struct agreement {
    int32_t stop, outcome, save;
};

static bool clock_says_save(const struct run *run)
{
    double minutes = run->options->checkpoint_every_minutes;
    double since = 1e-9 * (double)(clock_monotonic_ns() - run->saved_ns);
    return run->backend.collective.rank == 0 && minutes > 0.0 && since >= 60.0 * minutes;
}

/* Does any rank want to stop, has one failed, is it time to save? Own failures come first. */
static enum status agree(struct run *run, enum status status, bool *stop)
{
    struct collective *ranks = &run->backend.collective;
    static struct agreement all[RUN_MAX_RANKS];
    struct agreement own = {
        .stop = atomic_load(run->stop) != 0,
        .outcome = status == STATUS_OK            ? OUTCOME_OK
                   : status == STATUS_INTERRUPTED ? OUTCOME_NO_BATCH
                                                  : OUTCOME_FAILED,
        .save = clock_says_save(run),
    };
    int failed = -1, without = -1;

    TRY(ranks->all_gather(ranks, all, &own, sizeof(own)));
    *stop = false;
    for (int r = 0; r < ranks->world; r++) {
        *stop = *stop || all[r].stop != 0;
        if (all[r].outcome == OUTCOME_FAILED)
            failed = r;
        if (all[r].outcome == OUTCOME_NO_BATCH)
            without = r;
    }
    run->save_due = all[0].save != 0;
    if (own.outcome == OUTCOME_FAILED)
        return status;
    if (failed >= 0)
        FAIL(STATUS_DEVICE, "rank %d failed: it says why itself", failed);
    if (without >= 0)
        FAIL(STATUS_INTERRUPTED, "rank %d was interrupted while it waited for data", without);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ oddities */

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

/* Puts step, rank and advice around the reason, and keeps the batch. */
static enum status not_finite(struct run *run, const struct batch *batch, const char *what)
{
    char reason[512];

    snprintf(reason, sizeof(reason), "%s", what);
    run_dump_batch(run, batch);
    FAIL(STATUS_NOT_FINITE,
         "step %lld, rank %d: %s; training stops before the weights of a checkpoint are spoilt: go "
         "on from the newest one with a lower --lr or --clip_grad in another --output_dir "
         "(--load_from)",
         (long long)run->step, run->backend.collective.rank, reason);
}

/* ------------------------------------------------------------------------------ step */

/* Batches at the end of an epoch that make no whole step are passed over. */
static enum status skip_rest(struct run *run)
{
    struct ibot_input input;
    struct batch *batch;

    for (; run->n_to_skip > 0; run->n_to_skip--)
        TRY(receiver_next(&run->receiver, &batch, &input));
    return STATUS_OK;
}

/* Gradients of all micro-batches; labels are noted. *batch is the last one. */
static enum status accumulate(struct run *run, const struct step_control *control,
                              struct ibot_result *result, struct batch **batch)
{
    const struct run_options *o = run->options;
    const struct collective *ranks = &run->backend.collective;
    int64_t b = o->batch_size_per_gpu;

    CHECK(run->n_clusters + o->accumulation_steps * b <= run->cluster_capacity,
          "the epoch has no room for another step");
    TRY(skip_rest(run));
    TRY(ibot_zero_gradients(run->ibot));
    for (int32_t micro = 0; micro < o->accumulation_steps; micro++) {
        struct ibot_input input = {
            .keep_seed = (uint64_t)o->seed,
            .step = run->step,
            .first_sample = micro * b * ranks->world + ranks->rank,
            .sample_stride = ranks->world,
        };
        TRY(receiver_next(&run->receiver, batch, &input));
        run_note_batch(run, *batch);
        TRY(ibot_accumulate(run->ibot, &input, control));
        for (int32_t i = 0; i < (*batch)->n_samples; i++)
            run->labels[run->n_clusters + micro * b + i] = (*batch)->samples[i].label;
    }
    enum status status = ibot_result(run->ibot, result);
    if (status == STATUS_NOT_FINITE)
        return not_finite(run, *batch, status_message());
    return status;
}

/* The batches of a step that is left out: received, noted, used for nothing. */
static enum status pass_over(struct run *run)
{
    struct ibot_input input;
    struct batch *batch;

    TRY(skip_rest(run));
    for (int32_t micro = 0; micro < run->options->accumulation_steps; micro++) {
        TRY(receiver_next(&run->receiver, &batch, &input));
        run_note_batch(run, batch);
    }
    return STATUS_OK;
}

static enum status leave_out(struct run *run, const struct range *range, bool *stop)
{
    TRY(agree(run, pass_over(run), stop));
    if (run->backend.collective.rank == 0 && !run->said_left_out)
        log_info("steps %lld to %lld are left out, as --skip_steps says: their batches are passed "
                 "over",
                 (long long)run->step, (long long)range->last);
    run->said_left_out = run->step < range->last;
    return STATUS_OK;
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
    run->entropies[0] += result->teacher_entropy_cls;
    run->entropies[1] += 1.0;
    run->entropies[2] += result->teacher_entropy_patch * result->n_masked;
    run->entropies[3] += result->n_masked;
}

static enum status make_step(struct run *run, double *loss, bool *stop)
{
    struct step_control control;
    struct ibot_result result;
    struct batch *batch = NULL;

    schedule_fill(&run->schedule, run->step, &control);
    TRY(agree(run, accumulate(run, &control, &result, &batch), stop));
    TRY(ibot_update(run->ibot));
    note(run, &result);
    watch_collapse(run, &result);
    *loss = result.loss;
    /* losses and gradients are summed over ranks: all see the same, and no weight has moved */
    enum status status = ibot_result(run->ibot, &result);
    return status == STATUS_NOT_FINITE ? not_finite(run, batch, status_message()) : status;
}

enum status run_step(struct run *run, double *loss, bool *stop)
{
    const struct range *left_out = ranges_find(&run->skip, run->step);

    *loss = NAN;
    if (left_out != NULL)
        TRY(leave_out(run, left_out, stop));
    else
        TRY(make_step(run, loss, stop));
    run->step++;
    if (run->step % run->schedule.steps_per_epoch == 0)
        run->n_to_skip =
            run->micro_per_epoch - run->schedule.steps_per_epoch * run->options->accumulation_steps;
    return STATUS_OK;
}
