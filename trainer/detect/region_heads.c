#include "trainer/detect/region_heads.h"

#include <stdio.h>

#include "trainer/model/buffer.h"

enum { MOST_WINDOWS = 1 << 25, MAX_NAME = 96 };

/* ------------------------------------------------------------------------------ pieces */

static const struct op_table *ops_of(const struct head_site *s)
{
    return s->site->ops;
}

static struct device *device_of(const struct head_site *s)
{
    return s->site->device;
}

static struct conv3x3 convolution(const struct head_site *s, int64_t cells, int64_t n)
{
    int64_t wanted = conv3x3_scratch_values(s->channels, cells, n, MOST_WINDOWS);

    s->scratch->n = wanted > s->scratch->n ? wanted : s->scratch->n;
    return (struct conv3x3){
        .device = device_of(s),
        .ops = ops_of(s),
        .tables = s->tables,
        .scratch = s->scratch,
        .in = s->channels,
        .out = s->channels,
    };
}

static enum status plan_output(struct wide_output *o, const struct head_site *s, int64_t rows,
                               int64_t out, struct workspace *w)
{
    o->out = out;
    TRY(plan_floats(w, &o->logits, rows * out));
    if (s->trains)
        TRY(plan_floats(w, &o->d_logits, rows * out));
    if (s->trains && s->dtype != DTYPE_F32)
        TRY(plan_buffer(w, &o->d_operand, s->dtype, rows * out));
    return STATUS_OK;
}

static void bind_output(struct wide_output *o, const struct head_site *s,
                        const struct binder *binder, const char *name)
{
    o->layer = binder_wide_layer(binder, name);
    binder_flatten(&o->layer);
    if (s->dtype == DTYPE_F32)
        o->d_operand = vector(o->d_logits, 0);
}

static enum status output(struct wide_output *o, const struct head_site *s, struct tensor x)
{
    struct linear_args linear = {
        .x = x,
        .weight = o->layer.weight,
        .bias = o->layer.bias,
        .y = matrix(o->logits, x.shape[0], o->out),
    };

    return ops_of(s)->linear_forward(device_of(s), &linear);
}

static enum status output_backward(struct wide_output *o, const struct head_site *s,
                                   struct tensor x, struct tensor d_x)
{
    struct linear_backward_args linear = {
        .d_y = shaped(o->d_operand, x.shape[0], o->out),
        .x = x,
        .weight = o->layer.weight,
        .d_x = d_x,
        .d_weight = o->layer.d_weight,
        .d_bias = o->layer.d_bias,
    };

    if (s->dtype != DTYPE_F32) {
        int64_t n = x.shape[0] * o->out;
        struct cast_args cast = {vector(o->d_logits, n), tensor_1d(o->d_operand.data, s->dtype, n)};
        TRY(ops_of(s)->cast(device_of(s), &cast));
    }
    return ops_of(s)->linear_backward(device_of(s), &linear);
}

/* to += from, row by row. */
static enum status add_rows(const struct head_site *s, struct tensor from, struct tensor to)
{
    struct spmm_args args = {
        .a = map_tables_sparse(s->tables, &s->one.forward),
        .x = from,
        .y = to,
        .n_maps = from.shape[0],
        .add = true,
    };

    return ops_of(s)->spmm(device_of(s), &args);
}

static enum status relu(const struct head_site *s, struct tensor y)
{
    struct activation_args args = {y, y, ACTIVATION_RELU};

    return ops_of(s)->activation_forward(device_of(s), &args);
}

/* What was positive before is so after. */
static enum status relu_backward(const struct head_site *s, struct tensor d_y, struct tensor y)
{
    struct activation_backward_args args = {d_y, y, d_y, ACTIVATION_RELU};

    return ops_of(s)->activation_backward(device_of(s), &args);
}

static enum status zero(const struct head_site *s, struct tensor t)
{
    return device_of(s)->zero(device_of(s), t.data, tensor_size_bytes(&t));
}

/* ------------------------------------------------------------------------------ proposals */

enum status proposal_head_plan(struct proposal_head *h, const struct head_site *s, int64_t rows,
                               struct workspace *w)
{
    int64_t c = s->channels;

    *h = (struct proposal_head){.site = s};
    for (int i = 0; i < PYRAMID_LEVELS; i++)
        h->conv[i] = convolution(s, rows, 1);
    TRY(plan_output(&h->objectness, s, rows, ANCHOR_SHAPES, w));
    TRY(plan_output(&h->shift, s, rows, 4 * ANCHOR_SHAPES, w));
    TRY(plan_buffer(w, &h->hidden, s->dtype, rows * c));
    if (!s->trains)
        return STATUS_OK;
    TRY(plan_buffer(w, &h->d_hidden, s->dtype, rows * c));
    return plan_buffer(w, &h->d_other, s->dtype, rows * c);
}

void proposal_head_bind(struct proposal_head *h, const struct binder *binder)
{
    struct affine conv = binder_layer(binder, "decoder.rpn_head.rpn_conv");

    binder_flatten(&conv);
    for (int i = 0; i < PYRAMID_LEVELS; i++)
        h->conv[i].layer = conv;
    bind_output(&h->objectness, h->site, binder, "decoder.rpn_head.rpn_cls");
    bind_output(&h->shift, h->site, binder, "decoder.rpn_head.rpn_reg");
}

enum status proposal_head_reshape(struct proposal_head *h, int64_t n,
                                  const struct pyramid_level *levels, bool tables)
{
    for (int i = 0; i < PYRAMID_LEVELS; i++) {
        h->n_rows[i] = n * levels[i].rows * levels[i].columns;
        if (tables)
            TRY(conv3x3_reshape(&h->conv[i], levels[i].rows, levels[i].columns));
    }
    return STATUS_OK;
}

static int64_t all_rows(const struct proposal_head *h)
{
    int64_t n = 0;

    for (int i = 0; i < PYRAMID_LEVELS; i++)
        n += h->n_rows[i];
    return n;
}

enum status proposal_head_forward(struct proposal_head *h, const struct tensor *levels, int64_t n)
{
    int64_t rows = all_rows(h), c = h->site->channels, first = 0;
    struct tensor hidden = shaped(h->hidden, rows, c);

    for (int i = 0; i < PYRAMID_LEVELS; i++, first += h->n_rows[i - 1])
        TRY(conv3x3_forward(&h->conv[i], levels[i], tensor_rows(hidden, first, h->n_rows[i]), n));
    TRY(relu(h->site, hidden));
    TRY(output(&h->objectness, h->site, hidden));
    return output(&h->shift, h->site, hidden);
}

enum status proposal_head_backward(struct proposal_head *h, const struct tensor *levels,
                                   const struct tensor *d_levels, int64_t n)
{
    int64_t rows = all_rows(h), c = h->site->channels, first = 0;
    struct tensor hidden = shaped(h->hidden, rows, c), d_hidden = shaped(h->d_hidden, rows, c);

    TRY(output_backward(&h->objectness, h->site, hidden, d_hidden));
    TRY(output_backward(&h->shift, h->site, hidden, shaped(h->d_other, rows, c)));
    TRY(add_rows(h->site, shaped(h->d_other, rows, c), d_hidden));
    TRY(relu_backward(h->site, d_hidden, hidden));
    for (int i = 0; i < PYRAMID_LEVELS; i++, first += h->n_rows[i - 1])
        TRY(conv3x3_backward(&h->conv[i], tensor_rows(d_hidden, first, h->n_rows[i]), levels[i],
                             d_levels[i], n));
    return STATUS_OK;
}

void proposal_head_release(struct proposal_head *h)
{
    for (int i = 0; i < PYRAMID_LEVELS; i++)
        conv3x3_release(&h->conv[i]);
}

/* ------------------------------------------------------------------------------ boxes */

enum status box_head_plan(struct box_head *h, const struct head_site *s, int64_t regions,
                          int64_t hidden, int32_t n_classes, const struct box_head *shared,
                          struct workspace *w)
{
    int64_t cells = BOX_HEAD_SIDE * BOX_HEAD_SIDE, rows = shared == NULL ? regions : 0;

    *h = (struct box_head){.site = s, .n_hidden = hidden};
    for (int i = 0; i < BOX_HEAD_CONVS; i++) {
        h->units[i] = (struct conv_unit){
            .site = s->site,
            .in = s->channels,
            .out = s->channels,
            .activation = ACTIVATION_RELU,
            .conv = convolution(s, cells, regions),
        };
        TRY(conv_unit_plan(&h->units[i], rows * cells, s->dtype, s->trains, w));
    }
    TRY(plan_output(&h->classes, s, rows, n_classes + 1, w));
    TRY(plan_output(&h->shift, s, rows, 4L * n_classes, w));
    TRY(plan_buffer(w, &h->hidden, s->dtype, rows * hidden));
    if (!s->trains)
        return STATUS_OK;
    TRY(plan_buffer(w, &h->d_hidden, s->dtype, rows * hidden));
    TRY(plan_buffer(w, &h->d_other, s->dtype, rows * hidden));
    return plan_buffer(w, &h->d_x, s->dtype, rows * cells * s->channels);
}

/* Buffers of an earlier stage, which is done with them by then. */
static void share_output(struct wide_output *o, const struct wide_output *shared)
{
    o->logits = shared->logits;
    o->d_logits = shared->d_logits;
    o->d_operand = shared->d_operand;
}

static void share_box_head(struct box_head *h, const struct box_head *shared)
{
    for (int i = 0; i < BOX_HEAD_CONVS; i++) {
        h->units[i].raw = shared->units[i].raw;
        h->units[i].pre = shared->units[i].pre;
        h->units[i].y = shared->units[i].y;
    }
    share_output(&h->classes, &shared->classes);
    share_output(&h->shift, &shared->shift);
    h->hidden = shared->hidden;
    h->d_hidden = shared->d_hidden;
    h->d_other = shared->d_other;
    h->d_x = shared->d_x;
}

void box_head_bind(struct box_head *h, const struct binder *binder, int32_t stage,
                   const struct box_head *shared)
{
    char name[MAX_NAME], norm[MAX_NAME];

    if (shared != NULL)
        share_box_head(h, shared);
    for (int i = 0; i < BOX_HEAD_CONVS; i++) {
        snprintf(name, sizeof(name), "decoder.bbox_head.%d.shared_convs.%d.conv", stage, i);
        snprintf(norm, sizeof(norm), "decoder.bbox_head.%d.shared_convs.%d.bn", stage, i);
        conv_unit_bind(&h->units[i], binder, name, norm);
    }
    snprintf(name, sizeof(name), "decoder.bbox_head.%d.shared_fcs.0", stage);
    h->hidden_layer = binder_layer(binder, name);
    binder_flatten(&h->hidden_layer);
    snprintf(name, sizeof(name), "decoder.bbox_head.%d.fc_cls", stage);
    bind_output(&h->classes, h->site, binder, name);
    snprintf(name, sizeof(name), "decoder.bbox_head.%d.fc_reg", stage);
    bind_output(&h->shift, h->site, binder, name);
}

enum status box_head_tables(struct box_head *h)
{
    for (int i = 0; i < BOX_HEAD_CONVS; i++)
        TRY(conv3x3_reshape(&h->units[i].conv, BOX_HEAD_SIDE, BOX_HEAD_SIDE));
    return STATUS_OK;
}

enum status box_head_forward(struct box_head *h, struct tensor x, int64_t n, bool train)
{
    int64_t rows = n * BOX_HEAD_SIDE * BOX_HEAD_SIDE, c = h->site->channels;

    for (int i = 0; i < BOX_HEAD_CONVS; i++) {
        struct conv_unit *unit = &h->units[i];
        TRY(conv3x3_forward(&unit->conv, x, shaped(unit->raw, rows, c), n));
        TRY(conv_unit_norm(unit, rows, train));
        x = shaped(unit->y, rows, c);
    }
    struct linear_args linear = {
        .x = shaped(x, n, BOX_HEAD_SIDE * BOX_HEAD_SIDE * c),
        .weight = h->hidden_layer.weight,
        .bias = h->hidden_layer.bias,
        .y = shaped(h->hidden, n, h->n_hidden),
    };
    TRY(ops_of(h->site)->linear_forward(device_of(h->site), &linear));
    TRY(relu(h->site, linear.y));
    TRY(output(&h->classes, h->site, linear.y));
    return output(&h->shift, h->site, linear.y);
}

/* The gradient goes from one buffer to the next: nobody reads the y of a unit any more when the one
 * after it is done. */
static enum status units_backward(struct box_head *h, struct tensor x, int64_t n,
                                  struct tensor *d_x)
{
    int64_t rows = n * BOX_HEAD_SIDE * BOX_HEAD_SIDE, c = h->site->channels;

    *d_x = shaped(h->d_x, rows, c);
    for (int i = BOX_HEAD_CONVS - 1; i >= 0; i--) {
        struct conv_unit *unit = &h->units[i];
        struct tensor d_y = *d_x, from = i > 0 ? shaped(h->units[i - 1].y, rows, c) : x;
        TRY(conv_unit_norm_backward(unit, d_y));
        *d_x = shaped(unit->y, rows, c);
        TRY(zero(h->site, *d_x));
        TRY(conv3x3_backward(&unit->conv, d_y, from, *d_x, n));
    }
    return STATUS_OK;
}

enum status box_head_backward(struct box_head *h, struct tensor x, int64_t n, struct tensor *d_x)
{
    int64_t width = BOX_HEAD_SIDE * BOX_HEAD_SIDE * h->site->channels;
    struct tensor hidden = shaped(h->hidden, n, h->n_hidden);
    struct tensor d_hidden = shaped(h->d_hidden, n, h->n_hidden);
    struct linear_backward_args linear = {
        .d_y = d_hidden,
        .x = shaped(h->units[BOX_HEAD_CONVS - 1].y, n, width),
        .weight = h->hidden_layer.weight,
        .d_x = shaped(h->d_x, n, width),
        .d_weight = h->hidden_layer.d_weight,
        .d_bias = h->hidden_layer.d_bias,
    };

    TRY(output_backward(&h->classes, h->site, hidden, d_hidden));
    TRY(output_backward(&h->shift, h->site, hidden, shaped(h->d_other, n, h->n_hidden)));
    TRY(add_rows(h->site, shaped(h->d_other, n, h->n_hidden), d_hidden));
    TRY(relu_backward(h->site, d_hidden, hidden));
    TRY(ops_of(h->site)->linear_backward(device_of(h->site), &linear));
    return units_backward(h, x, n, d_x);
}

enum status box_head_store(struct box_head *h)
{
    for (int i = 0; i < BOX_HEAD_CONVS; i++)
        TRY(conv_unit_store(&h->units[i]));
    return STATUS_OK;
}

void box_head_release(struct box_head *h)
{
    for (int i = 0; i < BOX_HEAD_CONVS; i++)
        conv3x3_release(&h->units[i].conv);
}

/* ------------------------------------------------------------------------------ masks */

enum status mask_head_plan(struct mask_head *h, const struct head_site *s, int64_t regions,
                           int32_t n_classes, const struct mask_head *shared, struct workspace *w)
{
    int64_t cells = MASK_HEAD_SIDE * MASK_HEAD_SIDE, c = s->channels;
    int64_t rows = shared == NULL ? regions * cells : 0;

    *h = (struct mask_head){.site = s};
    for (int i = 0; i < MASK_HEAD_CONVS; i++) {
        h->convs[i] = convolution(s, cells, regions);
        TRY(plan_buffer(w, &h->y[i], s->dtype, rows * c));
    }
    TRY(plan_output(&h->masks, s, 4 * rows, n_classes, w));
    TRY(plan_buffer(w, &h->bias, s->dtype, 4 * c));
    TRY(plan_buffer(w, &h->wide, s->dtype, rows * 4 * c));
    TRY(plan_buffer(w, &h->squares, s->dtype, rows * 4 * c));
    if (!s->trains)
        return STATUS_OK;
    TRY(plan_floats(w, &h->d_bias, 4 * c));
    TRY(plan_buffer(w, &h->d_squares, s->dtype, rows * 4 * c));
    TRY(plan_buffer(w, &h->d_x[0], s->dtype, rows * c));
    return plan_buffer(w, &h->d_x[1], s->dtype, rows * c);
}

static void share_mask_head(struct mask_head *h, const struct mask_head *shared)
{
    for (int i = 0; i < MASK_HEAD_CONVS; i++)
        h->y[i] = shared->y[i];
    share_output(&h->masks, &shared->masks);
    h->wide = shared->wide;
    h->squares = shared->squares;
    h->d_squares = shared->d_squares;
    h->d_x[0] = shared->d_x[0];
    h->d_x[1] = shared->d_x[1];
}

void mask_head_bind(struct mask_head *h, const struct binder *binder, int32_t stage,
                    const struct mask_head *shared)
{
    struct tensor *const weights[] = {&h->doubled.weight, &h->doubled.d_weight};
    char name[MAX_NAME];

    if (shared != NULL)
        share_mask_head(h, shared);
    for (int i = 0; i < MASK_HEAD_CONVS; i++) {
        snprintf(name, sizeof(name), "decoder.mask_head.%d.convs.%d.conv", stage, i);
        h->convs[i].layer = binder_layer(binder, name);
        binder_flatten(&h->convs[i].layer);
    }
    snprintf(name, sizeof(name), "decoder.mask_head.%d.upsample", stage);
    h->doubled = binder_layer(binder, name);
    for (int i = 0; i < 2; i++) /* [2, 2, Out, In] as [4*Out, In] */
        if (weights[i]->data != NULL)
            *weights[i] = tensor_2d(weights[i]->data, weights[i]->dtype, 4 * weights[i]->shape[2],
                                    weights[i]->shape[3]);
    snprintf(name, sizeof(name), "decoder.mask_head.%d.conv_logits", stage);
    bind_output(&h->masks, h->site, binder, name);
}

enum status mask_head_tables(struct mask_head *h)
{
    for (int i = 0; i < MASK_HEAD_CONVS; i++)
        TRY(conv3x3_reshape(&h->convs[i], MASK_HEAD_SIDE, MASK_HEAD_SIDE));
    TRY(map_tables_double(h->site->tables, &h->grown, MASK_HEAD_SIDE, MASK_HEAD_SIDE));
    return map_tables_repeat(h->site->tables, &h->repeated, 4);
}

static enum status mix(const struct head_site *s, const struct map_matrix *a, struct tensor from,
                       struct tensor to, int64_t n, bool add)
{
    struct spmm_args args = {map_tables_sparse(s->tables, a), from, to, n, 0, 0, add};

    return ops_of(s)->spmm(device_of(s), &args);
}

enum status mask_head_forward(struct mask_head *h, struct tensor x, int64_t n)
{
    const struct head_site *s = h->site;
    int64_t rows = n * MASK_HEAD_SIDE * MASK_HEAD_SIDE, c = s->channels;

    for (int i = 0; i < MASK_HEAD_CONVS; i++) {
        struct tensor y = shaped(h->y[i], rows, c);
        TRY(conv3x3_forward(&h->convs[i], x, y, n));
        TRY(relu(s, y));
        x = y;
    }
    struct linear_args linear = {
        .x = x,
        .weight = h->doubled.weight,
        .bias = tensor_1d(h->bias.data, h->bias.dtype, 4 * c),
        .y = shaped(h->wide, rows, 4 * c),
    };
    struct tensor squares = shaped(h->squares, 4 * rows, c);
    TRY(mix(s, &h->repeated.forward, shaped(h->doubled.bias, 1, c), shaped(h->bias, 4, c), 1,
            false));
    TRY(ops_of(s)->linear_forward(device_of(s), &linear));
    TRY(relu(s, linear.y));
    TRY(mix(s, &h->grown.forward, shaped(h->wide, 4 * rows, c), squares, n, false));
    return output(&h->masks, s, squares);
}

/* d_wide [rows, 4C] -> the transposed convolution's gradients, and d_x. */
static enum status doubled_backward(struct mask_head *h, struct tensor d_wide, struct tensor d_x)
{
    const struct head_site *s = h->site;
    int64_t rows = d_wide.shape[0], c = s->channels;
    struct linear_backward_args linear = {
        .d_y = d_wide,
        .x = shaped(h->y[MASK_HEAD_CONVS - 1], rows, c),
        .weight = h->doubled.weight,
        .d_x = d_x,
        .d_weight = h->doubled.d_weight,
        .d_bias = vector(h->d_bias, 4 * c),
    };

    TRY(relu_backward(s, d_wide, shaped(h->wide, rows, 4 * c)));
    TRY(zero(s, linear.d_bias));
    TRY(ops_of(s)->linear_backward(device_of(s), &linear));
    return mix(s, &h->repeated.backward, matrix(h->d_bias, 4, c),
               tensor_2d(h->doubled.d_bias.data, DTYPE_F32, 1, c), 1, true);
}

enum status mask_head_backward(struct mask_head *h, struct tensor x, int64_t n, struct tensor *d_x)
{
    const struct head_site *s = h->site;
    int64_t rows = n * MASK_HEAD_SIDE * MASK_HEAD_SIDE, c = s->channels;
    struct tensor squares = shaped(h->squares, 4 * rows, c);
    struct tensor d_squares = shaped(h->d_squares, 4 * rows, c);
    struct tensor d[2] = {shaped(h->d_x[0], rows, c), shaped(h->d_x[1], rows, c)};

    TRY(output_backward(&h->masks, s, squares, d_squares));
    /* nobody reads the squares any more */
    TRY(mix(s, &h->grown.backward, d_squares, squares, n, false));
    TRY(doubled_backward(h, shaped(squares, rows, 4 * c), d[MASK_HEAD_CONVS % 2]));
    for (int i = MASK_HEAD_CONVS - 1; i >= 0; i--) {
        struct tensor d_y = d[(i + 1) % 2], from = i > 0 ? shaped(h->y[i - 1], rows, c) : x;
        TRY(relu_backward(s, d_y, shaped(h->y[i], rows, c)));
        TRY(zero(s, d[i % 2]));
        TRY(conv3x3_backward(&h->convs[i], d_y, from, d[i % 2], n));
    }
    *d_x = d[0];
    return STATUS_OK;
}

void mask_head_release(struct mask_head *h)
{
    for (int i = 0; i < MASK_HEAD_CONVS; i++)
        conv3x3_release(&h->convs[i]);
}
