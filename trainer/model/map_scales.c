#include "trainer/model/map_scales.h"

#include "trainer/model/buffer.h"

const char *const map_scales_doubles[MAP_SCALES_DOUBLES] = {"decoder.fpn1.0", "decoder.fpn1.3",
                                                            "decoder.fpn2.0"};
const char *const map_scales_norm = "decoder.fpn1.1";

int32_t map_scales_side(int32_t level, int32_t patches)
{
    static const int32_t times[] = {4, 2, 1};

    return level == 3 ? patches / 2 : patches * times[level];
}

int64_t map_scales_cells(int32_t level, int32_t rows, int32_t columns)
{
    return (int64_t)map_scales_side(level, rows) * map_scales_side(level, columns);
}

/* Those of all images now. */
static int64_t rows_now(const struct map_scales *s, int32_t level)
{
    return s->images * map_scales_cells(level, s->rows, s->columns);
}

/* ------------------------------------------------------------------------------ set-up */

enum status map_scales_plan(struct map_scales *s, const struct conv_unit_site *site,
                            struct map_tables *tables, const struct map_scales_layout *l,
                            struct workspace *w)
{
    int64_t d = l->width, cells = l->n_images * l->rows * l->columns;
    int64_t small = cells / 4; /* of any shape with as many patches */

    *s = (struct map_scales){.site = site, .tables = tables, .layout = *l};
    s->unit = (struct conv_unit){.site = site, .in = d, .out = d, .activation = ACTIVATION_GELU};
    TRY(conv_unit_plan(&s->unit, 4 * cells, l->dtype, l->trains, w));
    TRY(plan_buffer(w, &s->wide, l->dtype, 4 * cells * 4 * d));
    TRY(plan_buffer(w, &s->maps[0], l->dtype, 16 * cells * d));
    TRY(plan_buffer(w, &s->maps[1], l->dtype, 4 * cells * d));
    TRY(plan_buffer(w, &s->maps[3], l->dtype, small * d));
    return workspace_reserve(w, &s->choice, (size_t)(small * d));
}

/* [2, 2, Out, In] as [4*Out, In]. */
static void flatten(struct tensor *t)
{
    if (t->data != NULL)
        *t = tensor_2d(t->data, t->dtype, 4 * t->shape[2], t->shape[3]);
}

void map_scales_bind(struct map_scales *s, const struct binder *binder)
{
    for (int i = 0; i < MAP_SCALES_DOUBLES; i++) {
        s->doubles[i] = binder_layer(binder, map_scales_doubles[i]);
        flatten(&s->doubles[i].weight);
        flatten(&s->doubles[i].d_weight);
    }
    conv_unit_bind(&s->unit, binder, NULL, map_scales_norm);
}

enum status map_scales_reshape(struct map_scales *s, int64_t n, int32_t rows, int32_t columns,
                               bool tables)
{
    s->images = n;
    s->rows = rows;
    s->columns = columns;
    if (!tables)
        return STATUS_OK;
    TRY(map_tables_double(s->tables, &s->doubled[0], rows, columns));
    return map_tables_double(s->tables, &s->doubled[1], 2 * rows, 2 * columns);
}

/* ------------------------------------------------------------------------------ forward */

/* to = A from, for each image. */
static enum status mix(struct map_scales *s, const struct map_matrix *a, struct tensor from,
                       struct tensor to)
{
    struct spmm_args args = {
        .a = map_tables_sparse(s->tables, a),
        .x = from,
        .y = to,
        .n_maps = s->images,
    };

    return s->site->ops->spmm(s->site->device, &args);
}

/* x, a map of `level`, -> to, one of twice the size. */
static enum status double_map(struct map_scales *s, int which, int32_t level, struct tensor x,
                              struct tensor to)
{
    int64_t n = rows_now(s, level), d = s->layout.width;
    struct linear_args linear = {
        .x = shaped(x, n, d),
        .weight = s->doubles[which].weight,
        .y = shaped(s->wide, n, 4 * d),
    };

    TRY(s->site->ops->linear_forward(s->site->device, &linear));
    return mix(s, &s->doubled[2 - level].forward, shaped(s->wide, 4 * n, d), shaped(to, 4 * n, d));
}

struct tensor map_scales_tap(const struct map_scales *s, struct tensor taps, int32_t i)
{
    int64_t n = rows_now(s, 2), d = s->layout.width;

    return shaped_from(taps, i * n * d, n, d);
}

struct tensor map_scales_map(const struct map_scales *s, struct tensor taps, int32_t level)
{
    if (level == 2)
        return map_scales_tap(s, taps, 2);
    return shaped(s->maps[level], rows_now(s, level), s->layout.width);
}

enum status map_scales_forward(struct map_scales *s, struct tensor taps, bool train)
{
    struct max_pool_args pool = {
        .x = map_scales_tap(s, taps, 3),
        .y = map_scales_map(s, taps, 3),
        .choice = tensor_1d(s->choice, DTYPE_U8, rows_now(s, 3) * s->layout.width),
        .height = s->rows,
        .width = s->columns,
    };

    TRY(double_map(s, 0, 2, map_scales_tap(s, taps, 0), s->unit.raw));
    TRY(conv_unit_norm(&s->unit, rows_now(s, 1), train));
    TRY(double_map(s, 1, 1, s->unit.y, s->maps[0]));
    TRY(double_map(s, 2, 2, map_scales_tap(s, taps, 1), s->maps[1]));
    return s->site->ops->max_pool(s->site->device, &pool);
}

/* ------------------------------------------------------------------------------ backward */

/* d_to, a map of twice the size, -> the weight's gradient, and d_x, or none; it may lie on d_to. */
static enum status double_backward(struct map_scales *s, int which, int32_t level, struct tensor x,
                                   struct tensor d_to, struct tensor d_x)
{
    int64_t n = rows_now(s, level), d = s->layout.width;
    struct linear_backward_args linear = {
        .d_y = shaped(s->wide, n, 4 * d),
        .x = shaped(x, n, d),
        .weight = s->doubles[which].weight,
        .d_weight = s->doubles[which].d_weight,
    };

    if (d_x.data != NULL)
        linear.d_x = shaped(d_x, n, d);
    TRY(mix(s, &s->doubled[2 - level].backward, shaped(d_to, 4 * n, d), shaped(s->wide, 4 * n, d)));
    return s->site->ops->linear_backward(s->site->device, &linear);
}

static enum status pool_backward(struct map_scales *s, struct tensor d_map, struct tensor d_tap)
{
    struct max_pool_backward_args pool = {
        .d_y = d_map,
        .choice = tensor_1d(s->choice, DTYPE_U8, rows_now(s, 3) * s->layout.width),
        .d_x = d_tap,
        .height = s->rows,
        .width = s->columns,
    };

    if (d_tap.data == NULL)
        return STATUS_OK;
    TRY(s->site->device->zero(s->site->device, d_tap.data, tensor_size_bytes(&d_tap)));
    return s->site->ops->max_pool_backward(s->site->device, &pool);
}

enum status map_scales_backward(struct map_scales *s, int32_t level, struct tensor taps,
                                struct tensor d_map, struct tensor d_tap)
{
    CHECK(level != 2);
    if (level == 3)
        return pool_backward(s, d_map, d_tap);
    if (level == 1)
        return double_backward(s, 2, 2, map_scales_tap(s, taps, 1), d_map, d_tap);
    struct tensor d_doubled = shaped(d_map, rows_now(s, 1), s->layout.width);
    TRY(double_backward(s, 1, 1, s->unit.y, d_map, d_doubled));
    TRY(conv_unit_norm_backward(&s->unit, d_doubled));
    return double_backward(s, 0, 2, map_scales_tap(s, taps, 0), d_doubled, d_tap);
}
