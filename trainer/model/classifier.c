/* Opening a classifier: options checked, table built, memory planned; initial weights; state. */
#include "trainer/model/classifier.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/model/classifier_internal.h"
#include "trainer/model/decoder.h"
#include "trainer/model/state_view.h"

enum { ALIGNMENT = 256, HEAD_WHOLE = 3, MAX_MAP_PIXELS = 1 << 30 };

/* ------------------------------------------------------------------------------ options */

bool classifier_is_dense(const struct classifier_options *o)
{
    return o->taps.n > 0;
}

int32_t classifier_map_scale(const struct classifier_options *o)
{
    return o->taps.upernet ? 4 : 1;
}

bool classifier_norms_mean(const struct classifier_options *o)
{
    return !classifier_is_dense(o) && o->pooling == POOLING_MEAN && o->backbone.n_stages == 0;
}

bool classifier_without_norm(const struct classifier_options *o)
{
    return classifier_is_dense(o) ? !o->taps.normed : classifier_norms_mean(o);
}

int64_t classifier_width(const struct classifier_options *o)
{
    if (classifier_is_dense(o))
        return (o->taps.upernet ? 1 : o->taps.n) * (int64_t)backbone_width(&o->backbone);
    if (o->n_head_layers == 0)
        return backbone_width(&o->backbone);
    return o->n_head_layers == HEAD_WHOLE ? o->head.out_dim : o->head.hidden_dim;
}

static enum status check_upernet(const struct classifier_options *o)
{
    const struct classifier_taps *t = &o->taps;
    int32_t patch = o->backbone.patch_size_px, world = o->ranks != NULL ? o->ranks->world : 1;

    if (!t->upernet)
        return STATUS_OK;
    if (t->n != UPERNET_TAPS)
        FAIL(STATUS_INVALID, "UPerNet: %d taps: wanted %d", t->n, UPERNET_TAPS);
    if (!(t->dropout >= 0.0f && t->dropout < 1.0f))
        FAIL(STATUS_INVALID, "dropout %g: wanted 0 <= rate < 1", (double)t->dropout);
    if (o->image_size_px < 2 * patch)
        FAIL(STATUS_INVALID, "UPerNet: images of %d px: wanted at least two patches, %d px",
             o->image_size_px, 2 * patch);
    /* of one image and one bin there would be no variance */
    if (!t->measures && (int64_t)o->batch_size * world < 2)
        FAIL(STATUS_INVALID, "UPerNet's batch norm wants at least 2 images a batch: got 1");
    return STATUS_OK;
}

static enum status check_dense(const struct classifier_options *o)
{
    const struct classifier_taps *t = &o->taps;
    int32_t patch = o->backbone.patch_size_px;

    CHECK(classifier_is_dense(o) || !o->frozen, "a frozen backbone is for a dense classifier");
    if (!classifier_is_dense(o))
        return STATUS_OK;
    CHECK(t->n <= CLASSIFIER_MAX_TAPS && !(o->frozen && o->average) && o->n_head_layers == 0);
    if (o->backbone.n_stages > 0)
        FAIL(STATUS_UNSUPPORTED,
             "%s: a linear layer on maps of several blocks wants a ViT, whose maps have one size",
             o->backbone.arch);
    for (int32_t i = 0; i < t->n; i++)
        if (t->blocks[i] < 0 || t->blocks[i] >= o->backbone.depth ||
            (i > 0 && t->blocks[i] <= t->blocks[i - 1]))
            FAIL(STATUS_INVALID, "taps: block %d in place %d: wanted rising numbers from 0 to %d",
                 t->blocks[i], i + 1, o->backbone.depth - 1);
    if (t->blocks[t->n - 1] != o->backbone.depth - 1)
        FAIL(STATUS_INVALID, "taps: the last one is block %d: wanted %d, the last block",
             t->blocks[t->n - 1], o->backbone.depth - 1);
    CHECK(t->decoder == NULL || !t->upernet);
    if (t->decoder == NULL && o->n_classes > DENSE_MAX_CLASSES)
        FAIL(STATUS_INVALID, "%d classes: wanted at most %d, which labels of 8 bits can be",
             o->n_classes, DENSE_MAX_CLASSES);
    if (o->image_size_px % patch != 0)
        FAIL(STATUS_INVALID, "images of %d px: wanted a multiple of the patch, %d px",
             o->image_size_px, patch);
    if (!o->frozen && !t->normed && o->precision == PRECISION_BF16)
        FAIL(STATUS_UNSUPPORTED, "taps without a norm are fine-tuned in float32 alone");
    if ((int64_t)o->batch_size * o->image_size_px * o->image_size_px > MAX_MAP_PIXELS)
        FAIL(STATUS_INVALID, "%d images of %d px are more than %d pixels: lower the batch",
             o->batch_size, o->image_size_px, MAX_MAP_PIXELS);
    return check_upernet(o);
}

static enum status check_options(const struct classifier_options *o)
{
    const struct backbone_options *b = &o->backbone;

    TRY(backbone_options_check(b));
    if (o->n_classes < 1 || o->batch_size < 1 || o->accumulation_steps < 1)
        FAIL(STATUS_INVALID,
             "%d classes, %d images a batch, %d batches a step: each must be positive",
             o->n_classes, o->batch_size, o->accumulation_steps);
    if (o->image_size_px < backbone_cell_px(b))
        FAIL(STATUS_INVALID, "images of %d px: a token of %s stands for %d px", o->image_size_px,
             b->arch, backbone_cell_px(b));
    if (o->n_head_layers < 0 || o->n_head_layers > HEAD_WHOLE)
        FAIL(STATUS_INVALID, "%d layers of the head: wanted 0 to %d", o->n_head_layers, HEAD_WHOLE);
    if (o->n_head_layers > 0 && o->head.norm == HEAD_NORM_BN)
        FAIL(STATUS_UNSUPPORTED, "a head with batch norm: wanted one that it has been folded into");
    TRY(check_dense(o));
    if (!(o->layer_decay > 0.0f && o->layer_decay <= 1.0f))
        FAIL(STATUS_INVALID, "layer_decay %g: wanted more than 0 and at most 1",
             (double)o->layer_decay);
    if (!(o->smoothing >= 0.0f && o->smoothing < 1.0f))
        FAIL(STATUS_INVALID, "smoothing %g: wanted 0 <= smoothing < 1", (double)o->smoothing);
    if (!(b->drop_path >= 0.0f && b->drop_path < 1.0f))
        FAIL(STATUS_INVALID, "drop_path: got %g, wanted 0 <= rate < 1", (double)b->drop_path);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ layers */

/* "PREFIXn.…": n, or -1. */
static int32_t number_after(const char *name, const char *prefix)
{
    int32_t number;
    size_t n = strlen(prefix);

    return strncmp(name, prefix, n) == 0 && sscanf(name + n, "%d.", &number) == 1 ? number : -1;
}

int32_t classifier_layer(const struct backbone_options *o, const char *name)
{
    static const char *const inputs[] = {"backbone.cls_token", "backbone.pos_embed",
                                         "backbone.masked_embed", "backbone.patch_embed."};
    char blocks[64];

    for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++)
        if (strncmp(name, inputs[i], strlen(inputs[i])) == 0)
            return 0;
    int32_t block = number_after(name, "backbone.blocks."), before = 0;
    if (block >= 0)
        return block + 1;
    int32_t stage = number_after(name, "backbone.layers.");
    if (stage < 0 || stage >= o->n_stages)
        return o->depth + 1;
    for (int32_t s = 0; s < stage; s++)
        before += o->stage_depth[s];
    snprintf(blocks, sizeof(blocks), "backbone.layers.%d.blocks.", stage);
    block = number_after(name, blocks);
    return before + (block >= 0 ? block + 1 : o->stage_depth[stage]); /* else: merging */
}

double classifier_lr_scale(const struct classifier_options *o, const char *name)
{
    return pow((double)o->layer_decay,
               o->backbone.depth + 1 - classifier_layer(&o->backbone, name));
}

/* ------------------------------------------------------------------------------ planning */

static enum status plan(struct classifier *c, void *pointer, int64_t n, size_t size)
{
    return workspace_reserve(&c->workspace, pointer, (size_t)n * size);
}

/* Of a frozen backbone nothing is trained but what follows it in the table. */
static void find_trained(struct classifier *c)
{
    static const char backbone[] = "backbone.";

    while (c->options.frozen &&
           strncmp(c->table.params[c->first_trained].name, backbone, strlen(backbone)) == 0)
        c->table.params[c->first_trained++].flags |= SEGMENT_FIXED;
}

int64_t classifier_untrained(const struct classifier *c)
{
    return c->table.params[c->first_trained].offset;
}

static enum status plan_parameters(struct classifier *c)
{
    int64_t n = c->table.n_elements, n_params = (int64_t)c->table.n_params;
    int64_t n_trained = n - classifier_untrained(c);

    TRY(plan(c, &c->parameters, n, sizeof(float)));
    if (c->dtype != DTYPE_F32)
        TRY(plan_buffer(&c->workspace, &c->operands, c->dtype, n));
    TRY(plan(c, &c->gradients, n_trained, sizeof(float)));
    TRY(plan(c, &c->moment1, n_trained, sizeof(float)));
    TRY(plan(c, &c->moment2, n_trained, sizeof(float)));
    if (c->options.average)
        TRY(plan(c, &c->average, n, sizeof(float)));
    TRY(plan(c, &c->segments, n_params, sizeof(struct segment)));
    return plan(c, &c->norms, n_params, sizeof(double));
}

static enum status plan_backbone(struct classifier *c)
{
    const struct classifier_options *o = &c->options;
    int64_t p = o->backbone.patch_size_px, side = o->image_size_px / p;
    struct backbone_layout layout = {
        .n_global_images = o->batch_size,
        .global_size_px = o->image_size_px,
        .dtype = c->dtype,
        .stream = DTYPE_F32,
        .gelu = o->gelu_tanh ? ACTIVATION_GELU_TANH : ACTIVATION_GELU,
        .backward = !o->frozen,
        .without_norm = classifier_without_norm(o),
        .reshapes = classifier_is_dense(o),
        .recompute = o->recompute,
    };

    TRY(backbone_plan(&c->backbone, &c->vit, &c->swin, c->device, c->ops, &o->backbone, &layout,
                      &c->workspace));
    TRY(plan(c, &c->pooled_rows, c->backbone.n_tokens, sizeof(int32_t)));
    TRY(plan(c, &c->pooled_sample, c->backbone.n_tokens, sizeof(int32_t)));
    return plan_buffer(&c->workspace, &c->patches[0], c->dtype,
                       o->batch_size * side * side * 3 * p * p);
}

static enum status plan_mean(struct classifier *c)
{
    struct mean_pooling *m = &c->pooling;
    struct workspace *w = &c->workspace;
    int64_t b = c->options.batch_size, d = c->backbone.width, rows = c->backbone.n_tokens;

    if (!classifier_norms_mean(&c->options))
        return STATUS_OK;
    TRY(plan_buffer(w, &m->rows, DTYPE_F32, rows * d));
    TRY(plan_buffer(w, &m->d_rows, DTYPE_F32, rows * d));
    TRY(plan_buffer(w, &m->pooled, DTYPE_F32, b * d));
    TRY(plan_buffer(w, &m->d_pooled, DTYPE_F32, b * d));
    TRY(plan_buffer(w, &m->normed, c->dtype, b * d));
    TRY(plan_buffer(w, &m->d_normed, c->dtype, b * d));
    TRY(plan_floats(w, &m->mean, b));
    TRY(plan_floats(w, &m->rstd, b));
    return plan(c, &m->index, b, sizeof(int32_t));
}

static enum status plan_head(struct classifier *c)
{
    const struct classifier_options *o = &c->options;
    int64_t b = o->batch_size, bottleneck = o->head.bottleneck_dim, out = o->head.out_dim;

    if (o->n_head_layers == 0)
        return STATUS_OK;
    TRY(head_plan(&c->head, c->device, c->ops, NULL, &o->head, c->dtype, c->backbone.width, b, true,
                  &c->workspace));
    if (o->n_head_layers < HEAD_WHOLE)
        return STATUS_OK;
    TRY(head_plan_vectors(&c->z, c->dtype, b * bottleneck, true, &c->workspace));
    TRY(plan_floats(&c->workspace, &c->d_z, b * bottleneck));
    TRY(plan_floats(&c->workspace, &c->projection, b * out));
    if (c->dtype != DTYPE_F32)
        TRY(plan_buffer(&c->workspace, &c->projected, c->dtype, b * out));
    return plan_buffer(&c->workspace, &c->d_projected, c->dtype, b * out);
}

static void place(char *base, size_t *at, void *pointer, int64_t n, size_t size)
{
    *(void **)pointer = base + *at;
    *at += ((size_t)n * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

size_t classifier_tables_layout(const struct classifier *c, char *base, struct classifier_tables *t)
{
    const struct backbone_options *o = &c->options.backbone;
    int64_t b = c->options.batch_size, branches = 0, side = c->options.image_size_px;
    bool upernet = c->options.taps.upernet;
    size_t at = 0;

    for (int32_t i = 0; i < o->depth; i++)
        branches += backbone_drop_rate(o, i) > 0.0f ? 2 : 0;
    place(base, &at, &t->control, 1, sizeof(struct step_control));
    place(base, &at, &t->mix, 1, sizeof(struct patch_mix));
    place(base, &at, &t->label, b, sizeof(int32_t));
    place(base, &at, &t->other, b, sizeof(int32_t));
    bool labels = classifier_is_dense(&c->options) && c->options.taps.decoder == NULL;
    place(base, &at, &t->map, labels ? b * side * side : 0, 1);
    place(base, &at, &t->share, b, sizeof(float));
    place(base, &at, &t->erase, b, sizeof(struct pixel_box));
    place(base, &at, &t->depth, branches * b, sizeof(float));
    place(base, &at, &t->depth_shift, c->skips_dropped ? branches * b : 0, sizeof(int32_t));
    place(base, &at, &t->channels[0], upernet ? b * o->embed_dim : 0, sizeof(float));
    place(base, &at, &t->channels[1], upernet ? b * UPERNET_AUXILIARY : 0, sizeof(float));
    return at;
}

int64_t classifier_n_scores(const struct classifier *c)
{
    if (c->options.taps.decoder != NULL)
        return 0;
    return (int64_t)c->options.batch_size *
           (classifier_is_dense(&c->options) ? c->options.image_size_px : 1);
}

int64_t classifier_n_ranks(const struct classifier *c)
{
    return c->options.ranks != NULL ? c->options.ranks->world : 1;
}

static enum status plan_all(struct classifier *c)
{
    const struct classifier_options *o = &c->options;
    int64_t scores = classifier_n_scores(c);

    TRY(param_table_init_classifier(&c->table, o));
    find_trained(c);
    c->skips_dropped = o->skip_dropped && !o->frozen && o->backbone.n_stages == 0 &&
                       o->backbone.drop_path > 0.0f && o->backbone.depth > 2;
    TRY(plan_parameters(c));
    TRY(plan_backbone(c));
    TRY(plan_mean(c));
    TRY(plan_head(c));
    c->n_rows = o->batch_size;
    if (classifier_is_dense(o))
        TRY(dense_plan(c));
    TRY(plan_floats(&c->workspace, &c->logits, c->n_rows * o->n_classes));
    if (c->dtype != DTYPE_F32)
        TRY(plan_buffer(&c->workspace, &c->d_logits, c->dtype, c->n_rows * o->n_classes));
    TRY(plan_floats(&c->workspace, &c->loss, scores));
    TRY(plan(c, &c->rank, scores, sizeof(int32_t)));
    c->tables_bytes = classifier_tables_layout(c, NULL, &c->tables);
    return workspace_reserve(&c->workspace, &c->tables.control, c->tables_bytes);
}

/* ------------------------------------------------------------------------------ binding */

static enum status open_host(struct classifier *c)
{
    struct device *device = c->device;
    size_t n = (size_t)classifier_n_scores(c) * (size_t)c->options.accumulation_steps + 1;
    char *block;

    classifier_tables_layout(c, (char *)c->tables.control, &c->tables);
    for (int i = 0; i < 2; i++) {
        struct classifier_numbers *numbers = &c->numbers[i];
        TRY(device->alloc_host(device, (void **)&block, c->tables_bytes, "step tables"));
        classifier_tables_layout(c, block, &c->staging[i]);
        TRY(device->alloc_host(device, (void **)&numbers->loss, 2 * n * sizeof(float), "losses"));
        numbers->auxiliary = numbers->loss + n;
        TRY(device->alloc_host(device, (void **)&numbers->rank, n * sizeof(int32_t), "ranks"));
        TRY(device->alloc_host(device, (void **)&numbers->norms, c->table.n_params * sizeof(double),
                               "norms"));
    }
    return STATUS_OK;
}

static enum status bind(struct classifier *c)
{
    if (c->dtype == DTYPE_F32) {
        c->operands = vector(c->parameters, c->table.n_elements);
        c->d_logits = vector(c->logits, 0);
        c->projected = vector(c->projection, 0);
    }
    struct binder binder = {&c->table, c->parameters, c->gradients, c->operands,
                            classifier_untrained(c)};

    TRY(backbone_bind(&c->backbone, &binder, c->patches));
    if (classifier_norms_mean(&c->options))
        c->pooling.norm = binder_affine(&binder, "fc_norm");
    if (c->options.n_head_layers > 0)
        TRY(head_bind(&c->head, &binder));
    if (c->options.taps.decoder == NULL)
        c->linear = binder_wide_layer(&binder, "head");
    return classifier_is_dense(&c->options) ? dense_bind(c, &binder) : STATUS_OK;
}

/* The rows that pooling wants, image by image: the first of each, or all but that. */
static int64_t fill_rows(const struct classifier *c, int32_t *rows, int32_t *sample)
{
    const struct backbone_group *group = &c->backbone.groups[0];
    bool patches = classifier_norms_mean(&c->options);
    int64_t n = 0;

    for (int64_t image = 0; image < group->n_images; image++)
        for (int64_t j = patches; j < (patches ? group->length : 1); j++, n++) {
            rows[n] = (int32_t)(group->first_row + image * group->length + j);
            sample[n] = (int32_t)image;
        }
    return n;
}

static enum status fill_row_tables(struct classifier *c)
{
    struct device *d = c->device;
    size_t tokens = (size_t)c->backbone.n_tokens;
    enum status status = STATUS_OK;
    int32_t *host;

    TRY(memory_alloc(&host, 2 * tokens, sizeof(*host), "row tables"));
    int64_t n = fill_rows(c, host, host + tokens);
    TRY_OUT(d->copy_in(d, c->pooled_rows, host, tokens * sizeof(*host)));
    TRY_OUT(d->copy_in(d, c->pooled_sample, host + tokens, tokens * sizeof(*host)));
    TRY_OUT(d->synchronize(d));
    c->backbone.rows = (struct block_rows){c->pooled_rows, c->pooled_sample, n};
    for (int32_t i = 0; i < c->options.batch_size; i++)
        host[i] = (int32_t)(i * c->backbone.groups[0].length);
    if (c->pooling.index != NULL)
        TRY_OUT(
            d->copy_in(d, c->pooling.index, host, (size_t)c->options.batch_size * sizeof(*host)));
    TRY_OUT(d->synchronize(d));
out:
    memory_free(host);
    return status;
}

static enum status fill_segments(struct classifier *c)
{
    enum status status = STATUS_OK;
    size_t n = c->table.n_params - c->first_trained;
    struct segment *segments;

    TRY(memory_alloc(&segments, n, sizeof(*segments), "segments"));
    for (size_t i = 0; i < n; i++) {
        const struct param *param = &c->table.params[c->first_trained + i];
        segments[i] = (struct segment){
            .offset = param->offset - classifier_untrained(c),
            .n = param->n,
            .teacher_offset = c->options.average ? param->offset : -1,
            .flags = param->flags,
            .lr_scale = (float)classifier_lr_scale(&c->options, param->name),
        };
    }
    TRY_OUT(c->device->copy_in(c->device, c->segments, segments, n * sizeof(*segments)));
    TRY_OUT(c->device->synchronize(c->device));
out:
    memory_free(segments);
    return status;
}

enum status classifier_open(struct classifier **out, struct device *device,
                            const struct op_table *ops, const struct classifier_options *options)
{
    struct classifier *c;
    enum status status;

    *out = NULL;
    TRY(check_options(options));
    TRY(memory_alloc(&c, 1, sizeof(*c), "classifier"));
    c->device = device;
    c->ops = ops;
    c->options = *options;
    c->dtype = options->precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
    c->options.head.n_layers = options->n_head_layers % HEAD_WHOLE;
    if (options->gelu_tanh && options->head.activation == ACTIVATION_GELU)
        c->options.head.activation = ACTIVATION_GELU_TANH;
    TRY_OUT(plan_all(c));
    TRY_OUT(workspace_commit(&c->workspace, device, "classifier"));
    TRY_OUT(bind(c));
    TRY_OUT(open_host(c));
    if (!classifier_is_dense(options))
        TRY_OUT(fill_row_tables(c));
    TRY_OUT(fill_segments(c));
out:
    if (status == STATUS_OK)
        *out = c;
    else
        classifier_close(&c);
    return status;
}

void classifier_close(struct classifier **pointer)
{
    struct classifier *c = pointer != NULL ? *pointer : NULL;

    if (c == NULL)
        return;
    struct device *device = c->device;
    for (int i = 0; i < 2; i++) {
        device->free_host(device, c->staging[i].control);
        device->free_host(device, c->numbers[i].loss);
        device->free_host(device, c->numbers[i].rank);
        device->free_host(device, c->numbers[i].norms);
    }
    backbone_release(&c->backbone);
    upernet_release(&c->upernet);
    param_table_release(&c->table);
    workspace_release(&c->workspace);
    memory_free(c);
    *pointer = NULL;
}

int64_t classifier_n_parameters(const struct classifier *c)
{
    int64_t n = 0;

    for (size_t i = 0; i < c->table.n_params; i++)
        n += c->table.params[i].flags & SEGMENT_FIXED ? 0 : c->table.params[i].n;
    return n;
}

size_t classifier_device_bytes(const struct classifier *c)
{
    return c->workspace.size_bytes;
}

/* ------------------------------------------------------------------------------ weights */

/* Its bias is 0. */
static void scale_linear(const struct classifier *c, float *values)
{
    const struct param *linear = &c->table.params[param_find(&c->table, "head.weight")];

    for (int64_t i = 0; i < linear->n; i++)
        values[linear->offset + i] *= c->options.init_scale;
}

enum status classifier_initialise(struct classifier *c, uint64_t seed)
{
    size_t bytes = (size_t)c->table.n_elements * sizeof(float);
    size_t trained = bytes - (size_t)classifier_untrained(c) * sizeof(float);
    enum status status;
    float *values;

    TRY(memory_alloc(&values, (size_t)c->table.n_elements, sizeof(float), "initial weights"));
    for (size_t i = 0; i < c->table.n_params; i++)
        param_draw(&c->table.params[i], seed, (uint32_t)i, values + c->table.params[i].offset);
    if (c->options.taps.decoder == NULL)
        scale_linear(c, values);
    TRY_OUT(c->device->copy_in(c->device, c->parameters, values, bytes));
    TRY_OUT(c->device->zero(c->device, c->moment1, trained));
    TRY_OUT(c->device->zero(c->device, c->moment2, trained));
    TRY_OUT(classifier_state_written(c, true));
    TRY_OUT(c->device->synchronize(c->device));
out:
    memory_free(values);
    return status;
}

/* Of a parameter that is trained, in an array of these alone. */
static struct tensor trained_tensor(const struct classifier *c, float *array, size_t i)
{
    struct tensor tensor = param_tensor_at(&c->table, c->parameters, c->first_trained + i);

    tensor.data = array + (c->table.params[c->first_trained + i].offset - classifier_untrained(c));
    return tensor;
}

/* Parts of the state behind the model, in their order. */
enum { N_PARTS = 3 };

size_t classifier_n_state(const struct classifier *c)
{
    size_t n_trained = c->table.n_params - c->first_trained;

    return c->table.n_params + (size_t)(c->average != NULL ? N_PARTS : N_PARTS - 1) * n_trained;
}

void classifier_state(const struct classifier *c, size_t i, struct ibot_state_entry *out)
{
    static const char *const prefixes[N_PARTS] = {"moment1.", "moment2.", "average."};
    float *const arrays[N_PARTS] = {c->moment1, c->moment2, c->average};
    size_t n = c->table.n_params, n_trained = n - c->first_trained;
    const char *prefix = "model.";

    CHECK(i < classifier_n_state(c), "state entry %zu", i);
    if (i < n) {
        out->tensor = param_tensor_at(&c->table, c->parameters, i);
    } else {
        size_t part = (i - n) / n_trained;
        i = (i - n) % n_trained;
        prefix = prefixes[part];
        out->tensor = trained_tensor(c, arrays[part], i);
        i += c->first_trained;
    }
    snprintf(out->name, sizeof(out->name), "%s%s", prefix, c->table.params[i].name);
}

enum status classifier_state_written(struct classifier *c, bool fresh)
{
    upernet_written(&c->upernet);
    if (c->options.taps.decoder != NULL)
        c->options.taps.decoder->written(c->options.taps.decoder->context);
    if (fresh && c->average != NULL)
        TRY(c->device->copy(c->device, c->average, c->parameters,
                            (size_t)c->table.n_elements * sizeof(float)));
    if (c->dtype == DTYPE_F32)
        return STATUS_OK;
    struct cast_args args = {vector(c->parameters, c->table.n_elements), c->operands};
    return c->ops->cast(c->device, &args);
}

struct tensor classifier_gradient(const struct classifier *c, size_t i)
{
    CHECK(i < c->table.n_params - c->first_trained, "gradient %zu", i);
    return trained_tensor(c, c->gradients, i);
}

static void view_entry(const void *model, size_t i, struct ibot_state_entry *out)
{
    classifier_state(model, i, out);
}

static enum status view_written(void *model)
{
    return classifier_state_written(model, false);
}

struct state_view classifier_state_view(struct classifier *c)
{
    return (struct state_view){c, classifier_n_state(c), view_entry, view_written};
}

static void view_trained_entry(const void *model, size_t i, struct ibot_state_entry *out)
{
    const struct classifier *c = model;

    classifier_state(c, c->first_trained + i, out);
}

struct state_view classifier_trained_view(struct classifier *c)
{
    return (struct state_view){c, classifier_n_state(c) - c->first_trained, view_trained_entry,
                               view_written};
}
