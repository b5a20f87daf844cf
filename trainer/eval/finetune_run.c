/* Epochs, steps and validations of a fine-tuning. */
#include "trainer/eval/finetune_run.h"

#include <stdio.h>
#include <string.h>

#include "ops/rank_monitor.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/cosine.h"
#include "trainer/eval/finetune_internal.h"
#include "trainer/eval/finetune_weights.h"
#include "trainer/rank_agreement.h"

enum { REPEATS = 3 }; /* of repeated augmentation, as the original has it */

/* ------------------------------------------------------------------------------ rates */

double finetune_lr(const struct finetune_options *o, int64_t update, int64_t updates_per_epoch,
                   int n_ranks)
{
    double images = (double)o->batch_size_per_gpu * o->update_freq * n_ranks;
    double scale = o->lr_batch > 0 ? images / o->lr_batch : 1.0;
    double lr = o->lr * scale;

    if (o->lr_schedule == FINETUNE_BY_STEP)
        return cosine_schedule(o->warmup_lr, lr, o->min_lr, o->warmup_epochs * updates_per_epoch,
                               o->epochs * updates_per_epoch, update);
    int64_t epoch = update / updates_per_epoch - 1;
    if (epoch < 0)
        epoch = 0;
    if (epoch < o->warmup_epochs)
        return o->warmup_lr + (lr - o->warmup_lr) * (double)epoch / o->warmup_epochs;
    return cosine_schedule(0.0, lr, o->min_lr, 0, o->epochs, epoch);
}

static struct step_control control_of(const struct finetune_run *run, int64_t update)
{
    const struct finetune_options *o = run->options;

    return (struct step_control){
        .lr = (float)finetune_lr(o, update, run->updates_per_epoch, run->ranks->world),
        .weight_decay = (float)o->weight_decay,
        .teacher_momentum = (float)o->model_ema_decay,
        .clip_grad = (float)o->clip_grad,
        .step = (int32_t)update,
    };
}

/* ------------------------------------------------------------------------------ validation */

/* For whoever watches the ranks: a constant string. */
static void tell_progress(struct finetune_run *run, const char *doing)
{
    run->ranks->progress(run->ranks, run->batch, doing);
}

/* Those of this rank. Positions behind the last image would be the first ones once more. */
static enum status score_own_images(struct finetune_run *run, struct classifier_score *score)
{
    uint64_t n_images = run->test_set.n_samples;
    int64_t n =
        (int64_t)data_spec_epoch_positions(&run->test_spec, n_images, (uint32_t)run->ranks->world);
    struct ibot_input input = {0};
    struct batch *batch;
    char line[80];

    for (int64_t seen = 0; seen < n; seen += batch->n_samples) {
        int64_t of_images = 0;
        tell_progress(run, RANK_WAITS_FOR_DATA);
        TRY(receiver_next(&run->test, &batch, &input));
        tell_progress(run, "measures");
        for (int32_t i = 0; i < batch->n_samples; i++) {
            run->labels[i] = batch->samples[i].label;
            of_images += batch->samples[i].position < n_images;
        }
        input.globals.shape[0] = of_images;
        if (of_images > 0)
            TRY(classifier_evaluate(run->classifier, input.globals, run->labels, score, NULL));
        snprintf(line, sizeof(line), "test: %lld of %lld images", (long long)seen, (long long)n);
        log_status_line(line);
    }
    log_status_line(NULL);
    return receiver_settle(&run->test);
}

/* Of all ranks: each image once. */
static enum status score_test_images(struct finetune_run *run, struct classifier_score *score)
{
    struct classifier_score own = {0};

    TRY(receiver_settle(&run->train));
    enum status status = score_own_images(run, &own);
    struct rank_word word = {.sums = {(double)own.n, (double)own.top1, (double)own.top5, own.loss}};
    TRY(rank_agree(run->ranks, status, &word));
    *score = (struct classifier_score){(int64_t)word.sums[0], (int64_t)word.sums[1],
                                       (int64_t)word.sums[2], word.sums[3]};
    CHECK(score->n == (int64_t)run->test_set.n_samples, "%lld of %llu images were measured",
          (long long)score->n, (unsigned long long)run->test_set.n_samples);
    return STATUS_OK;
}

static enum status validate_one(struct finetune_run *run, struct finetune_result *out)
{
    struct classifier_score score;

    TRY(score_test_images(run, &score));
    *out = (struct finetune_result){
        .epoch = run->batches_per_epoch > 0 ? (int32_t)(run->batch / run->batches_per_epoch) : 0,
        .top1 = 100.0 * (double)score.top1 / (double)score.n,
        .top5 = 100.0 * (double)score.top5 / (double)score.n,
        .loss = score.loss / (double)score.n,
    };
    return STATUS_OK;
}

/* Keeps the better one, writing it. */
static enum status keep_best(struct finetune_run *run, struct finetune_result *best,
                             const struct finetune_result *last, bool average)
{
    if (best->epoch > 0 && last->top1 <= best->top1)
        return STATUS_OK;
    *best = *last;
    return finetune_folder_write_best(run, average);
}

static enum status validate(struct finetune_run *run)
{
    struct finetune_results *r = &run->results;

    TRY(validate_one(run, &r->last));
    TRY(keep_best(run, &r->best, &r->last, false));
    if (run->options->model_ema) {
        TRY(classifier_exchange_average(run->classifier));
        enum status status = validate_one(run, &r->last_average);
        TRY(classifier_exchange_average(run->classifier));
        TRY(status);
        TRY(keep_best(run, &r->best_average, &r->last_average, true));
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ training */

/* Numbers of updates into the meters: all but the newest `but` ones, which may be under way. */
static enum status read_numbers(struct finetune_run *run, int64_t but)
{
    for (; run->n_unread > but; run->n_unread--) {
        struct classifier_result result = {0};
        enum status status = classifier_result(run->classifier, (int)run->n_unread - 1, &result);
        struct rank_word word = {.sums = {result.loss, (double)result.n, (double)result.top1}};
        TRY(rank_agree(run->ranks, status, &word));
        run->meters.loss += word.sums[0] / run->ranks->world;
        run->meters.gradient_norm += result.gradient_norm; /* the same on all */
        run->meters.updates++;
        run->meters.images += (int64_t)word.sums[1];
        run->meters.top1 += (int64_t)word.sums[2];
    }
    return STATUS_OK;
}

static void show(const struct finetune_run *run)
{
    const struct finetune_meters *m = &run->meters;
    char line[128];

    snprintf(line, sizeof(line), "epoch %lld/%d  batch %lld/%lld  loss %.4f",
             (long long)(run->batch / run->batches_per_epoch) + 1, run->options->epochs,
             (long long)(run->batch % run->batches_per_epoch), (long long)run->batches_per_epoch,
             m->updates > 0 ? m->loss / (double)m->updates : 0.0);
    log_status_line(line);
}

/* One batch: part of an update, its end, or, after the last update of an epoch, passed over. */
static enum status train_batch(struct finetune_run *run, const struct batch *batch,
                               struct tensor pixels)
{
    const struct finetune_options *o = run->options;
    int64_t epoch = run->batch / run->batches_per_epoch, at = run->batch % run->batches_per_epoch;
    int64_t update = epoch * run->updates_per_epoch + at / o->update_freq;
    struct mixing mixing = mixing_draw(&run->mixing, run->batch);
    bool erases = mixing_draw_boxes(&run->mixing, run->batch, batch->n_samples, run->boxes);
    struct step_control control = control_of(run, update);
    struct classifier_input input = {
        .pixels = pixels,
        .labels = run->labels,
        .erase = erases ? run->boxes : NULL,
        .mix = mixing.mixed || erases ? &mixing.mix : NULL,
        .label_share = mixing.label_share,
        .keep_seed = (uint64_t)o->seed,
        .step = run->batch,
        .first_sample = run->ranks->rank,
        .sample_stride = run->ranks->world,
    };

    if (at >= run->updates_per_epoch * o->update_freq)
        return STATUS_OK;
    for (int32_t i = 0; i < batch->n_samples; i++)
        run->labels[i] = batch->samples[i].label;
    if (at % o->update_freq == 0)
        TRY(classifier_zero_gradients(run->classifier));
    TRY(classifier_accumulate(run->classifier, &input, &control));
    if ((at + 1) % o->update_freq != 0)
        return STATUS_OK;
    TRY(classifier_update(run->classifier));
    run->n_unread++;
    return read_numbers(run, 1);
}

/* The end of an epoch: its numbers, a validation when one is due, its line, its state. */
static enum status end_epoch(struct finetune_run *run)
{
    const struct finetune_options *o = run->options;
    int32_t epoch = (int32_t)(run->batch / run->batches_per_epoch);
    bool due = epoch % o->val_freq == 0 || epoch == o->epochs;
    const struct finetune_results *r = &run->results;

    TRY(read_numbers(run, 0));
    log_status_line(NULL);
    double loss = run->meters.loss / (double)run->meters.updates;
    if (due)
        TRY(validate(run));
    if (due && o->model_ema)
        log_info("epoch %d/%d: loss %.4f, Top1 %.4f, Top5 %.4f, of the average %.4f, %.4f; best so "
                 "far %.4f, %.4f",
                 epoch, o->epochs, loss, r->last.top1, r->last.top5, r->last_average.top1,
                 r->last_average.top5, r->best.top1, r->best_average.top1);
    else if (due)
        log_info("epoch %d/%d: loss %.4f, Top1 %.4f, Top5 %.4f; best so far %.4f", epoch, o->epochs,
                 loss, r->last.top1, r->last.top5, r->best.top1);
    else
        log_info("epoch %d/%d: loss %.4f", epoch, o->epochs, loss);
    TRY(finetune_folder_log(run, due));
    run->meters = (struct finetune_meters){0};
    return finetune_folder_save(run);
}

static enum status save(struct finetune_run *run)
{
    TRY(read_numbers(run, 0));
    return run->saved_batch != run->batch ? finetune_folder_save(run) : STATUS_OK;
}

/* The end of a run that is asked to end: at its last update, whose state is kept. */
static enum status interrupt(struct finetune_run *run)
{
    int64_t at = run->batch % run->batches_per_epoch;

    if (at < run->updates_per_epoch * run->options->update_freq)
        run->batch -= at % run->options->update_freq;
    TRY(save(run));
    run->ranks->ending = true;
    FAIL(STATUS_INTERRUPTED, "interrupted after batch %lld of epoch %lld of %d%s", (long long)at,
         (long long)(run->batch / run->batches_per_epoch) + 1, run->options->epochs,
         run->options->output_dir != NULL ? "; the same command goes on" : "");
}

/* After a batch: is it time to save, or to stop? */
static enum status after_batch(struct finetune_run *run)
{
    const struct finetune_options *o = run->options;
    int64_t epoch = run->batch / run->batches_per_epoch, at = run->batch % run->batches_per_epoch;
    int64_t update = epoch * run->updates_per_epoch + at / o->update_freq;

    if (at % o->update_freq != 0 || epoch == o->epochs)
        return STATUS_OK;
    if (run->stopping)
        return interrupt(run);
    bool due = o->checkpoint_every_steps > 0 && update % o->checkpoint_every_steps == 0 &&
               at <= run->updates_per_epoch * o->update_freq;
    return due ? save(run) : STATUS_OK;
}

/* The next batch of each rank, and whether one of them was asked to stop. */
static enum status next_batch(struct finetune_run *run, struct batch **batch,
                              struct ibot_input *input)
{
    tell_progress(run, RANK_WAITS_FOR_DATA);
    enum status status = receiver_next(&run->train, batch, input);
    struct rank_word word = {.stop = run->stop != NULL && atomic_load(run->stop) != 0};
    status = rank_agree(run->ranks, status, &word);
    run->stopping = word.stop;
    tell_progress(run, "computes");
    return status;
}

static enum status all_epochs(struct finetune_run *run)
{
    struct ibot_input input = {0};
    struct batch *batch;

    while (run->batch < run->options->epochs * run->batches_per_epoch) {
        enum status status = next_batch(run, &batch, &input);
        if (status == STATUS_INTERRUPTED) /* while one waited for data */
            return interrupt(run);
        TRY(status);
        TRY(train_batch(run, batch, input.globals));
        run->batch++;
        show(run);
        if (run->batch % run->batches_per_epoch == 0)
            TRY(end_epoch(run));
        TRY(after_batch(run));
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ opening */

static enum status train_spec_of(const struct finetune_run *run, struct data_spec *out)
{
    const struct finetune_options *o = run->options;
    struct data_spec spec = data_spec_fine_tuning(run->model.image_size_px);
    bool plain = o->aa == NULL || strcmp(o->aa, "none") == 0;

    if (plain)
        spec.rand_augment = (struct rand_augment){0};
    else
        TRY(rand_augment_parse(&spec.rand_augment, o->aa));
    spec.repeats = o->repeated_aug ? REPEATS : 1;
    spec.interpolation = (enum interpolation)o->train_interpolation;
    spec.global_scale[0] = o->crop_scale[0];
    spec.global_scale[1] = o->crop_scale[1];
    spec.first.jitter = plain && o->color_jitter > 0.0 ? 1.0f : 0.0f;
    spec.brightness = spec.contrast = spec.saturation = (float)o->color_jitter;
    spec.hue = 0.0f;
    spec.seed = (uint64_t)o->seed;
    *out = spec;
    return STATUS_OK;
}

static struct data_spec test_spec_of(const struct finetune_run *run)
{
    const struct finetune_options *o = run->options;
    int32_t size = run->model.image_size_px;
    int32_t resize = o->data.resize_size > 0 ? o->data.resize_size : size * 8 / 7;
    struct data_spec spec = data_spec_centre_crop(resize, size);

    spec.interpolation = (enum interpolation)o->test_interpolation;
    return spec;
}

static enum status open_stream(struct finetune_run *run, struct receiver *out,
                               struct dataset_info *dataset, struct data_spec spec,
                               const char *data, bool train)
{
    const struct finetune_options *o = run->options;
    struct receiver_options options = {
        .spec = spec,
        .ops = run->backend->ops,
        .batch_size = o->batch_size_per_gpu,
        .slice_size = o->batch_size_per_gpu < 32 ? o->batch_size_per_gpu : 32,
        .prefetch = 4,
        .rank = run->ranks->rank,
        .world = run->ranks->world,
        .drop_last = train,
        .data = data,
        .n_loaders = o->data.loaders,
        .loader_threads = o->data.loader_threads,
    };

    options.spec.bad_image_policy = BAD_IMAGE_FAIL;
    TRY(data_spec_check(&options.spec));
    TRY(receiver_open(out, &run->backend->device, &options, run->stop));
    return receiver_dataset(out, dataset);
}

static enum status open_model(struct finetune_run *run, const struct pretrained *pretrained)
{
    const struct finetune_options *o = run->options;
    struct classifier_options *m = &run->model;

    m->pooling = (enum classifier_pooling)o->pooling;
    m->n_head_layers = o->finetune_head_layer;
    m->batch_size = o->batch_size_per_gpu;
    m->accumulation_steps = o->update_freq;
    m->init_scale = (float)o->init_scale;
    m->layer_decay = (float)o->layer_decay;
    m->smoothing = (float)o->smoothing;
    m->average = o->model_ema;
    m->recompute = (enum recompute)o->backward.recompute;
    m->skip_dropped = backward_options_skip(&o->backward, (enum backend_kind)o->backend.kind);
    m->precision = network_options_precision(&o->network, (enum backend_kind)o->backend.kind);
    m->gelu_tanh = network_options_gelu_tanh(&o->network, m->precision);
    m->backbone.drop_path = (float)o->drop_path;
    m->ranks = run->ranks;
    if (o->eval)
        TRY(finetune_weights_read_options(pretrained, m));
    if (classifier_is_dense(m))
        FAIL(STATUS_MISMATCH, "'%s' classifies pixels: give it to ibot-eval segment --eval",
             pretrained->file.path);
    TRY(finetune_weights_plan(pretrained, o->data.crop_size, m));
    if (!o->eval)
        TRY(finetune_weights_plan_head(pretrained, m));
    snprintf(run->weights, sizeof(run->weights), "%s", pretrained->file.path);
    return STATUS_OK;
}

static enum status load_model(struct finetune_run *run, const struct pretrained *pretrained)
{
    struct device *device = &run->backend->device;
    struct pretrained_report report;
    char text[1024];

    TRY(classifier_open(&run->classifier, device, run->backend->ops, &run->model));
    TRY(classifier_initialise(run->classifier, (uint64_t)run->options->seed));
    if (run->options->eval)
        TRY(finetune_weights_load_all(pretrained, run->classifier, device, &report));
    else
        TRY(finetune_weights_load(pretrained, run->classifier, &run->model, device, &report));
    log_info("%s", pretrained_describe(pretrained, &report, text, sizeof(text)));
    return STATUS_OK;
}

/* Training images, the number of classes, the steps of an epoch. */
static enum status open_training(struct finetune_run *run)
{
    const struct finetune_options *o = run->options;

    TRY(train_spec_of(run, &run->train_spec));
    TRY(open_stream(run, &run->train, &run->train_set, run->train_spec, o->data.train, true));
    if (run->train_set.n_classes != run->test_set.n_classes)
        FAIL(STATUS_MISMATCH,
             "train has %d classes, test %d: wanted the same class folders in both",
             run->train_set.n_classes, run->test_set.n_classes);
    run->model.n_classes = run->train_set.n_classes;
    run->batches_per_epoch =
        (int64_t)data_spec_epoch_positions(&run->train_spec, run->train_set.n_samples,
                                           (uint32_t)run->ranks->world) /
        o->batch_size_per_gpu;
    run->updates_per_epoch = run->batches_per_epoch / o->update_freq;
    if (run->updates_per_epoch == 0)
        FAIL(STATUS_INVALID,
             "%llu training images make no step of %d batches of %d on %d ranks: lower "
             "--batch_size_per_gpu or --update_freq",
             (unsigned long long)run->train_set.n_samples, o->update_freq, o->batch_size_per_gpu,
             run->ranks->world);
    run->mixing = (struct mixing_options){
        .mixup = o->mixup,
        .cutmix = o->cutmix,
        .probability = o->mixup_prob,
        .switch_probability = o->mixup_switch_prob,
        .erase_probability = o->reprob,
        .side_px = run->model.image_size_px,
        .seed = (uint64_t)o->seed,
        .rank = (uint32_t)run->ranks->rank,
        .n_ranks = (uint32_t)run->ranks->world,
    };
    return STATUS_OK;
}

static enum status open_run(struct finetune_run *run)
{
    const struct finetune_options *o = run->options;
    struct pretrained pretrained;
    enum status status;
    size_t batch = (size_t)o->batch_size_per_gpu;

    TRY(rank_compare_options(run->ranks, run->parsed));
    TRY(memory_alloc(&run->labels, batch, sizeof(int32_t), "labels"));
    TRY(memory_alloc(&run->boxes, batch, sizeof(struct pixel_box), "boxes"));
    TRY(pretrained_open(&pretrained, &o->weights));
    TRY_OUT(open_model(run, &pretrained));
    run->test_spec = test_spec_of(run);
    TRY_OUT(open_stream(run, &run->test, &run->test_set, run->test_spec, o->data.test, false));
    if (!o->eval)
        TRY_OUT(open_training(run));
    else if (run->test_set.n_classes != run->model.n_classes)
        FAIL_OUT(STATUS_MISMATCH, "'%s' tells %d classes apart, and --test has %d", run->weights,
                 run->model.n_classes, run->test_set.n_classes);
    TRY_OUT(finetune_folder_compare(run));
    TRY_OUT(load_model(run, &pretrained));
out:
    pretrained_close(&pretrained);
    return status;
}

static void close_run(struct finetune_run *run)
{
    receiver_close(&run->train);
    receiver_close(&run->test);
    classifier_close(&run->classifier);
    memory_free(run->labels);
    memory_free(run->boxes);
    memory_free(run);
}

/* As many passes over the test images as there are validations to come, and one. */
static int32_t n_test_epochs(const struct finetune_run *run)
{
    return (run->options->epochs + 1) * (run->options->model_ema ? 2 : 1);
}

static enum status train(struct finetune_run *run)
{
    const struct finetune_options *o = run->options;

    TRY(finetune_folder_open(run));
    log_info("%llu images, %lld updates of %d images in each of %d epochs, %d classes, %.1f M "
             "parameters",
             (unsigned long long)run->train_set.n_samples, (long long)run->updates_per_epoch,
             o->batch_size_per_gpu * o->update_freq * run->ranks->world, o->epochs,
             run->model.n_classes, 1e-6 * (double)classifier_n_parameters(run->classifier));
    TRY(receiver_start(&run->test, 0, n_test_epochs(run)));
    if (run->batch < o->epochs * run->batches_per_epoch)
        TRY(receiver_start(&run->train, run->batch, o->epochs));
    return all_epochs(run);
}

enum status finetune_run(struct finetune_results *out, const struct finetune_options *options,
                         const struct options *parsed, struct backend *backend,
                         const atomic_int *stop)
{
    struct finetune_run *run = NULL;
    enum status status;

    TRY(memory_alloc(&run, 1, sizeof(*run), "fine-tuning"));
    run->options = options;
    run->parsed = parsed;
    run->backend = backend;
    run->ranks = &backend->collective;
    run->stop = stop;
    run->saved_batch = -1;
    TRY_OUT(open_run(run));
    if (options->eval) {
        TRY_OUT(receiver_start(&run->test, 0, 1));
        TRY_OUT(validate_one(run, &run->results.last));
    } else {
        TRY_OUT(train(run));
    }
    *out = run->results;
out:
    log_status_line(NULL);
    close_run(run);
    return status;
}
