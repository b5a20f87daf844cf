#include "trainer/model/upernet.h"

#include <stdio.h>

#include "proto/base/memory.h"
#include "trainer/model/buffer.h"

enum { MOST_WINDOWS = 1 << 25, MAX_NAME = 96 };

const struct upernet_shape upernet_shapes[UPERNET_LAYERS] = {
    {"decoder.psp_modules.0.1", 1, 1, 4, false},
    {"decoder.psp_modules.1.1", 1, 1, 5, false},
    {"decoder.psp_modules.2.1", 1, 1, 6, false},
    {"decoder.psp_modules.3.1", 1, 1, 7, false},
    {"decoder.bottleneck", 1 + UPERNET_POOLS, 1, 3, true},
    {"decoder.lateral_convs.0", 1, 1, 0, false},
    {"decoder.lateral_convs.1", 1, 1, 1, false},
    {"decoder.lateral_convs.2", 1, 1, 2, false},
    {"decoder.fpn_convs.0", 1, 1, 0, true},
    {"decoder.fpn_convs.1", 1, 1, 1, true},
    {"decoder.fpn_convs.2", 1, 1, 2, true},
    {"decoder.fpn_bottleneck", UPERNET_TAPS, 1, 0, true},
    {"auxiliary.convs.0", 1, 0, 2, true},
};
const int32_t upernet_sides[UPERNET_POOLS] = {1, 2, 3, 6};

/* ------------------------------------------------------------------------------ sizes */

static int32_t height_of(int32_t level, int32_t patches)
{
    return level > 3 ? upernet_sides[level - 4] : map_scales_side(level, patches);
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
    struct conv_unit *unit = &u->units[i];
    int64_t rows = l->n_images * cells_of(shape->level, l->rows, l->columns);

    unit->site = &u->site;
    unit->in = shape->in * l->width;
    unit->out = shape->out > 0 ? shape->out * l->width : UPERNET_AUXILIARY;
    unit->activation = ACTIVATION_RELU;
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
    return conv_unit_plan(unit, rows, l->dtype, l->trains, w);
}

static enum status plan_forward(struct upernet *u, struct workspace *w)
{
    const struct upernet_layout *l = &u->layout;
    int64_t n = l->n_images, d = l->width, cells = n * cells_of(2, l->rows, l->columns);
    int64_t small = n * cells_of(3, l->rows, l->columns);

    struct map_scales_layout scales = {n, d, l->rows, l->columns, l->dtype, l->trains};

    TRY(map_scales_plan(&u->scales, &u->site, &u->tables, &scales, w));
    for (int i = 0; i < UPERNET_POOLS; i++)
        TRY(plan_buffer(w, &u->means[i], l->dtype, n * cells_of(4 + i, 0, 0) * d));
    TRY(plan_buffer(w, &u->pyramid, l->dtype, small * (1 + UPERNET_POOLS) * d));
    TRY(plan_buffer(w, &u->levels, l->dtype, 16 * cells * UPERNET_TAPS * d));
    TRY(plan_floats(w, &u->auxiliary_logits, cells * l->n_classes));
    TRY(plan_buffer(w, &u->scratch.windows, l->dtype, u->scratch.n));
    int64_t widest = d > UPERNET_AUXILIARY ? d : UPERNET_AUXILIARY;
    return workspace_reserve(w, &u->site.moments, 2 * (size_t)widest * sizeof(double));
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
    *u = (struct upernet){.device = device, .ops = ops, .layout = *layout};
    u->site = (struct conv_unit_site){device, ops, ranks, NULL};
    for (int i = 0; i < UPERNET_LAYERS; i++)
        TRY(plan_unit(u, (enum upernet_layer)i, w));
    TRY(plan_forward(u, w));
    return layout->trains ? plan_backward(u, w) : STATUS_OK;
}

/* ------------------------------------------------------------------------------ binding */

static void bind_unit(struct upernet *u, enum upernet_layer i, const struct binder *binder)
{
    const struct upernet_shape *shape = &upernet_shapes[i];
    char product[MAX_NAME], norm[MAX_NAME];

    snprintf(product, sizeof(product), "%s.conv", shape->prefix);
    snprintf(norm, sizeof(norm), "%s.bn", shape->prefix);
    conv_unit_bind(&u->units[i], binder, product, norm);
}

enum status upernet_bind(struct upernet *u, const struct binder *binder)
{
    for (int i = 0; i < UPERNET_LAYERS; i++)
        bind_unit(u, (enum upernet_layer)i, binder);
    map_scales_bind(&u->scales, binder);
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
    bool same = rows == u->rows && columns == u->columns;

    u->images = n;
    u->rows = rows;
    u->columns = columns;
    if (!same)
        map_tables_clear(&u->tables);
    TRY(map_scales_reshape(&u->scales, n, rows, columns, !same));
    if (same)
        return STATUS_OK;
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

/* ------------------------------------------------------------------------------ forward */

/* What stands for the running moments, when they have changed. */
static enum status store_moments(struct upernet *u)
{
    if (u->stored_fits)
        return STATUS_OK;
    TRY(conv_unit_store(&u->scales.unit));
    for (int i = 0; i < UPERNET_LAYERS; i++)
        TRY(conv_unit_store(&u->units[i]));
    u->stored_fits = true;
    return STATUS_OK;
}

/* x -> units[i].y, of all images. */
static enum status layer(struct upernet *u, int i, struct tensor x, bool train)
{
    struct conv_unit *unit = &u->units[i];
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
    return conv_unit_norm(unit, n, train);
}

/* p3 and its means, side by side, and the layer on them: l3. */
static enum status pool_pyramid(struct upernet *u, bool train)
{
    int64_t n = rows_now(u, 3);
    int32_t all = 1 + UPERNET_POOLS;

    TRY(copy(u, 3, whole(u, u->scales.maps[3], n), block_of(u, u->pyramid, n, 0, all)));
    for (int i = 0; i < UPERNET_POOLS; i++) {
        int64_t bins = rows_now(u, 4 + i);
        TRY(mix(u, &u->pooled[i].forward, whole(u, u->scales.maps[3], n),
                whole(u, u->means[i], bins), false));
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
    const struct tensor maps[] = {u->scales.maps[0], u->scales.maps[1], p2};
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
    TRY(map_scales_forward(&u->scales, taps, train));
    TRY(pool_pyramid(u, train));
    TRY(fuse(u, map_scales_tap(&u->scales, taps, 2), train));
    if (!train)
        return STATUS_OK;
    u->stored_fits = false;
    TRY(drop(u, upernet_fused(u), dropout->fused));
    return classify_auxiliary(u, map_scales_tap(&u->scales, taps, 2), dropout->auxiliary);
}

/* ------------------------------------------------------------------------------ backward */

/* d_y, overwritten -> gradients of a layer's parameters, and d_x: written, or added to with `add`;
 * or absent. */
static enum status layer_backward(struct upernet *u, int i, struct tensor d_y, struct tensor x,
                                  struct tensor d_x, bool add)
{
    struct conv_unit *unit = &u->units[i];
    int64_t n = rows_now(u, upernet_shapes[i].level);
    struct linear_backward_args linear = {
        .d_y = shaped(d_y, n, unit->out),
        .x = shaped(x, n, unit->in),
        .weight = unit->product.weight,
        .d_weight = unit->product.d_weight,
    };

    if (d_x.data != NULL)
        linear.d_x = shaped(d_x, n, unit->in);
    TRY(conv_unit_norm_backward(unit, linear.d_y));
    if (!upernet_shapes[i].window)
        return u->ops->linear_backward(u->device, &linear);
    if (d_x.data != NULL && !add)
        TRY(u->device->zero(u->device, linear.d_x.data, tensor_size_bytes(&linear.d_x)));
    return conv3x3_backward(&unit->conv, linear.d_y, linear.x, linear.d_x, u->images);
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
    int64_t d = u->layout.width;

    TRY(layer_backward(u, UPERNET_LATERAL, u->d_lateral[0], u->scales.maps[0], u->d_level, false));
    TRY(map_scales_backward(&u->scales, 0, taps, shaped(u->d_level, rows_now(u, 0), d), d_taps[0]));
    TRY(layer_backward(u, UPERNET_LATERAL + 1, u->d_lateral[1], u->scales.maps[1], u->d_level,
                       false));
    TRY(map_scales_backward(&u->scales, 1, taps, shaped(u->d_level, rows_now(u, 1), d), d_taps[1]));
    return layer_backward(u, UPERNET_LATERAL + 2, u->d_lateral[2],
                          map_scales_tap(&u->scales, taps, 2), d_taps[2], false);
}

/* d_lateral[3] -> the last tap. */
static enum status pyramid_backward(struct upernet *u, struct tensor taps, struct tensor d_tap)
{
    int64_t n = rows_now(u, 3), d = u->layout.width;
    int32_t all = 1 + UPERNET_POOLS;
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
    return map_scales_backward(&u->scales, 3, taps, shaped(u->d_level, n, d), d_tap);
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
        d_tap[i] = u->layout.d_taps ? map_scales_tap(&u->scales, d_taps, i) : (struct tensor){0};
    TRY(drop(u, d_fused, dropout->fused));
    TRY(layer_backward(u, UPERNET_FUSED, d_fused, u->levels, u->d_levels, false));
    TRY(fuse_backward(u));
    TRY(scales_backward(u, taps, d_tap));
    TRY(pyramid_backward(u, taps, d_tap[3]));
    return auxiliary_backward(u, d_auxiliary, map_scales_tap(&u->scales, taps, 2), d_tap[2],
                              dropout->auxiliary);
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
