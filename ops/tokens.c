/* Pixels to tokens on the CPU. */
#include "ops/tokens.h"

#include <math.h>
#include <string.h>

#include "ops/check.h"

/* ------------------------------------------------------------------------------ patches */

/* One patch of a u8 image: each pixel is read once, its channels go to their planes. */
static void patch_of_bytes(float *out, const uint8_t *from, int64_t line_bytes, int64_t p,
                           const float table[3][256])
{
    for (int64_t y = 0; y < p; y++, from += line_bytes)
        for (int64_t x = 0; x < p; x++)
            for (int64_t c = 0; c < 3; c++)
                out[(c * p + y) * p + x] = table[c][from[3 * x + c]];
}

/* One patch of a float image; `from` is its first pixel in the first plane. */
static void patch_of_floats(float *out, const float *from, int64_t height, int64_t width, int64_t p)
{
    for (int64_t c = 0; c < 3; c++)
        for (int64_t y = 0; y < p; y++, out += p)
            memcpy(out, from + (c * height + y) * width, (size_t)p * sizeof(float));
}

void patchify_table(float table[3][256], const float mean[3], const float std[3])
{
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            table[c][v] = ((float)v / 255.0f - mean[c]) / std[c];
}

enum status patchify_cpu(struct device *device, const struct patchify_args *args)
{
    const struct tensor *pixels = &args->pixels;
    bool bytes = pixels->dtype == DTYPE_U8;
    int64_t n = pixels->shape[0], p = args->patch_size;
    int64_t height = pixels->shape[bytes ? 1 : 2], width = pixels->shape[bytes ? 2 : 3];
    float table[3][256];
    float *patches = args->patches.data;

    CHECK_F32("patchify", args->patches);
    if (!bytes && pixels->dtype != DTYPE_F32)
        FAIL(STATUS_UNSUPPORTED, "patchify: pixels have dtype %d; wanted u8 or f32",
             (int)pixels->dtype);
    CHECK(pixels->rank == 4 && p >= 1);
    CHECK(pixels->shape[bytes ? 3 : 1] == 3);
    int64_t rows = height / p, columns = width / p, row = 3 * p * p;
    CHECK(tensor_is_2d(&args->patches, n * rows * columns, row));
    patchify_table(table, args->mean, args->std);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t patch = 0; patch < n * rows * columns; patch++) {
        int64_t line = patch / columns, image = line / rows;
        int64_t y = line % rows * p, x = patch % columns * p;
        float *out = patches + patch * row;
        if (bytes)
            patch_of_bytes(out,
                           (const uint8_t *)pixels->data + ((image * height + y) * width + x) * 3,
                           3 * width, p, (const float(*)[256])table);
        else
            patch_of_floats(out, (const float *)pixels->data + (image * 3 * height + y) * width + x,
                            height, width, p);
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

    CHECK_F32("tokens", args->patches);
    CHECK_F32("tokens", args->tokens);
    CHECK(n_rows % length == 0 && args->tokens.shape[1] == d && tensor_is_1d(&args->cls, d));
    CHECK(tensor_is_2d(&args->patches, n_rows / length * n_patches, d));
    CHECK(mask == NULL || tensor_is_1d(&args->mask, args->patches.shape[0]));
    CHECK(mask == NULL || mask_token != NULL);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
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

enum { COLUMNS = 64 }; /* summed at a time, in double */

/* Gradients at position `at` over all images: of the position (and [CLS]), and of the patches. */
static void position_backward(const struct tokens_backward_args *args, int64_t at, int64_t n_images)
{
    int64_t length = args->d_pos.shape[0], d = args->d_pos.shape[1];
    const uint8_t *mask = args->mask.data;

    for (int64_t first = 0; first < d; first += COLUMNS) {
        int64_t columns = d - first < COLUMNS ? d - first : COLUMNS;
        size_t bytes = (size_t)columns * sizeof(float);
        double sum[COLUMNS] = {0};
        for (int64_t image = 0; image < n_images; image++) {
            const float *from =
                (const float *)args->d_tokens.data + (image * length + at) * d + first;
            for (int64_t j = 0; j < columns; j++)
                sum[j] += (double)from[j];
            if (at == 0)
                continue;
            int64_t patch = image * (length - 1) + at - 1;
            float *to = (float *)args->d_patches.data + patch * d + first;
            if (mask != NULL && mask[patch] != 0)
                memset(to, 0, bytes);
            else
                memcpy(to, from, bytes);
        }
        float *d_pos = (float *)args->d_pos.data + at * d + first;
        float *d_cls = (float *)args->d_cls.data + first;
        for (int64_t j = 0; j < columns; j++) {
            d_pos[j] += (float)sum[j];
            if (at == 0)
                d_cls[j] += (float)sum[j];
        }
    }
}

/* Gradient of columns first .. of the mask token: the sum over all masked rows. */
static void mask_token_backward(const struct tokens_backward_args *args, int64_t first,
                                int64_t n_images)
{
    int64_t length = args->d_pos.shape[0], d = args->d_pos.shape[1];
    int64_t columns = d - first < COLUMNS ? d - first : COLUMNS;
    const uint8_t *mask = args->mask.data;
    float *d_mask_token = (float *)args->d_mask_token.data + first;
    double sum[COLUMNS] = {0};

    for (int64_t image = 0; image < n_images; image++)
        for (int64_t at = 1; at < length; at++) {
            if (mask[image * (length - 1) + at - 1] == 0)
                continue;
            const float *from =
                (const float *)args->d_tokens.data + (image * length + at) * d + first;
            for (int64_t j = 0; j < columns; j++)
                sum[j] += (double)from[j];
        }
    for (int64_t j = 0; j < columns; j++)
        d_mask_token[j] += (float)sum[j];
}

enum status tokens_backward_cpu(struct device *device, const struct tokens_backward_args *args)
{
    int64_t length = args->d_pos.shape[0], d = args->d_pos.shape[1];
    int64_t n_images = args->d_tokens.shape[0] / length;

    CHECK_F32("tokens_backward", args->d_tokens);
    CHECK_F32("tokens_backward", args->d_patches);
    CHECK(tensor_is_2d(&args->d_tokens, n_images * length, d) && tensor_is_1d(&args->d_cls, d));
    CHECK(tensor_is_2d(&args->d_patches, n_images * (length - 1), d));
    CHECK(args->mask.data == NULL || tensor_is_1d(&args->mask, n_images * (length - 1)));
    /* position by position, images in order: the same sums on any number of threads */
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t at = 0; at < length; at++)
        position_backward(args, at, n_images);
    if (args->mask.data == NULL || args->d_mask_token.data == NULL)
        return STATUS_OK;
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t first = 0; first < d; first += COLUMNS)
        mask_token_backward(args, first, n_images);
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

static double scale_of(int32_t size, int32_t n, bool exact)
{
    return ((double)size + (exact ? 0.0 : 0.1)) / (double)n;
}

enum status position_interpolate_cpu(struct device *device,
                                     const struct position_interpolate_args *args)
{
    int32_t n = args->grid_size;
    int64_t d = args->grid.shape[1], width = args->width;
    const float *grid = args->grid.data;
    double scale_y = scale_of(args->height, n, args->exact);
    double scale_x = scale_of(args->width, n, args->exact);

    CHECK_F32("position_interpolate", args->grid);
    CHECK(tensor_is_2d(&args->grid, (int64_t)n * n, d));
    CHECK(tensor_is_2d(&args->out, args->height * width, d));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < args->height * width; i++) {
        struct taps ty = taps_at((int32_t)(i / width), n, scale_y);
        struct taps tx = taps_at((int32_t)(i % width), n, scale_x);
        float *out = (float *)args->out.data + i * d;
        memset(out, 0, (size_t)d * sizeof(float));
        for (int a = 0; a < 4; a++) {
            const float *line = grid + (int64_t)ty.index[a] * n * d, *in[4];
            for (int b = 0; b < 4; b++)
                in[b] = line + tx.index[b] * d;
            for (int64_t j = 0; j < d; j++) {
                float sum = 0.0f; /* tap by tap, in the order that PyTorch adds them */
                for (int b = 0; b < 4; b++)
                    sum += tx.weight[b] * in[b][j];
                out[j] += ty.weight[a] * sum;
            }
        }
    }
    return STATUS_OK;
}

/* Adds columns first .. end of all outputs to the grid: threads share no element. */
static void interpolate_columns(const struct position_interpolate_backward_args *args,
                                int64_t first, int64_t end)
{
    int32_t n = args->grid_size;
    int64_t d = args->d_grid.shape[1], width = args->width;
    double scale_y = scale_of(args->height, n, false), scale_x = scale_of(args->width, n, false);

    for (int64_t i = 0; i < args->height * width; i++) {
        struct taps ty = taps_at((int32_t)(i / width), n, scale_y);
        struct taps tx = taps_at((int32_t)(i % width), n, scale_x);
        const float *from = (const float *)args->d_out.data + i * d;
        for (int a = 0; a < 4; a++)
            for (int b = 0; b < 4; b++) {
                float weight = ty.weight[a] * tx.weight[b];
                float *to =
                    (float *)args->d_grid.data + ((int64_t)ty.index[a] * n + tx.index[b]) * d;
                for (int64_t j = first; j < end; j++)
                    to[j] += weight * from[j];
            }
    }
}

enum status position_interpolate_backward_cpu(struct device *device,
                                              const struct position_interpolate_backward_args *args)
{
    int64_t n = args->grid_size, d = args->d_grid.shape[1];

    CHECK_F32("position_interpolate_backward", args->d_out);
    CHECK(tensor_is_2d(&args->d_grid, n * n, d));
    CHECK(tensor_is_2d(&args->d_out, (int64_t)args->height * args->width, d));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t first = 0; first < d; first += COLUMNS)
        interpolate_columns(args, first, d - first < COLUMNS ? d : first + COLUMNS);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ rows */

enum status rows_gather_cpu(struct device *device, const struct rows_gather_args *args)
{
    int64_t n = args->to.shape[0];
    size_t bytes = (size_t)args->from.shape[1] * dtype_size_bytes(args->from.dtype);
    const int32_t *index = args->index.data;

    CHECK(args->from.dtype == args->to.dtype && args->from.shape[1] == args->to.shape[1]);
    CHECK(args->index.dtype == DTYPE_I32 && args->index.shape[0] >= n);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++) {
        char *to = (char *)args->to.data + (size_t)i * bytes;
        DCHECK(index[i] < args->from.shape[0]);
        if (index[i] < 0)
            memset(to, 0, bytes);
        else
            memcpy(to, (const char *)args->from.data + (size_t)index[i] * bytes, bytes);
    }
    return STATUS_OK;
}

enum status rows_scatter_cpu(struct device *device, const struct rows_scatter_args *args)
{
    int64_t n = args->from.shape[0];
    size_t bytes = (size_t)args->from.shape[1] * dtype_size_bytes(args->from.dtype);
    const int32_t *index = args->index.data;

    CHECK(args->from.dtype == args->to.dtype && args->from.shape[1] == args->to.shape[1]);
    CHECK(args->index.dtype == DTYPE_I32 && args->index.shape[0] >= n);
    if (args->zero_others)
        memset(args->to.data, 0, tensor_size_bytes(&args->to));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++) {
        DCHECK(index[i] < args->to.shape[0]);
        if (index[i] >= 0)
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

    CHECK_F32("rows_add", args->from);
    CHECK_F32("rows_add", args->to);
    CHECK(tensor_n_elements(&args->from) == n);
#pragma omp parallel for simd schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++)
        to[i] += from[i];
    return STATUS_OK;
}
