/* Distillation loss on CUDA: one block a row.
 *
 * Pass 1 reads each teacher row once: its greatest value, the sum of its exponentials, its entropy.
 * Pass 2 reads each student row and the rows of its teachers once, keeps both in registers (up to
 * 32 values a thread: 8192 prototypes) and writes the gradient, on the logits if wanted. A last
 * block adds up loss and entropy in order. Bound by memory: with float32 logits and a bf16 gradient
 * 14 bytes an element with one teacher row, part of which comes from the L2 cache. Longer or uneven
 * rows are read several times.
 *
 * Sums run in float over a thread's values and in double over the threads, in a fixed order. */
#include "ops/distill_loss.h"

#include "kernels/op_cuda.h"
#include "kernels/rows.cuh"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4, THREADS = 256, WARPS = THREADS / WARP, MOST_PACKS = 8 };

/* Blocks that share the registers of a multiprocessor, by the packs a thread holds. */
constexpr int blocks_of(int n_packs)
{
    return n_packs <= 4 ? 3 : 2;
}

/* ------------------------------------------------------------------------------ rows in threads */

/* The values of a row that this thread holds, as packs: value i * PACK + j is at column(i) + j. */
template <int N> struct row_values {
    float at[N][PACK];
};

__device__ __forceinline__ int column_of(int i)
{
    return (i * THREADS + (int)threadIdx.x) * PACK;
}

template <int N, class T>
__device__ __forceinline__ void load_values(row_values<N> &to, const T *row, int k)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        if (column_of(i) < k)
            load_pack<PACK>(to.at[i], row + column_of(i));
}

/* Greatest of the values that are there; NaN is passed over. */
template <int N> __device__ __forceinline__ float greatest_of(const row_values<N> &values, int k)
{
    float top = -INFINITY;

#pragma unroll
    for (int i = 0; i < N; i++)
        if (column_of(i) < k)
#pragma unroll
            for (int j = 0; j < PACK; j++)
                top = values.at[i][j] > top ? values.at[i][j] : top;
    return top;
}

/* ------------------------------------------------------------------------------ teacher */

struct teacher_arrays {
    const float *centre, *temperature;
    const int32_t *n_rows; /* how many count; absent: all */
    float *tops, *inverses;
    double *entropies;
    int32_t k;
};

/* Statistics of a row from sums over the block. */
__device__ __forceinline__ void save_row(const teacher_arrays &a, int64_t row, float top,
                                         double sum, double moment)
{
    if (threadIdx.x != 0)
        return;
    a.tops[row] = top;
    a.inverses[row] = (float)(1.0 / sum);
    a.entropies[row] = log(sum) - moment / sum;
}

template <int N, class T>
__global__ void __launch_bounds__(THREADS, blocks_of(N))
    teacher_statistics(const T *__restrict__ teacher, teacher_arrays a)
{
    SHARED(float, tops, WARPS);
    SHARED(double, sums, WARPS);
    SHARED(double, moments, WARPS);
    int64_t row = blockIdx.x;
    float scale = 1.0f / *a.temperature, sum = 0.0f, moment = 0.0f;
    row_values<N> values;

    if (a.n_rows != nullptr && row >= *a.n_rows)
        return; /* all threads */
    load_values<N>(values, teacher + row * a.k, a.k);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (column_of(i) < a.k) {
            float centre[PACK];
            load_pack<PACK>(centre, a.centre + column_of(i));
#pragma unroll
            for (int j = 0; j < PACK; j++)
                values.at[i][j] -= centre[j];
        }
    float top = block_max<THREADS>(greatest_of<N>(values, a.k), tops);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (column_of(i) < a.k)
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                float value = (values.at[i][j] - top) * scale, p = expf(value);
                sum += p;
                moment += p > 0.0f ? p * value : p; /* a NaN passes */
            }
    save_row(a, row, top, block_sum<THREADS>((double)sum, sums),
             block_sum<THREADS>((double)moment, moments));
}

/* Any number of prototypes. */
template <class T>
__global__ void __launch_bounds__(THREADS, 2)
    teacher_statistics_any(const T *__restrict__ teacher, teacher_arrays a)
{
    SHARED(float, tops, WARPS);
    SHARED(double, sums, WARPS);
    SHARED(double, moments, WARPS);
    int64_t row = blockIdx.x;
    const T *values = teacher + row * a.k;
    float scale = 1.0f / *a.temperature, top = -INFINITY;
    double sum = 0.0, moment = 0.0;

    if (a.n_rows != nullptr && row >= *a.n_rows)
        return;
    for (int j = (int)threadIdx.x; j < a.k; j += THREADS) {
        float value = to_float(values[j]) - a.centre[j];
        top = value > top ? value : top;
    }
    top = block_max<THREADS>(top, tops);
    for (int j = (int)threadIdx.x; j < a.k; j += THREADS) {
        float value = (to_float(values[j]) - a.centre[j] - top) * scale, p = expf(value);
        sum += (double)p;
        moment += (double)(p > 0.0f ? p * value : p);
    }
    save_row(a, row, top, block_sum<THREADS>(sum, sums), block_sum<THREADS>(moment, moments));
}

/* ------------------------------------------------------------------------------ student */

template <class S, class T, class D> struct student_arrays {
    const S *student;
    const T *teacher;
    const float *centre, *tops, *inverses, *weight, *student_temp, *teacher_temp;
    const int32_t *target, *n_active;
    D *d_student; /* may lie on student */
    double *losses;
    int32_t k, n_targets;
};

/* Teachers of a row; 0 for a row that does not count, whose loss and gradient are 0. */
template <class A> __device__ __forceinline__ int teachers_of(const A &a, int64_t row)
{
    int n = 0;

    if ((a.n_active != nullptr && row >= *a.n_active) || a.weight[row] == 0.0f)
        return 0;
    for (int m = 0; m < a.n_targets; m++)
        n += a.target[row * a.n_targets + m] >= 0;
    return n;
}

__device__ __forceinline__ float probability(float logit, float centre, float top, float scale,
                                             float inverse)
{
    return inverse * expf((logit - centre - top) * scale);
}

__device__ __forceinline__ double row_loss(float weight, int n_teachers, double sum, double dot)
{
    return (double)weight * ((double)n_teachers * log(sum) - dot);
}

template <int N, class S, class T, class D>
__global__ void __launch_bounds__(THREADS, blocks_of(N)) student_loss(student_arrays<S, T, D> a)
{
    SHARED(float, tops, WARPS);
    SHARED(double, sums, WARPS);
    SHARED(double, dots, WARPS);
    int64_t row = blockIdx.x, at = row * a.k;
    int n_teachers = teachers_of(a, row);
    float scale = 1.0f / *a.student_temp, teacher_scale = 1.0f / *a.teacher_temp;
    float sum = 0.0f, dot = 0.0f;
    row_values<N> x, mixed = {};

    if (n_teachers == 0) {
#pragma unroll
        for (int i = 0; i < N; i++)
            if (column_of(i) < a.k)
                store_pack<PACK>(a.d_student + at + column_of(i), mixed.at[i]);
        if (threadIdx.x == 0)
            a.losses[row] = 0.0;
        return; /* all threads */
    }
    for (int m = 0; m < a.n_targets; m++) {
        int64_t target = a.target[row * a.n_targets + m];
        if (target < 0)
            continue;
        float top = a.tops[target], inverse = a.inverses[target];
        row_values<N> teacher;
        load_values<N>(teacher, a.teacher + target * a.k, a.k);
#pragma unroll
        for (int i = 0; i < N; i++)
            if (column_of(i) < a.k) {
                float centre[PACK];
                load_pack<PACK>(centre, a.centre + column_of(i));
#pragma unroll
                for (int j = 0; j < PACK; j++)
                    mixed.at[i][j] +=
                        probability(teacher.at[i][j], centre[j], top, teacher_scale, inverse);
            }
    }
    load_values<N>(x, a.student + at, a.k); /* now: registers are for the teachers before */
    float top = block_max<THREADS>(greatest_of<N>(x, a.k), tops);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (column_of(i) < a.k)
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                float value = (x.at[i][j] - top) * scale;
                x.at[i][j] = expf(value);
                sum += x.at[i][j];
                dot += mixed.at[i][j] * value;
            }
    double all = block_sum<THREADS>((double)sum, sums);
    double all_dot = block_sum<THREADS>((double)dot, dots);
    float weight = a.weight[row], factor = weight * scale;
    float share = (float)((double)n_teachers / all);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (column_of(i) < a.k) {
#pragma unroll
            for (int j = 0; j < PACK; j++)
                x.at[i][j] = factor * (share * x.at[i][j] - mixed.at[i][j]);
            store_pack<PACK>(a.d_student + at + column_of(i), x.at[i]);
        }
    if (threadIdx.x == 0)
        a.losses[row] = row_loss(weight, n_teachers, all, all_dot);
}

/* Sum of the teachers' probabilities of one prototype. */
template <class A>
__device__ __forceinline__ float mixed_at(const A &a, int64_t row, int j, float scale)
{
    float sum = 0.0f;

    for (int m = 0; m < a.n_targets; m++) {
        int64_t target = a.target[row * a.n_targets + m];
        if (target >= 0)
            sum += probability(to_float(a.teacher[target * a.k + j]), a.centre[j], a.tops[target],
                               scale, a.inverses[target]);
    }
    return sum;
}

/* Any number of prototypes; a thread overwrites only logits that it alone reads. */
template <class S, class T, class D>
__global__ void __launch_bounds__(THREADS, 2) student_loss_any(student_arrays<S, T, D> a)
{
    SHARED(float, tops, WARPS);
    SHARED(double, sums, WARPS);
    SHARED(double, dots, WARPS);
    int64_t row = blockIdx.x, at = row * a.k;
    int n_teachers = teachers_of(a, row);
    float scale = 1.0f / *a.student_temp, teacher_scale = 1.0f / *a.teacher_temp, top = -INFINITY;
    double sum = 0.0, dot = 0.0;

    if (n_teachers == 0) {
        for (int j = (int)threadIdx.x; j < a.k; j += THREADS)
            a.d_student[at + j] = from_float<D>(0.0f);
        if (threadIdx.x == 0)
            a.losses[row] = 0.0;
        return;
    }
    for (int j = (int)threadIdx.x; j < a.k; j += THREADS) {
        float value = to_float(a.student[at + j]);
        top = value > top ? value : top;
    }
    top = block_max<THREADS>(top, tops);
    for (int j = (int)threadIdx.x; j < a.k; j += THREADS) {
        float value = (to_float(a.student[at + j]) - top) * scale;
        sum += (double)expf(value);
        dot += (double)(mixed_at(a, row, j, teacher_scale) * value);
    }
    sum = block_sum<THREADS>(sum, sums);
    dot = block_sum<THREADS>(dot, dots);
    float weight = a.weight[row], factor = weight * scale;
    float share = (float)((double)n_teachers / sum);
    for (int j = (int)threadIdx.x; j < a.k; j += THREADS) {
        float e = expf((to_float(a.student[at + j]) - top) * scale);
        a.d_student[at + j] =
            from_float<D>(factor * (share * e - mixed_at(a, row, j, teacher_scale)));
    }
    if (threadIdx.x == 0)
        a.losses[row] = row_loss(weight, n_teachers, sum, dot);
}

/* ------------------------------------------------------------------------------ sums */

/* How many teacher rows count: up to the last that an active student row names. One block. */
__global__ void __launch_bounds__(THREADS)
    count_teacher_rows(int32_t *__restrict__ n_rows, const int32_t *__restrict__ target,
                       const int32_t *__restrict__ n_active, int64_t n, int32_t n_targets)
{
    SHARED(int, lasts, WARPS);
    int64_t active = *n_active < n ? *n_active : n;
    int last = -1;

    for (int64_t i = threadIdx.x; i < active * n_targets; i += THREADS)
        last = target[i] > last ? target[i] : last;
    last = block_max<THREADS>(last, lasts);
    if (threadIdx.x == 0)
        *n_rows = last + 1;
}

/* Adds values[0 .. n) to *to. One block. */
__device__ __forceinline__ void add_all(double *to, const double *values, int64_t n, double *shared)
{
    double sum = 0.0;

    for (int64_t i = threadIdx.x; i < n; i += THREADS)
        sum += values[i];
    sum = block_sum<THREADS>(sum, shared);
    if (threadIdx.x == 0)
        *to += sum;
}

__global__ void __launch_bounds__(THREADS)
    add_losses(double *loss, double *entropy, const double *__restrict__ losses,
               const double *__restrict__ entropies, const int32_t *__restrict__ n_teachers,
               int64_t n, int64_t m)
{
    SHARED(double, loss_sums, WARPS);
    SHARED(double, entropy_sums, WARPS);

    add_all(loss, losses, n, loss_sums);
    if (entropy != nullptr)
        add_all(entropy, entropies, n_teachers != nullptr ? *n_teachers : m, entropy_sums);
}

/* ------------------------------------------------------------------------------ launchers */

static void check(const struct distill_loss_args *args)
{
    int64_t n = args->student.shape[0], k = args->student.shape[1], m = args->teacher.shape[0];

    CHECK(tensor_is_2d(&args->teacher, m, k) && tensor_is_1d(&args->centre, k));
    CHECK(tensor_is_2d(&args->d_student, n, k) && tensor_is_1d(&args->weight, n));
    CHECK(args->target.dtype == DTYPE_I32 && args->target.rank == 2 && args->target.shape[0] == n);
    CHECK(args->loss.dtype == DTYPE_F64);
    CHECK(args->entropy.data == nullptr || args->entropy.dtype == DTYPE_F64);
    CHECK(args->scratch.dtype == DTYPE_F32 && tensor_n_elements(&args->scratch) >= 2 * m);
    CHECK(k > 0 && k <= INT32_MAX - THREADS && n <= INT32_MAX && m <= INT32_MAX);
    CHECK(args->d_student.data != args->student.data ||
              args->d_student.dtype == args->student.dtype,
          "a gradient on the logits has their type");
}

/* Rows of a tensor in packs of four? */
static bool packed(const struct tensor *tensor, int64_t k)
{
    return is_packed(tensor->data, k, tensor->dtype, PACK * dtype_size_bytes(tensor->dtype));
}

/* Calls f with the number of packs a thread that rows of k take, as a constant; 0: rows that don't
 * fit. */
template <class F> static enum status with_packs(int64_t k, bool wide, const F &f)
{
    if (!wide || k > MOST_PACKS * PACK * THREADS)
        return f(std::integral_constant<int, 0>{});
    if (k <= PACK * THREADS)
        return f(std::integral_constant<int, 1>{});
    if (k <= 2 * PACK * THREADS)
        return f(std::integral_constant<int, 2>{});
    return k <= 4 * PACK * THREADS ? f(std::integral_constant<int, 4>{})
                                   : f(std::integral_constant<int, MOST_PACKS>{});
}

/* Working memory of a call. */
struct loss_scratch {
    double *losses, *entropies;
    int32_t *n_teachers; /* absent without n_active */
};

static enum status take_scratch(struct device *device, const struct distill_loss_args *args,
                                loss_scratch *out)
{
    int64_t n = args->student.shape[0], m = args->teacher.shape[0];

    TRY(cuda_scratch(device, &out->losses,
                     static_cast<size_t>(n + m) * sizeof(double) + sizeof(int32_t)));
    out->entropies = out->losses + n;
    out->n_teachers =
        args->n_active != nullptr ? reinterpret_cast<int32_t *>(out->entropies + m) : nullptr;
    return STATUS_OK;
}

template <class T>
static enum status run_teacher(struct device *device, const struct distill_loss_args *args,
                               const loss_scratch &scratch)
{
    int64_t m = args->teacher.shape[0], k = args->teacher.shape[1];
    bool wide = packed(&args->teacher, k) && packed(&args->centre, k);
    teacher_arrays a = {data_of<float>(args->centre),
                        args->teacher_temp,
                        scratch.n_teachers,
                        data_of<float>(args->scratch),
                        data_of<float>(args->scratch) + m,
                        scratch.entropies,
                        static_cast<int32_t>(k)};
    const T *teacher = data_of<T>(args->teacher);

    return with_packs(k, wide, [&](auto packs) {
        constexpr int N = decltype(packs)::value;
        if constexpr (N == 0)
            return launch(device, "teacher_statistics_any", static_cast<unsigned>(m), THREADS, 0,
                          teacher_statistics_any<T>, teacher, a);
        else
            return launch(device, "teacher_statistics", static_cast<unsigned>(m), THREADS, 0,
                          teacher_statistics<N, T>, teacher, a);
    });
}

template <class S, class T, class D>
static enum status run_student(struct device *device, const struct distill_loss_args *args,
                               const loss_scratch &scratch)
{
    int64_t n = args->student.shape[0], k = args->student.shape[1], m = args->teacher.shape[0];
    bool wide = packed(&args->student, k) && packed(&args->teacher, k) &&
                packed(&args->centre, k) && packed(&args->d_student, k);
    student_arrays<S, T, D> a = {};

    a.student = data_of<S>(args->student);
    a.teacher = data_of<T>(args->teacher);
    a.centre = data_of<float>(args->centre);
    a.tops = data_of<float>(args->scratch);
    a.inverses = a.tops + m;
    a.weight = data_of<float>(args->weight);
    a.student_temp = args->student_temp;
    a.teacher_temp = args->teacher_temp;
    a.target = data_of<int32_t>(args->target);
    a.n_active = args->n_active;
    a.d_student = data_of<D>(args->d_student);
    a.losses = scratch.losses;
    a.k = static_cast<int32_t>(k);
    a.n_targets = static_cast<int32_t>(args->target.shape[1]);
    return with_packs(k, wide, [&](auto packs) {
        constexpr int N = decltype(packs)::value;
        if constexpr (N == 0)
            return launch(device, "student_loss_any", static_cast<unsigned>(n), THREADS, 0,
                          student_loss_any<S, T, D>, a);
        else
            return launch(device, "student_loss", static_cast<unsigned>(n), THREADS, 0,
                          student_loss<N, S, T, D>, a);
    });
}

/* Teacher logits are of the student's type: both come from the same product. */
template <class X>
static enum status run(struct device *device, const struct distill_loss_args *args)
{
    int64_t n = args->student.shape[0], m = args->teacher.shape[0];
    loss_scratch scratch;

    TRY(take_scratch(device, args, &scratch));
    if (scratch.n_teachers != nullptr)
        TRY(launch(device, "count_teacher_rows", 1, THREADS, 0, count_teacher_rows,
                   scratch.n_teachers, data_of<int32_t>(args->target), args->n_active, n,
                   args->target.shape[1]));
    TRY(run_teacher<X>(device, args, scratch));
    TRY(with_float_type(args->d_student.dtype, "distill_loss: d_student", [&](auto d) {
        return run_student<X, X, typename decltype(d)::type>(device, args, scratch);
    }));
    return launch(device, "add_losses", 1, THREADS, 0, add_losses, data_of<double>(args->loss),
                  data_of<double>(args->entropy), static_cast<const double *>(scratch.losses),
                  static_cast<const double *>(scratch.entropies),
                  static_cast<const int32_t *>(scratch.n_teachers), n, m);
}

enum status distill_loss_cuda(struct device *device, const struct distill_loss_args *args)
{
    check(args);
    if (args->teacher.dtype != args->student.dtype)
        FAIL(STATUS_UNSUPPORTED,
             "distill_loss: student of dtype %d, teacher of dtype %d; wanted one",
             static_cast<int>(args->student.dtype), static_cast<int>(args->teacher.dtype));
    return with_any_float_type(args->student.dtype, "distill_loss: student", [&](auto x) {
        return run<typename decltype(x)::type>(device, args);
    });
}

/* ------------------------------------------------------------------------------ centre */

__global__ void __launch_bounds__(ROW_THREADS)
    centre_update(float *centre, const float *__restrict__ sum, const float *__restrict__ momentum,
                  const double *__restrict__ guard, int64_t n_guards, float scale, int64_t k)
{
    int64_t j = first_element();
    float m = *momentum;

    for (int64_t i = 0; i < n_guards; i++)
        if (!isfinite(guard[i]))
            return;
    if (j < k)
        centre[j] = m * centre[j] + (1.0f - m) * (scale * sum[j]);
}

enum status centre_update_cuda(struct device *device, const struct centre_update_args *args)
{
    int64_t k = tensor_n_elements(&args->centre);
    int64_t n_guards = args->guard.data != nullptr ? tensor_n_elements(&args->guard) : 0;

    CHECK(args->centre.dtype == DTYPE_F32 && args->sum.dtype == DTYPE_F32);
    CHECK(tensor_is_1d(&args->sum, k) && (n_guards == 0 || args->guard.dtype == DTYPE_F64));
    return launch(device, "centre_update", grid_for(k, ROW_THREADS), ROW_THREADS, 0, centre_update,
                  data_of<float>(args->centre), data_of<float>(args->sum), args->momentum,
                  data_of<double>(args->guard), n_guards, args->scale, k);
}
