#include "trainer/model/upernet.h"

#include <stdio.h>

#include "proto/base/memory.h"
#include "trainer/model/buffer.h"

enum { MOST_WINDOWS = 1 << 25, MAX_NAME = 96 };

/* Running moments stand for those of so many rows, a power of two. */
static const int64_t stored_rows = (int64_t)1 << 40;
static const float norm_eps = 1e-5f, norm_momentum = 0.1f;

const struct upernet_shape upernet_shapes[UPERNET_LAYERS] = {
    {"decoder.fpn1.1", 1, 1, 1, false, true},
    {"decoder.psp_modules.0.1", 1, 1, 4, false, false},
    {"decoder.psp_modules.1.1", 1, 1, 5, false, false},
    {"decoder.psp_modules.2.1", 1, 1, 6, false, false},
    {"decoder.psp_modules.3.1", 1, 1, 7, false, false},
    {"decoder.bottleneck", 1 + UPERNET_POOLS, 1, 3, true, false},
    {"decoder.lateral_convs.0", 1, 1, 0, false, false},
    {"decoder.lateral_convs.1", 1, 1, 1, false, false},
    {"decoder.lateral_convs.2", 1, 1, 2, false, false},
    {"decoder.fpn_convs.0", 1, 1, 0, true, false},
    {"decoder.fpn_convs.1", 1, 1, 1, true, false},
    {"decoder.fpn_convs.2", 1, 1, 2, true, false},
    {"decoder.fpn_bottleneck", UPERNET_TAPS, 1, 0, true, false},
    {"auxiliary.convs.0", 1, 0, 2, true, false},
};
const char *const upernet_doubles[UPERNET_DOUBLES] = {"decoder.fpn1.0", "decoder.fpn1.3",
                                                      "decoder.fpn2.0"};
const int32_t upernet_sides[UPERNET_POOLS] = {1, 2, 3, 6};

/* ------------------------------------------------------------------------------ sizes */

static int32_t height_of(int32_t level, int32_t patches)
{
    static const int32_t times[] = {4, 2, 1};

    if (level > 3)
        return upernet_sides[level - 4];
    return level == 3 ? patches / 2 : patches * times[level];
}

/* Cells of a map of a level. */
static int64_t cells_of(int32_t level, int32_t rows, int32_t columns)
{
    return (int64_t)height_of(level, rows) * height_of(level, columns);
}

/* Those of all images now. */
static int64_t rows_now(const struct upernet *u, int32_t level)
{
    return u->images * cells_of(level, u->rows, u->columns);
}

/* ------------------------------------------------------------------------------ planning */

static enum status plan_unit(struct upernet *u, enum upernet_layer i, struct workspace *w)
{
    const struct upernet_layout *l = &u->layout;
    const struct upernet_shape *shape = &upernet_shapes[i];
    struct upernet_unit *unit = &u->units[i];
    int64_t rows = l->n_images * cells_of(shape->level, l->rows, l->columns);

    unit->in = shape->in * l->width;
    unit->out = shape->out > 0 ? shape->out * l->width : UPERNET_AUXILIARY;
    unit->activation = shape->norm_alone ? ACTIVATION_GELU : ACTIVATION_RELU;
    unit->conv = (struct conv3x3){
        .device = u->device,
        .ops = u->ops,
        .tables = &u->tables,
        .scratch = &u->scratch,
        .in = unit->in,
        .out = unit->out,
    };
    if (shape->window) {
        int64_t wanted = conv3x3_scratch_values(
            unit->in, cells_of(shape->level, l->rows, l->columns), l->n_images,
            l->most_windows > 0 ? l->most_windows : MOST_WINDOWS);
        u->scratch.n = wanted > u->scratch.n ? wanted : u->scratch.n;
    }
    TRY(plan_buffer(w, &unit->raw, l->dtype, rows * unit->out));
    TRY(plan_buffer(w, &unit->y, l->dtype, rows * unit->out));
    if (l->trains)
        TRY(plan_buffer(w, &unit->pre, l->dtype, rows * unit->out));
    TRY(plan_floats(w, &unit->mean, unit->out));
    TRY(plan_floats(w, &unit->rstd, unit->out));
    return workspace_reserve(w, &unit->stored, 2 * (size_t)unit->out * sizeof(double));
}

static enum status plan_forward(struct upernet *u, struct workspace *w)
{
    const struct upernet_layout *l = &u->layout;
    int64_t n = l->n_images, d = l->width, cells = n * cells_of(2, l->rows, l->columns);
    int64_t small = n * cells_of(3, l->rows, l->columns);

    TRY(plan_buffer(w, &u->wide, l->dtype, 4 * cells * 4 * d));
    TRY(plan_buffer(w, &u->p[0], l->dtype, 16 * cells * d));
    TRY(plan_buffer(w, &u->p[1], l->dtype, 4 * cells * d));
    TRY(plan_buffer(w, &u->p[3], l->dtype, small * d));
    TRY(workspace_reserve(w, &u->choice, (size_t)(small * d)));
    for (int i = 0; i < UPERNET_POOLS; i++)
        TRY(plan_buffer(w, &u->means[i], l->dtype, n * cells_of(4 + i, 0, 0) * d));
    TRY(plan_buffer(w, &u->pyramid, l->dtype, small * (1 + UPERNET_POOLS) * d));
    TRY(plan_buffer(w, &u->levels, l->dtype, 16 * cells * UPERNET_TAPS * d));
    TRY(plan_floats(w, &u->auxiliary_logits, cells * l->n_classes));
    TRY(plan_buffer(w, &u->scratch.windows, l->dtype, u->scratch.n));
    int64_t widest = d > UPERNET_AUXILIARY ? d : UPERNET_AUXILIARY;
    return workspace_reserve(w, &u->moments, 2 * (size_t)widest * sizeof(double));
}

static enum status plan_backward(struct upernet *u, struct workspace *w)
{
    const struct upernet_layout *l = &u->layout;
    int64_t n = l->n_images, d = l->width, largest = n * cells_of(0, l->rows, l->columns);
    int64_t auxiliary = n * cells_of(2, l->rows, l->columns) * UPERNET_AUXILIARY;

    TRY(plan_buffer(w, &u->d_level, l->dtype, largest * d > auxiliary ? largest * d : auxiliary));
    for (int32_t i = 0; i < 4; i++)
        TRY(plan_buffer(w, &u->d_lateral[i], l->dtype, n * cells_of(i, l->rows, l->columns) * d));
    for (int i = 0; i < 2; i++)
        TRY(plan_buffer(w, &u->d_means[i], l->dtype, n * cells_of(7, 0, 0) * d));
    TRY(plan_buffer(w, &u->d_pyramid, l->dtype,
                    n * cells_of(3, l->rows, l->columns) * (1 + UPERNET_POOLS) * d));
    TRY(plan_buffer(w, &u->d_levels, l->dtype, largest * UPERNET_TAPS * d));
    return plan_buffer(w, &u->scratch.d_windows, l->dtype, u->scratch.n);
}

enum status upernet_plan(struct upernet *u, struct device *device, const struct op_table *ops,
                         struct collective *ranks, const struct upernet_layout *layout,
                         struct workspace *w)
{
    *u = (struct upernet){.device = device, .ops = ops, .ranks = ranks, .layout = *layout};
    for (int i = 0; i < UPERNET_LAYERS; i++)
        TRY(plan_unit(u, (enum upernet_layer)i, w));
    TRY(plan_forward(u, w));
    return layout->trains ? plan_backward(u, w) : STATUS_OK;
}

/* ------------------------------------------------------------------------------ binding */

static void bind_unit(struct upernet *u, enum upernet_layer i, const struct binder *binder)
{
    const struct upernet_shape *shape = &upernet_shapes[i];
    struct upernet_unit *unit = &u->units[i];
    const char *below = shape->norm_alone ? "" : ".bn";
    char name[MAX_NAME];

    if (!shape->norm_alone) {
        snprintf(name, sizeof(name), "%s.conv", shape->prefix);
        unit->product = binder_layer(binder, name);
        binder_flatten(&unit->product);
        unit->conv.layer = unit->product;
    }
    snprintf(name, sizeof(name), "%s%s", shape->prefix, below);
    unit->norm = binder_affine(binder, name);
    snprintf(name, sizeof(name), "%s%s.running_mean", shape->prefix, below);
    unit->running_mean = binder_parameter(binder, name).data;
    snprintf(name, sizeof(name), "%s%s.running_var", shape->prefix, below);
    unit->running_var = binder_parameter(binder, name).data;
}

/* [2, 2, Out, In] as [4*Out, In]. */
static void flatten_double(struct tensor *t)
{
    if (t->data != NULL)
        *t = tensor_2d(t->data, t->dtype, 4 * t->shape[2], t->shape[3]);
}

enum status upernet_bind(struct upernet *u, const struct binder *binder)
{
    for (int i = 0; i < UPERNET_LAYERS; i++)
        bind_unit(u, (enum upernet_layer)i, binder);
    for (int i = 0; i < UPERNET_DOUBLES; i++) {
        u->doubles[i] = binder_layer(binder, upernet_doubles[i]);
        flatten_double(&u->doubles[i].weight);
        flatten_double(&u->doubles[i].d_weight);
    }
    u->auxiliary = binder_wide_layer(binder, "auxiliary.conv_seg");
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ tables */

static enum status make_resizes(struct upernet *u)
{
    struct map_tables *t = &u->tables;
    int32_t h[4], w[4];

    for (int32_t i = 0; i < 4; i++) {
        h[i] = height_of(i, u->rows);
        w[i] = height_of(i, u->columns);
    }
    TRY(map_tables_double(t, &u->doubled[0], h[2], w[2]));
    TRY(map_tables_double(t, &u->doubled[1], h[1], w[1]));
    for (int32_t i = 0; i < 3; i++)
        TRY(map_tables_resize(t, &u->up[i], h[i + 1], w[i + 1], h[i], w[i]));
    for (int32_t i = 0; i < 2; i++)
        TRY(map_tables_resize(t, &u->far[i], h[2 + i], w[2 + i], h[0], w[0]));
    for (int i = 0; i < UPERNET_POOLS; i++) {
        int32_t side = upernet_sides[i];
        TRY(map_tables_pool(t, &u->pooled[i], h[3], w[3], side));
        TRY(map_tables_resize(t, &u->grown[i], side, side, h[3], w[3]));
    }
    return map_tables_copy(t, &u->copied, (int64_t)h[0] * w[0]);
}

enum status upernet_reshape(struct upernet *u, int64_t n, int32_t rows, int32_t columns)
{
    CHECK(rows >= 2 && columns >= 2 && n <= u->layout.n_images &&
          (int64_t)rows * columns <= (int64_t)u->layout.rows * u->layout.columns);
    u->images = n;
    if (rows == u->rows && columns == u->columns)
        return STATUS_OK;
    u->rows = rows;
    u->columns = columns;
    map_tables_clear(&u->tables);
    TRY(make_resizes(u));
    for (int i = 0; i < UPERNET_LAYERS; i++) {
        const struct upernet_shape *shape = &upernet_shapes[i];
        if (shape->window)
            TRY(conv3x3_reshape(&u->units[i].conv, height_of(shape->level, rows),
                                height_of(shape->level, columns)));
    }
    return map_tables_upload(&u->tables, u->device);
}

/* A column of blocks of D, of maps side by side. */
struct block {
    struct tensor maps; /* [rows, D], the rows a stride apart */
    int64_t stride;
};

static struct block block_of(const struct upernet *u, struct tensor buffer, int64_t rows,
                             int32_t which, int32_t n)
{
    int64_t d = u->layout.width;

    return (struct block){shaped_from(buffer, which * d, rows, d), n * d};
}

static struct block whole(const struct upernet *u, struct tensor buffer, int64_t rows)
{
    return block_of(u, buffer, rows, 0, 1);
}

/* to = A from, or to += A from, for each image. */
static enum status mix(struct upernet *u, const struct map_matrix *a, struct block from,
                       struct block to, bool add)
{
    struct spmm_args args = {
        .a = map_tables_sparse(&u->tables, a),
        .x = from.maps,
        .y = to.maps,
        .n_maps = u->images,
        .x_stride = from.stride,
        .y_stride = to.stride,
        .add = add,
    };

    return u->ops->spmm(u->device, &args);
}

static enum status copy(struct upernet *u, int32_t level, struct block from, struct block to)
{
    struct spmm_args args = {
        .a = map_tables_part(&u->tables, &u->copied.forward, cells_of(level, u->rows, u->columns)),
        .x = from.maps,
        .y = to.maps,
        .n_maps = u->images,
        .x_stride = from.stride,
        .y_stride = to.stride,
    };

    return u->ops->spmm(u->device, &args);
}

/* ------------------------------------------------------------------------------ batch norm */

static int64_t n_ranks(const struct upernet *u)
{
    return u->ranks != NULL ? u->ranks->world : 1;
}

static enum status sum_over_ranks(struct upernet *u, int64_t out)
{
    struct tensor moments = tensor_1d(u->moments, DTYPE_F64, 2 * out);

    return n_ranks(u) > 1 ? u->ranks->all_reduce(u->ranks, u->device, &moments) : STATUS_OK;
}

/* What stands for the running moments, when they have changed. */
static enum status store_moments(struct upernet *u)
{
    struct device *d = u->device;
    enum status status = STATUS_OK;
    double *moments = NULL;
    float *running = NULL;

    if (u->stored_fits)
        return STATUS_OK;
    for (int i = 0; i < UPERNET_LAYERS; i++) {
        const struct upernet_unit *unit = &u->units[i];
        size_t n = (size_t)unit->out;
        memory_free(running);
        memory_free(moments);
        running = NULL;
        moments = NULL;
        TRY_OUT(memory_alloc(&running, 2 * n, sizeof(*running), "running moments"));
        TRY_OUT(memory_alloc(&moments, 2 * n, sizeof(*moments), "running moments"));
        TRY_OUT(d->copy_out(d, running, unit->running_mean, n * sizeof(*running)));
        TRY_OUT(d->copy_out(d, running + n, unit->running_var, n * sizeof(*running)));
        TRY_OUT(d->synchronize(d));
        for (size_t j = 0; j < n; j++) {
            double mean = (double)running[j];
            moments[j] = (double)stored_rows * mean;
            moments[n + j] = (double)stored_rows * ((double)running[n + j] + mean * mean);
        }
        TRY_OUT(d->copy_in(d, unit->stored, moments, 2 * n * sizeof(*moments)));
        TRY_OUT(d->synchronize(d));
    }
    u->stored_fits = true;
out:
    memory_free(running);
    memory_free(moments);
    return status;
}

/* unit->raw -> unit->y. */
static enum status norm(struct upernet *u, struct upernet_unit *unit, int64_t n, bool train)
{
    struct batchnorm_moments_args measure = {shaped(unit->raw, n, unit->out),
                                             {u->moments, DTYPE_F64, 2, {2, unit->out}}};
    struct batchnorm_apply_args apply = {
        .x = measure.x,
        .moments = measure.moments,
        .gamma = unit->norm.weight,
        .beta = unit->norm.bias,
        .y = shaped(unit->y, n, unit->out),
        .mean = vector(unit->mean, unit->out),
        .rstd = vector(unit->rstd, unit->out),
        .n_rows = n * n_ranks(u),
        .eps = norm_eps,
        .momentum = norm_momentum,
        .activation = unit->activation,
    };

    if (!train) {
        apply.moments.data = unit->stored;
        apply.n_rows = stored_rows;
        return u->ops->batchnorm_apply(u->device, &apply);
    }
    apply.pre = shaped(unit->pre, n, unit->out);
    apply.running_mean = vector(unit->running_mean, unit->out);
    apply.running_var = vector(unit->running_var, unit->out);
    TRY(u->ops->batchnorm_moments(u->device, &measure));
    TRY(sum_over_ranks(u, unit->out));
    return u->ops->batchnorm_apply(u->device, &apply);
}

/* d_y -> the gradient of unit->raw, in its place. */
static enum status norm_backward(struct upernet *u, struct upernet_unit *unit, struct tensor d_y)
{
    int64_t n = d_y.shape[0];
    struct activation_backward_args undo = {d_y, shaped(unit->pre, n, unit->out), d_y,
                                            unit->activation};
    struct batchnorm_backward_moments_args measure = {
        .d_y = d_y,
        .x = shaped(unit->raw, n, unit->out),
        .mean = vector(unit->mean, unit->out),
        .rstd = vector(unit->rstd, unit->out),
        .moments = {u->moments, DTYPE_F64, 2, {2, unit->out}},
        .d_gamma = unit->norm.d_weight,
        .d_beta = unit->norm.d_bias,
    };
    struct batchnorm_backward_apply_args apply = {
        .d_y = d_y,
        .x = measure.x,
        .mean = measure.mean,
        .rstd = measure.rstd,
        .gamma = unit->norm.weight,
        .moments = measure.moments,
        .d_x = d_y,
        .n_rows = n * n_ranks(u),
    };

    TRY(u->ops->activation_backward(u->device, &undo));
    TRY(u->ops->batchnorm_backward_moments(u->device, &measure));
    TRY(sum_over_ranks(u, unit->out));
    return u->ops->batchnorm_backward_apply(u->device, &apply);
}

/* ------------------------------------------------------------------------------ forward */

/* x -> units[i].y, of all images. */
static enum status layer(struct upernet *u, int i, struct tensor x, bool train)
{
    struct upernet_unit *unit = &u->units[i];
    int64_t n = rows_now(u, upernet_shapes[i].level);
    struct linear_args linear = {
        .x = shaped(x, n, unit->in),
        .weight = unit->product.weight,
        .y = shaped(unit->raw, n, unit->out),
    };

    if (upernet_shapes[i].window)
        TRY(conv3x3_forward(&unit->conv, linear.x, linear.y, u->images));
    else
        TRY(u->ops->linear_forward(u->device, &linear));
    return norm(u, unit, n, train);
}

/* x, a map of `level`, -> to, one of twice the size. */
static enum status double_map(struct upernet *u, int which, int32_t level, struct tensor x,
                              struct tensor to)
{
    int64_t n = rows_now(u, level), d = u->layout.width;
    struct linear_args linear = {
        .x = shaped(x, n, d),
        .weight = u->doubles[which].weight,
        .y = shaped(u->wide, n, 4 * d),
    };

    TRY(u->ops->linear_forward(u->device, &linear));
    return mix(u, &u->doubled[2 - level].forward, whole(u, u->wide, 4 * n), whole(u, to, 4 * n),
               false);
}

static struct tensor tap_of(const struct upernet *u, struct tensor taps, int32_t i)
{
    int64_t n = rows_now(u, 2), d = u->layout.width;

    return shaped_from(taps, i * n * d, n, d);
}

/* The maps of the four sizes. */
static enum status make_scales(struct upernet *u, struct tensor taps, bool train)
{
    struct upernet_unit *doubled = &u->units[UPERNET_DOUBLED];
    int64_t small = rows_now(u, 3), d = u->layout.width;
    struct max_pool_args pool = {
        .x = tap_of(u, taps, 3),
        .y = shaped(u->p[3], small, d),
        .choice = tensor_1d(u->choice, DTYPE_U8, small * d),
        .height = u->rows,
        .width = u->columns,
    };

    TRY(double_map(u, 0, 2, tap_of(u, taps, 0), doubled->raw));
    TRY(norm(u, doubled, rows_now(u, 1), train));
    TRY(double_map(u, 1, 1, doubled->y, u->p[0]));
    TRY(double_map(u, 2, 2, tap_of(u, taps, 1), u->p[1]));
    return u->ops->max_pool(u->device, &pool);
}

/* p3 and its means, side by side, and the layer on them: l3. */
static enum status pool_pyramid(struct upernet *u, bool train)
{
    int64_t n = rows_now(u, 3);
    int32_t all = 1 + UPERNET_POOLS;

    TRY(copy(u, 3, whole(u, u->p[3], n), block_of(u, u->pyramid, n, 0, all)));
    for (int i = 0; i < UPERNET_POOLS; i++) {
        int64_t bins = rows_now(u, 4 + i);
        TRY(mix(u, &u->pooled[i].forward, whole(u, u->p[3], n), whole(u, u->means[i], bins),
                false));
        TRY(layer(u, UPERNET_POOLED + i, u->means[i], train));
        TRY(mix(u, &u->grown[i].forward, whole(u, u->units[UPERNET_POOLED + i].y, bins),
                block_of(u, u->pyramid, n, 1 + i, all), false));
    }
    return layer(u, UPERNET_BOTTLENECK, u->pyramid, train);
}

/* l0 .. l3, as maps. */
static struct tensor lateral_of(const struct upernet *u, int32_t level)
{
    return level == 3 ? u->units[UPERNET_BOTTLENECK].y : u->units[UPERNET_LATERAL + level].y;
}

static const struct map_pair *to_largest(const struct upernet *u, int32_t level)
{
    return level == 0 ? &u->copied : level == 1 ? &u->up[0] : &u->far[level - 2];
}

static enum status fuse(struct upernet *u, struct tensor p2, bool train)
{
    const struct tensor maps[] = {u->p[0], u->p[1], p2};
    int64_t n = rows_now(u, 0);

    for (int32_t i = 2; i >= 0; i--) {
        TRY(layer(u, UPERNET_LATERAL + i, maps[i], train));
        TRY(mix(u, &u->up[i].forward, whole(u, lateral_of(u, i + 1), rows_now(u, i + 1)),
                whole(u, lateral_of(u, i), rows_now(u, i)), true));
    }
    for (int32_t i = 0; i < 4; i++) {
        struct tensor map = lateral_of(u, i);
        if (i < 3) {
            TRY(layer(u, UPERNET_PYRAMID + i, map, train));
            map = u->units[UPERNET_PYRAMID + i].y;
        }
        TRY(mix(u, &to_largest(u, i)->forward, whole(u, map, rows_now(u, i)),
                block_of(u, u->levels, n, i, UPERNET_TAPS), false));
    }
    return layer(u, UPERNET_FUSED, u->levels, train);
}

/* x *= factors, of whole channels of each image. */
static enum status drop(struct upernet *u, struct tensor x, float *factors)
{
    struct channel_scale_args args = {x, matrix(factors, u->images, x.shape[1])};

    return u->ops->channel_scale(u->device, &args);
}

static struct tensor auxiliary_of(const struct upernet *u)
{
    return shaped(u->units[UPERNET_AUXILIARY_LAYER].y, rows_now(u, 2), UPERNET_AUXILIARY);
}

static enum status classify_auxiliary(struct upernet *u, struct tensor p2, float *factors)
{
    struct linear_args linear = {
        .x = auxiliary_of(u),
        .weight = u->auxiliary.weight,
        .bias = u->auxiliary.bias,
        .y = matrix(u->auxiliary_logits, rows_now(u, 2), u->layout.n_classes),
    };

    TRY(layer(u, UPERNET_AUXILIARY_LAYER, p2, true));
    TRY(drop(u, linear.x, factors));
    return u->ops->linear_forward(u->device, &linear);
}

struct tensor upernet_fused(const struct upernet *u)
{
    return shaped(u->units[UPERNET_FUSED].y, rows_now(u, 0), u->layout.width);
}

enum status upernet_forward(struct upernet *u, struct tensor taps,
                            const struct upernet_dropout *dropout)
{
    bool train = dropout != NULL;

    CHECK(!train || u->layout.trains);
    if (!train)
        TRY(store_moments(u));
    TRY(make_scales(u, taps, train));
    TRY(pool_pyramid(u, train));
    TRY(fuse(u, tap_of(u, taps, 2), train));
    if (!train)
        return STATUS_OK;
    u->stored_fits = false;
    TRY(drop(u, upernet_fused(u), dropout->fused));
    return classify_auxiliary(u, tap_of(u, taps, 2), dropout->auxiliary);
}

/* ------------------------------------------------------------------------------ backward */

/* d_y, overwritten -> gradients of a layer's parameters, and d_x: written, or added to with `add`;
 * or absent. */
static enum status layer_backward(struct upernet *u, int i, struct tensor d_y, struct tensor x,
                                  struct tensor d_x, bool add)
{
    struct upernet_unit *unit = &u->units[i];
    int64_t n = rows_now(u, upernet_shapes[i].level);
    struct linear_backward_args linear = {
        .d_y = shaped(d_y, n, unit->out),
        .x = shaped(x, n, unit->in),
        .weight = unit->product.weight,
        .d_weight = unit->product.d_weight,
    };

    if (d_x.data != NULL)
        linear.d_x = shaped(d_x, n, unit->in);
    TRY(norm_backward(u, unit, linear.d_y));
    if (!upernet_shapes[i].window)
        return u->ops->linear_backward(u->device, &linear);
    if (d_x.data != NULL && !add)
        TRY(u->device->zero(u->device, linear.d_x.data, tensor_size_bytes(&linear.d_x)));
    return conv3x3_backward(&unit->conv, linear.d_y, linear.x, linear.d_x, u->images);
}

/* d_to, a map of twice the size, -> the weight's gradient, and d_x, or none. */
static enum status double_backward(struct upernet *u, int which, int32_t level, struct tensor x,
                                   struct tensor d_to, struct tensor d_x)
{
    int64_t n = rows_now(u, level), d = u->layout.width;
    struct linear_backward_args linear = {
        .d_y = shaped(u->wide, n, 4 * d),
        .x = shaped(x, n, d),
        .weight = u->doubles[which].weight,
        .d_weight = u->doubles[which].d_weight,
    };

    if (d_x.data != NULL)
        linear.d_x = shaped(d_x, n, d);
    TRY(mix(u, &u->doubled[2 - level].backward, whole(u, d_to, 4 * n), whole(u, u->wide, 4 * n),
            false));
    return u->ops->linear_backward(u->device, &linear);
}

/* d_levels -> d_lateral: of the three layers, and down the pyramid. */
static enum status fuse_backward(struct upernet *u)
{
    int64_t n = rows_now(u, 0);

    for (int32_t i = 0; i < 4; i++) {
        struct tensor d_map = i < 3 ? u->d_level : u->d_lateral[3];
        TRY(mix(u, &to_largest(u, i)->backward, block_of(u, u->d_levels, n, i, UPERNET_TAPS),
                whole(u, d_map, rows_now(u, i)), false));
        if (i < 3)
            TRY(layer_backward(u, UPERNET_PYRAMID + i, d_map, lateral_of(u, i), u->d_lateral[i],
                               false));
    }
    for (int32_t i = 0; i < 3; i++)
        TRY(mix(u, &u->up[i].backward, whole(u, u->d_lateral[i], rows_now(u, i)),
                whole(u, u->d_lateral[i + 1], rows_now(u, i + 1)), true));
    return STATUS_OK;
}

/* d_lateral[0 .. 2] -> the first three taps. */
static enum status scales_backward(struct upernet *u, struct tensor taps,
                                   const struct tensor d_taps[UPERNET_TAPS])
{
    struct upernet_unit *doubled = &u->units[UPERNET_DOUBLED];
    struct tensor d_doubled = shaped(u->d_level, rows_now(u, 1), u->layout.width);

    TRY(layer_backward(u, UPERNET_LATERAL, u->d_lateral[0], u->p[0], u->d_level, false));
    TRY(double_backward(u, 1, 1, doubled->y, u->d_level, d_doubled));
    TRY(norm_backward(u, doubled, d_doubled));
    TRY(double_backward(u, 0, 2, tap_of(u, taps, 0), d_doubled, d_taps[0]));
    TRY(layer_backward(u, UPERNET_LATERAL + 1, u->d_lateral[1], u->p[1], u->d_level, false));
    TRY(double_backward(u, 2, 2, tap_of(u, taps, 1), u->d_level, d_taps[1]));
    return layer_backward(u, UPERNET_LATERAL + 2, u->d_lateral[2], tap_of(u, taps, 2), d_taps[2],
                          false);
}

/* d_lateral[3] -> the last tap. */
static enum status pyramid_backward(struct upernet *u, struct tensor d_tap)
{
    int64_t n = rows_now(u, 3), d = u->layout.width;
    int32_t all = 1 + UPERNET_POOLS;
    struct max_pool_backward_args pool = {
        .d_y = shaped(u->d_level, n, d),
        .choice = tensor_1d(u->choice, DTYPE_U8, n * d),
        .d_x = d_tap,
        .height = u->rows,
        .width = u->columns,
    };

    TRY(layer_backward(u, UPERNET_BOTTLENECK, u->d_lateral[3], u->pyramid, u->d_pyramid, false));
    TRY(copy(u, 3, block_of(u, u->d_pyramid, n, 0, all), whole(u, u->d_level, n)));
    for (int i = 0; i < UPERNET_POOLS; i++) {
        int64_t bins = rows_now(u, 4 + i);
        TRY(mix(u, &u->grown[i].backward, block_of(u, u->d_pyramid, n, 1 + i, all),
                whole(u, u->d_means[0], bins), false));
        TRY(layer_backward(u, UPERNET_POOLED + i, u->d_means[0], u->means[i], u->d_means[1],
                           false));
        TRY(mix(u, &u->pooled[i].backward, whole(u, u->d_means[1], bins), whole(u, u->d_level, n),
                true));
    }
    if (d_tap.data == NULL)
        return STATUS_OK;
    TRY(u->device->zero(u->device, d_tap.data, tensor_size_bytes(&d_tap)));
    return u->ops->max_pool_backward(u->device, &pool);
}

/* Adds to d_p2, which is there, or absent. */
static enum status auxiliary_backward(struct upernet *u, struct tensor d_logits, struct tensor p2,
                                      struct tensor d_p2, float *factors)
{
    int64_t n = rows_now(u, 2);
    struct linear_backward_args linear = {
        .d_y = shaped(d_logits, n, u->layout.n_classes),
        .x = auxiliary_of(u),
        .weight = u->auxiliary.weight,
        .d_x = shaped(u->d_level, n, UPERNET_AUXILIARY),
        .d_weight = u->auxiliary.d_weight,
        .d_bias = u->auxiliary.d_bias,
    };

    TRY(u->ops->linear_backward(u->device, &linear));
    TRY(drop(u, linear.d_x, factors));
    return layer_backward(u, UPERNET_AUXILIARY_LAYER, linear.d_x, p2, d_p2, true);
}

struct tensor upernet_d_fused(const struct upernet *u)
{
    return shaped(u->d_level, rows_now(u, 0), u->layout.width);
}

enum status upernet_backward(struct upernet *u, struct tensor taps, struct tensor d_fused,
                             struct tensor d_auxiliary, struct tensor d_taps,
                             const struct upernet_dropout *dropout)
{
    struct tensor d_tap[UPERNET_TAPS];

    for (int32_t i = 0; i < UPERNET_TAPS; i++)
        d_tap[i] = u->layout.d_taps ? tap_of(u, d_taps, i) : (struct tensor){0};
    TRY(drop(u, d_fused, dropout->fused));
    TRY(layer_backward(u, UPERNET_FUSED, d_fused, u->levels, u->d_levels, false));
    TRY(fuse_backward(u));
    TRY(scales_backward(u, taps, d_tap));
    TRY(pyramid_backward(u, d_tap[3]));
    return auxiliary_backward(u, d_auxiliary, tap_of(u, taps, 2), d_tap[2], dropout->auxiliary);
}

/* ------------------------------------------------------------------------------ end */

void upernet_written(struct upernet *u)
{
    u->stored_fits = false;
}

void upernet_release(struct upernet *u)
{
    for (int i = 0; i < UPERNET_LAYERS; i++)
        conv3x3_release(&u->units[i].conv);
    map_tables_release(&u->tables);
}
