/* Rows are what lies side by side in memory and what threads share out: an eigenvector is a row,
 * and so are the reflections v, which take the place of the rows that they reduce. */
#include "trainer/eval/symmetric_eigen.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

/* QR steps that a value may take; it takes two or three. Columns that are turned together: as many
 * as stay in the first cache for two rows. Elements that are worth waking other threads for. */
enum { MAX_STEPS = 60, COLUMNS = 256, SHARED = 1 << 16 };

struct work {
    double *matrix, *vectors, *diagonal, *beside; /* beside [n]: the last one is not used */
    double *weight;                               /* [n] of each reflection 1 - weight v v^T */
    double *product;                              /* [n] */
    double *cosine, *sine;                        /* [n] of the rotations of one step */
    int64_t n;
};

static double dot(const double *a, const double *b, int64_t n)
{
    double sum = 0.0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* v [n] <- a reflection that takes it to a multiple of the first axis, which is returned. */
static double reflection(double *v, int64_t n, double *weight)
{
    double most = 0.0;

    *weight = 0.0;
    for (int64_t i = 1; i < n; i++)
        most = fmax(most, fabs(v[i]));
    if (most == 0.0)
        return v[0];
    most = fmax(most, fabs(v[0])); /* squares of what is divided by it are in range */
    for (int64_t i = 0; i < n; i++)
        v[i] /= most;
    double length = sqrt(dot(v, v, n)), image = v[0] > 0.0 ? -length : length;
    v[0] -= image;
    *weight = 2.0 / dot(v, v, n);
    return image * most;
}

/* Step k: row and column k keep two elements. What is left of the matrix, from k + 1 on, becomes
 * H A H = A - v w^T - w v^T with p = weight A v, w = p - (weight/2) (p^T v) v. */
static void reduce_row(struct work *w, int64_t k)
{
    int64_t n = w->n, rest = n - k - 1;
    double *v = w->matrix + k * n + k + 1, *p = w->product;

    w->diagonal[k] = w->matrix[k * n + k];
    w->beside[k] = reflection(v, rest, &w->weight[k]);
    double weight = w->weight[k];
    if (weight == 0.0)
        return;
#pragma omp parallel for schedule(static) if (rest * rest > SHARED)
    for (int64_t i = 0; i < rest; i++)
        p[i] = weight * dot(w->matrix + (k + 1 + i) * n + k + 1, v, rest);
    double share = 0.5 * weight * dot(p, v, rest);
    for (int64_t i = 0; i < rest; i++)
        p[i] -= share * v[i];
#pragma omp parallel for schedule(static) if (rest * rest > SHARED)
    for (int64_t i = 0; i < rest; i++) {
        double *row = w->matrix + (k + 1 + i) * n + k + 1, of_p = v[i], of_v = p[i];
#pragma omp simd
        for (int64_t j = 0; j < rest; j++)
            row[j] -= of_p * p[j] + of_v * v[j];
    }
}

static void reduce(struct work *w)
{
    int64_t n = w->n;

    for (int64_t k = 0; k < n - 2; k++)
        reduce_row(w, k);
    if (n > 1) {
        w->diagonal[n - 2] = w->matrix[(n - 2) * n + n - 2];
        w->beside[n - 2] = w->matrix[(n - 2) * n + n - 1];
    }
    w->diagonal[n - 1] = w->matrix[n * n - 1];
}

/* Rows are what the reflections, one after the other, make of the axes: the last reflection first,
 * which leaves all axes before its own as they are. */
static void start_vectors(struct work *w)
{
    int64_t n = w->n;

    memset(w->vectors, 0, (size_t)(n * n) * sizeof(double));
    for (int64_t i = 0; i < n; i++)
        w->vectors[i * n + i] = 1.0;
    for (int64_t k = n - 3; k >= 0; k--) {
        const double *v = w->matrix + k * n + k + 1;
        double weight = w->weight[k];
        if (weight == 0.0)
            continue;
#pragma omp parallel for schedule(static) if ((n - k) * (n - k) > SHARED)
        for (int64_t i = k + 1; i < n; i++) {
            double *row = w->vectors + i * n + k + 1, along = weight * dot(row, v, n - k - 1);
#pragma omp simd
            for (int64_t j = 0; j < n - k - 1; j++)
                row[j] -= along * v[j];
        }
    }
}

/* One implicit QR step of the tridiagonal block first .. last; its rotations, one for each pair of
 * rows, are kept. */
static void step(struct work *w, int64_t first, int64_t last)
{
    double *d = w->diagonal, *e = w->beside;
    double half = 0.5 * (d[last - 1] - d[last]), corner = e[last - 1];
    double shift = d[last] - corner * (corner / (half + copysign(hypot(half, corner), half)));
    double x = d[first] - shift, bulge = e[first];

    for (int64_t k = first; k < last; k++) {
        double length = hypot(x, bulge);
        double c = length > 0.0 ? x / length : 1.0, s = length > 0.0 ? bulge / length : 0.0;
        double a = d[k], b = e[k], z = d[k + 1];
        if (k > first)
            e[k - 1] = length;
        d[k] = c * c * a + 2.0 * c * s * b + s * s * z;
        d[k + 1] = s * s * a - 2.0 * c * s * b + c * c * z;
        e[k] = c * s * (z - a) + (c - s) * (c + s) * b;
        x = e[k];
        bulge = s * e[k + 1]; /* of the last one not used */
        if (k < last - 1)
            e[k + 1] *= c;
        w->cosine[k] = c;
        w->sine[k] = s;
    }
}

static void turn_vectors(struct work *w, int64_t first, int64_t last)
{
    int64_t n = w->n;

#pragma omp parallel for schedule(static) if ((last - first) * n > SHARED)
    for (int64_t from = 0; from < n; from += COLUMNS) {
        int64_t columns = n - from < COLUMNS ? n - from : COLUMNS;
        for (int64_t k = first; k < last; k++) {
            double *upper = w->vectors + k * n + from, *lower = upper + n;
            double c = w->cosine[k], s = w->sine[k];
#pragma omp simd
            for (int64_t j = 0; j < columns; j++) {
                double a = upper[j], b = lower[j];
                upper[j] = c * a + s * b;
                lower[j] = c * b - s * a;
            }
        }
    }
}

/* To be taken for nothing: what rounding changes in any case. A stricter measure, by the elements
 * beside it, would not do: where values are nothing but rounding, it may never be met. */
static double least_element(const struct work *w)
{
    double most = 0.0;

    for (int64_t k = 0; k < w->n; k++)
        most = fmax(most, fabs(w->diagonal[k]) + (k < w->n - 1 ? fabs(w->beside[k]) : 0.0));
    return DBL_EPSILON * most;
}

static enum status iterate(struct work *w)
{
    double least = least_element(w);
    int64_t steps = 0;

    for (int64_t last = w->n - 1; last > 0;) {
        int64_t first = last;
        while (first > 0 && !(fabs(w->beside[first - 1]) <= least))
            first--;
        if (first == last) {
            last--;
            steps = 0;
            continue;
        }
        if (++steps > MAX_STEPS)
            FAIL(STATUS_NOT_FINITE, "the eigenvalues of a matrix of %lld rows are not found",
                 (long long)w->n);
        step(w, first, last);
        turn_vectors(w, first, last);
    }
    return STATUS_OK;
}

enum status symmetric_eigen(double *values, double *vectors, double *matrix, int32_t n)
{
    struct work w = {.matrix = matrix, .vectors = vectors, .diagonal = values, .n = n};
    enum status status = STATUS_OK;
    double *scratch = NULL;

    CHECK(n > 0);
    for (int64_t i = 0; i < w.n * w.n; i++)
        if (!isfinite(matrix[i]))
            FAIL(STATUS_NOT_FINITE, "element (%lld, %lld) of a symmetric matrix is %g",
                 (long long)(i / n), (long long)(i % n), matrix[i]);
    TRY(memory_alloc(&scratch, 5 * (size_t)n, sizeof(*scratch), "eigenvectors"));
    w.beside = scratch;
    w.weight = scratch + n;
    w.product = scratch + 2 * n;
    w.cosine = scratch + 3 * n;
    w.sine = scratch + 4 * n;
    reduce(&w);
    start_vectors(&w);
    status = iterate(&w);
    memory_free(scratch);
    return status;
}
