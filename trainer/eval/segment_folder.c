/* The folder of a segmentation: its state, which the same command goes on from, its log, the best
 * weights. */
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "trainer/eval/finetune_weights.h"
#include "trainer/eval/run_state.h"
#include "trainer/eval/segment_internal.h"
#include "trainer/log_line.h"
#include "trainer/rank_agreement.h"

enum { N_NUMBERS = 16 };

static const char *path_in(const struct segment_run *run, const char *name, char *out)
{
    snprintf(out, CHECKPOINT_MAX_PATH, "%s/%s", run->options->output_dir, name);
    return out;
}

/* ------------------------------------------------------------------------------ state */

static size_t list_numbers(struct segment_run *run, struct run_number *out)
{
    struct segment_meters *m = &run->meters;
    struct segment_results *r = &run->results;
    const struct run_number numbers[] = {
        {"step", NULL, &run->step, NULL},
        {"meters.loss", &m->loss, NULL, NULL},
        {"meters.gradient_norm", &m->gradient_norm, NULL, NULL},
        {"meters.updates", NULL, &m->updates, NULL},
        {"meters.pixels", NULL, &m->pixels, NULL},
        {"meters.right", NULL, &m->right, NULL},
        {"best.step", NULL, &r->best.step, NULL},
        {"best.mean_iou", &r->best.mean_iou, NULL, NULL},
        {"best.all_accuracy", &r->best.all_accuracy, NULL, NULL},
        {"best.mean_accuracy", &r->best.mean_accuracy, NULL, NULL},
        {"last.step", NULL, &r->last.step, NULL},
        {"last.mean_iou", &r->last.mean_iou, NULL, NULL},
        {"last.all_accuracy", &r->last.all_accuracy, NULL, NULL},
        {"last.mean_accuracy", &r->last.mean_accuracy, NULL, NULL},
    };
    size_t n = sizeof(numbers) / sizeof(numbers[0]);

    CHECK(n <= N_NUMBERS);
    memcpy(out, numbers, sizeof(numbers));
    return n;
}

/* numbers: memory of the state's. */
static struct run_state state_of(struct segment_run *run, struct run_number numbers[N_NUMBERS])
{
    return (struct run_state){
        .command = "segment",
        .folder = run->options->output_dir,
        .parsed = run->parsed,
        .numbers = numbers,
        .n_numbers = list_numbers(run, numbers),
        .data = run->data,
        .weights = run->weights,
        .ranks = run->ranks,
    };
}

/* What the data sets are. */
static enum status describe_data(struct segment_run *run)
{
    uint64_t train = 0, test;

    if (!run->options->eval)
        TRY(scene_data_digest(&train, &run->train));
    TRY(scene_data_digest(&test, &run->test));
    snprintf(run->data, sizeof(run->data), "train %016llx, test %016llx", (unsigned long long)train,
             (unsigned long long)test);
    return STATUS_OK;
}

enum status segment_folder_compare(struct segment_run *run)
{
    char text[32];

    TRY(describe_data(run));
    TRY(rank_compare(run->ranks, "the pictures", run->data, "give all ranks the same data"));
    TRY(rank_compare(run->ranks, "the weights", run->weights, "give all ranks the same file"));
    snprintf(text, sizeof(text), "%d", run->options->checkpoint_every_steps);
    return rank_compare(run->ranks, "--checkpoint_every_steps", text,
                        "start all ranks with the same options");
}

/* After what rank 0 did alone. */
static enum status all_know(struct segment_run *run, enum status status)
{
    struct rank_word word = {0};
    return rank_agree(run->ranks, status, &word);
}

enum status segment_folder_save(struct segment_run *run)
{
    struct state_view view = classifier_state_view(run->classifier);
    struct run_number numbers[N_NUMBERS];

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    struct run_state state = state_of(run, numbers);
    TRY(run_state_write(&state, &view, &run->backend->device));
    run->saved_step = run->step;
    return STATUS_OK;
}

/* Validations that there have been when `step` steps are done. */
static int32_t validations_at(const struct segment_run *run, int64_t step)
{
    return (int32_t)((step + run->options->val_freq - 1) / run->options->val_freq);
}

/* The ranks have read the same folder. */
static enum status compare_steps(struct segment_run *run)
{
    char text[32];

    snprintf(text, sizeof(text), "%lld", (long long)run->step);
    return rank_compare(run->ranks, "to go on after step", text,
                        "--output_dir must be one folder that all ranks see");
}

enum status segment_folder_open(struct segment_run *run)
{
    struct state_view view = classifier_state_view(run->classifier);
    char path[CHECKPOINT_MAX_PATH];
    struct run_number numbers[N_NUMBERS];
    bool resumed;

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    struct run_state state = state_of(run, numbers);
    TRY(run_state_open(&state, &view, &run->backend->device, &resumed));
    if (run->step < 0 || run->step > run->options->steps)
        FAIL(STATUS_CORRUPT, "%s: step %lld of %d", run->options->output_dir, (long long)run->step,
             run->options->steps);
    TRY(compare_steps(run));
    run->saved_step = resumed ? run->step : -1;
    if (resumed)
        log_info("%s: goes on after step %lld of %d, best mIoU so far %.4f",
                 run->options->output_dir, (long long)run->step, run->options->steps,
                 run->results.best.mean_iou);
    return all_know(run, run->ranks->rank == 0
                             ? log_file_rewind(path_in(run, "log.txt", path),
                                               validations_at(run, run->results.last.step))
                             : STATUS_OK);
}

/* ------------------------------------------------------------------------------ results */

enum status segment_folder_write_best(struct segment_run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    enum status status = STATUS_OK;

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    if (run->ranks->rank == 0)
        status = finetune_weights_write(path_in(run, "best.safetensors", path), run->classifier,
                                        &run->model, false, &run->backend->device,
                                        run->results.best.mean_iou);
    return all_know(run, status);
}

enum status segment_folder_log(struct segment_run *run)
{
    const struct segment_meters *m = &run->meters;
    const struct segment_result *last = &run->results.last;
    struct log_line line = {.n = 0};
    char path[CHECKPOINT_MAX_PATH];

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    log_line_integer(&line, "step", last->step);
    log_line_number(&line, "train_lr", segment_lr(run->options, last->step - 1));
    log_line_number(&line, "train_loss", m->loss / (double)m->updates);
    log_line_number(&line, "train_grad_norm", m->gradient_norm / (double)m->updates);
    log_line_number(&line, "train_pixel_acc", 100.0 * (double)m->right / (double)m->pixels);
    log_line_number(&line, "test_miou", last->mean_iou);
    log_line_number(&line, "test_aacc", last->all_accuracy);
    log_line_number(&line, "test_macc", last->mean_accuracy);
    log_line_integer(&line, "epoch", validations_at(run, last->step) - 1);
    return all_know(run, run->ranks->rank == 0
                             ? log_line_append(&line, path_in(run, "log.txt", path))
                             : STATUS_OK);
}
