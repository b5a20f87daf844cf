/* A step of a classifier: what the host brings in, loss, update, numbers; and evaluation. */
#include <math.h>
#include <string.h>

#include "proto/base/rng.h"
#include "trainer/model/classifier_internal.h"

/* ------------------------------------------------------------------------------ input */

static void fill_depth(const struct classifier *c, const struct classifier_input *input,
                       float *scales)
{
    const struct backbone_options *o = &c->options.backbone;
    int64_t stride = input->sample_stride > 0 ? input->sample_stride : 1;
    int32_t b = c->options.batch_size;

    for (int32_t block = 0; block < o->depth; block++)
        for (int32_t branch = 0; branch < 2 && backbone_drop_rate(o, block) > 0.0f; branch++)
            for (int32_t i = 0; i < b; i++)
                *scales++ =
                    backbone_draw_scale(o, block, branch, input->keep_seed, (uint32_t)input->step,
                                        (uint32_t)(input->first_sample + i * stride));
}

/* The samples that are left, of every block but the last one. */
static void fill_kept(struct classifier *c, const struct classifier_tables *t)
{
    int64_t b = c->options.batch_size, at = 0;

    for (int32_t i = 0; i + 1 < c->options.backbone.depth; i++) {
        struct block_depth *depth = &c->backbone.depths[i];
        struct block_kept *const branches[] = {&depth->attention, &depth->mlp};
        if (backbone_drop_rate(&c->options.backbone, i) <= 0.0f)
            continue;
        for (int branch = 0; branch < 2; branch++, at += b)
            *branches[branch] = backbone_keep(&c->backbone, t->depth + at, t->depth_shift + at,
                                              c->tables.depth_shift + at);
    }
}

/* Scales of channels, of UPerNet's (table 0) or of its auxiliary head's (1): 0, or what makes up
 * for it. */
static void fill_channels(const struct classifier *c, const struct classifier_input *input,
                          int which, float *scales)
{
    int64_t n = which == 0 ? c->backbone.width : UPERNET_AUXILIARY;
    int64_t stride = input->sample_stride > 0 ? input->sample_stride : 1;
    double rate = (double)c->options.taps.dropout;

    for (int32_t i = 0; i < c->options.batch_size; i++) {
        struct rng rng = rng_open((struct rng_key){
            .seed = input->keep_seed,
            .epoch = (uint32_t)input->step,
            .sample = (uint32_t)(input->first_sample + i * stride),
            .view = (uint16_t)which,
            .purpose = RNG_DROP_CHANNELS,
        });
        for (int64_t j = 0; j < n; j++)
            *scales++ = rng_uniform(&rng) < rate ? 0.0f : (float)(1.0 / (1.0 - rate));
    }
}

/* Fills the tables and queues their copy to the device. */
static enum status stage(struct classifier *c, const struct classifier_input *input,
                         const struct step_control *control)
{
    struct device *device = c->device;
    int which = c->next_staging;
    struct classifier_tables *t = &c->staging[which];
    int32_t b = c->options.batch_size, side = c->options.image_size_px;

    TRY(device->wait_mark(device, CLASSIFIER_MARK_STAGING + which)); /* its copy, two times ago */
    *t->control = *control;
    *t->mix = input->mix != NULL ? *input->mix : (struct patch_mix){.share = 1.0f};
    if (classifier_is_dense(&c->options) && c->options.taps.decoder == NULL)
        memcpy(t->map, input->label_maps, (size_t)b * (size_t)side * (size_t)side);
    for (int32_t i = 0; i < b && !classifier_is_dense(&c->options); i++) {
        t->label[i] = input->labels[i];
        t->other[i] = input->labels[b - 1 - i];
        t->share[i] = input->label_share;
        t->erase[i] = input->erase != NULL ? input->erase[i] : (struct pixel_box){0};
        CHECK(t->label[i] >= 0 && t->label[i] < c->options.n_classes, "label %d of %d classes",
              t->label[i], c->options.n_classes);
    }
    fill_depth(c, input, t->depth);
    if (c->skips_dropped)
        fill_kept(c, t);
    for (int head = 0; head < 2 && c->options.taps.upernet; head++)
        fill_channels(c, input, head, t->channels[head]);
    TRY(device->copy_in(device, c->tables.control, t->control, c->tables_bytes));
    TRY(device->mark(device, CLASSIFIER_MARK_STAGING + which));
    c->next_staging = 1 - which;
    return STATUS_OK;
}

enum status classifier_patchify(struct classifier *c, struct tensor pixels)
{
    int64_t p = c->options.backbone.patch_size_px, first = pixels.dtype == DTYPE_U8 ? 1 : 2;
    int64_t cells = (pixels.shape[first] / p) * (pixels.shape[first + 1] / p);
    int64_t side = c->options.image_size_px / p;
    struct patchify_args args = {
        .pixels = pixels,
        .patches = shaped(c->patches[0], pixels.shape[0] * cells, 3 * p * p),
        .patch_size = (int32_t)p,
        .mean = {0.485f, 0.456f, 0.406f},
        .std = {0.229f, 0.224f, 0.225f},
    };

    CHECK(pixels.rank == 4 && pixels.shape[0] <= c->options.batch_size && cells <= side * side &&
              (cells == side * side || classifier_is_dense(&c->options)),
          "%lld images of %lld px, planned %d of %d px", (long long)pixels.shape[0],
          (long long)pixels.shape[2], c->options.batch_size, c->options.image_size_px);
    return c->ops->patchify(c->device, &args);
}

static enum status mix(struct classifier *c)
{
    int64_t p = c->options.backbone.patch_size_px, side = c->options.image_size_px / p;
    int64_t b = c->options.batch_size;
    struct patch_mix_args args = {
        .patches = shaped(c->patches[0], b * side * side, 3 * p * p),
        .erase = tensor_1d(c->tables.erase, DTYPE_I32, 4 * b),
        .mix = c->tables.mix,
        .grid = (int32_t)side,
        .patch_size = (int32_t)p,
    };

    return c->ops->patch_mix(c->device, &args);
}

/* ------------------------------------------------------------------------------ loss */

static struct cross_entropy_args loss_of(struct classifier *c, int64_t n)
{
    return (struct cross_entropy_args){
        .logits = matrix(c->logits, n, c->options.n_classes),
        .label = tensor_1d(c->tables.label, DTYPE_I32, n),
        .loss = vector(c->loss, n),
        .rank = tensor_1d(c->rank, DTYPE_I32, n),
    };
}

static enum status train_loss(struct classifier *c)
{
    int64_t b = c->options.batch_size,
            n = b * c->options.accumulation_steps * classifier_n_ranks(c);
    struct cross_entropy_args args = loss_of(c, b);

    args.other = tensor_1d(c->tables.other, DTYPE_I32, b);
    args.share = vector(c->tables.share, b);
    args.d_logits = args.logits;
    args.scale = 1.0f / (float)n;
    args.smoothing = c->options.smoothing;
    return c->ops->cross_entropy(c->device, &args);
}

/* Losses and ranks of n images to their places on the host. */
static enum status copy_scores(struct classifier *c, int64_t n, float *loss, int32_t *rank)
{
    TRY(c->device->copy_out(c->device, loss, c->loss, (size_t)n * sizeof(float)));
    return c->device->copy_out(c->device, rank, c->rank, (size_t)n * sizeof(int32_t));
}

/* ------------------------------------------------------------------------------ step */

static struct classifier_numbers *current(struct classifier *c)
{
    return &c->numbers[c->n_updates % 2];
}

enum status classifier_zero_gradients(struct classifier *c)
{
    current(c)->n_micro = 0;
    return c->device->zero(c->device, c->gradients,
                           (size_t)(c->table.n_elements - classifier_untrained(c)) * sizeof(float));
}

enum status classifier_accumulate(struct classifier *c, const struct classifier_input *input,
                                  const struct step_control *control)
{
    struct classifier_numbers *numbers = current(c);
    int64_t b = c->options.batch_size, n = classifier_n_scores(c), at = numbers->n_micro * n;

    CHECK(numbers->n_micro < c->options.accumulation_steps && input->pixels.shape[0] == b);
    if (classifier_is_dense(&c->options))
        TRY(dense_reshape_for(c, input->pixels));
    TRY(stage(c, input, control));
    TRY(classifier_patchify(c, input->pixels));
    if (input->mix != NULL || input->erase != NULL)
        TRY(mix(c));
    TRY(classifier_forward(c, true));
    if (c->options.taps.decoder != NULL) {
        numbers->n_micro++;
        return dense_decode(c);
    }
    TRY(classifier_is_dense(&c->options) ? dense_loss(c) : train_loss(c));
    TRY(classifier_backward(c));
    TRY(copy_scores(c, n, numbers->loss + at, numbers->rank + at));
    if (c->options.taps.upernet)
        TRY(c->device->copy_out(c->device, numbers->auxiliary + at, c->taps.auxiliary_loss,
                                (size_t)n * sizeof(float)));
    numbers->n_micro++;
    return STATUS_OK;
}

enum status classifier_update(struct classifier *c)
{
    int64_t before = classifier_untrained(c), n = c->table.n_elements - before;
    int64_t n_params = (int64_t)(c->table.n_params - c->first_trained);
    struct gradient_norms_args norms = {
        .gradient = vector(c->gradients, n),
        .norms = tensor_1d(c->norms, DTYPE_F64, n_params),
        .segments = c->segments,
        .n_segments = (int32_t)n_params,
    };
    struct optimizer_step_args step = {
        .parameter = vector(c->parameters + before, n),
        .gradient = norms.gradient,
        .moment1 = vector(c->moment1, n),
        .moment2 = vector(c->moment2, n),
        .teacher = vector(c->average != NULL ? c->average : c->parameters + before, n),
        .norms = norms.norms,
        .segments = c->segments,
        .control = c->tables.control,
        .n_segments = (int32_t)n_params,
        .kind = OPTIMIZER_ADAMW,
        .global_norm = true,
    };

    CHECK(current(c)->n_micro == c->options.accumulation_steps, "an update without its batches");
    if (c->dtype != DTYPE_F32) {
        step.parameter_half = shaped_from(c->operands, before, 1, n);
        step.parameter_half = tensor_1d(step.parameter_half.data, c->dtype, n);
    }
    if (classifier_n_ranks(c) > 1)
        TRY(c->options.ranks->all_reduce(c->options.ranks, c->device, &norms.gradient));
    TRY(c->ops->gradient_norms(c->device, &norms));
    TRY(c->ops->optimizer_step(c->device, &step));
    TRY(c->device->copy_out(c->device, current(c)->norms, c->norms,
                            (size_t)n_params * sizeof(double)));
    TRY(c->device->mark(c->device, CLASSIFIER_MARK_RESULT + (int)(c->n_updates % 2)));
    c->n_updates++;
    return STATUS_OK;
}

enum status classifier_result(struct classifier *c, int back, struct classifier_result *out)
{
    int64_t update = c->n_updates - 1 - back;
    const struct classifier_numbers *numbers = &c->numbers[update % 2];
    double squares = 0.0, loss = 0.0;

    CHECK(update >= 0 && back >= 0 && back <= 1, "no such update");
    TRY(c->device->wait_mark(c->device, CLASSIFIER_MARK_RESULT + (int)(update % 2)));
    bool dense = classifier_is_dense(&c->options);
    int64_t n = classifier_n_scores(c) * numbers->n_micro;
    *out = (struct classifier_result){.n = dense ? n * c->options.image_size_px : n};
    for (int64_t i = 0; i < n; i++) {
        loss += (double)numbers->loss[i];
        if (c->options.taps.upernet)
            loss += (double)DENSE_AUXILIARY_SHARE * (double)numbers->auxiliary[i];
        out->top1 += dense ? numbers->rank[i] : numbers->rank[i] == 0;
    }
    for (size_t i = 0; i < c->table.n_params - c->first_trained; i++)
        squares += numbers->norms[i] * numbers->norms[i];
    out->loss = out->n > 0 ? loss / (double)out->n : 0.0; /* a decoder has its own */
    out->gradient_norm = sqrt(squares);
    if (!isfinite(out->loss))
        FAIL(STATUS_NOT_FINITE, "the loss is not finite: %g", out->loss);
    if (!isfinite(out->gradient_norm))
        FAIL(STATUS_NOT_FINITE, "the gradient is not finite");
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ evaluation */

enum status classifier_evaluate(struct classifier *c, struct tensor pixels, const int32_t *labels,
                                struct classifier_score *score, float *logits)
{
    struct device *d = c->device;
    struct classifier_numbers *place = &c->numbers[c->n_updates % 2];
    int64_t n = pixels.shape[0];

    CHECK(!classifier_is_dense(&c->options), "a dense classifier has no label of an image");
    TRY(classifier_patchify(c, pixels));
    TRY(classifier_forward(c, false));
    TRY(d->copy_in(d, c->tables.label, labels, (size_t)n * sizeof(int32_t)));
    struct cross_entropy_args loss = loss_of(c, n);
    TRY(c->ops->cross_entropy(d, &loss));
    TRY(copy_scores(c, n, place->loss, place->rank));
    if (logits != NULL)
        TRY(d->copy_out(d, logits, c->logits, (size_t)(n * c->options.n_classes) * sizeof(float)));
    TRY(d->synchronize(d));
    for (int64_t i = 0; i < n; i++) {
        score->n++;
        score->top1 += place->rank[i] < 1;
        score->top5 += place->rank[i] < 5;
        score->loss += (double)place->loss[i];
    }
    return STATUS_OK;
}

enum status classifier_exchange_average(struct classifier *c)
{
    size_t bytes = (size_t)c->table.n_elements * sizeof(float);

    CHECK(c->average != NULL, "no average is kept");
    /* gradients are free between steps */
    TRY(c->device->copy(c->device, c->gradients, c->parameters, bytes));
    TRY(c->device->copy(c->device, c->parameters, c->average, bytes));
    TRY(c->device->copy(c->device, c->average, c->gradients, bytes));
    return classifier_state_written(c, false);
}
