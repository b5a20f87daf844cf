/* A product in three loops, the inner one over what lies side by side in memory. Sums in order, in
 * float32, as a plain CBLAS has them. */
#include "ops/plain_cblas/cblas.h"

#include <stddef.h>

static void scale_row(float *restrict c, ptrdiff_t n, float beta)
{
    if (beta == 0.0f) {
        for (ptrdiff_t j = 0; j < n; j++)
            c[j] = 0.0f;
    } else if (beta != 1.0f) {
        for (ptrdiff_t j = 0; j < n; j++)
            c[j] *= beta;
    }
}

static void add_scaled_row(float *restrict c, const float *restrict b, ptrdiff_t n, float factor)
{
    for (ptrdiff_t j = 0; j < n; j++)
        c[j] += factor * b[j];
}

static float dot(const float *restrict a, ptrdiff_t stride, const float *restrict b, ptrdiff_t n)
{
    float sum = 0.0f;

    for (ptrdiff_t p = 0; p < n; p++)
        sum += a[p * stride] * b[p];
    return sum;
}

void cblas_sgemm(enum CBLAS_ORDER order, CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, int m, int n,
                 int k, float alpha, const float *a, int lda, const float *b, int ldb, float beta,
                 float *c, int ldc)
{
    (void)order;
    for (ptrdiff_t i = 0; i < m; i++) {
        /* element (i, p) of op(a) is row_a[p * step_a] */
        const float *row_a = op_a == CblasNoTrans ? a + i * lda : a + i;
        ptrdiff_t step_a = op_a == CblasNoTrans ? 1 : lda;
        float *row_c = c + i * ldc;
        scale_row(row_c, n, beta);
        if (op_b == CblasNoTrans) {
            for (ptrdiff_t p = 0; p < k; p++)
                add_scaled_row(row_c, b + p * ldb, n, alpha * row_a[p * step_a]);
        } else {
            for (ptrdiff_t j = 0; j < n; j++)
                row_c[j] += alpha * dot(row_a, step_a, b + j * ldb, k);
        }
    }
}
