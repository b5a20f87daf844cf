/* The run of a linear evaluation. The test images pass the backbone once: it is frozen, and their
 * crops are always the same. */
#include "trainer/eval/linear_run.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ops/rank_monitor.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/checkpoint.h"
#include "trainer/linear_head.h"
#include "trainer/log_line.h"
#include "trainer/rank_agreement.h"
#include "trainer/rank_rows.h"

struct linear_run {
    struct feature_model *model; /* borrowed */
    const struct linear_run_options *options;
    struct collective *ranks; /* of its backend */
    const atomic_int *stop;   /* NULL: never */
    struct features test;     /* all of them: each rank scores a part */
    struct receiver receiver;
    struct linear_probe *probe;
    float *features;                                    /* [batch, dim] */
    int32_t *labels;                                    /* [batch] */
    struct linear_score train_scores[LINEAR_PROBE_MAX]; /* of the epoch under way */
    struct linear_score test_scores[LINEAR_PROBE_MAX];  /* of the last validation */
    struct linear_result best, last;
    int32_t epoch; /* done */
    int64_t steps_per_epoch;
};

static double percent(int64_t part, int64_t of)
{
    return of > 0 ? 100.0 * (double)part / (double)of : 0.0;
}

static const char *path_in(const struct linear_run *run, const char *name, char *out)
{
    snprintf(out, CHECKPOINT_MAX_PATH, "%s/%s", run->options->folder, name);
    return out;
}

/* ------------------------------------------------------------------------------ files */

/* The state besides the classifiers, as metadata of their file: pairs of name and text. */
enum { N_STATE = 8, STATE_BYTES = 64 };

static const char *const state_names[N_STATE] = {"run",        "epoch",      "best_classifier",
                                                 "best_epoch", "best_top1",  "best_top5",
                                                 "best_loss",  "test_images"};

/* After what rank 0 did alone: all go on, or none. */
static enum status all_know(struct linear_run *run, enum status status)
{
    struct rank_word word = {0};
    return rank_agree(run->ranks, status, &word);
}

static enum status write_state(struct linear_run *run)
{
    char texts[N_STATE][STATE_BYTES], path[CHECKPOINT_MAX_PATH];
    const char *metadata[2 * N_STATE];

    snprintf(texts[1], STATE_BYTES, "%d", run->epoch);
    snprintf(texts[2], STATE_BYTES, "%d", run->best.classifier);
    snprintf(texts[3], STATE_BYTES, "%d", run->best.epoch);
    snprintf(texts[4], STATE_BYTES, "%.17g", run->best.top1);
    snprintf(texts[5], STATE_BYTES, "%.17g", run->best.top5);
    snprintf(texts[6], STATE_BYTES, "%.17g", run->best.loss);
    snprintf(texts[7], STATE_BYTES, "%lld", (long long)run->test.n);
    for (int i = 0; i < N_STATE; i++) {
        metadata[2 * i] = state_names[i];
        metadata[2 * i + 1] = i == 0 ? run->options->identity : texts[i];
    }
    return linear_probe_write(run->probe, path_in(run, "classifiers.safetensors", path), metadata,
                              N_STATE);
}

/* Goes on with what the folder has, if it has something. */
static enum status read_state(struct linear_run *run)
{
    char path[CHECKPOINT_MAX_PATH];
    const char *texts[N_STATE];
    struct safetensors file;
    enum status status = STATUS_OK;

    path_in(run, "classifiers.safetensors", path);
    if (access(path, F_OK) != 0)
        return STATUS_OK;
    TRY(safetensors_open(&file, path));
    for (int i = 0; i < N_STATE; i++) {
        texts[i] = safetensors_metadata(&file, state_names[i]);
        if (texts[i] == NULL)
            FAIL_OUT(STATUS_CORRUPT,
                     "%s: no '%s' in its metadata: it is not what ibot-eval linear "
                     "writes; remove it, or give another --output_dir",
                     path, state_names[i]);
    }
    if (strcmp(texts[0], run->options->identity) != 0)
        FAIL_OUT(STATUS_MISMATCH,
                 "%s holds another run: it was begun with (%s), this one is (%s): give another "
                 "--output_dir, or the same options",
                 run->options->folder, texts[0], run->options->identity);
    run->epoch = (int32_t)strtol(texts[1], NULL, 10);
    run->best = (struct linear_result){
        .classifier = (int32_t)strtol(texts[2], NULL, 10),
        .epoch = (int32_t)strtol(texts[3], NULL, 10),
        .top1 = strtod(texts[4], NULL),
        .top5 = strtod(texts[5], NULL),
        .loss = strtod(texts[6], NULL),
    };
    if (strtoll(texts[7], NULL, 10) != run->test.n)
        FAIL_OUT(STATUS_MISMATCH,
                 "%s was begun with %s test images, and there are %lld now: give another "
                 "--output_dir, or the same images",
                 run->options->folder, texts[7], (long long)run->test.n);
    if (run->epoch < 0 || run->epoch > run->options->epochs || run->best.classifier < 0 ||
        run->best.classifier >= run->options->n_classifiers)
        FAIL_OUT(STATUS_CORRUPT, "%s: epoch %d of %d, best classifier %d of %d", path, run->epoch,
                 run->options->epochs, run->best.classifier, run->options->n_classifiers);
    TRY_OUT(linear_probe_read(run->probe, path));
    log_info("%s: goes on after epoch %d of %d, best Top1 so far %.4f", run->options->folder,
             run->epoch, run->options->epochs, run->best.top1);
out:
    safetensors_release(&file);
    return status;
}

static enum status write_best(struct linear_run *run)
{
    const struct linear_classifier *c = &run->options->classifiers[run->best.classifier];
    char lr[STATE_BYTES], decay[STATE_BYTES], epoch[STATE_BYTES], top1[STATE_BYTES];
    char path[CHECKPOINT_MAX_PATH];
    struct linear_head_note notes[LINEAR_HEAD_NOTES];
    const char *metadata[2 * (5 + LINEAR_HEAD_NOTES)] = {
        "lr",    lr,          "weight_decay",
        decay,   "optimizer", c->optimizer == OPTIMIZER_LARS ? "lars" : "sgd",
        "epoch", epoch,       "top1",
        top1};
    size_t n = linear_head_notes(notes, &run->model->options);

    for (size_t i = 0; i < n; i++) {
        metadata[2 * (5 + i)] = notes[i].name;
        metadata[2 * (5 + i) + 1] = notes[i].text;
    }
    snprintf(lr, sizeof(lr), "%.9g", c->lr);
    snprintf(decay, sizeof(decay), "%.9g", c->weight_decay);
    snprintf(epoch, sizeof(epoch), "%d", run->best.epoch);
    snprintf(top1, sizeof(top1), "%.4f", run->best.top1);
    return linear_probe_write_one(run->probe, run->best.classifier,
                                  path_in(run, "linear.safetensors", path), metadata, 5 + n);
}

/* The official keys: those of classifier i have its number. */
static enum status write_log(struct linear_run *run, double rate)
{
    struct log_line line = {.n = 0};
    char path[CHECKPOINT_MAX_PATH], key[32];

    log_line_integer(&line, "epoch", run->epoch - 1);
    for (int32_t c = 0; c < run->options->n_classifiers; c++) {
        const struct linear_score *train = &run->train_scores[c], *test = &run->test_scores[c];
        snprintf(key, sizeof(key), "lr%d", c);
        log_line_number(&line, key, (double)(float)(rate * run->options->classifiers[c].lr));
        snprintf(key, sizeof(key), "loss%d", c);
        log_line_number(&line, key, train->n > 0 ? train->loss / (double)train->n : NAN);
        snprintf(key, sizeof(key), "acc%d@1", c);
        log_line_number(&line, key, percent(test->top1, test->n));
        snprintf(key, sizeof(key), "acc%d@5", c);
        log_line_number(&line, key, percent(test->top5, test->n));
    }
    log_line_integer(&line, "best_classifier", run->best.classifier);
    log_line_number(&line, "best_acc", run->best.top1);
    return log_line_append(&line, path_in(run, "log.txt", path));
}

/* ------------------------------------------------------------------------------ epochs */

static enum status interrupted(struct linear_run *run)
{
    run->ranks->ending = true;
    FAIL(STATUS_INTERRUPTED, "interrupted after epoch %d of %d%s", run->epoch, run->options->epochs,
         run->options->folder != NULL ? "; the same command goes on" : "");
}

/* The next batch of each rank, unless one of them was asked to stop. */
static enum status next_batch(struct linear_run *run, int64_t step, struct batch **batch,
                              struct ibot_input *input)
{
    struct collective *ranks = run->ranks;

    ranks->progress(ranks, run->epoch * run->steps_per_epoch + step, RANK_WAITS_FOR_DATA);
    enum status status = receiver_next(&run->receiver, batch, input);
    struct rank_word word = {.stop = run->stop != NULL && atomic_load(run->stop) != 0};
    status = rank_agree(ranks, status, &word);
    ranks->progress(ranks, run->epoch * run->steps_per_epoch + step, "computes");
    return status == STATUS_INTERRUPTED || (status == STATUS_OK && word.stop) ? interrupted(run)
                                                                              : status;
}

static enum status train_epoch(struct linear_run *run)
{
    struct ibot_input input;
    struct batch *batch;

    memset(run->train_scores, 0, sizeof(run->train_scores));
    for (int64_t step = 0; step < run->steps_per_epoch; step++) {
        TRY(next_batch(run, step, &batch, &input));
        TRY(ibot_features(run->model->network.ibot, input.globals, &run->model->options,
                          run->features));
        for (int32_t i = 0; i < batch->n_samples; i++)
            run->labels[i] = batch->samples[i].label;
        TRY(linear_probe_step(run->probe, run->features, run->labels, batch->n_samples,
                              run->train_scores));
        char line[96];
        snprintf(line, sizeof(line), "epoch %d/%d  step %lld/%lld", run->epoch + 1,
                 run->options->epochs, (long long)step + 1, (long long)run->steps_per_epoch);
        log_status_line(line);
    }
    log_status_line(NULL);
    run->epoch++;
    return STATUS_OK;
}

/* Of all ranks, in their order, in the place of those of this one, which fared as `status` says. */
static enum status add_up(struct linear_run *run, enum status status, struct linear_score *scores)
{
    size_t n = (size_t)run->options->n_classifiers, world = (size_t)run->ranks->world;
    struct linear_score *all = NULL;

    TRY(all_know(run, status));
    TRY(memory_alloc(&all, world * n, sizeof(*all), "scores of ranks"));
    TRY_OUT(run->ranks->all_gather(run->ranks, all, scores, n * sizeof(*all)));
    memset(scores, 0, n * sizeof(*scores));
    for (size_t i = 0; i < world * n; i++) {
        scores[i % n].n += all[i].n;
        scores[i % n].top1 += all[i].top1;
        scores[i % n].top5 += all[i].top5;
        scores[i % n].loss += all[i].loss;
    }
out:
    memory_free(all);
    return status;
}

/* Scores of the test images, and the best of them in run->last. */
static enum status validate(struct linear_run *run)
{
    const struct features *test = &run->test;
    int64_t first, end;

    memset(run->test_scores, 0, sizeof(run->test_scores));
    rank_share(run->ranks, test->n, &first, &end);
    enum status status = linear_probe_score(run->probe, test->values + first * test->dim,
                                            test->labels + first, end - first, run->test_scores);
    TRY(add_up(run, status, run->test_scores));
    run->last = (struct linear_result){.top1 = -1.0};
    for (int32_t c = 0; c < run->options->n_classifiers; c++) {
        const struct linear_score *score = &run->test_scores[c];
        double top1 = percent(score->top1, score->n);
        if (top1 > run->last.top1)
            run->last = (struct linear_result){c, run->epoch, top1, percent(score->top5, score->n),
                                               score->loss / (double)score->n};
    }
    return STATUS_OK;
}

/* What the first rank leaves in the folder. */
static enum status write_files(struct linear_run *run, double rate, bool better)
{
    if (better)
        TRY(write_best(run));
    TRY(write_log(run, rate));
    return write_state(run);
}

static enum status validate_and_save(struct linear_run *run, double rate)
{
    TRY(validate(run));
    bool better = run->best.epoch == 0 || run->last.top1 > run->best.top1;
    if (better)
        run->best = run->last;
    const struct linear_classifier *c = &run->options->classifiers[run->last.classifier];
    log_info("epoch %d/%d: Top1 %.4f, Top5 %.4f (%s, learning rate %g); best so far %.4f",
             run->epoch, run->options->epochs, run->last.top1, run->last.top5,
             c->optimizer == OPTIMIZER_LARS ? "LARS" : "SGD", c->lr, run->best.top1);
    if (run->options->folder == NULL)
        return STATUS_OK;
    TRY(add_up(run, STATUS_OK, run->train_scores));
    return all_know(run, run->ranks->rank == 0 ? write_files(run, rate, better) : STATUS_OK);
}

/* Cosine from 1 to 0 over the epochs, the same within each. */
static double rate_of(int32_t epoch, int32_t epochs)
{
    return 0.5 * (1.0 + cos(acos(-1.0) * epoch / epochs));
}

static enum status all_epochs(struct linear_run *run)
{
    const struct linear_run_options *o = run->options;

    while (run->epoch < o->epochs) {
        double rate = o->lr_scale * rate_of(run->epoch, o->epochs);
        TRY(linear_probe_set_rate(run->probe, rate));
        TRY(train_epoch(run));
        if (run->epoch % o->val_freq == 0 || run->epoch == o->epochs)
            TRY(validate_and_save(run, rate));
    }
    return run->last.epoch == 0 ? validate(run) : STATUS_OK; /* it had ended before */
}

/* ------------------------------------------------------------------------------ opening */

static enum status open_stream(struct linear_run *run, struct dataset_info *dataset,
                               const atomic_int *stop)
{
    const struct linear_run_options *o = run->options;
    struct feature_model *model = run->model;
    struct receiver_options options = {
        .spec = data_spec_random_crop(model->network.size_px),
        .batch_size = model->network.batch_size,
        .slice_size = model->network.batch_size < 32 ? model->network.batch_size : 32,
        .prefetch = 4,
        .rank = run->ranks->rank,
        .world = run->ranks->world,
        .data = o->train,
        .n_loaders = o->n_loaders,
        .loader_threads = o->loader_threads,
    };

    options.spec.seed = o->seed;
    options.spec.bad_image_policy = BAD_IMAGE_FAIL;
    TRY(data_spec_check(&options.spec));
    TRY(receiver_open(&run->receiver, &model->network.backend->device, &options, stop));
    TRY(receiver_dataset(&run->receiver, dataset));
    int64_t n = (int64_t)data_spec_epoch_positions(&options.spec, dataset->n_samples,
                                                   (uint32_t)run->ranks->world);
    run->steps_per_epoch = (n + options.batch_size - 1) / options.batch_size;
    return features_compare_images(run->ranks, dataset, &options.spec);
}

static enum status make_folder(const struct linear_run *run)
{
    if (mkdir(run->options->folder, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", run->options->folder, strerror(errno));
    return STATUS_OK;
}

/* All ranks read, the first one writes. */
static enum status open_folder(struct linear_run *run)
{
    char path[CHECKPOINT_MAX_PATH], epoch[16];
    bool first = run->ranks->rank == 0;

    if (run->options->folder == NULL)
        return STATUS_OK;
    TRY(all_know(run, first ? make_folder(run) : STATUS_OK));
    TRY(all_know(run, read_state(run)));
    snprintf(epoch, sizeof(epoch), "%d", run->epoch);
    TRY(rank_compare(run->ranks, "to go on after epoch", epoch,
                     "--output_dir must be one folder that all ranks see"));
    return all_know(run,
                    first ? log_file_rewind(path_in(run, "log.txt", path), run->epoch) : STATUS_OK);
}

static enum status open_probe(struct linear_run *run, int32_t n_classes)
{
    const struct linear_run_options *o = run->options;
    struct feature_model *model = run->model;
    struct linear_probe_options options = {
        .dim = model->dim,
        .n_classes = n_classes,
        .batch_size = model->network.batch_size,
        .seed = o->seed,
        .classifiers = o->classifiers,
        .n_classifiers = o->n_classifiers,
        .ranks = run->ranks,
    };

    TRY(memory_alloc(&run->features, (size_t)model->network.batch_size * (size_t)model->dim,
                     sizeof(float), "features"));
    TRY(memory_alloc(&run->labels, (size_t)model->network.batch_size, sizeof(int32_t), "labels"));
    return linear_probe_open(&run->probe, &model->network.backend->device,
                             model->network.backend->ops, &options);
}

static void close_run(struct linear_run *run)
{
    receiver_close(&run->receiver);
    linear_probe_close(&run->probe);
    features_release(&run->test);
    memory_free(run->features);
    memory_free(run->labels);
    memory_free(run);
}

enum status linear_run(struct linear_result *best, struct linear_result *last,
                       struct feature_model *model, const struct linear_run_options *o,
                       const atomic_int *stop)
{
    struct feature_data_options test = {
        .data = o->test,
        .resize_px = o->resize_px,
        .n_loaders = o->n_loaders,
        .loader_threads = o->loader_threads,
    };
    struct dataset_info dataset;
    struct linear_run *run = NULL;
    enum status status;

    CHECK(o->epochs > 0 && o->val_freq > 0 && o->n_classifiers <= LINEAR_PROBE_MAX);
    TRY(memory_alloc(&run, 1, sizeof(*run), "linear evaluation"));
    run->model = model;
    run->ranks = &model->network.backend->collective;
    run->options = o;
    run->stop = stop;
    TRY_OUT(features_compute(&run->test, model, &test, stop));
    TRY_OUT(open_stream(run, &dataset, stop));
    if (dataset.n_classes != run->test.n_classes)
        FAIL_OUT(STATUS_MISMATCH,
                 "train has %d classes, test %d: wanted the same class folders in "
                 "both",
                 dataset.n_classes, run->test.n_classes);
    TRY_OUT(open_probe(run, dataset.n_classes));
    TRY_OUT(open_folder(run));
    if (run->epoch < o->epochs)
        TRY_OUT(receiver_start(&run->receiver, run->epoch * run->steps_per_epoch, o->epochs));
    log_info("%llu images, %lld steps in each of %d epochs, %d classifiers of %d features",
             (unsigned long long)dataset.n_samples, (long long)run->steps_per_epoch, o->epochs,
             o->n_classifiers, model->dim);
    TRY_OUT(all_epochs(run));
    *best = run->best;
    *last = run->last;
out:
    log_status_line(NULL);
    close_run(run);
    return status;
}
