/* The folder of a fine-tuning: its state, which the same command goes on from, its log, the best
 * weights. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/finetune_internal.h"
#include "trainer/eval/finetune_weights.h"
#include "trainer/log_line.h"
#include "trainer/state_file.h"

enum { NUMBER_BYTES = 32, OPTION_BYTES = CHECKPOINT_MAX_PATH, NAME_BYTES = 64, MAX_PAIRS = 192 };

static const char option_prefix[] = "option.";

static const char *path_in(const struct finetune_run *run, const char *name, char *out)
{
    snprintf(out, CHECKPOINT_MAX_PATH, "%s/%s", run->options->output_dir, name);
    return out;
}

/* ------------------------------------------------------------------------------ state */

/* The state besides the tensors: numbers by name. Whole ones are exact as doubles. */
struct state_number {
    const char *name;
    double *real;
    int64_t *whole;
    int32_t *count;
};

enum { N_NUMBERS = 24 };

static int list_numbers(struct finetune_run *run, struct state_number *out)
{
    struct finetune_meters *m = &run->meters;
    struct finetune_results *r = &run->results;
    const struct state_number numbers[] = {
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
    int n = sizeof(numbers) / sizeof(numbers[0]);

    CHECK(n <= N_NUMBERS);
    memcpy(out, numbers, sizeof(numbers));
    return n;
}

static void number_text(const struct state_number *number, char *out)
{
    if (number->real != NULL)
        snprintf(out, NUMBER_BYTES, "%.17g", *number->real);
    else
        snprintf(out, NUMBER_BYTES, "%" PRId64,
                 number->whole != NULL ? *number->whole : *number->count);
}

static void take_number(const struct state_number *number, const char *text)
{
    if (number->real != NULL)
        *number->real = strtod(text, NULL);
    else if (number->whole != NULL)
        *number->whole = strtoll(text, NULL, 10);
    else
        *number->count = (int32_t)strtol(text, NULL, 10);
}

/* Pairs of name and text for the metadata. */
struct pairs {
    const char *pointers[2 * MAX_PAIRS];
    char keys[MAX_PAIRS][NAME_BYTES], texts[MAX_PAIRS][OPTION_BYTES];
    size_t n;
};

static void add_pair(struct pairs *pairs, const char *prefix, const char *name, const char *text)
{
    CHECK(pairs->n < MAX_PAIRS);
    snprintf(pairs->keys[pairs->n], NAME_BYTES, "%s%s", prefix, name);
    snprintf(pairs->texts[pairs->n], OPTION_BYTES, "%s", text);
    pairs->pointers[2 * pairs->n] = pairs->keys[pairs->n];
    pairs->pointers[2 * pairs->n + 1] = pairs->texts[pairs->n];
    pairs->n++;
}

/* Options that a result depends on, as text. */
static bool decides(const struct option_spec *spec)
{
    return (spec->flags & (OPTION_OUTSIDE_DIGEST | OPTION_COMMAND_LINE_ONLY)) == 0;
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

enum status finetune_folder_save(struct finetune_run *run)
{
    struct state_view view = classifier_state_view(run->classifier);
    struct state_number numbers[N_NUMBERS];
    struct state_file_options options = {0};
    char path[CHECKPOINT_MAX_PATH], text[OPTION_BYTES];
    struct pairs *pairs;

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    TRY(memory_alloc(&pairs, 1, sizeof(*pairs), "state"));
    int n = list_numbers(run, numbers);
    for (int i = 0; i < n; i++) {
        number_text(&numbers[i], text);
        add_pair(pairs, "", numbers[i].name, text);
    }
    describe_data(run, text, sizeof(text));
    add_pair(pairs, "", "data", text);
    add_pair(pairs, "", "weights", run->weights);
    for (size_t i = 0; i < run->parsed->n_specs; i++)
        if (decides(&run->parsed->specs[i]))
            add_pair(pairs, option_prefix, run->parsed->specs[i].name,
                     options_text(run->parsed, run->parsed->specs[i].name, text, sizeof(text)));
    options.metadata = pairs->pointers;
    options.n_pairs = pairs->n;
    enum status status = state_file_write(path_in(run, "state.safetensors", path), &view,
                                          &run->backend->device, &options);
    memory_free(pairs);
    if (status == STATUS_OK)
        run->saved_batch = run->batch;
    return status;
}

/* ------------------------------------------------------------------------------ going on */

static enum status compare_options(const struct finetune_run *run, const struct safetensors *file)
{
    char key[NAME_BYTES], now[OPTION_BYTES], differ[1024] = "";
    size_t used = 0;

    for (size_t i = 0; i < run->parsed->n_specs; i++) {
        const char *name = run->parsed->specs[i].name;
        snprintf(key, sizeof(key), "%s%s", option_prefix, name);
        const char *then = safetensors_metadata(file, key);
        options_text(run->parsed, name, now, sizeof(now));
        if (!decides(&run->parsed->specs[i]) || then == NULL || strcmp(then, now) == 0)
            continue;
        int n = snprintf(differ + used, sizeof(differ) - used, "%s--%s %s (the run has %s)",
                         used > 0 ? ", " : "", name, now, then);
        used += n > 0 && used + (size_t)n < sizeof(differ) ? (size_t)n : 0;
    }
    if (used > 0)
        FAIL(STATUS_MISMATCH,
             "'%s' holds a run with other options: %s; give the same, or another --output_dir",
             run->options->output_dir, differ);
    return STATUS_OK;
}

static enum status take_state(struct finetune_run *run, const struct safetensors *file,
                              const char *path)
{
    struct state_view view = classifier_state_view(run->classifier);
    struct state_number numbers[N_NUMBERS];
    struct state_counts counts;
    char now[OPTION_BYTES];
    int n = list_numbers(run, numbers);

    TRY(compare_options(run, file));
    const char *data = safetensors_metadata(file, "data");
    describe_data(run, now, sizeof(now));
    if (data == NULL || strcmp(data, now) != 0)
        FAIL(
            STATUS_MISMATCH,
            "'%s' was begun with other images or crops (%s, now %s): give another --output_dir, or "
            "the same ones",
            run->options->output_dir, data != NULL ? data : "-", now);
    for (int i = 0; i < n; i++) {
        const char *text = safetensors_metadata(file, numbers[i].name);
        if (text == NULL)
            FAIL(
                STATUS_CORRUPT,
                "%s: no '%s' in its metadata: it is not what ibot-eval finetune writes; remove it, "
                "or give another --output_dir",
                path, numbers[i].name);
        take_number(&numbers[i], text);
    }
    if (run->batch < 0 || run->batch > run->options->epochs * run->batches_per_epoch)
        FAIL(STATUS_CORRUPT, "%s: batch %lld of %lld", path, (long long)run->batch,
             (long long)(run->options->epochs * run->batches_per_epoch));
    TRY(state_file_restore(file, path, &view, &run->backend->device, "", &counts));
    run->saved_batch = run->batch;
    log_info("%s: goes on after batch %lld of epoch %lld of %d, best Top1 so far %.4f",
             run->options->output_dir, (long long)(run->batch % run->batches_per_epoch),
             (long long)(run->batch / run->batches_per_epoch) + 1, run->options->epochs,
             run->results.best.top1);
    return STATUS_OK;
}

static enum status write_run_file(const struct finetune_run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    FILE *file = fopen(path_in(run, "run.yaml", path), "we");

    if (file == NULL)
        FAIL(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    enum status status = options_dump(run->parsed, file);
    if (fclose(file) != 0 && status == STATUS_OK)
        status = status_set(STATUS_IO, "cannot write '%s': %s", path, strerror(errno));
    return status;
}

enum status finetune_folder_open(struct finetune_run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    struct safetensors file;

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    if (mkdir(run->options->output_dir, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", run->options->output_dir, strerror(errno));
    if (access(path_in(run, "state.safetensors", path), F_OK) == 0) {
        TRY(safetensors_open(&file, path));
        enum status status = take_state(run, &file, path);
        safetensors_release(&file);
        TRY(status);
    }
    TRY(write_run_file(run));
    return log_file_rewind(path_in(run, "log.txt", path),
                           (int32_t)(run->batch / run->batches_per_epoch));
}

/* ------------------------------------------------------------------------------ results */

enum status finetune_folder_write_best(struct finetune_run *run, bool average)
{
    char path[CHECKPOINT_MAX_PATH];

    if (run->options->output_dir == NULL)
        return STATUS_OK;
    return finetune_weights_write(
        path_in(run, average ? "average.safetensors" : "best.safetensors", path), run->classifier,
        &run->model, average, &run->backend->device,
        average ? run->results.best_average.top1 : run->results.best.top1);
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
    double lr = finetune_lr(o, epoch * run->updates_per_epoch - 1, run->updates_per_epoch);
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
    return log_line_append(&line, path_in(run, "log.txt", path));
}
