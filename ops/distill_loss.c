/* Distillation loss on the CPU. Pass 1 reads each teacher row once for its softmax statistics;
 * pass 2 makes loss and gradient of each student row while it is in cache, in place: the row of
 * exponentials that the loss needs is kept where the gradient goes.
 *
 * Sums run in float over SWEEP elements and in double over those, row by row in order: the same
 * bits on any number of threads. */
#include "ops/distill_loss.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "ops/check.h"
#include "ops/cpu_scratch.h"
#include "ops/vector_math.h"

enum { SWEEP = 512 };

/* exp(x) for x <= 0. What is below e^-60 counts as e^-60: no sum of probabilities feels it, and the
 * products below stay clear of denormal numbers, which many processors compute slowly. */
static inline float decay(float x)
{
    x = x < -60.0f ? -60.0f : x; /* in this order a NaN passes */
    return vector_exp(x);
}

static int64_t sweep_end(int64_t first, int64_t k)
{
    return k - first < SWEEP ? k : first + SWEEP;
}

/* ------------------------------------------------------------------------------ teacher */

/* Greatest value of row - centre, 1 / sum of exp((row - centre - top) * scale), and the entropy. */
static void teacher_statistics(const float *row, const float *centre, int64_t k, float scale,
                               float *top, float *inverse, double *entropy)
{
    float greatest = -INFINITY;
    double sum = 0.0, moment = 0.0;

#pragma omp simd reduction(max : greatest)
    for (int64_t j = 0; j < k; j++) {
        float value = row[j] - centre[j];
        greatest = value > greatest ? value : greatest;
    }
    for (int64_t first = 0; first < k; first += SWEEP) {
        float part = 0.0f, part_moment = 0.0f;
        int64_t end = sweep_end(first, k);
#pragma omp simd reduction(+ : part, part_moment)
        for (int64_t j = first; j < end; j++) {
            float value = (row[j] - centre[j] - greatest) * scale, p = decay(value);
            part += p;
            part_moment += p * value;
        }
        sum += (double)part;
        moment += (double)part_moment;
    }
    *top = greatest;
    *inverse = (float)(1.0 / sum);
    *entropy = log(sum) - moment / sum;
}

/* ------------------------------------------------------------------------------ student */

struct loss_row {
    const float *student, *teacher, *centre, *tops, *inverses;
    const int32_t *target;
    float *d_student;
    int64_t k, n_targets;
    float student_scale, teacher_scale, weight;
};

/* Sum of the distributions of the row's teachers; how many there are. */
static int mix_teachers(const struct loss_row *r, float *restrict mixed)
{
    const float *centre = r->centre;
    float scale = r->teacher_scale;
    int n_used = 0;

    for (int64_t m = 0; m < r->n_targets; m++) {
        if (r->target[m] < 0)
            continue;
        const float *teacher = r->teacher + (int64_t)r->target[m] * r->k;
        float top = r->tops[r->target[m]], inverse = r->inverses[r->target[m]];
        if (n_used++ == 0)
            for (int64_t j = 0; j < r->k; j++)
                mixed[j] = inverse * decay((teacher[j] - centre[j] - top) * scale);
        else
            for (int64_t j = 0; j < r->k; j++)
                mixed[j] += inverse * decay((teacher[j] - centre[j] - top) * scale);
    }
    return n_used;
}

/* Loss of one student row (before its weight), and its gradient. The gradient may lie on the
 * logits: every loop reads element j before it writes it. */
static double row_loss(const struct loss_row *r, float *mixed)
{
    const float *x = r->student;
    float *d = r->d_student, top = -INFINITY, scale = r->student_scale;
    double sum = 0.0, dot = 0.0;
    int n_used = mix_teachers(r, mixed);

    if (n_used == 0 || r->weight == 0.0f) {
        memset(d, 0, (size_t)r->k * sizeof(float));
        return 0.0;
    }
#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < r->k; j++)
        top = x[j] > top ? x[j] : top;
    for (int64_t first = 0; first < r->k; first += SWEEP) {
        float part = 0.0f, part_dot = 0.0f;
        int64_t end = sweep_end(first, r->k);
#pragma omp simd reduction(+ : part, part_dot)
        for (int64_t j = first; j < end; j++) {
            float value = (x[j] - top) * scale, e = decay(value);
            part += e;
            part_dot += mixed[j] * value;
            d[j] = e;
        }
        sum += (double)part;
        dot += (double)part_dot;
    }
    float factor = r->weight * scale, student = (float)((double)n_used / sum);
#pragma omp simd
    for (int64_t j = 0; j < r->k; j++)
        d[j] = factor * (student * d[j] - mixed[j]);
    return (double)n_used * log(sum) - dot;
}

/* ------------------------------------------------------------------------------ the op */

/* Teacher rows to look at: all of them, or up to the last one that the active students name. */
static int64_t teacher_rows(const struct distill_loss_args *args, int64_t n_students)
{
    int64_t m = args->teacher.shape[0], n_targets = args->target.shape[1], last = -1;
    const int32_t *target = args->target.data;

    for (int64_t i = 0; i < n_students * n_targets; i++)
        last = target[i] > last ? target[i] : last;
    CHECK(last < m, "a target names teacher row %lld of %lld", (long long)last, (long long)m);
    return args->n_active == NULL ? m : last + 1;
}

static void check(const struct distill_loss_args *args)
{
    int64_t n = args->student.shape[0], k = args->student.shape[1], m = args->teacher.shape[0];

    CHECK(tensor_is_2d(&args->teacher, m, k) && tensor_is_1d(&args->centre, k));
    CHECK(tensor_is_2d(&args->d_student, n, k) && tensor_is_1d(&args->weight, n));
    CHECK(args->target.dtype == DTYPE_I32 && args->target.rank == 2 && args->target.shape[0] == n);
    CHECK(args->loss.dtype == DTYPE_F64);
    CHECK(args->entropy.data == NULL || args->entropy.dtype == DTYPE_F64);
    CHECK(tensor_n_elements(&args->scratch) >= 2 * m);
    CHECK(*args->student_temp > 0.0f && *args->teacher_temp > 0.0f);
}

enum status distill_loss_cpu(struct device *device, const struct distill_loss_args *args)
{
    int64_t n = args->student.shape[0], k = args->student.shape[1];
    int64_t n_targets = args->target.shape[1];
    float student_scale = 1.0f / *args->student_temp, teacher_scale = 1.0f / *args->teacher_temp;
    float *tops = args->scratch.data, *inverses = tops + args->teacher.shape[0], *mixed;
    double *losses, *entropies;

    CHECK_F32("distill_loss", args->student);
    CHECK_F32("distill_loss", args->teacher);
    CHECK_F32("distill_loss", args->d_student);
    check(args);
    CHECK(args->n_active == NULL || *args->n_active >= 0, "%d active rows", *args->n_active);
    if (args->n_active != NULL && *args->n_active < n)
        n = *args->n_active;
    memset((float *)args->d_student.data + n * k, 0,
           (size_t)((args->student.shape[0] - n) * k) * sizeof(float));
    int64_t m = teacher_rows(args, n);
    TRY(cpu_scratch(device, &losses,
                    (size_t)(n + m) * sizeof(double) +
                        (size_t)(device->n_threads * k) * sizeof(float)));
    entropies = losses + n;
    mixed = (float *)(entropies + m);

#pragma omp parallel num_threads(device->n_threads)
    {
        float *own = mixed + (int64_t)omp_get_thread_num() * k;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < m; i++)
            teacher_statistics((const float *)args->teacher.data + i * k, args->centre.data, k,
                               teacher_scale, &tops[i], &inverses[i], &entropies[i]);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            struct loss_row row = {
                .student = (const float *)args->student.data + i * k,
                .teacher = args->teacher.data,
                .centre = args->centre.data,
                .tops = tops,
                .inverses = inverses,
                .target = (const int32_t *)args->target.data + i * n_targets,
                .d_student = (float *)args->d_student.data + i * k,
                .k = k,
                .n_targets = n_targets,
                .student_scale = student_scale,
                .teacher_scale = teacher_scale,
                .weight = ((const float *)args->weight.data)[i],
            };
            losses[i] = (double)row.weight * row_loss(&row, own);
        }
    }
    for (int64_t i = 0; i < n; i++)
        *(double *)args->loss.data += losses[i];
    for (int64_t i = 0; i < m && args->entropy.data != NULL; i++)
        *(double *)args->entropy.data += entropies[i];
    return STATUS_OK;
}

enum status centre_update_cpu(struct device *device, const struct centre_update_args *args)
{
    int64_t k = tensor_n_elements(&args->centre);
    float *centre = args->centre.data, momentum = *args->momentum;
    const float *sum = args->sum.data;

    (void)device;
    CHECK_F32("centre_update", args->centre);
    CHECK_F32("centre_update", args->sum);
    CHECK(tensor_is_1d(&args->sum, k));
    if (!all_finite(&args->guard))
        return STATUS_OK;
    for (int64_t j = 0; j < k; j++)
        centre[j] = momentum * centre[j] + (1.0f - momentum) * (args->scale * sum[j]);
    return STATUS_OK;
}
