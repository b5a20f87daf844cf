/* Resize in integers. Source: the arithmetic of Pillow's Resample.c, as formulas.
 *
 * A pass that changes nothing (as many outputs as inputs) needs no case of its own: its weights are
 * exactly 1 and 0, and 1 is exact in 22 bits. */
#include "loader/resample.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

/* How one axis is filtered. */
struct filter {
    enum resample_filter kind;
    double scale, filter_scale, support; /* inputs per output; the same, at least 1; half width */
    int32_t n_in;
};

static struct filter filter_of(enum resample_filter kind, int32_t n_in, double in, int32_t n_out)
{
    static const double half_width[] = {
        [RESAMPLE_BICUBIC] = 2.0, [RESAMPLE_BILINEAR] = 1.0, [RESAMPLE_LANCZOS] = 3.0};
    double scale = (in > 0.0 ? in : n_in) / n_out, filter_scale = scale < 1.0 ? 1.0 : scale;

    return (struct filter){.kind = kind,
                           .scale = scale,
                           .filter_scale = filter_scale,
                           .support = half_width[kind] * filter_scale,
                           .n_in = n_in};
}

/* The inputs of output x: the first one; returns how many. */
static int32_t taps_of(const struct filter *filter, int32_t x, int32_t *first)
{
    double centre = (x + 0.5) * filter->scale;
    int32_t low = (int32_t)(centre - filter->support + 0.5);
    int32_t high = (int32_t)(centre + filter->support + 0.5);

    *first = low < 0 ? 0 : low;
    return (high > filter->n_in ? filter->n_in : high) - *first;
}

/* Fills an axis for outputs from .. from+n-1. Across, each output has the same number of groups,
 * and begins at any input; down, groups are those of the middle rows, counted from input row
 * `base`. */
static enum status make_axis(struct resampler *r, int which, const struct filter *filter,
                             int32_t from, int32_t n, int32_t base)
{
    static const enum filter_kernel kernel_of[] = {[RESAMPLE_BICUBIC] = FILTER_BICUBIC,
                                                   [RESAMPLE_BILINEAR] = FILTER_BILINEAR,
                                                   [RESAMPLE_LANCZOS] = FILTER_LANCZOS};
    struct resample_axis *axis = &r->axis[which];
    int32_t most = (int32_t)ceil(filter->support) * 2 + 1;
    most = most < filter->n_in ? most : filter->n_in;
    int32_t groups =
        (most + (which == 1 ? RESAMPLE_GROUP - 1 : 0) + RESAMPLE_GROUP - 1) / RESAMPLE_GROUP;

    size_t n_slots = (size_t)groups * RESAMPLE_GROUP, width = (size_t)n;

    TRY(scratch_reserve(&r->exact, (n_slots + 5) * width * sizeof(double), "weights"));
    TRY(scratch_reserve(&r->whole, n_slots * width * sizeof(int32_t), "weights"));
    TRY(scratch_reserve(&r->first[which], width * sizeof(int32_t), "weights"));
    TRY(scratch_reserve(&r->n_groups[which], width * sizeof(int32_t), "weights"));
    TRY(scratch_reserve(&r->packed[which],
                        width * (size_t)groups * RESAMPLE_MAX_PACKED * sizeof(int32_t), "weights"));
    axis->first = r->first[which].memory;
    axis->n_groups = r->n_groups[which].memory;
    axis->packed = r->packed[which].memory;
    axis->n_out = n;
    axis->n_in = filter->n_in;
    axis->max_groups = groups;
    double *exact = r->exact.memory, *sum = exact + n_slots * width, *start = sum + width;
    double *low = start + width, *high = low + width, *centre = high + width;
    for (int32_t x = 0; x < n; x++) {
        int32_t first, n_taps = taps_of(filter, from + x, &first), begin = first, used = groups;
        if (which == 1) {
            begin = base + (first - base) / RESAMPLE_GROUP * RESAMPLE_GROUP;
            used = (first + n_taps - begin + RESAMPLE_GROUP - 1) / RESAMPLE_GROUP;
        } else if (first + groups * RESAMPLE_GROUP > filter->n_in) {
            begin = filter->n_in - groups * RESAMPLE_GROUP; /* not past the row's end */
            begin = begin < 0 ? 0 : begin;
        }
        axis->first[x] = begin - (which == 1 ? base : 0);
        axis->n_groups[x] = used;
        start[x] = begin;
        low[x] = first;
        high[x] = first + n_taps;
        centre[x] = (from + x + 0.5) * filter->scale;
    }
    struct filter_taps taps = {n,
                               (int32_t)n_slots,
                               kernel_of[filter->kind],
                               1.0 / filter->filter_scale,
                               start,
                               low,
                               high,
                               centre};
    r->kernels->filter_weights(r->whole.memory, exact, sum, &taps);
    r->kernels->pack_weights(axis->packed, r->whole.memory, n, groups);
    return STATUS_OK;
}

/* Row groups of the image that the window's outputs read. base: the first row of the first one,
 * counted from the region's top; it may lie above. */
static int32_t row_groups_needed(const struct filter *filter, const struct region *source,
                                 const struct region *window, int32_t *base)
{
    int32_t first, last, n = taps_of(filter, window->top + window->height - 1, &last);

    taps_of(filter, window->top, &first);
    int32_t top = (source->top + first) / RESAMPLE_GROUP * RESAMPLE_GROUP;
    *base = top - source->top;
    return (source->top + last + n - top + RESAMPLE_GROUP - 1) / RESAMPLE_GROUP;
}

enum status resample(struct resampler *r, struct planes *out, const struct image *image,
                     const struct resample_plan *plan)
{
    const struct region *source = &plan->source, *window = &plan->window;
    struct filter across = filter_of(plan->filter, source->width, plan->source_width, plan->width);
    struct filter down = filter_of(plan->filter, source->height, plan->source_height, plan->height);
    int32_t base, n_groups = row_groups_needed(&down, source, window, &base);
    size_t line = ((size_t)window->width + RESAMPLE_COLUMNS - 1) / RESAMPLE_COLUMNS *
                  RESAMPLE_COLUMNS * RESAMPLE_GROUP;

    CHECK(source->left >= 0 && source->top >= 0 && source->width > 0 && source->height > 0 &&
          source->left + source->width <= image->width &&
          source->top + source->height <= image->height);
    CHECK(window->left >= 0 && window->top >= 0 && window->left + window->width <= plan->width &&
          window->top + window->height <= plan->height);
    TRY(planes_reserve(out, window->width, window->height));
    TRY(make_axis(r, 0, &across, window->left, window->width, 0));
    TRY(make_axis(r, 1, &down, window->top, window->height, base));
    TRY(scratch_reserve(&r->middle, (size_t)n_groups * 3 * line, "resize rows"));

    uint8_t *middle = r->middle.memory;
    for (int32_t g = 0; g < n_groups; g++)
        r->kernels->resample_across(middle + (size_t)g * 3 * line, line,
                                    image_pixel(image, (size_t)source->left,
                                                (size_t)(source->top + base + g * RESAMPLE_GROUP)),
                                    &r->axis[0]);
    for (int32_t y = 0; y < window->height; y++) {
        uint8_t *const rows[3] = {out->channel[0] + (size_t)y * (size_t)window->width,
                                  out->channel[1] + (size_t)y * (size_t)window->width,
                                  out->channel[2] + (size_t)y * (size_t)window->width};
        r->kernels->resample_down(rows, middle, line, (size_t)window->width, &r->axis[1], y);
    }
    return STATUS_OK;
}

void resampler_release(struct resampler *r)
{
    if (r == NULL)
        return;
    const struct pixel_kernels *kernels = r->kernels;
    for (int i = 0; i < 2; i++) {
        scratch_release(&r->first[i]);
        scratch_release(&r->n_groups[i]);
        scratch_release(&r->packed[i]);
    }
    scratch_release(&r->exact);
    scratch_release(&r->whole);
    scratch_release(&r->middle);
    memset(r, 0, sizeof(*r));
    r->kernels = kernels;
}
