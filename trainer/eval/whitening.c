/* Products in double precision, of a few rows at a time, so that a matrix passes through the caches
 * once for all of them. Each element of a result is one thread's, in the order of the rows. */
#include "trainer/eval/whitening.h"

#include <math.h>
#include <omp.h>
#include <stddef.h>

#include "proto/base/memory.h"
#include "trainer/eval/symmetric_eigen.h"

enum { LEARNT = 64, APPLIED = 16 }; /* rows at a time */

static const double least_share = 1e-5;

/* moments [dim, dim] += rows^T rows, above the diagonal. */
static void add_moments(double *moments, const float *rows, int64_t n, int64_t dim)
{
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t i = 0; i < dim; i++)
        for (int64_t k = 0; k < n; k++) {
            const float *row = rows + k * dim;
            double *to = moments + i * dim, factor = (double)row[i];
#pragma omp simd
            for (int64_t j = i; j < dim; j++)
                to[j] += factor * (double)row[j];
        }
}

static void learn_moments(struct whitening *w, double *moments, const float *rows, int64_t n)
{
    int64_t dim = w->dim;

    for (int64_t first = 0; first < n; first += LEARNT)
        add_moments(moments, rows + first * dim, n - first < LEARNT ? n - first : LEARNT, dim);
    for (int64_t i = 0; i < dim; i++)
        for (int64_t j = i; j < dim; j++)
            moments[i * dim + j] = moments[j * dim + i] = moments[i * dim + j] / (double)n;
    for (int64_t i = 0; i < n * dim; i++)
        w->mean[i % dim] += (double)rows[i];
    for (int64_t j = 0; j < dim; j++)
        w->mean[j] /= (double)n;
}

static enum status check_moments(const double *moments, int64_t dim)
{
    for (int64_t i = 0; i < dim; i++)
        if (moments[i * dim + i] > 0.0)
            return STATUS_OK;
    FAIL(STATUS_NOT_FINITE, "whitening: all features that it is to be learnt from are zero");
}

enum status whitening_learn(struct whitening *out, const float *rows, int64_t n, int32_t dim)
{
    double *moments = NULL, *shares = NULL, most = 0.0;
    size_t width = (size_t)dim;
    enum status status;

    CHECK(n > 0 && dim > 0);
    *out = (struct whitening){.dim = dim};
    TRY_OUT(memory_alloc(&out->mean, width, sizeof(double), "whitening"));
    TRY_OUT(memory_alloc(&out->directions, width * width, sizeof(double), "whitening"));
    TRY_OUT(memory_alloc(&moments, width * width, sizeof(double), "whitening"));
    TRY_OUT(memory_alloc(&shares, width, sizeof(double), "whitening"));
    learn_moments(out, moments, rows, n);
    TRY_OUT(check_moments(moments, dim));
    TRY_OUT(symmetric_eigen(shares, out->directions, moments, dim));
    for (int32_t k = 0; k < dim; k++)
        most = fmax(most, shares[k]);
    for (int32_t k = 0; k < dim; k++) {
        double by = 1.0 / sqrt(fmax(shares[k], least_share * most));
        for (size_t j = 0; j < width; j++)
            out->directions[(size_t)k * width + j] *= by;
    }
out:
    memory_free(moments);
    memory_free(shares);
    if (status != STATUS_OK)
        whitening_release(out);
    return status;
}

/* centred [APPLIED, dim]: scratch. */
static void apply(const struct whitening *w, float *rows, int64_t n, double *centred)
{
    int64_t dim = w->dim;

    for (int64_t i = 0; i < n * dim; i++)
        centred[i] = (double)rows[i] - w->mean[i % dim];
    for (int64_t k = 0; k < dim; k++)
        for (int64_t i = 0; i < n; i++) {
            const double *direction = w->directions + k * dim, *row = centred + i * dim;
            double sum = 0.0;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < dim; j++)
                sum += direction[j] * row[j];
            rows[i * dim + k] = (float)sum;
        }
}

enum status whitening_apply(const struct whitening *w, float *rows, int64_t n)
{
    size_t each = APPLIED * (size_t)w->dim;
    double *centred = NULL;

    TRY(memory_alloc(&centred, (size_t)omp_get_max_threads() * each, sizeof(*centred),
                     "whitening"));
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += APPLIED)
        apply(w, rows + first * w->dim, n - first < APPLIED ? n - first : APPLIED,
              centred + (size_t)omp_get_thread_num() * each);
    memory_free(centred);
    return STATUS_OK;
}

void whitening_release(struct whitening *w)
{
    if (w == NULL)
        return;
    memory_free(w->mean);
    memory_free(w->directions);
    *w = (struct whitening){0};
}
