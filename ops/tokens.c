/* Pixels to tokens on the CPU. */
#include "ops/tokens.h"

#include <math.h>
#include <string.h>

#include "ops/check.h"

/* ------------------------------------------------------------------------------ patches */

enum status patchify_cpu(struct device *device, const struct patchify_args *args)
{
    bool bytes = args->pixels.dtype == DTYPE_U8;
    int64_t n = args->pixels.shape[0], p = args->patch_size;
    int64_t side = args->pixels.shape[2], grid = side / p, row = 3 * p * p;
    float table[3][256];
    float *patches = args->patches.data;

    (void)device;
    CHECK_F32("patchify", args->patches);
    CHECK(args->pixels.rank == 4 && tensor_is_2d(&args->patches, n * grid * grid, row));
    if (!bytes && args->pixels.dtype != DTYPE_F32)
        FAIL(STATUS_UNSUPPORTED, "patchify: pixels have dtype %d; wanted u8 or f32",
             (int)args->pixels.dtype);
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            table[c][v] = ((float)v / 255.0f - args->mean[c]) / args->std[c];
#pragma omp parallel for schedule(static)
    for (int64_t patch = 0; patch < n * grid * grid; patch++) {
        int64_t image = patch / (grid * grid), y0 = patch / grid % grid * p, x0 = patch % grid * p;
        float *out = patches + patch * row;
        for (int64_t c = 0; c < 3; c++)
            for (int64_t y = 0; y < p; y++, out += p) {
                if (!bytes) {
                    const float *plane =
                        (const float *)args->pixels.data + (image * 3 + c) * side * side;
                    memcpy(out, plane + (y0 + y) * side + x0, (size_t)p * sizeof(float));
                    continue;
                }
                const uint8_t *line = (const uint8_t *)args->pixels.data +
                                      ((image * side + y0 + y) * side + x0) * 3 + c;
                for (int64_t x = 0; x < p; x++)
                    out[x] = table[c][line[3 * x]];
            }
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ token buffer */

enum status tokens_forward_cpu(struct device *device, const struct tokens_args *args)
{
    int64_t length = args->pos.shape[0], d = args->pos.shape[1], n_patches = length - 1;
    int64_t n_rows = args->tokens.shape[0];
    const float *patches = args->patches.data, *cls = args->cls.data, *pos = args->pos.data;
    const float *mask_token = args->mask_token.data;
    const uint8_t *mask = args->mask.data;
    float *tokens = args->tokens.data;

    (void)device;
    CHECK_F32("tokens", args->patches);
    CHECK(n_rows % length == 0 && args->patches.shape[0] == n_rows / length * n_patches);
    CHECK(mask == NULL || mask_token != NULL);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n_rows; i++) {
        int64_t image = i / length, at = i % length, patch = image * n_patches + at - 1;
        const float *from = at == 0                            ? cls
                            : mask != NULL && mask[patch] != 0 ? mask_token
                                                               : patches + patch * d;
        for (int64_t j = 0; j < d; j++)
            tokens[i * d + j] = from[j] + pos[at * d + j];
    }
    return STATUS_OK;
}

enum status tokens_backward_cpu(struct device *device, const struct tokens_backward_args *args)
{
    int64_t length = args->d_pos.shape[0], d = args->d_pos.shape[1], n_patches = length - 1;
    int64_t n_images = args->d_tokens.shape[0] / length;
    const float *d_tokens = args->d_tokens.data;
    const uint8_t *mask = args->mask.data;
    float *d_patches = args->d_patches.data, *d_pos = args->d_pos.data;
    float *d_cls = args->d_cls.data, *d_mask_token = args->d_mask_token.data;

    (void)device;
    CHECK_F32("tokens_backward", args->d_tokens);
    CHECK(args->d_tokens.shape[0] == n_images * length);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n_images * n_patches; i++) {
        const float *from = d_tokens + (i / n_patches * length + 1 + i % n_patches) * d;
        if (mask != NULL && mask[i] != 0)
            memset(d_patches + i * d, 0, (size_t)d * sizeof(float));
        else
            memcpy(d_patches + i * d, from, (size_t)d * sizeof(float));
    }
    /* position by position: its images are summed in order, whatever the threads */
#pragma omp parallel for schedule(static)
    for (int64_t at = 0; at < length; at++)
        for (int64_t image = 0; image < n_images; image++)
            for (int64_t j = 0; j < d; j++)
                d_pos[at * d + j] += d_tokens[(image * length + at) * d + j];
    for (int64_t image = 0; image < n_images; image++)
        for (int64_t j = 0; j < d; j++)
            d_cls[j] += d_tokens[image * length * d + j];
    if (mask == NULL || d_mask_token == NULL)
        return STATUS_OK;
    for (int64_t i = 0; i < n_images * n_patches; i++)
        if (mask[i] != 0)
            for (int64_t j = 0; j < d; j++)
                d_mask_token[j] += d_tokens[(i / n_patches * length + 1 + i % n_patches) * d + j];
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ positions */

struct taps {
    int32_t index[4];
    float weight[4];
};

/* Cubic convolution, a = -0.75 (Keys 1981), at output i of an axis with n inputs. */
static struct taps taps_at(int32_t i, int32_t n, double scale)
{
    const float a = -0.75f;
    struct taps taps;
    float source = (float)(((double)i + 0.5) / scale - 0.5), base = floorf(source);
    float t = source - base, near0 = t, near1 = 1.0f - t, far0 = t + 1.0f, far1 = 2.0f - t;

    taps.weight[0] = ((a * far0 - 5.0f * a) * far0 + 8.0f * a) * far0 - 4.0f * a;
    taps.weight[1] = ((a + 2.0f) * near0 - (a + 3.0f)) * near0 * near0 + 1.0f;
    taps.weight[2] = ((a + 2.0f) * near1 - (a + 3.0f)) * near1 * near1 + 1.0f;
    taps.weight[3] = ((a * far1 - 5.0f * a) * far1 + 8.0f * a) * far1 - 4.0f * a;
    for (int32_t k = 0; k < 4; k++) {
        int32_t at = (int32_t)base - 1 + k;
        taps.index[k] = at < 0 ? 0 : at >= n ? n - 1 : at;
    }
    return taps;
}

static double scale_of(int32_t size, int32_t n)
{
    return ((double)size + 0.1) / (double)n;
}

enum status position_interpolate_cpu(struct device *device,
                                     const struct position_interpolate_args *args)
{
    int32_t n = args->grid_size;
    int64_t d = args->grid.shape[1];
    const float *grid = args->grid.data;
    float *out = args->out.data;
    double scale_y = scale_of(args->height, n), scale_x = scale_of(args->width, n);

    (void)device;
    CHECK_F32("position_interpolate", args->grid);
    CHECK(args->grid.shape[0] == (int64_t)n * n);
    CHECK(args->out.shape[0] == (int64_t)args->height * args->width && args->out.shape[1] == d);
    for (int32_t y = 0; y < args->height; y++)
        for (int32_t x = 0; x < args->width; x++) {
            struct taps ty = taps_at(y, n, scale_y), tx = taps_at(x, n, scale_x);
            for (int64_t j = 0; j < d; j++) {
                float sum = 0.0f;
                for (int a = 0; a < 4; a++) {
                    float line = 0.0f;
                    for (int b = 0; b < 4; b++)
                        line +=
                            tx.weight[b] * grid[((int64_t)ty.index[a] * n + tx.index[b]) * d + j];
                    sum += ty.weight[a] * line;
                }
                out[((int64_t)y * args->width + x) * d + j] = sum;
            }
        }
    return STATUS_OK;
}

enum status position_interpolate_backward_cpu(struct device *device,
                                              const struct position_interpolate_backward_args *args)
{
    int32_t n = args->grid_size;
    int64_t d = args->d_grid.shape[1];
    const float *d_out = args->d_out.data;
    float *d_grid = args->d_grid.data;
    double scale_y = scale_of(args->height, n), scale_x = scale_of(args->width, n);

    (void)device;
    CHECK_F32("position_interpolate_backward", args->d_out);
    CHECK(args->d_grid.shape[0] == (int64_t)n * n);
    for (int32_t y = 0; y < args->height; y++)
        for (int32_t x = 0; x < args->width; x++) {
            struct taps ty = taps_at(y, n, scale_y), tx = taps_at(x, n, scale_x);
            const float *from = d_out + ((int64_t)y * args->width + x) * d;
            for (int a = 0; a < 4; a++)
                for (int b = 0; b < 4; b++) {
                    float weight = ty.weight[a] * tx.weight[b];
                    float *to = d_grid + ((int64_t)ty.index[a] * n + tx.index[b]) * d;
                    for (int64_t j = 0; j < d; j++)
                        to[j] += weight * from[j];
                }
        }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ rows */

enum status rows_gather_cpu(struct device *device, const struct rows_gather_args *args)
{
    int64_t n = args->to.shape[0];
    size_t bytes = (size_t)args->from.shape[1] * dtype_size_bytes(args->from.dtype);
    const int32_t *index = args->index.data;

    (void)device;
    CHECK(args->from.dtype == args->to.dtype && args->from.shape[1] == args->to.shape[1]);
    CHECK(args->index.shape[0] >= n);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        DCHECK(index[i] >= 0 && index[i] < args->from.shape[0]);
        memcpy((char *)args->to.data + (size_t)i * bytes,
               (const char *)args->from.data + (size_t)index[i] * bytes, bytes);
    }
    return STATUS_OK;
}

enum status rows_scatter_cpu(struct device *device, const struct rows_scatter_args *args)
{
    int64_t n = args->from.shape[0];
    size_t bytes = (size_t)args->from.shape[1] * dtype_size_bytes(args->from.dtype);
    const int32_t *index = args->index.data;

    (void)device;
    CHECK(args->from.dtype == args->to.dtype && args->from.shape[1] == args->to.shape[1]);
    CHECK(args->index.shape[0] >= n);
    if (args->zero_others)
        memset(args->to.data, 0, tensor_size_bytes(&args->to));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        DCHECK(index[i] >= 0 && index[i] < args->to.shape[0]);
        memcpy((char *)args->to.data + (size_t)index[i] * bytes,
               (const char *)args->from.data + (size_t)i * bytes, bytes);
    }
    return STATUS_OK;
}

enum status rows_add_cpu(struct device *device, const struct rows_add_args *args)
{
    int64_t n = tensor_n_elements(&args->to);
    const float *from = args->from.data;
    float *to = args->to.data;

    (void)device;
    CHECK_F32("rows_add", args->from);
    CHECK(tensor_n_elements(&args->from) == n);
    for (int64_t i = 0; i < n; i++)
        to[i] += from[i];
    return STATUS_OK;
}
