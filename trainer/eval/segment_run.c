/* Steps and validations of a segmentation. */
#include "trainer/eval/segment_run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/rank_monitor.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/finetune_weights.h"
#include "trainer/eval/segment_internal.h"
#include "trainer/model/upernet.h"
#include "trainer/rank_agreement.h"

enum { OFFICIAL_CROP_PX = 512 };

/* ------------------------------------------------------------------------------ rates */

double segment_lr(const struct segment_options *o, int64_t step)
{
    double left = 1.0 - (double)step / o->steps;
    double lr = o->min_lr + (o->lr - o->min_lr) * pow(left, o->power);

    if (step >= o->warmup_steps)
        return lr;
    return lr * (1.0 - (1.0 - (double)step / o->warmup_steps) * (1.0 - o->warmup_ratio));
}

static struct step_control control_of(const struct segment_run *run)
{
    const struct segment_options *o = run->options;

    return (struct step_control){
        .lr = (float)segment_lr(o, run->step),
        .weight_decay = (float)o->weight_decay,
        .clip_grad = (float)o->clip_grad,
        .step = (int32_t)run->step,
    };
}

/* ------------------------------------------------------------------------------ validation */

void segment_tell_progress(struct segment_run *run, const char *doing)
{
    run->ranks->progress(run->ranks, run->step, doing);
}

static struct segment_result result_of(const struct segment_run *run,
                                       const struct segment_scores *scores)
{
    return (struct segment_result){
        .step = run->step,
        .mean_iou = 100.0 * scores->mean_iou,
        .all_accuracy = 100.0 * scores->all_accuracy,
        .mean_accuracy = 100.0 * scores->mean_accuracy,
    };
}

static enum status score_test_pictures(struct segment_run *run, struct segment_scores *scores)
{
    struct segment_counts counts;

    TRY(segment_evaluate(run, &counts));
    segment_scores_of(scores, &counts, run->model.n_classes);
    if (run->test.labels != NULL && isnan(scores->all_accuracy))
        FAIL(STATUS_INVALID, "'%s': no pixel has a label that counts", run->test.labels);
    return STATUS_OK;
}

/* Numbers of updates into the meters: all but the newest `but` ones, which may be under way. */
static enum status read_numbers(struct segment_run *run, int64_t but)
{
    for (; run->n_unread > but; run->n_unread--) {
        struct classifier_result result = {0};
        enum status status = classifier_result(run->classifier, (int)run->n_unread - 1, &result);
        struct rank_word word = {.sums = {result.loss, (double)result.n, (double)result.top1}};
        TRY(rank_agree(run->ranks, status, &word));
        run->meters.loss += word.sums[0] / run->ranks->world;
        run->meters.gradient_norm += result.gradient_norm; /* the same on all */
        run->meters.updates++;
        run->meters.pixels += (int64_t)word.sums[1];
        run->meters.right += (int64_t)word.sums[2];
    }
    return STATUS_OK;
}

static enum status save(struct segment_run *run)
{
    TRY(read_numbers(run, 0));
    return run->saved_step != run->step ? segment_folder_save(run) : STATUS_OK;
}

/* It may take long, so that the state before it is kept. */
static enum status validate(struct segment_run *run)
{
    struct segment_results *r = &run->results;
    struct segment_scores scores;

    TRY(save(run));
    log_status_line(NULL);
    TRY(score_test_pictures(run, &scores));
    r->last = result_of(run, &scores);
    if (r->best.step == 0 || r->last.mean_iou > r->best.mean_iou) {
        r->best = r->last;
        TRY(segment_folder_write_best(run));
    }
    log_info("step %lld/%d: loss %.4f, mIoU %.4f, aAcc %.4f, mAcc %.4f; best mIoU so far %.4f",
             (long long)run->step, run->options->steps,
             run->meters.loss / (double)run->meters.updates, r->last.mean_iou, r->last.all_accuracy,
             r->last.mean_accuracy, r->best.mean_iou);
    TRY(segment_folder_log(run));
    run->meters = (struct segment_meters){0};
    return segment_folder_save(run);
}

/* ------------------------------------------------------------------------------ training */

static void show(const struct segment_run *run)
{
    const struct segment_meters *m = &run->meters;
    char line[128];

    snprintf(line, sizeof(line), "step %lld/%d  loss %.4f", (long long)run->step,
             run->options->steps, m->updates > 0 ? m->loss / (double)m->updates : 0.0);
    log_status_line(line);
}

/* Of the crops of a micro-batch of all ranks each takes as many, in their order. */
static int64_t first_crop(const struct segment_run *run)
{
    return (int64_t)run->ranks->rank * run->model.batch_size;
}

/* The crops of each rank, and whether one of them was asked to stop. */
static enum status read_crops(struct segment_run *run, int64_t batch)
{
    struct device *device = &run->backend->device;
    int32_t n = run->model.batch_size, which = run->next_crops;
    int64_t all = (int64_t)n * run->ranks->world;

    segment_tell_progress(run, RANK_WAITS_FOR_DATA);
    enum status status = device->wait_mark(device, SEGMENT_MARK_CROPS + which);
    if (status == STATUS_OK)
        status = scene_reader_crops(run->train_reader, run->crops[which], run->crop_labels,
                                    batch * all + first_crop(run), n, &run->crop);
    struct rank_word word = {.stop = run->stop != NULL && atomic_load(run->stop) != 0};
    TRY(rank_agree(run->ranks, status, &word));
    run->stopping = run->stopping || word.stop;
    segment_tell_progress(run, "computes");
    return STATUS_OK;
}

/* While the device is at one micro-batch, the next one is read. */
static enum status train_batch(struct segment_run *run, int64_t batch,
                               const struct step_control *control)
{
    struct device *device = &run->backend->device;
    int32_t n = run->model.batch_size, side = run->model.image_size_px, which = run->next_crops;
    struct classifier_input input = {
        .pixels = {run->pixels, DTYPE_F32, 4, {n, 3, side, side}},
        .label_maps = run->crop_labels,
        .label_share = 1.0f,
        .keep_seed = (uint64_t)run->options->seed,
        .step = batch,
        .first_sample = first_crop(run),
    };

    TRY(read_crops(run, batch));
    TRY(device->copy_in(device, run->pixels, run->crops[which],
                        3 * (size_t)n * (size_t)side * (size_t)side * sizeof(float)));
    TRY(device->mark(device, SEGMENT_MARK_CROPS + which));
    run->next_crops = 1 - which;
    return classifier_accumulate(run->classifier, &input, control);
}

static enum status train_step(struct segment_run *run)
{
    struct step_control control = control_of(run);
    int64_t n = run->options->update_freq;

    TRY(classifier_zero_gradients(run->classifier));
    for (int64_t i = 0; i < n; i++)
        TRY(train_batch(run, run->step * n + i, &control));
    TRY(classifier_update(run->classifier));
    run->n_unread++;
    run->step++;
    return read_numbers(run, 1);
}

static enum status interrupt(struct segment_run *run)
{
    TRY(save(run));
    run->ranks->ending = true;
    FAIL(STATUS_INTERRUPTED, "interrupted after step %lld of %d%s", (long long)run->step,
         run->options->steps, run->options->output_dir != NULL ? "; the same command goes on" : "");
}

static enum status all_steps(struct segment_run *run)
{
    const struct segment_options *o = run->options;

    for (;;) {
        bool due = run->step % o->val_freq == 0 || run->step == o->steps;
        if (run->step > 0 && due && run->results.last.step != run->step)
            TRY(validate(run));
        if (run->step == o->steps)
            return STATUS_OK;
        if (run->stopping)
            return interrupt(run);
        if (o->checkpoint_every_steps > 0 && run->step > 0 &&
            run->step % o->checkpoint_every_steps == 0)
            TRY(save(run));
        TRY(train_step(run));
        show(run);
    }
}

/* ------------------------------------------------------------------------------ opening */

/* The blocks of the original: of 12 the fourth, sixth, eighth and last, in proportion else. */
static enum status choose_taps(const struct segment_options *o, int32_t depth,
                               struct classifier_taps *out)
{
    static const int32_t of_twelve[] = {4, 6, 8, 12}, of_twenty_four[] = {8, 12, 16, 24};

    *out = (struct classifier_taps){
        .normed = o->out_with_norm,
        .upernet = o->decoder == SEGMENT_UPERNET,
        .dropout = (float)o->dropout,
    };
    for (int32_t i = 0; i < o->n_taps; i++) {
        if (o->taps[i] != rintf(o->taps[i]))
            FAIL(STATUS_INVALID, "--taps: %g is no number of a block", (double)o->taps[i]);
        out->blocks[out->n++] = (int32_t)o->taps[i];
    }
    for (int32_t i = 0; i < 4 && o->n_taps == 0; i++) {
        int32_t tap = (depth == 24 ? of_twenty_four[i] : of_twelve[i] * depth / 12) - 1;
        if (tap >= 0 && (out->n == 0 || tap > out->blocks[out->n - 1]))
            out->blocks[out->n++] = tap;
    }
    if (out->upernet && out->n != UPERNET_TAPS)
        FAIL(STATUS_INVALID,
             "--decoder upernet takes %d blocks, got %d of a ViT of %d: name them with --taps, the "
             "last one "
             "among them",
             UPERNET_TAPS, out->n, depth);
    return STATUS_OK;
}

static enum status plan_model(struct segment_run *run, const struct pretrained *pretrained)
{
    const struct segment_options *o = run->options;
    struct classifier_options *m = &run->model;
    int32_t crop = o->crop_size > 0 ? o->crop_size : o->eval ? 0 : OFFICIAL_CROP_PX;

    m->batch_size = o->batch_size_per_gpu;
    m->accumulation_steps = o->update_freq;
    m->init_scale = 0.5f; /* of 0.02, that is */
    m->layer_decay = (float)o->layer_decay;
    m->recompute = (enum recompute)o->backward.recompute;
    m->skip_dropped = backward_options_skip(&o->backward, (enum backend_kind)o->backend.kind);
    m->frozen = o->frozen || o->eval;
    m->ranks = run->ranks;
    m->precision = network_options_precision(&o->network, (enum backend_kind)o->backend.kind);
    m->gelu_tanh = network_options_gelu_tanh(&o->network, m->precision);
    m->n_classes = o->num_classes;
    if (pretrained->backbone.n_stages > 0)
        FAIL(STATUS_UNSUPPORTED,
             "'%s' is a Swin, whose maps have several sizes: give the weights "
             "of a ViT",
             pretrained->file.path);
    TRY(finetune_weights_plan(pretrained, crop, m));
    m->backbone.drop_path = m->frozen ? 0.0f : (float)o->drop_path;
    snprintf(run->weights, sizeof(run->weights), "%s", pretrained->file.path);
    if (!o->eval)
        return choose_taps(o, m->backbone.depth, &m->taps);
    TRY(finetune_weights_read_options(pretrained, m));
    m->taps.measures = true;
    if (!classifier_is_dense(m))
        FAIL(STATUS_MISMATCH, "'%s' classifies whole images: give it to ibot-eval finetune --eval",
             pretrained->file.path);
    return STATUS_OK;
}

static enum status plan_crops(struct segment_run *run)
{
    const struct segment_options *o = run->options;
    int32_t side = run->model.image_size_px;

    run->labels = (struct scene_labels){run->model.n_classes, o->reduce_zero_label};
    run->crop = (struct scene_crop_options){
        .crop_px = side,
        .resize_px = o->resize_size > 0 ? o->resize_size : side,
        .scale = {(double)o->ratio_range[0], (double)o->ratio_range[1]},
        .most = o->cat_max_ratio,
        .distortion = o->photometric,
        .seed = (uint64_t)o->seed,
    };
    run->sizes.n = o->n_img_ratios;
    for (int32_t i = 0; i < o->n_img_ratios; i++) {
        run->sizes.px[i] = (int32_t)((double)run->crop.resize_px * (double)o->img_ratios[i]);
        if (run->sizes.px[i] < run->model.backbone.patch_size_px)
            FAIL(STATUS_INVALID, "--img_ratios %g of %d px: wanted at least a patch, %d px",
                 (double)o->img_ratios[i], run->crop.resize_px, run->model.backbone.patch_size_px);
    }
    run->stride = o->stride > 0 ? o->stride : side * 2 / 3;
    run->stride = run->stride > 0 ? run->stride : 1;
    if (run->stride > side)
        FAIL(STATUS_INVALID, "--stride %d exceeds the windows of %d px, which would leave gaps",
             run->stride, side);
    return STATUS_OK;
}

static enum status load_model(struct segment_run *run, const struct pretrained *pretrained)
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

/* ROOT/BELOW where nothing else is given. */
static const char *folder_of(const struct segment_options *o, const char *given, const char *below,
                             char out[SCENE_MAX_PATH])
{
    if (given != NULL || o->data_path == NULL)
        return given;
    snprintf(out, SCENE_MAX_PATH, "%.3000s/%s", o->data_path, below);
    return out;
}

static enum status open_data(struct segment_run *run)
{
    const struct segment_options *o = run->options;
    char a[SCENE_MAX_PATH], b[SCENE_MAX_PATH];
    int n_threads = o->backend.threads;

    TRY(scene_data_open(&run->test, folder_of(o, o->test, "images/validation", a),
                        folder_of(o, o->test_labels, "annotations/validation", b)));
    TRY(scene_reader_open(&run->test_reader, &run->test, &run->labels, n_threads));
    if (o->eval)
        return STATUS_OK;
    TRY(scene_data_open(&run->train, folder_of(o, o->train, "images/training", a),
                        folder_of(o, o->train_labels, "annotations/training", b)));
    return scene_reader_open(&run->train_reader, &run->train, &run->labels, n_threads);
}

static enum status open_buffers(struct segment_run *run)
{
    struct device *device = &run->backend->device;
    size_t n = (size_t)run->model.batch_size, side = (size_t)run->model.image_size_px;
    size_t bytes = 3 * n * side * side * sizeof(float);

    for (int i = 0; i < (run->options->eval ? 1 : 2); i++)
        TRY(device->alloc_host(device, (void **)&run->crops[i], bytes, "crops"));
    TRY(memory_alloc(&run->crop_labels, n * side, side, "labels of crops"));
    return device->alloc(device, &run->pixels, bytes, "crops");
}

static enum status open_run(struct segment_run *run)
{
    struct pretrained pretrained;
    enum status status;

    TRY(rank_compare_options(run->ranks, run->parsed));
    TRY(pretrained_open(&pretrained, &run->options->weights));
    TRY_OUT(plan_model(run, &pretrained));
    if (run->options->class_names != NULL)
        TRY_OUT(
            class_names_read(&run->results.names, run->options->class_names, run->model.n_classes));
    TRY_OUT(plan_crops(run));
    TRY_OUT(open_data(run));
    TRY_OUT(segment_folder_compare(run));
    TRY_OUT(load_model(run, &pretrained));
    TRY_OUT(open_buffers(run));
out:
    pretrained_close(&pretrained);
    return status;
}

static void close_run(struct segment_run *run)
{
    struct device *device = &run->backend->device;

    (void)!device->synchronize(device); /* copies from what is freed here */
    scene_reader_close(&run->train_reader);
    scene_reader_close(&run->test_reader);
    scene_data_close(&run->train);
    scene_data_close(&run->test);
    classifier_close(&run->classifier);
    for (int i = 0; i < 2; i++)
        if (run->crops[i] != NULL)
            device->free_host(device, run->crops[i]);
    if (run->pixels != NULL)
        device->free(device, run->pixels);
    memory_free(run->crop_labels);
    memory_free(run->logits);
    memory_free(run);
}

static enum status train(struct segment_run *run)
{
    const struct segment_options *o = run->options;

    TRY(segment_folder_open(run));
    log_info("%lld pictures, %d steps of %d crops of %d px, %d classes, %.2f M parameters",
             (long long)run->train.n, o->steps,
             o->batch_size_per_gpu * o->update_freq * run->ranks->world, run->model.image_size_px,
             run->model.n_classes, 1e-6 * (double)classifier_n_parameters(run->classifier));
    return all_steps(run);
}

enum status segment_run(struct segment_results *out, const struct segment_options *options,
                        const struct options *parsed, struct backend *backend,
                        const atomic_int *stop)
{
    struct segment_run *run = NULL;
    enum status status;

    TRY(memory_alloc(&run, 1, sizeof(*run), "segmentation"));
    run->options = options;
    run->parsed = parsed;
    run->backend = backend;
    run->ranks = &backend->collective;
    run->stop = stop;
    run->saved_step = -1;
    TRY_OUT(open_run(run));
    if (options->eval) {
        TRY_OUT(score_test_pictures(run, &run->results.scores));
        run->results.last = result_of(run, &run->results.scores);
    } else {
        TRY_OUT(train(run));
    }
    *out = run->results;
out:
    log_status_line(NULL);
    close_run(run);
    return status;
}
