/* Distillation loss on the CPU. Pass 1 reads the teacher rows once for their softmax statistics;
 * pass 2 makes loss and gradient of each student row in place. Losses are summed row by row in a
 * fixed order, in double. */
#include "ops/distill_loss.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "ops/check.h"
#include "ops/cpu_scratch.h"
#include "ops/vector_math.h"

/* Maximum and sum of exponentials of (row - centre) * scale. */
static void statistics(const float *row, const float *centre, int64_t k, float scale, float *top,
                       float *sum, double *entropy)
{
    float t = -INFINITY, s = 0.0f, e = 0.0f;

#pragma omp simd reduction(max : t)
    for (int64_t j = 0; j < k; j++) {
        float value = (row[j] - (centre != NULL ? centre[j] : 0.0f)) * scale;
        t = value > t ? value : t;
    }
#pragma omp simd reduction(+ : s, e)
    for (int64_t j = 0; j < k; j++) {
        float value = (row[j] - (centre != NULL ? centre[j] : 0.0f)) * scale - t;
        float p = vector_exp(value);
        s += p;
        e += p * value;
    }
    *top = t;
    *sum = s;
    if (entropy != NULL)
        *entropy = log((double)s) - (double)e / (double)s;
}

struct loss_row {
    const float *student, *teacher, *centre, *tops, *sums;
    const int32_t *target;
    float *d_student;
    int64_t k, n_targets;
    float student_scale, teacher_scale, weight;
};

/* Loss of one student row (unweighted), and its gradient. A first sweep adds up the teacher
 * distributions in `mixed`, because the gradient may overwrite the logits. */
static double row_loss(const struct loss_row *r, float *mixed)
{
    const float *x = r->student;
    float top, sum, dot = 0.0f;
    int n_used = 0;

    memset(mixed, 0, (size_t)r->k * sizeof(float));
    for (int64_t m = 0; m < r->n_targets; m++) {
        if (r->target[m] < 0)
            continue;
        const float *teacher = r->teacher + (int64_t)r->target[m] * r->k;
        float teacher_top = r->tops[r->target[m]], inverse = 1.0f / r->sums[r->target[m]];
        n_used++;
        for (int64_t j = 0; j < r->k; j++)
            mixed[j] +=
                inverse * vector_exp((teacher[j] - r->centre[j]) * r->teacher_scale - teacher_top);
    }
    statistics(x, NULL, r->k, r->student_scale, &top, &sum, NULL);
    float lse = top + logf(sum), inverse = 1.0f / sum;
    float factor = r->weight * r->student_scale, count = (float)n_used;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < r->k; j++) {
        float scaled = x[j] * r->student_scale;
        dot += mixed[j] * (scaled - lse);
        r->d_student[j] = factor * (count * inverse * vector_exp(scaled - top) - mixed[j]);
    }
    return -(double)dot;
}

enum status distill_loss_cpu(struct device *device, const struct distill_loss_args *args)
{
    int64_t n = args->student.shape[0], k = args->student.shape[1], m = args->teacher.shape[0];
    int64_t n_targets = args->target.shape[1];
    float student_scale = 1.0f / *args->student_temp, teacher_scale = 1.0f / *args->teacher_temp;
    float *tops = args->scratch.data, *sums = tops + m, *mixed;
    double *losses, *entropies;

    CHECK_F32("distill_loss", args->student);
    CHECK_F32("distill_loss", args->teacher);
    CHECK(args->teacher.shape[1] == k && tensor_is_1d(&args->centre, k));
    CHECK(args->scratch.shape[0] * args->scratch.shape[1] >= 2 * m);
    if (args->n_active != NULL && *args->n_active < n)
        n = *args->n_active;
    size_t rows = (size_t)(n > m ? n : m);
    size_t threads = (size_t)device->n_threads;
    TRY(cpu_scratch(device, &losses,
                    2 * rows * sizeof(double) + threads * (size_t)k * sizeof(float)));
    entropies = losses + rows;
    mixed = (float *)(entropies + rows);

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < m; i++)
        statistics((const float *)args->teacher.data + i * k, args->centre.data, k, teacher_scale,
                   &tops[i], &sums[i], &entropies[i]);
    double *entropy = args->entropy.data;
    for (int64_t i = 0; i < m && entropy != NULL; i++)
        *entropy += entropies[i];

#pragma omp parallel num_threads(device->n_threads)
    {
        float *own = mixed + (int64_t)omp_get_thread_num() * k;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            struct loss_row row = {
                .student = (const float *)args->student.data + i * k,
                .teacher = args->teacher.data,
                .centre = args->centre.data,
                .tops = tops,
                .sums = sums,
                .target = (const int32_t *)args->target.data + i * n_targets,
                .d_student = (float *)args->d_student.data + i * k,
                .k = k,
                .n_targets = n_targets,
                .student_scale = student_scale,
                .teacher_scale = teacher_scale,
                .weight = ((const float *)args->weight.data)[i],
            };
            losses[i] = row.weight == 0.0f ? 0.0 : (double)row.weight * row_loss(&row, own);
            if (row.weight == 0.0f)
                memset(row.d_student, 0, (size_t)k * sizeof(float));
        }
    }
    for (int64_t i = 0; i < n; i++)
        *(double *)args->loss.data += losses[i];
    return STATUS_OK;
}

enum status centre_update_cpu(struct device *device, const struct centre_update_args *args)
{
    int64_t k = tensor_n_elements(&args->centre);
    float *centre = args->centre.data, momentum = *args->momentum;
    const float *sum = args->sum.data;

    (void)device;
    CHECK(tensor_is_1d(&args->sum, k));
    for (int64_t j = 0; j < k; j++)
        centre[j] = momentum * centre[j] + (1.0f - momentum) * (args->scale * sum[j]);
    return STATUS_OK;
}
