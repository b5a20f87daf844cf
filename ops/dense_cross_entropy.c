/* Dense cross-entropy on the CPU, each pixel once. Between two neighbouring rows of a coarse map
 * lie the pixels of one interval, which read and add to these two rows only: threads take the
 * intervals of even numbers, then the odd ones, so that no two of them meet and every sum has one
 * order. */
#include "ops/dense_cross_entropy.h"

#include <omp.h>
#include <string.h>

#include "ops/bilinear.h"
#include "ops/check.h"
#include "ops/cpu_scratch.h"
#include "ops/vector_math.h"

enum status dense_cross_entropy_check(const struct dense_cross_entropy_args *a)
{
    int64_t cells = a->n * a->height * a->width, rows = a->n * a->label_height;
    int64_t pixels = rows * a->label_width, k = a->logits.shape[1];

    CHECK_F32("dense_cross_entropy", a->logits);
    CHECK_F32("dense_cross_entropy", a->d_logits);
    CHECK(a->n > 0 && a->height > 0 && a->width > 0 && a->label_height > 0 && a->label_width > 0);
    CHECK(tensor_is_2d(&a->logits, cells, k) && k > 0 && k <= DENSE_MAX_CLASSES);
    CHECK(a->d_logits.data == NULL || tensor_is_2d(&a->d_logits, cells, k));
    CHECK(a->label.dtype == DTYPE_U8 && tensor_is_1d(&a->label, pixels));
    CHECK(a->lse.dtype == DTYPE_F32 && tensor_is_1d(&a->lse, pixels));
    CHECK(a->loss.dtype == DTYPE_F32 && tensor_is_1d(&a->loss, rows));
    CHECK(a->right.dtype == DTYPE_I32 && tensor_is_1d(&a->right, rows));
    CHECK(rows <= INT32_MAX && cells <= INT32_MAX);
    return STATUS_OK;
}

/* One thread's: a row of pixels' worth of coarse logits and their gradient, a pixel's. */
struct row_memory {
    float *z, *d_z; /* [w, K] */
    float *pixel;   /* [K] */
};

static void mix_rows(float *out, const float *low, const float *high, float share, int64_t n)
{
    float rest = 1.0f - share;

    for (int64_t i = 0; i < n; i++)
        out[i] = rest * low[i] + share * high[i];
}

static void add_scaled(float *to, const float *from, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] += factor * from[i];
}

/* z becomes exp(z - greatest); returns the log-sum-exp. */
static float exponentials(float *z, int64_t k, float *sum, int64_t *first_greatest)
{
    float top = z[0], total = 0.0f;
    int64_t best = 0;

    for (int64_t j = 1; j < k; j++)
        top = z[j] > top ? z[j] : top;
    while (best < k - 1 && !(z[best] == top))
        best++;
    for (int64_t j = 0; j < k; j++) {
        z[j] = vector_exp(z[j] - top);
        total += z[j];
    }
    *sum = total;
    *first_greatest = best;
    return top + logf(total);
}

/* A row of the label map, between rows `low` and `high` of the coarse one. */
static void one_row(const struct dense_cross_entropy_args *a, int64_t row, const float *low,
                    const float *high, float share, float *d_low, float *d_high,
                    const struct row_memory *m)
{
    const uint8_t *label = (const uint8_t *)a->label.data + row * a->label_width;
    int64_t k = a->logits.shape[1], n = a->width * k;
    float *lse = (float *)a->lse.data + row * a->label_width;
    float ratio = (float)a->width / (float)a->label_width;
    double loss = 0.0;
    int32_t right = 0;

    mix_rows(m->z, low, high, share, n);
    memset(m->d_z, 0, (size_t)n * sizeof(float));
    for (int32_t x = 0; x < a->label_width; x++) {
        if (label[x] == DENSE_IGNORED)
            continue;
        struct bilinear_tap tap = bilinear_tap_at(x, ratio, a->width);
        mix_rows(m->pixel, m->z + tap.low * k, m->z + tap.high * k, tap.share, k);
        float own = m->pixel[label[x]], sum;
        int64_t best;
        lse[x] = exponentials(m->pixel, k, &sum, &best);
        loss += (double)lse[x] - (double)own;
        right += best == label[x];
        if (d_low == NULL)
            continue;
        float inverse = a->scale / sum;
        for (int64_t j = 0; j < k; j++)
            m->pixel[j] *= inverse;
        m->pixel[label[x]] -= a->scale;
        add_scaled(m->d_z + tap.low * k, m->pixel, 1.0f - tap.share, k);
        add_scaled(m->d_z + tap.high * k, m->pixel, tap.share, k);
    }
    ((float *)a->loss.data)[row] = (float)loss;
    ((int32_t *)a->right.data)[row] = right;
    if (d_low == NULL)
        return;
    add_scaled(d_low, m->d_z, 1.0f - share, n);
    add_scaled(d_high, m->d_z, share, n);
}

/* The rows of pixels whose lower row of the coarse map `image` is `y`. */
static void interval(const struct dense_cross_entropy_args *a, int64_t image, int32_t y,
                     const struct row_memory *memory)
{
    float ratio = (float)a->height / (float)a->label_height, *d = a->d_logits.data;
    int64_t n = a->width * a->logits.shape[1];
    const float *logits = (const float *)a->logits.data + image * a->height * n;

    d = d == NULL ? NULL : d + image * a->height * n;
    for (int32_t out = 0; out < a->label_height; out++) {
        struct bilinear_tap tap = bilinear_tap_at(out, ratio, a->height);
        if (tap.low == y)
            one_row(a, image * a->label_height + out, logits + tap.low * n, logits + tap.high * n,
                    tap.share, d == NULL ? NULL : d + tap.low * n,
                    d == NULL ? NULL : d + tap.high * n, memory);
    }
}

enum status dense_cross_entropy_cpu(struct device *device, const struct dense_cross_entropy_args *a)
{
    int n_threads = device->n_threads > 0 ? device->n_threads : omp_get_max_threads();
    float *scratch;

    TRY(dense_cross_entropy_check(a));
    int64_t k = a->logits.shape[1], row = a->width * k, each = 2 * row + k + 16;
    TRY(cpu_scratch(device, &scratch, (size_t)(each * n_threads) * sizeof(float)));
    if (a->d_logits.data != NULL)
        memset(a->d_logits.data, 0, tensor_size_bytes(&a->d_logits));
    for (int32_t odd = 0; odd < 2; odd++) {
#pragma omp parallel for collapse(2) schedule(dynamic, 1) num_threads(n_threads)
        for (int64_t i = 0; i < a->n; i++)
            for (int32_t y = odd; y < a->height; y += 2) {
                float *mine = scratch + each * omp_get_thread_num();
                struct row_memory memory = {mine, mine + row, mine + 2 * row};
                interval(a, i, y, &memory);
            }
    }
    return STATUS_OK;
}
