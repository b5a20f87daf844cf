#include "trainer/detect/detector.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/detect/detector_internal.h"
#include "trainer/model/buffer.h"

enum { MAX_NAME = 96, BOX_CELLS = BOX_HEAD_SIDE * BOX_HEAD_SIDE };
enum { MASK_CELLS = MASK_HEAD_SIDE * MASK_HEAD_SIDE, MASK_PIXELS = MASK_SIDE * MASK_SIDE };

const float detector_std[CASCADE_STAGES][4] = {
    {0.1f, 0.1f, 0.2f, 0.2f},
    {0.05f, 0.05f, 0.1f, 0.1f},
    {0.033f, 0.033f, 0.067f, 0.067f},
};

struct detector_options detector_options_default(void)
{
    return (struct detector_options){
        .n_classes = 80,
        .channels = 256,
        .hidden = 1024,
        .patch_px = 16,
        .train = {2000, 2000, 0.7f},
        .test = {1000, 1000, 0.7f},
        .anchors = 256,
        .regions = 512,
        .least_score = 0.05f,
        .threshold = 0.5f,
        .detections = 100,
    };
}

/* ------------------------------------------------------------------------------ parameters */

/* n_out: of its bias; NULL: it has none. */
static enum status add_layer(struct param_table *t, const char *name, enum param_init init,
                             float bound, int32_t rank, const int64_t *shape, const int64_t *n_out)
{
    char full[MAX_NAME + 8];

    snprintf(full, sizeof(full), "%s.weight", name);
    TRY(param_table_add(t, full, init, bound, rank, shape));
    if (n_out == NULL)
        return STATUS_OK;
    snprintf(full, sizeof(full), "%s.bias", name);
    return param_table_add(t, full, PARAM_ZEROS, 0.0f, 1, n_out);
}

static enum status add_matrix(struct param_table *t, const char *name, float std, int64_t out,
                              int64_t in)
{
    return add_layer(t, name, PARAM_NORMAL, std, 2, (const int64_t[]){out, in}, &out);
}

/* Glorot and Bengio 2010, uniform. */
static float glorot(int64_t in, int64_t out)
{
    return sqrtf(6.0f / (float)(in + out));
}

/* He et al. 2015, by what a cell goes to, for ReLU. */
static float he(int64_t out)
{
    return sqrtf(2.0f / (float)out);
}

static enum status add_pyramid(struct param_table *t, int64_t width, int64_t c)
{
    const int64_t lateral[] = {c, width}, window[] = {c, 3, 3, c};
    char name[MAX_NAME];

    TRY(param_table_add_scales(t, width));
    for (int i = 0; i < MAP_SCALES; i++) {
        snprintf(name, sizeof(name), "decoder.neck.lateral_convs.%d.conv", i);
        TRY(add_layer(t, name, PARAM_UNIFORM, glorot(width, c), 2, lateral, &c));
        snprintf(name, sizeof(name), "decoder.neck.fpn_convs.%d.conv", i);
        TRY(add_layer(t, name, PARAM_UNIFORM, glorot(9 * c, 9 * c), 4, window, &c));
    }
    TRY(add_layer(t, "decoder.rpn_head.rpn_conv", PARAM_NORMAL, 0.01f, 4, window, &c));
    TRY(add_matrix(t, "decoder.rpn_head.rpn_cls", 0.01f, ANCHOR_SHAPES, c));
    return add_matrix(t, "decoder.rpn_head.rpn_reg", 0.01f, 4 * ANCHOR_SHAPES, c);
}

static enum status add_box_head(struct param_table *t, const struct detector_options *o, int stage)
{
    const int64_t c = o->channels, window[] = {c, 3, 3, c};
    const int64_t fc[] = {o->hidden, BOX_HEAD_SIDE, BOX_HEAD_SIDE, c};
    char name[MAX_NAME];

    for (int i = 0; i < BOX_HEAD_CONVS; i++) {
        snprintf(name, sizeof(name), "decoder.bbox_head.%d.shared_convs.%d.conv", stage, i);
        TRY(add_layer(t, name, PARAM_NORMAL, he(9 * c), 4, window, NULL));
        snprintf(name, sizeof(name), "decoder.bbox_head.%d.shared_convs.%d.bn", stage, i);
        TRY(param_table_add_batchnorm(t, name, c));
    }
    snprintf(name, sizeof(name), "decoder.bbox_head.%d.shared_fcs.0", stage);
    TRY(add_layer(t, name, PARAM_UNIFORM, glorot(BOX_CELLS * c, o->hidden), 4, fc, &o->hidden));
    snprintf(name, sizeof(name), "decoder.bbox_head.%d.fc_cls", stage);
    TRY(add_matrix(t, name, 0.01f, o->n_classes + 1, o->hidden));
    snprintf(name, sizeof(name), "decoder.bbox_head.%d.fc_reg", stage);
    return add_matrix(t, name, 0.001f, 4L * o->n_classes, o->hidden);
}

static enum status add_mask_head(struct param_table *t, const struct detector_options *o, int stage)
{
    const int64_t c = o->channels, window[] = {c, 3, 3, c}, square[] = {2, 2, c, c};
    char name[MAX_NAME];

    for (int i = 0; i < MASK_HEAD_CONVS; i++) {
        snprintf(name, sizeof(name), "decoder.mask_head.%d.convs.%d.conv", stage, i);
        TRY(add_layer(t, name, PARAM_NORMAL, he(9 * c), 4, window, &c));
    }
    snprintf(name, sizeof(name), "decoder.mask_head.%d.upsample", stage);
    TRY(add_layer(t, name, PARAM_NORMAL, he(4 * c), 4, square, &c));
    snprintf(name, sizeof(name), "decoder.mask_head.%d.conv_logits", stage);
    return add_matrix(t, name, he(o->n_classes), o->n_classes, c);
}

static enum status add_parameters(void *context, struct param_table *t, int64_t width)
{
    struct detector *d = context;

    TRY(add_pyramid(t, width, d->options.channels));
    for (int i = 0; i < CASCADE_STAGES; i++) {
        TRY(add_box_head(t, &d->options, i));
        TRY(add_mask_head(t, &d->options, i));
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ planning */

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Cells of all levels for any shape of as many patches. */
static int64_t most_cells(const struct decoder_site *at)
{
    int64_t patches = (int64_t)at->rows * at->columns;

    return at->n_images *
           (16 * patches + 4 * patches + patches + patches / 4 + patches / 16 + patches / 4 + 2);
}

static enum status plan_heads(struct detector *d, struct workspace *w)
{
    const struct detector_options *o = &d->options;

    TRY(proposal_head_plan(&d->proposal, &d->heads, most_cells(&d->at), w));
    for (int i = 0; i < CASCADE_STAGES; i++) {
        TRY(box_head_plan(&d->box[i], &d->heads, d->most_regions, o->hidden, o->n_classes,
                          i > 0 ? &d->box[0] : NULL, w));
        TRY(mask_head_plan(&d->mask[i], &d->heads, d->most_masks, o->n_classes,
                           i > 0 ? &d->mask[0] : NULL, w));
    }
    TRY(plan_buffer(w, &d->box_x, d->at.dtype, d->most_regions * BOX_CELLS * o->channels));
    TRY(plan_buffer(w, &d->mask_x, d->at.dtype, d->most_masks * MASK_CELLS * o->channels));
    TRY(plan_floats(w, &d->mask_logits, d->most_masks * MASK_PIXELS));
    TRY(workspace_reserve(w, &d->mask_index,
                          (size_t)(d->most_masks * MASK_PIXELS) * sizeof(int32_t)));
    TRY(plan_buffer(w, &d->scratch.windows, d->at.dtype, d->scratch.n));
    if (d->at.trains)
        TRY(plan_buffer(w, &d->scratch.d_windows, d->at.dtype, d->scratch.n));
    return workspace_reserve(w, &d->site.moments,
                             2 * (size_t)larger(o->channels, d->at.width) * sizeof(double));
}

static enum status plan(void *context, const struct decoder_site *at, struct workspace *w)
{
    struct detector *d = context;
    const struct detector_options *o = &d->options;
    struct feature_pyramid_layout layout = {
        .scales = {at->n_images, at->width, at->rows, at->columns, at->dtype, at->trains},
        .channels = o->channels,
        .d_taps = at->d_taps,
    };

    d->at = *at;
    d->site = (struct conv_unit_site){at->device, at->ops, at->ranks, NULL};
    d->heads = (struct head_site){
        .site = &d->site,
        .tables = &d->tables,
        .scratch = &d->scratch,
        .dtype = at->dtype,
        .channels = o->channels,
        .trains = at->trains,
    };
    d->most_regions = at->n_images * larger(at->trains ? o->regions : 0, o->test.most);
    d->most_masks = at->n_images * larger(at->trains ? (o->regions + 3) / 4 : 0, o->detections);
    TRY(feature_pyramid_plan(&d->pyramid, &d->site, &d->tables, &d->scratch, &layout, w));
    return plan_heads(d, w);
}

/* ------------------------------------------------------------------------------ binding */

static enum status host_floats(struct detector *d, float **out, int64_t n)
{
    return d->at.device->alloc_host(d->at.device, (void **)out, (size_t)n * sizeof(float),
                                    "what heads say");
}

static enum status open_host(struct detector *d)
{
    const struct detector_options *o = &d->options;
    int64_t cells = most_cells(&d->at), regions = d->most_regions;
    int64_t pixels = d->most_masks * MASK_PIXELS, k = o->n_classes;

    TRY(host_floats(d, &d->objectness, cells * ANCHOR_SHAPES));
    TRY(host_floats(d, &d->anchor_shift, cells * ANCHOR_SHAPES * 4));
    TRY(host_floats(d, &d->classes, regions * (k + 1)));
    TRY(host_floats(d, &d->class_sums, regions * (k + 1)));
    TRY(host_floats(d, &d->shift, regions * 4 * k));
    TRY(host_floats(d, &d->host_masks, pixels));
    TRY(d->at.device->alloc_host(d->at.device, (void **)&d->host_index,
                                 (size_t)pixels * sizeof(int32_t), "places of masks"));
    d->candidates_each = larger(larger(o->train.most, o->test.most), o->regions);
    TRY(memory_alloc(&d->candidates, (size_t)(d->at.n_images * d->candidates_each),
                     sizeof(*d->candidates), "candidates"));
    TRY(memory_alloc(&d->frames, (size_t)d->at.n_images, sizeof(*d->frames), "pictures"));
    TRY(memory_alloc(&d->n_candidates, (size_t)d->at.n_images, sizeof(*d->n_candidates),
                     "candidates"));
    if (!d->at.trains)
        return STATUS_OK;
    TRY(host_floats(d, &d->d_objectness, cells * ANCHOR_SHAPES));
    TRY(host_floats(d, &d->d_anchor_shift, cells * ANCHOR_SHAPES * 4));
    TRY(host_floats(d, &d->d_classes, regions * (k + 1)));
    TRY(host_floats(d, &d->d_shift, regions * 4 * k));
    TRY(host_floats(d, &d->d_host_masks, pixels));
    return host_floats(d, &d->targets, pixels);
}

static enum status bind(void *context, const struct binder *binder)
{
    struct detector *d = context;

    feature_pyramid_bind(&d->pyramid, binder);
    proposal_head_bind(&d->proposal, binder);
    for (int i = 0; i < CASCADE_STAGES; i++) {
        box_head_bind(&d->box[i], binder, i, i > 0 ? &d->box[0] : NULL);
        mask_head_bind(&d->mask[i], binder, i, i > 0 ? &d->mask[0] : NULL);
    }
    return open_host(d);
}

static enum status reshape(void *context, int64_t n, int32_t rows, int32_t columns)
{
    struct detector *d = context;
    bool same = rows == d->rows && columns == d->columns;

    d->images = n;
    d->rows = rows;
    d->columns = columns;
    for (int32_t i = 0; i < PYRAMID_LEVELS; i++)
        d->levels[i] = feature_pyramid_shape(i, rows, columns, d->options.patch_px);
    if (!same)
        map_tables_clear(&d->tables);
    TRY(feature_pyramid_reshape(&d->pyramid, n, rows, columns, !same));
    TRY(proposal_head_reshape(&d->proposal, n, d->levels, !same));
    if (same)
        return STATUS_OK;
    TRY(map_tables_repeat(&d->tables, &d->heads.one, 1));
    for (int i = 0; i < CASCADE_STAGES; i++) {
        TRY(box_head_tables(&d->box[i]));
        TRY(mask_head_tables(&d->mask[i]));
    }
    return map_tables_upload(&d->tables, d->at.device);
}

static void written(void *context)
{
    struct detector *d = context;

    d->stored_fits = false;
}

/* ------------------------------------------------------------------------------ life */

static enum status check_options(const struct detector_options *o)
{
    if (o->n_classes < 1 || o->channels < 1 || o->hidden < 1)
        FAIL(STATUS_INVALID,
             "a detector of %d classes, %lld channels, %lld hidden: wanted positive", o->n_classes,
             (long long)o->channels, (long long)o->hidden);
    if (o->patch_px % PYRAMID_FINEST_PX != 0)
        FAIL(STATUS_INVALID, "patches of %d px: wanted a multiple of %d", o->patch_px,
             PYRAMID_FINEST_PX);
    if (o->regions < 4 || o->anchors < 2 || o->detections < 1 || o->train.most < 1 ||
        o->test.most < 1 || o->train.before < 1 || o->test.before < 1)
        FAIL(STATUS_INVALID, "%d regions, %d detections, proposals of %d: wanted more", o->regions,
             o->detections, o->train.most);
    return STATUS_OK;
}

enum status detector_open(struct detector **out, const struct detector_options *options)
{
    TRY(check_options(options));
    TRY(memory_alloc(out, 1, sizeof(**out), "detector"));
    (*out)->options = *options;
    (*out)->decoder = (struct classifier_decoder){*out,    add_parameters, plan,   bind,
                                                  reshape, detector_step,  written};
    return STATUS_OK;
}

const struct classifier_decoder *detector_decoder(const struct detector *d)
{
    return &d->decoder;
}

void detector_pictures(struct detector *d, const struct detector_picture *pictures)
{
    d->pictures = pictures;
}

struct detector_losses detector_last_losses(const struct detector *d)
{
    return d->losses;
}

void detector_close(struct detector **pointer)
{
    struct detector *d = pointer != NULL ? *pointer : NULL;

    if (d == NULL)
        return;
    void *const pinned[] = {d->objectness, d->anchor_shift, d->d_objectness, d->d_anchor_shift,
                            d->classes,    d->class_sums,   d->shift,        d->d_classes,
                            d->d_shift,    d->host_masks,   d->d_host_masks, d->targets,
                            d->host_index};
    for (size_t i = 0; i < sizeof(pinned) / sizeof(pinned[0]); i++)
        if (pinned[i] != NULL)
            d->at.device->free_host(d->at.device, pinned[i]);
    for (int i = 0; i < CASCADE_STAGES; i++) {
        box_head_release(&d->box[i]);
        mask_head_release(&d->mask[i]);
    }
    proposal_head_release(&d->proposal);
    feature_pyramid_release(&d->pyramid);
    map_tables_release(&d->tables);
    map_tables_release(&d->region_tables);
    regions_release(&d->regions);
    regions_release(&d->positives);
    memory_free(d->candidates);
    memory_free(d->frames);
    memory_free(d->n_candidates);
    memory_free(d->found);
    memory_free(d);
    *pointer = NULL;
}
