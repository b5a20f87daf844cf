#include "trainer/model/conv3x3.h"

#include "proto/base/memory.h"
#include "trainer/model/buffer.h"

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t conv3x3_scratch_values(int64_t in, int64_t cells, int64_t n, int64_t most)
{
    int64_t of_cell = CONV3X3_WINDOW * in;
    int64_t wanted = least(cells * n, most / of_cell > 0 ? most / of_cell : 1);

    return wanted * of_cell;
}

enum status conv3x3_reshape(struct conv3x3 *c, int32_t height, int32_t width)
{
    int64_t all = (int64_t)height * width, room = c->scratch->n / (CONV3X3_WINDOW * c->in);

    CHECK(room > 0 && all > 0);
    c->height = height;
    c->width = width;
    c->images = room >= all ? room / all : 1;
    c->cells = least(room, all);
    c->n_parts = (size_t)((all + c->cells - 1) / c->cells);
    TRY(memory_grow(&c->parts, &c->capacity, c->n_parts, sizeof(*c->parts), "parts of a map"));
    for (size_t i = 0; i < c->n_parts; i++) {
        int64_t first = (int64_t)i * c->cells;
        TRY(map_tables_windows(c->tables, &c->parts[i], height, width, first,
                               least(c->cells, all - first)));
    }
    return STATUS_OK;
}

/* Part `part` of `images` images from image `image` on. */
struct part {
    size_t part;
    int64_t image, images, first, cells; /* cells first .. first + cells - 1 of each */
};

/* The i-th of all parts of n images; false past the last. */
static bool part_of(const struct conv3x3 *c, int64_t n, int64_t i, struct part *out)
{
    int64_t all = (int64_t)c->height * c->width, parts = (int64_t)c->n_parts;

    out->part = (size_t)(i % parts);
    out->image = i / parts * c->images;
    out->images = least(c->images, n - out->image);
    out->first = (int64_t)out->part * c->cells;
    out->cells = least(c->cells, all - out->first);
    return out->image < n;
}

/* Rows of a part among those of all maps: whole images, or within one. */
static struct tensor rows_of(const struct conv3x3 *c, struct tensor all, const struct part *p)
{
    int64_t first = p->image * c->height * c->width + p->first;

    return tensor_rows(all, first, p->images * p->cells);
}

static struct tensor images_of(const struct conv3x3 *c, struct tensor all, const struct part *p)
{
    int64_t cells = (int64_t)c->height * c->width;

    return tensor_rows(all, p->image * cells, p->images * cells);
}

static enum status make_windows(struct conv3x3 *c, struct tensor x, const struct part *p)
{
    struct spmm_args args = {
        .a = map_tables_sparse(c->tables, &c->parts[p->part].forward),
        .x = images_of(c, x, p),
        .y = shaped(c->scratch->windows, CONV3X3_WINDOW * p->images * p->cells, c->in),
        .n_maps = p->images,
    };

    return c->ops->spmm(c->device, &args);
}

static struct tensor windows_of(const struct conv3x3 *c, struct tensor scratch,
                                const struct part *p)
{
    return shaped(scratch, p->images * p->cells, CONV3X3_WINDOW * c->in);
}

enum status conv3x3_forward(struct conv3x3 *c, struct tensor x, struct tensor y, int64_t n)
{
    struct part p;

    for (int64_t i = 0; part_of(c, n, i, &p); i++) {
        struct linear_args linear = {
            .x = windows_of(c, c->scratch->windows, &p),
            .weight = c->layer.weight,
            .bias = c->layer.bias,
            .y = rows_of(c, y, &p),
        };
        TRY(make_windows(c, x, &p));
        TRY(c->ops->linear_forward(c->device, &linear));
    }
    return STATUS_OK;
}

/* The gradient of a part's windows, to the cells that they were made of and no others. */
static enum status add_windows(struct conv3x3 *c, struct tensor d_x, const struct part *p)
{
    int64_t all = (int64_t)c->height * c->width;
    int64_t first = p->first - c->width - 1, end = p->first + p->cells + c->width + 1;
    struct spmm_args args = {
        .a = map_tables_sparse(c->tables, &c->parts[p->part].backward),
        .x = shaped(c->scratch->d_windows, CONV3X3_WINDOW * p->images * p->cells, c->in),
        .y = images_of(c, d_x, p),
        .n_maps = p->images,
        .add = true,
    };

    first = first > 0 ? first : 0;
    end = least(end, all);
    if (p->images == 1) {
        args.a.start = tensor_rows(args.a.start, first, end - first + 1);
        args.y = tensor_rows(args.y, first, end - first);
    }
    return c->ops->spmm(c->device, &args);
}

enum status conv3x3_backward(struct conv3x3 *c, struct tensor d_y, struct tensor x,
                             struct tensor d_x, int64_t n)
{
    struct part p;

    for (int64_t i = 0; part_of(c, n, i, &p); i++) {
        struct linear_backward_args linear = {
            .d_y = rows_of(c, d_y, &p),
            .x = windows_of(c, c->scratch->windows, &p),
            .weight = c->layer.weight,
            .d_weight = c->layer.d_weight,
            .d_bias = c->layer.d_bias,
        };
        if (d_x.data != NULL)
            linear.d_x = windows_of(c, c->scratch->d_windows, &p);
        TRY(make_windows(c, x, &p));
        TRY(c->ops->linear_backward(c->device, &linear));
        if (d_x.data != NULL)
            TRY(add_windows(c, d_x, &p));
    }
    return STATUS_OK;
}

void conv3x3_release(struct conv3x3 *c)
{
    memory_free(c->parts);
    c->parts = NULL;
    c->n_parts = c->capacity = 0;
}
