/* The folder of a fine-tuning: its state, which the same command goes on from, its log, the best
 * weights. */
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/finetune_internal.h"
#include "trainer/eval/finetune_weights.h"
#include "trainer/eval/run_state.h"
#include "trainer/log_line.h"
#include "trainer/rank_agreement.h"

enum { DATA_BYTES = 256 };

static const char *path_in(const struct finetune_run *run, const char *name, char *out)
{
    snprintf(out, CHECKPOINT_MAX_PATH, "%s/%s", run->options->output_dir, name);
    return out;
}

/* ------------------------------------------------------------------------------ state */

enum { N_NUMBERS = 24 };

static size_t list_numbers(struct finetune_run *run, struct run_number *out)
{
    struct finetune_meters *m = &run->meters;
    struct finetune_results *r = &run->results;
    const struct run_number numbers[] = {
        {"batch", NULL, &run->batch, NULL},
        {"meters.loss", &m->loss, NULL, NULL},
        {"meters.gradient_norm", &m->gradient_norm, NULL, NULL},
        {"meters.updates", NULL, &m->updates, NULL},
        {"meters.images", NULL, &m->images, NULL},
        {"meters.top1", NULL, &m->top1, NULL},
        {"best.epoch", NULL, NULL, &r->best.epoch},
        {"best.top1", &r->best.top1, NULL, NULL},
        {"best.top5", &r->best.top5, NULL, NULL},
        {"best.loss", &r->best.loss, NULL, NULL},
        {"last.epoch", NULL, NULL, &r->last.epoch},
        {"last.top1", &r->last.top1, NULL, NULL},
        {"last.top5", &r->last.top5, NULL, NULL},
        {"last.loss", &r->last.loss, NULL, NULL},
        {"best_average.epoch", NULL, NULL, &r->best_average.epoch},
        {"best_average.top1", &r->best_average.top1, NULL, NULL},
        {"best_average.top5", &r->best_average.top5, NULL, NULL},
        {"best_average.loss", &r->best_average.loss, NULL, NULL},
        {"last_average.epoch", NULL, NULL, &r->last_average.epoch},
        {"last_average.top1", &r->last_average.top1, NULL, NULL},
        {"last_average.top5", &r->last_average.top5, NULL, NULL},
        {"last_average.loss", &r->last_average.loss, NULL, NULL},
    };
    size_t n = sizeof(numbers) / sizeof(numbers[0]);

    CHECK(n <= N_NUMBERS);
    memcpy(out, numbers, sizeof(numbers));
    return n;
}

/* What the data sets are, and what is made of them. */
static void describe_data(const struct finetune_run *run, char *out, size_t n_bytes)
{
    snprintf(out, n_bytes, "train %016llx as %016llx, test %016llx as %016llx",
             (unsigned long long)run->train_set.index_digest,
             (unsigned long long)data_spec_digest(&run->train_spec),
             (unsigned long long)run->test_set.index_digest,
             (unsigned long long)data_spec_digest(&run->test_spec));
}

/* The run as run_state.h has it; the other two are memory of its parts. */
static struct run_state state_of(struct finetune_run *run, struct run_number numbers[N_NUMBERS],
                                 char data[DATA_BYTES])
{
    describe_data(run, data, DATA_BYTES);
    return (struct run_state){
        .command = "finetune",
        .folder = run->options->output_dir,
        .parsed = run->parsed,
        .numbers = numbers,
        .n_numbers = list_numbers(run, numbers),
        .data = data,
        .weights = run->weights,
        .ranks = run->ranks,
    };
}

enum status finetune_folder_compare(struct finetune_run *run)
{
    char text[DATA_BYTES];

    describe_data(run, text, sizeof(text));
    TRY(rank_compare(run->ranks, "the images", text, "give all ranks the same data and crops"));
    TRY(rank_compare(run->ranks, "the weights", run->weights, "give all ranks the same file"));
    snprintf(text, sizeof(text), "%d", run->options->checkpoint_every_steps);
    return rank_compare(run->ranks, "--checkpoint_every_steps", text,
                        "start all ranks with the same options");
}

/* After what rank 0 did alone. */
static enum status all_know(struct finetune_run *run, enum status status)
{
    struct rank_word word = {0};
    return rank_agree(run->ranks, status, &word);
}

enum status finetune_folder_save(struct finetune_run *run)
{
    struct state_view view = classifier_state_view(run->classifier);
    struct run_number numbers[N_NUMBERS];
    char data[DATA_BYTES];

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    struct run_state state = state_of(run, numbers, data);
    TRY(run_state_write(&state, &view, &run->backend->device));
    run->saved_batch = run->batch;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ going on */

/* The ranks have read the same folder. */
static enum status compare_batches(struct finetune_run *run)
{
    char text[32];

    snprintf(text, sizeof(text), "%lld", (long long)run->batch);
    return rank_compare(run->ranks, "to go on after batch", text,
                        "--output_dir must be one folder that all ranks see");
}

enum status finetune_folder_open(struct finetune_run *run)
{
    struct state_view view = classifier_state_view(run->classifier);
    char path[CHECKPOINT_MAX_PATH], data[DATA_BYTES];
    struct run_number numbers[N_NUMBERS];
    bool resumed;

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    struct run_state state = state_of(run, numbers, data);
    TRY(run_state_open(&state, &view, &run->backend->device, &resumed));
    if (run->batch < 0 || run->batch > run->options->epochs * run->batches_per_epoch)
        FAIL(STATUS_CORRUPT, "%s: batch %lld of %lld", run->options->output_dir,
             (long long)run->batch, (long long)(run->options->epochs * run->batches_per_epoch));
    TRY(compare_batches(run));
    run->saved_batch = resumed ? run->batch : -1;
    if (resumed)
        log_info("%s: goes on after batch %lld of epoch %lld of %d, best Top1 so far %.4f",
                 run->options->output_dir, (long long)(run->batch % run->batches_per_epoch),
                 (long long)(run->batch / run->batches_per_epoch) + 1, run->options->epochs,
                 run->results.best.top1);
    int32_t epoch = (int32_t)(run->batch / run->batches_per_epoch);
    return all_know(run, run->ranks->rank == 0
                             ? log_file_rewind(path_in(run, "log.txt", path), epoch)
                             : STATUS_OK);
}

/* ------------------------------------------------------------------------------ results */

enum status finetune_folder_write_best(struct finetune_run *run, bool average)
{
    char path[CHECKPOINT_MAX_PATH];
    enum status status = STATUS_OK;

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    if (run->ranks->rank == 0)
        status = finetune_weights_write(
            path_in(run, average ? "average.safetensors" : "best.safetensors", path),
            run->classifier, &run->model, average, &run->backend->device,
            average ? run->results.best_average.top1 : run->results.best.top1);
    return all_know(run, status);
}

enum status finetune_folder_log(struct finetune_run *run, bool validated)
{
    const struct finetune_options *o = run->options;
    const struct finetune_meters *m = &run->meters;
    const struct finetune_results *r = &run->results;
    int32_t epoch = (int32_t)(run->batch / run->batches_per_epoch);
    struct log_line line = {.n = 0};
    char path[CHECKPOINT_MAX_PATH];

    if (o->output_dir == NULL)
        return STATUS_OK;
    double lr = finetune_lr(o, epoch * run->updates_per_epoch - 1, run->updates_per_epoch,
                            run->ranks->world);
    log_line_number(&line, "train_lr", lr);
    log_line_number(&line, "train_min_lr",
                    lr * classifier_lr_scale(&run->model, "backbone.patch_embed.proj.weight"));
    log_line_number(&line, "train_loss", m->loss / (double)m->updates);
    log_line_number(&line, "train_weight_decay", o->weight_decay);
    log_line_number(&line, "train_grad_norm", m->gradient_norm / (double)m->updates);
    log_line_number(&line, "train_class_acc", (double)m->top1 / (double)m->images);
    if (validated) {
        log_line_number(&line, "test_loss", r->last.loss);
        log_line_number(&line, "test_acc1", r->last.top1);
        log_line_number(&line, "test_acc5", r->last.top5);
    }
    if (validated && o->model_ema) {
        log_line_number(&line, "test_ema_loss", r->last_average.loss);
        log_line_number(&line, "test_ema_acc1", r->last_average.top1);
        log_line_number(&line, "test_ema_acc5", r->last_average.top5);
    }
    log_line_integer(&line, "epoch", epoch - 1);
    log_line_integer(&line, "n_parameters", classifier_n_parameters(run->classifier));
    return all_know(run, run->ranks->rank == 0
                             ? log_line_append(&line, path_in(run, "log.txt", path))
                             : STATUS_OK);
}
