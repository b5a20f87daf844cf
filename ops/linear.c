/* Linear layer on the CPU: CBLAS products over blocks of rows, so that bias and activation work on
 * rows that are still in the cache. */
#include "ops/linear.h"

#include <cblas.h>
#include <string.h>

#include "ops/check.h"
#include "ops/vector_math.h"

enum {
    ROW_BLOCK = 1024
}; /* rows per product: 1024 x 1536 floats are 6 MB, about the L2+L3 share */

static void epilogue(float *y, float *pre, const float *bias, int64_t rows, int64_t n,
                     enum activation activation)
{
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows; i++) {
        float *row = y + i * n;
        if (bias != NULL)
            for (int64_t j = 0; j < n; j++)
                row[j] += bias[j];
        if (activation == ACTIVATION_NONE)
            continue;
        if (pre != NULL)
            memcpy(pre + i * n, row, (size_t)n * sizeof(float));
        if (activation == ACTIVATION_GELU)
            for (int64_t j = 0; j < n; j++)
                row[j] = vector_gelu(row[j]);
        else
            for (int64_t j = 0; j < n; j++)
                row[j] = row[j] > 0.0f ? row[j] : 0.0f;
    }
}

enum status linear_forward_cpu(struct device *device, const struct linear_args *args)
{
    int64_t n = args->x.shape[0], n_in = args->x.shape[1], n_out = args->weight.shape[0];
    const float *x = args->x.data, *weight = args->weight.data;
    float *y = args->y.data, *pre = args->pre.data;

    (void)device;
    CHECK_F32("linear", args->x);
    CHECK_F32("linear", args->weight);
    CHECK_F32("linear", args->y);
    CHECK(tensor_is_2d(&args->weight, n_out, n_in) && tensor_is_2d(&args->y, n, n_out));
    CHECK(args->bias.data == NULL || tensor_is_1d(&args->bias, n_out));
    for (int64_t first = 0; first < n; first += ROW_BLOCK) {
        int64_t rows = n - first < ROW_BLOCK ? n - first : ROW_BLOCK;
        float *block = y + first * n_out;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)n_out, (int)n_in, 1.0f,
                    x + first * n_in, (int)n_in, weight, (int)n_in, 0.0f, block, (int)n_out);
        if (args->bias.data != NULL || args->activation != ACTIVATION_NONE)
            epilogue(block, pre != NULL ? pre + first * n_out : NULL, args->bias.data, rows, n_out,
                     args->activation);
    }
    return STATUS_OK;
}

/* d_bias += column sums; each thread owns a range of columns, so the order of sums is fixed. */
static void add_column_sums(float *d_bias, const float *d_y, int64_t n, int64_t n_out)
{
    enum { COLUMNS = 64 };
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n_out; first += COLUMNS) {
        int64_t columns = n_out - first < COLUMNS ? n_out - first : COLUMNS;
        float total[COLUMNS] = {0};
        for (int64_t chunk = 0; chunk < n; chunk += 256) { /* two levels: less rounding */
            float sum[COLUMNS] = {0};
            int64_t end = chunk + 256 < n ? chunk + 256 : n;
            for (int64_t i = chunk; i < end; i++)
                for (int64_t j = 0; j < columns; j++)
                    sum[j] += d_y[i * n_out + first + j];
            for (int64_t j = 0; j < columns; j++)
                total[j] += sum[j];
        }
        for (int64_t j = 0; j < columns; j++)
            d_bias[first + j] += total[j];
    }
}

static void multiply_derivative(float *d_x, const float *pre, int64_t n, enum activation activation)
{
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += 4096) {
        int64_t end = first + 4096 < n ? first + 4096 : n;
        if (activation == ACTIVATION_GELU)
            for (int64_t i = first; i < end; i++)
                d_x[i] *= vector_gelu_derivative(pre[i]);
        else
            for (int64_t i = first; i < end; i++)
                d_x[i] = pre[i] > 0.0f ? d_x[i] : 0.0f;
    }
}

enum status linear_backward_cpu(struct device *device, const struct linear_backward_args *args)
{
    int64_t n = args->d_y.shape[0], n_out = args->d_y.shape[1], n_in = args->x.shape[1];
    const float *d_y = args->d_y.data;

    (void)device;
    CHECK_F32("linear_backward", args->d_y);
    CHECK_F32("linear_backward", args->x);
    CHECK_F32("linear_backward", args->weight);
    CHECK(args->x.shape[0] == n && (args->pre.data == NULL || tensor_is_2d(&args->pre, n, n_in)));
    if (args->d_bias.data != NULL)
        add_column_sums(args->d_bias.data, d_y, n, n_out);
    if (args->d_weight.data != NULL) {
        CHECK(tensor_n_elements(&args->d_weight) == n_out * n_in);
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n_out, (int)n_in, (int)n, 1.0f,
                    d_y, (int)n_out, args->x.data, (int)n_in, 1.0f, args->d_weight.data, (int)n_in);
    }
    if (args->d_x.data == NULL)
        return STATUS_OK;
    CHECK(tensor_is_2d(&args->d_x, n, n_in) && tensor_is_2d(&args->weight, n_out, n_in));
    for (int64_t first = 0; first < n; first += ROW_BLOCK) {
        int64_t rows = n - first < ROW_BLOCK ? n - first : ROW_BLOCK;
        float *block = (float *)args->d_x.data + first * n_in;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)n_in, (int)n_out,
                    1.0f, d_y + first * n_out, (int)n_out, args->weight.data, (int)n_in, 0.0f,
                    block, (int)n_in);
        if (args->pre.data != NULL && args->activation != ACTIVATION_NONE)
            multiply_derivative(block, (const float *)args->pre.data + first * n_in, rows * n_in,
                                args->activation);
    }
    return STATUS_OK;
}
