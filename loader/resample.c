/* Resize in integers. Source: the arithmetic of Pillow's Resample.c, as formulas. */
#include "loader/resample.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

enum { WEIGHT_BITS = 22 };

static double bicubic(double t)
{
    const double a = -0.5;

    t = fabs(t);
    if (t < 1.0)
        return ((a + 2.0) * t - (a + 3.0)) * t * t + 1.0;
    if (t < 2.0)
        return (((t - 5.0) * t + 8.0) * t - 4.0) * a;
    return 0.0;
}

static double bilinear(double t)
{
    t = fabs(t);
    return t < 1.0 ? 1.0 - t : 0.0;
}

/* Weights of every output along one axis; *taps is the stride of a row of weights. */
static enum status make_weights(struct resampler *r, int axis, enum resample_filter filter,
                                int32_t n_in, int32_t n_out, int32_t *taps)
{
    double scale = (double)n_in / (double)n_out, filter_scale = scale < 1.0 ? 1.0 : scale;
    double support = (filter == RESAMPLE_BICUBIC ? 2.0 : 1.0) * filter_scale;
    int32_t stride = (int32_t)ceil(support) * 2 + 1;
    double *w;

    TRY(memory_grow(&r->exact, &r->exact_capacity, (size_t)stride, sizeof(double),
                    "resize weights"));
    w = r->exact;
    TRY(memory_grow(&r->weights[axis], &r->weight_capacity[axis], (size_t)stride * (size_t)n_out,
                    sizeof(int32_t), "resize weights"));
    TRY(memory_grow(&r->bounds[axis], &r->bound_capacity[axis], 2 * (size_t)n_out, sizeof(int32_t),
                    "resize bounds"));
    for (int32_t x = 0; x < n_out; x++) {
        double centre = (x + 0.5) * scale, sum = 0.0;
        int32_t low = (int32_t)(centre - support + 0.5), high = (int32_t)(centre + support + 0.5);
        low = low < 0 ? 0 : low;
        high = high > n_in ? n_in : high;
        int32_t *row = r->weights[axis] + (int64_t)x * stride;
        for (int32_t k = 0; k < high - low; k++) {
            double t = (k + low - centre + 0.5) / filter_scale;
            w[k] = filter == RESAMPLE_BICUBIC ? bicubic(t) : bilinear(t);
            sum += w[k];
        }
        for (int32_t k = 0; k < high - low; k++) {
            double value = (sum != 0.0 ? w[k] / sum : w[k]) * (1 << WEIGHT_BITS);
            row[k] = (int32_t)(value < 0.0 ? value - 0.5 : value + 0.5);
        }
        r->bounds[axis][2 * x] = low;
        r->bounds[axis][2 * x + 1] = high - low;
    }
    *taps = stride;
    return STATUS_OK;
}

static uint8_t clip(int32_t sum)
{
    int32_t value = sum >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void horizontal(const struct resampler *r, const uint8_t *source, size_t source_stride,
                       int32_t rows, uint8_t *out, int32_t width, int32_t taps)
{
    for (int32_t y = 0; y < rows; y++) {
        const uint8_t *line = source + (size_t)y * source_stride;
        uint8_t *to = out + (size_t)y * (size_t)width * 3;
        for (int32_t x = 0; x < width; x++) {
            const int32_t *weight = r->weights[0] + (int64_t)x * taps;
            const uint8_t *from = line + 3 * (size_t)r->bounds[0][2 * x];
            int32_t n = r->bounds[0][2 * x + 1], half = 1 << (WEIGHT_BITS - 1);
            int32_t red = half, green = half, blue = half;
            for (int32_t k = 0; k < n; k++) {
                red += from[3 * k] * weight[k];
                green += from[3 * k + 1] * weight[k];
                blue += from[3 * k + 2] * weight[k];
            }
            to[3 * x] = clip(red);
            to[3 * x + 1] = clip(green);
            to[3 * x + 2] = clip(blue);
        }
    }
}

/* Rows of `from` start at input row `first`. */
static void vertical(const struct resampler *r, const uint8_t *from, size_t stride, int32_t first,
                     uint8_t *out, int32_t width, int32_t height, int32_t taps)
{
    size_t n = (size_t)width * 3;
    int32_t sums[3 * 256];

    for (int32_t y = 0; y < height; y++) {
        const int32_t *weight = r->weights[1] + (int64_t)y * taps;
        int32_t low = r->bounds[1][2 * y] - first, count = r->bounds[1][2 * y + 1];
        for (size_t start = 0; start < n; start += 3 * 256) {
            size_t length = n - start < 3 * 256 ? n - start : 3 * 256;
            for (size_t i = 0; i < length; i++)
                sums[i] = 1 << (WEIGHT_BITS - 1);
            for (int32_t k = 0; k < count; k++) {
                const uint8_t *line = from + (size_t)(low + k) * stride + start;
                for (size_t i = 0; i < length; i++)
                    sums[i] += line[i] * weight[k];
            }
            for (size_t i = 0; i < length; i++)
                out[(size_t)y * n + start + i] = clip(sums[i]);
        }
    }
}

enum status resample(struct resampler *r, const uint8_t *source, int32_t source_width,
                     struct region region, enum resample_filter filter, uint8_t *out, int32_t width,
                     int32_t height)
{
    bool across = region.width != width, down = region.height != height;
    size_t stride = (size_t)source_width * 3;
    int32_t taps_x = 0, taps_y = 0, first = 0, rows = region.height;

    source += (size_t)region.top * stride + 3 * (size_t)region.left;
    if (down) {
        TRY(make_weights(r, 1, filter, region.height, height, &taps_y));
        /* only the rows that the vertical pass reads */
        first = r->bounds[1][0];
        rows = r->bounds[1][2 * (height - 1)] + r->bounds[1][2 * (height - 1) + 1] - first;
    }
    if (across) {
        TRY(make_weights(r, 0, filter, region.width, width, &taps_x));
        uint8_t *to = out;
        if (down) {
            TRY(memory_grow(&r->middle, &r->middle_capacity, (size_t)rows * (size_t)width * 3, 1,
                            "resize rows"));
            to = r->middle;
        }
        horizontal(r, source + (size_t)first * stride, stride, rows, to, width, taps_x);
        if (down)
            vertical(r, to, (size_t)width * 3, first, out, width, height, taps_y);
    } else if (down) {
        vertical(r, source + (size_t)first * stride, stride, first, out, width, height, taps_y);
    } else {
        for (int32_t y = 0; y < height; y++)
            memcpy(out + (size_t)y * (size_t)width * 3, source + (size_t)y * stride,
                   (size_t)width * 3);
    }
    return STATUS_OK;
}

void resampler_release(struct resampler *r)
{
    if (r == NULL)
        return;
    for (int i = 0; i < 2; i++) {
        memory_free(r->weights[i]);
        memory_free(r->bounds[i]);
    }
    memory_free(r->exact);
    memory_free(r->middle);
    memset(r, 0, sizeof(*r));
}
