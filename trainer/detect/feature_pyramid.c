#include "trainer/detect/feature_pyramid.h"

#include <stdio.h>

#include "trainer/model/buffer.h"

enum { MOST_WINDOWS = 1 << 25, MAX_NAME = 96 };

/* ------------------------------------------------------------------------------ sizes */

static int32_t side_of(int32_t level, int32_t patches)
{
    return level < MAP_SCALES ? map_scales_side(level, patches)
                              : (map_scales_side(MAP_SCALES - 1, patches) + 1) / 2;
}

static int64_t rows_now(const struct feature_pyramid *p, int32_t level)
{
    const struct map_scales *s = &p->scales;

    return s->images * side_of(level, s->rows) * side_of(level, s->columns);
}

struct pyramid_level feature_pyramid_shape(int32_t level, int32_t rows, int32_t columns,
                                           int32_t patch_px)
{
    return (struct pyramid_level){side_of(level, rows), side_of(level, columns),
                                  (patch_px / 4) << level};
}

static struct tensor map_of(const struct feature_pyramid *p, struct tensor buffer, int32_t level)
{
    return shaped(buffer, rows_now(p, level), p->layout.channels);
}

struct tensor feature_pyramid_level(const struct feature_pyramid *p, int32_t level)
{
    return map_of(p, p->levels[level], level);
}

struct tensor feature_pyramid_d_level(const struct feature_pyramid *p, int32_t level)
{
    return map_of(p, p->d_levels[level], level);
}

/* ------------------------------------------------------------------------------ set-up */

/* Room for maps of any shape with as many patches: sides may be rounded up. */
static int64_t most_rows(const struct map_scales_layout *l, int32_t level)
{
    int64_t patches = (int64_t)l->rows * l->columns;
    int64_t sides = patches + 1; /* one row of patches at worst */
    int64_t cells = level < MAP_SCALES - 1    ? patches << (4 - 2 * level)
                    : level == MAP_SCALES - 1 ? patches / 4
                                              : patches / 16 + sides / 4 + 1;

    return l->n_images * cells;
}

enum status feature_pyramid_plan(struct feature_pyramid *p, const struct conv_unit_site *site,
                                 struct map_tables *tables, struct conv3x3_scratch *scratch,
                                 const struct feature_pyramid_layout *layout, struct workspace *w)
{
    const struct map_scales_layout *l = &layout->scales;
    int64_t c = layout->channels;

    *p = (struct feature_pyramid){
        .site = site, .tables = tables, .scratch = scratch, .layout = *layout};
    TRY(map_scales_plan(&p->scales, site, tables, l, w));
    for (int32_t i = 0; i < MAP_SCALES; i++) {
        p->conv[i] = (struct conv3x3){.device = site->device,
                                      .ops = site->ops,
                                      .tables = tables,
                                      .scratch = scratch,
                                      .in = c,
                                      .out = c};
        int64_t wanted =
            conv3x3_scratch_values(c, most_rows(l, i) / l->n_images, l->n_images, MOST_WINDOWS);
        scratch->n = wanted > scratch->n ? wanted : scratch->n;
        TRY(plan_buffer(w, &p->merged[i], l->dtype, most_rows(l, i) * c));
        if (l->trains)
            TRY(plan_buffer(w, &p->d_merged[i], l->dtype, most_rows(l, i) * c));
    }
    for (int32_t i = 0; i < PYRAMID_LEVELS; i++) {
        TRY(plan_buffer(w, &p->levels[i], l->dtype, most_rows(l, i) * c));
        if (l->trains)
            TRY(plan_buffer(w, &p->d_levels[i], l->dtype, most_rows(l, i) * c));
    }
    return l->trains ? plan_buffer(w, &p->d_scale, l->dtype, most_rows(l, 0) * l->width)
                     : STATUS_OK;
}

void feature_pyramid_bind(struct feature_pyramid *p, const struct binder *binder)
{
    char name[MAX_NAME];

    map_scales_bind(&p->scales, binder);
    for (int32_t i = 0; i < MAP_SCALES; i++) {
        snprintf(name, sizeof(name), "decoder.neck.lateral_convs.%d.conv", i);
        p->lateral[i] = binder_layer(binder, name);
        snprintf(name, sizeof(name), "decoder.neck.fpn_convs.%d.conv", i);
        p->conv[i].layer = binder_layer(binder, name);
        binder_flatten(&p->conv[i].layer);
    }
}

enum status feature_pyramid_reshape(struct feature_pyramid *p, int64_t n, int32_t rows,
                                    int32_t columns, bool tables)
{
    int32_t h[MAP_SCALES], w[MAP_SCALES];

    TRY(map_scales_reshape(&p->scales, n, rows, columns, tables));
    if (!tables)
        return STATUS_OK;
    for (int32_t i = 0; i < MAP_SCALES; i++) {
        h[i] = side_of(i, rows);
        w[i] = side_of(i, columns);
        TRY(conv3x3_reshape(&p->conv[i], h[i], w[i]));
    }
    for (int32_t i = 0; i + 1 < MAP_SCALES; i++)
        TRY(map_tables_nearest(p->tables, &p->up[i], h[i + 1], w[i + 1], h[i], w[i]));
    return map_tables_halve(p->tables, &p->halved, h[MAP_SCALES - 1], w[MAP_SCALES - 1]);
}

/* ------------------------------------------------------------------------------ forward */

/* to = A from, or to += A from, for each picture. */
static enum status mix(struct feature_pyramid *p, const struct map_matrix *a, struct tensor from,
                       struct tensor to, bool add)
{
    struct spmm_args args = {
        .a = map_tables_sparse(p->tables, a),
        .x = from,
        .y = to,
        .n_maps = p->scales.images,
        .add = add,
    };

    return p->site->ops->spmm(p->site->device, &args);
}

enum status feature_pyramid_forward(struct feature_pyramid *p, struct tensor taps, bool train)
{
    const int32_t last = MAP_SCALES - 1;

    TRY(map_scales_forward(&p->scales, taps, train));
    for (int32_t i = last; i >= 0; i--) {
        struct linear_args lateral = {
            .x = map_scales_map(&p->scales, taps, i),
            .weight = p->lateral[i].weight,
            .bias = p->lateral[i].bias,
            .y = map_of(p, p->merged[i], i),
        };
        TRY(p->site->ops->linear_forward(p->site->device, &lateral));
        if (i < last)
            TRY(mix(p, &p->up[i].forward, map_of(p, p->merged[i + 1], i + 1), lateral.y, true));
        TRY(conv3x3_forward(&p->conv[i], lateral.y, feature_pyramid_level(p, i), p->scales.images));
    }
    return mix(p, &p->halved.forward, feature_pyramid_level(p, last),
               feature_pyramid_level(p, last + 1), false);
}

/* ------------------------------------------------------------------------------ backward */

static enum status lateral_backward(struct feature_pyramid *p, int32_t i, struct tensor taps,
                                    struct tensor d_taps)
{
    const struct map_scales *s = &p->scales;
    struct tensor d_tap = {0};

    if (p->layout.d_taps)
        d_tap = map_scales_tap(s, d_taps, i);
    struct linear_backward_args lateral = {
        .d_y = map_of(p, p->d_merged[i], i),
        .x = map_scales_map(s, taps, i),
        .weight = p->lateral[i].weight,
        .d_x = i == 2 ? d_tap : shaped(p->d_scale, rows_now(p, i), s->layout.width),
        .d_weight = p->lateral[i].d_weight,
        .d_bias = p->lateral[i].d_bias,
    };
    TRY(p->site->ops->linear_backward(p->site->device, &lateral));
    return i == 2 ? STATUS_OK : map_scales_backward(&p->scales, i, taps, lateral.d_x, d_tap);
}

enum status feature_pyramid_backward(struct feature_pyramid *p, struct tensor taps,
                                     struct tensor d_taps)
{
    const int32_t last = MAP_SCALES - 1;
    struct device *d = p->site->device;

    TRY(mix(p, &p->halved.backward, feature_pyramid_d_level(p, last + 1),
            feature_pyramid_d_level(p, last), true));
    for (int32_t i = 0; i < MAP_SCALES; i++) {
        struct tensor d_merged = map_of(p, p->d_merged[i], i);
        TRY(d->zero(d, d_merged.data, tensor_size_bytes(&d_merged)));
        if (i > 0)
            TRY(mix(p, &p->up[i - 1].backward, map_of(p, p->d_merged[i - 1], i - 1), d_merged,
                    true));
        TRY(conv3x3_backward(&p->conv[i], feature_pyramid_d_level(p, i), map_of(p, p->merged[i], i),
                             d_merged, p->scales.images));
    }
    for (int32_t i = 0; i < MAP_SCALES; i++)
        TRY(lateral_backward(p, i, taps, d_taps));
    return STATUS_OK;
}

void feature_pyramid_release(struct feature_pyramid *p)
{
    for (int32_t i = 0; i < MAP_SCALES; i++)
        conv3x3_release(&p->conv[i]);
}
