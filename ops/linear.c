/* Linear layer on the CPU. Every thread owns a tile of the result and multiplies it by itself, in
 * blocks of rows, so that bias and activation meet values that are still in the cache and no thread
 * waits for another before the end (OpenBLAS's own threads hand packed panels to each other, which
 * stalls as soon as another program takes one of the cores). Inside a parallel region CBLAS runs on
 * the calling thread alone. The tiles depend on the shape and the number of threads only: equal
 * calls give equal bits.
 *
 * ViT-S shapes, one core of a Zen 4: 100 GFLOP/s for the product (the library's peak there), GELU
 * and bias cost 0.9 ns per element beside it. */
#include "ops/linear.h"

#include <cblas.h>
#include <limits.h>
#include <omp.h>

#include "ops/activation_row.h"
#include "ops/check.h"
#include "ops/vector_math.h"

enum {
    ROW_BLOCK = 1024, /* rows per product: packing the weight again costs 2 % at 384 wide */
    ROW_GRAIN = 16,   /* tiles begin at multiples of these: the widths of the kernels inside */
    COLUMN_GRAIN = 64 /* and a multiple of a cache line, so that no two threads write one */
};

/* The part of a [rows, columns] result that one thread makes. */
struct tile {
    int64_t row, rows, column, columns;
};

static void share(int64_t n, int64_t grain, int part, int n_parts, int64_t *first, int64_t *count)
{
    int64_t grains = (n + grain - 1) / grain;
    int64_t begin = grains * part / n_parts * grain, end = grains * (part + 1) / n_parts * grain;

    *first = begin < n ? begin : n;
    *count = (end < n ? end : n) - *first;
}

/* Cut by rows when there are enough of them, else by columns. */
static struct tile tile_of_thread(int64_t rows, int64_t columns)
{
    int part = omp_get_thread_num(), n_parts = omp_get_num_threads();
    struct tile tile = {0, rows, 0, columns};

    if (rows >= 4 * ROW_GRAIN * n_parts || rows >= columns)
        share(rows, ROW_GRAIN, part, n_parts, &tile.row, &tile.rows);
    else
        share(columns, COLUMN_GRAIN, part, n_parts, &tile.column, &tile.columns);
    return tile;
}

/* Row-major c = beta * c + op(a) op(b), where nothing is done for an empty c. */
static void multiply(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int64_t m, int64_t n, int64_t k,
                     const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                     int64_t ldc)
{
    if (m > 0 && n > 0)
        cblas_sgemm(CblasRowMajor, op_a, op_b, (int)m, (int)n, (int)k, 1.0f, a, (int)lda, b,
                    (int)ldb, beta, c, (int)ldc);
}

/* ------------------------------------------------------------------------------ forward */

/* The activation is known where this is inlined: one loop for each, as vector code. */
static inline __attribute__((always_inline)) void bias_and(float (*activation)(float),
                                                           float *restrict y, float *restrict pre,
                                                           const float *restrict bias, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        float value = y[j] + (bias != NULL ? bias[j] : 0.0f);
        if (pre != NULL)
            pre[j] = value;
        y[j] = activation(value);
    }
}

/* Bias and activation of `rows` rows of a tile; y and pre point to its first element. */
static void epilogue(const struct linear_args *args, float *y, float *pre, const float *bias,
                     int64_t rows, int64_t columns, int64_t stride)
{
    for (int64_t i = 0; i < rows; i++, y += stride, pre = pre != NULL ? pre + stride : NULL)
        if (args->activation == ACTIVATION_GELU)
            bias_and(vector_gelu, y, pre, bias, columns);
        else if (args->activation == ACTIVATION_GELU_TANH)
            bias_and(vector_gelu_tanh, y, pre, bias, columns);
        else if (args->activation == ACTIVATION_RELU)
            bias_and(relu, y, pre, bias, columns);
        else if (bias != NULL)
            for (int64_t j = 0; j < columns; j++)
                y[j] += bias[j];
}

static void forward_tile(const struct linear_args *args, struct tile tile)
{
    int64_t n_in = args->x.shape[1], n_out = args->weight.shape[0];
    const float *x = args->x.data, *weight = args->weight.data, *bias = args->bias.data;
    float *y = args->y.data, *pre = args->pre.data;

    for (int64_t done = 0; done < tile.rows; done += ROW_BLOCK) {
        int64_t row = tile.row + done, at = row * n_out + tile.column;
        int64_t rows = tile.rows - done < ROW_BLOCK ? tile.rows - done : ROW_BLOCK;
        multiply(CblasNoTrans, CblasTrans, rows, tile.columns, n_in, x + row * n_in, n_in,
                 weight + tile.column * n_in, n_in, 0.0f, y + at, n_out);
        epilogue(args, y + at, pre != NULL ? pre + at : NULL,
                 bias != NULL ? bias + tile.column : NULL, rows, tile.columns, n_out);
    }
}

enum status linear_forward_cpu(struct device *device, const struct linear_args *args)
{
    int64_t n = args->x.shape[0], n_in = args->x.shape[1], n_out = args->weight.shape[0];

    CHECK_F32("linear", args->x);
    CHECK_F32("linear", args->weight);
    CHECK_F32("linear", args->bias);
    CHECK_F32("linear", args->y);
    CHECK_F32("linear", args->pre);
    CHECK(n <= INT_MAX && n_in <= INT_MAX && n_out <= INT_MAX && n_in > 0);
    CHECK(tensor_is_2d(&args->x, n, n_in) && tensor_is_2d(&args->weight, n_out, n_in));
    CHECK(tensor_is_2d(&args->y, n, n_out));
    CHECK(args->bias.data == NULL || tensor_is_1d(&args->bias, n_out));
    CHECK(args->pre.data == NULL || tensor_is_2d(&args->pre, n, n_out));
#pragma omp parallel num_threads(device->n_threads)
    forward_tile(args, tile_of_thread(n, n_out));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ backward */

/* sums += sums of x's columns, each thread its own ones; in two levels, for less rounding. */
static void add_column_sums(const struct tensor *sums, const struct tensor *x)
{
    enum { COLUMNS = 64, ROWS = 128 };
    int64_t n = x->shape[0], stride = x->shape[1], begin, columns;

    share(stride, COLUMN_GRAIN, omp_get_thread_num(), omp_get_num_threads(), &begin, &columns);
    float *to = (float *)sums->data + begin;
    const float *from = (const float *)x->data + begin;
    for (int64_t first = 0; first < columns; first += COLUMNS) {
        int64_t width = columns - first < COLUMNS ? columns - first : COLUMNS;
        float total[COLUMNS] = {0};
        for (int64_t chunk = 0; chunk < n; chunk += ROWS) {
            float sum[COLUMNS] = {0};
            int64_t end = chunk + ROWS < n ? chunk + ROWS : n;
            for (int64_t i = chunk; i < end; i++)
                for (int64_t j = 0; j < width; j++)
                    sum[j] += from[i * stride + first + j];
            for (int64_t j = 0; j < width; j++)
                total[j] += sum[j];
        }
        for (int64_t j = 0; j < width; j++)
            to[first + j] += total[j];
    }
}

static void input_gradient_tile(const struct linear_backward_args *args, struct tile tile)
{
    int64_t n_in = args->weight.shape[1], n_out = args->weight.shape[0];
    const float *d_y = args->d_y.data, *weight = args->weight.data, *pre = args->pre.data;
    float *d_x = args->d_x.data;

    for (int64_t done = 0; done < tile.rows; done += ROW_BLOCK) {
        int64_t row = tile.row + done, at = row * n_in + tile.column;
        int64_t rows = tile.rows - done < ROW_BLOCK ? tile.rows - done : ROW_BLOCK;
        multiply(CblasNoTrans, CblasNoTrans, rows, tile.columns, n_out, d_y + row * n_out, n_out,
                 weight + tile.column, n_in, 0.0f, d_x + at, n_in);
        for (int64_t i = 0; i < rows && pre != NULL; i++)
            activation_row_backward(d_x + at + i * n_in, d_x + at + i * n_in, pre + at + i * n_in,
                                    tile.columns, args->activation);
    }
}

static void weight_gradient_tile(const struct linear_backward_args *args, struct tile tile)
{
    int64_t n = args->d_y.shape[0], n_out = args->d_y.shape[1], n_in = args->x.shape[1];
    const float *d_y = args->d_y.data, *x = args->x.data;
    float *d_weight = args->d_weight.data;

    if (n > 0)
        multiply(CblasTrans, CblasNoTrans, tile.rows, tile.columns, n, d_y + tile.row, n_out,
                 x + tile.column, n_in, 1.0f, d_weight + tile.row * n_in + tile.column, n_in);
}

enum status linear_backward_cpu(struct device *device, const struct linear_backward_args *args)
{
    int64_t n = args->d_y.shape[0], n_out = args->d_y.shape[1], n_in = args->x.shape[1];

    CHECK_F32("linear_backward", args->d_y);
    CHECK_F32("linear_backward", args->x);
    CHECK_F32("linear_backward", args->weight);
    CHECK_F32("linear_backward", args->pre);
    CHECK_F32("linear_backward", args->d_x);
    CHECK_F32("linear_backward", args->d_weight);
    CHECK_F32("linear_backward", args->d_bias);
    CHECK_F32("linear_backward", args->d_x_sums);
    CHECK(n <= INT_MAX && n_in <= INT_MAX && n_out <= INT_MAX && n_out > 0);
    CHECK(tensor_is_2d(&args->d_y, n, n_out) && tensor_is_2d(&args->x, n, n_in));
    CHECK(args->pre.data == NULL || tensor_is_2d(&args->pre, n, n_in));
    CHECK(args->d_bias.data == NULL || tensor_is_1d(&args->d_bias, n_out));
    CHECK(args->d_weight.data == NULL || tensor_is_2d(&args->d_weight, n_out, n_in));
    CHECK(args->d_x.data == NULL ||
          (tensor_is_2d(&args->d_x, n, n_in) && tensor_is_2d(&args->weight, n_out, n_in)));
    CHECK(args->d_x_sums.data == NULL ||
          (args->d_x.data != NULL && tensor_is_1d(&args->d_x_sums, n_in)));
#pragma omp parallel num_threads(device->n_threads)
    {
        if (args->d_bias.data != NULL)
            add_column_sums(&args->d_bias, &args->d_y);
        if (args->d_weight.data != NULL)
            weight_gradient_tile(args, tile_of_thread(n_out, n_in));
        if (args->d_x.data != NULL)
            input_gradient_tile(args, tile_of_thread(n, n_in));
        if (args->d_x_sums.data != NULL) {
#pragma omp barrier
            add_column_sums(&args->d_x_sums, &args->d_x);
        }
    }
    return STATUS_OK;
}
