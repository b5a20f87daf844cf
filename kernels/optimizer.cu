/* Clipping, optimizer and teacher average on CUDA, bound by memory: 4 bytes a parameter for the
 * norms, 40 for AdamW with the teacher and both 16-bit copies.
 *
 * The segment table lies in device memory, so the host doesn't know how many chunks there are, and
 * need not: blocks stride over the chunks, and each block makes the table that says where a chunk
 * lies, in shared memory, before it begins (a scan of a few hundred sizes).
 *
 *   segments      |  0            | 1 |  2                          |
 *   chunks        |     |     |   |   |     |     |     |     |     |
 *   first_chunk   0               3   4                             9
 *
 * Sums: one a chunk, added by segment in order in a second launch: the same bits on every call. */
#include "ops/optimizer.h"

#include "kernels/op_cuda.h"
#include "kernels/rows.cuh"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4, THREADS = ROW_THREADS, WARPS = ROW_WARPS, CHUNK = 4096, MOST_SEGMENTS = 8192 };

/* ------------------------------------------------------------------------------ chunks */

/* first_chunk[s] for s <= n_segments, made by the whole block. `sums`: WARPS ints of shared memory.
 * Ends with a barrier. */
__device__ __forceinline__ void find_chunks(int *first_chunk, const struct segment *segments,
                                            int n_segments, int *sums)
{
    int each = (n_segments + THREADS - 1) / THREADS, lane = lane_of_warp();
    int warp = (int)threadIdx.x / WARP, mine = 0;
    int first = (int)threadIdx.x * each;
    int end = first + each < n_segments ? first + each : n_segments;

    for (int s = first; s < end; s++)
        mine += (int)((segments[s].n + CHUNK - 1) / CHUNK);
    int before = mine; /* sum of this and lower lanes, then of lower threads */
    for (int distance = 1; distance < WARP; distance *= 2) {
        int lower = __shfl_up_sync(ALL_LANES, before, distance);
        before += lane >= distance ? lower : 0;
    }
    if (lane == WARP - 1)
        sums[warp] = before;
    __syncthreads();
    before -= mine;
    for (int w = 0; w < warp; w++)
        before += sums[w];
    if (threadIdx.x == 0)
        first_chunk[0] = 0;
    for (int s = first; s < end; s++) {
        before += (int)((segments[s].n + CHUNK - 1) / CHUNK);
        first_chunk[s + 1] = before;
    }
    __syncthreads();
}

/* A chunk of a segment. */
struct chunk {
    int segment, n;
    int64_t first; /* in its segment */
};

__device__ __forceinline__ chunk chunk_at(int number, const int *first_chunk,
                                          const struct segment *segments, int n_segments)
{
    int low = 0, high = n_segments; /* the last segment whose first chunk is not past this one */
    chunk c;

    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (first_chunk[middle] <= number)
            low = middle;
        else
            high = middle;
    }
    c.segment = low;
    c.first = (int64_t)(number - first_chunk[low]) * CHUNK;
    int64_t rest = segments[low].n - c.first;
    c.n = rest < CHUNK ? (int)rest : (int)CHUNK;
    return c;
}

/* Calls f.take<W>(i) with packs for the elements of a chunk that allow it, with W = 1 for the rest.
 */
template <class F> __device__ __forceinline__ void for_elements(int n, bool packed, F &f)
{
    int whole = packed ? n - n % PACK : 0;

    for (int i = (int)threadIdx.x * PACK; i < whole; i += THREADS * PACK)
        f.template take<PACK>(i);
    for (int i = whole + (int)threadIdx.x; i < n; i += THREADS)
        f.template take<1>(i);
}

/* ------------------------------------------------------------------------------ norms */

struct squares_of {
    const float *x;
    double sum;

    template <int W> __device__ void take(int i)
    {
        float value[W], part = 0.0f;
        load_pack<W>(value, x + i);
#pragma unroll
        for (int j = 0; j < W; j++)
            part += value[j] * value[j];
        sum += (double)part;
    }
};

__global__ void __launch_bounds__(THREADS, 4)
    gradient_squares(double *__restrict__ partial, const float *__restrict__ gradient,
                     const struct segment *__restrict__ segments, int n_segments)
{
    DYNAMIC_SHARED(int, first_chunk);
    SHARED(int, counts, WARPS);
    SHARED(double, sums, WARPS);

    find_chunks(first_chunk, segments, n_segments, counts);
    for (int number = (int)blockIdx.x; number < first_chunk[n_segments]; number += (int)gridDim.x) {
        chunk c = chunk_at(number, first_chunk, segments, n_segments);
        const struct segment &segment = segments[c.segment];
        squares_of squares = {gradient + segment.offset + c.first, 0.0};
        if (!(segment.flags & SEGMENT_FIXED))
            for_elements(c.n, reinterpret_cast<uintptr_t>(squares.x) % 16 == 0, squares);
        double sum = block_sum<THREADS>(squares.sum, sums);
        if (threadIdx.x == 0)
            partial[number] = sum;
        __syncthreads(); /* sums are free */
    }
}

/* Sum of partial[first .. end) over the lanes of a warp. */
__device__ __forceinline__ double sum_of_chunks(const double *partial, int first, int end)
{
    double sum = 0.0;

    for (int i = first + lane_of_warp(); i < end; i += WARP)
        sum += partial[i];
    return warp_sum(sum);
}

/* A warp a segment. */
__global__ void __launch_bounds__(THREADS, 4)
    segment_norms(double *__restrict__ norms, const double *__restrict__ partial,
                  const struct segment *__restrict__ segments, int n_segments)
{
    DYNAMIC_SHARED(int, first_chunk);
    SHARED(int, counts, WARPS);

    find_chunks(first_chunk, segments, n_segments, counts);
    for (int s = (int)first_row(); s < n_segments; s += (int)row_stride()) {
        double sum = sum_of_chunks(partial, first_chunk[s], first_chunk[s + 1]);
        if (lane_of_warp() == 0)
            norms[s] = sqrt(sum);
    }
}

/* ------------------------------------------------------------------------------ rules */

/* What all elements of a segment are updated with. */
struct update {
    float lr, keep, decay, clip, step_size, root_correction, lars;
    bool frozen;
};

struct step_arrays {
    float *parameter, *moment1, *moment2, *teacher;
    const float *gradient;
    bf16 *parameter_half, *teacher_half;
    const double *norms, *guard;
    const struct segment *segments;
    const struct step_control *control;
    const float *lars; /* [n_segments] */
    int64_t n_guards;
    int32_t n_segments;
    bool global_norm;
};

/* What is the same for all segments, in shared memory. */
struct step_factors {
    double all_norm;
    /* of ordinary and last-layer segments */
    double step_size[2]; /* before the rate is scaled */
    float root_correction[2];
    int finite;
};

/* Is everything finite that must be, and the norm of all gradients: by the whole block. */
__device__ __forceinline__ void find_factors(step_factors *factors, const step_arrays &a,
                                             double *sums)
{
    double squares = 0.0, odd = 0.0;

    for (int s = (int)threadIdx.x; s < a.n_segments; s += THREADS) {
        squares += a.norms[s] * a.norms[s];
        odd += isfinite(a.norms[s]) ? 0.0 : 1.0;
    }
    for (int64_t i = threadIdx.x; i < a.n_guards; i += THREADS)
        odd += isfinite(a.guard[i]) ? 0.0 : 1.0;
    squares = block_sum<THREADS>(squares, sums);
    odd = block_sum<THREADS>(odd, sums + WARPS);
    if (threadIdx.x == 0) {
        factors->all_norm = sqrt(squares);
        factors->finite = odd == 0.0;
    }
    if (threadIdx.x < 2) {
        int last_layer = (int)threadIdx.x;
        double t = (double)(last_layer ? a.control->last_layer_step : a.control->step) + 1.0;
        factors->step_size[last_layer] = (double)a.control->lr / (1.0 - pow(0.9, t));
        factors->root_correction[last_layer] = (float)(1.0 / sqrt(1.0 - pow(0.999, t)));
    }
    __syncthreads();
}

__device__ __forceinline__ update update_of(const step_arrays &a, const step_factors &factors,
                                            int s)
{
    const struct step_control &control = *a.control;
    uint32_t flags = a.segments[s].flags;
    double scale = a.segments[s].lr_scale != 0.0f ? (double)a.segments[s].lr_scale : 1.0;
    double lr = (double)control.lr * scale;
    bool last_layer = (flags & SEGMENT_LAST_LAYER) != 0;
    update u;

    u.lr = (float)lr;
    u.decay = flags & SEGMENT_DECAY ? control.weight_decay : 0.0f;
    u.clip = 1.0f;
    if (control.clip_grad > 0.0f) {
        double norm = a.global_norm ? factors.all_norm : a.norms[s];
        double coefficient = (double)control.clip_grad / (norm + 1e-6);
        u.clip = coefficient < 1.0 ? (float)coefficient : 1.0f;
    }
    u.keep = (float)(1.0 - lr * (double)u.decay);
    u.step_size = (float)(scale * factors.step_size[last_layer]);
    u.root_correction = factors.root_correction[last_layer];
    u.frozen = (flags & SEGMENT_FIXED) || (last_layer && control.freeze_last_layer);
    u.lars = a.lars != nullptr ? a.lars[s] : 1.0f;
    if (a.lars != nullptr && (flags & SEGMENT_VECTOR)) { /* LARS leaves vectors to momentum */
        u.decay = 0.0f;
        u.lars = 1.0f;
    }
    return u;
}

/* ------------------------------------------------------------------------------ step */

/* One chunk: parameters, moments, teacher, copies. Pointers at its first element; absent: null. */
template <enum optimizer_kind KIND> struct chunk_update {
    float *p, *m, *v, *teacher;
    const float *g;
    bf16 *p_half, *teacher_half;
    float momentum;
    update u;

    template <int W> __device__ __forceinline__ void step(float (&value)[W], int i)
    {
        float gradient[W], first[W], second[W];

        load_pack<W>(gradient, g + i);
        load_pack<W>(first, m + i);
        if (KIND == OPTIMIZER_ADAMW)
            load_pack<W>(second, v + i);
#pragma unroll
        for (int j = 0; j < W; j++) {
            float clipped = gradient[j] * u.clip;
            if (KIND == OPTIMIZER_ADAMW) {
                first[j] = 0.9f * first[j] + 0.1f * clipped;
                second[j] = 0.999f * second[j] + 0.001f * clipped * clipped;
                value[j] = value[j] * u.keep -
                           u.step_size * first[j] / (sqrtf(second[j]) * u.root_correction + 1e-8f);
            } else {
                first[j] = 0.9f * first[j] + (clipped + u.decay * value[j]) * u.lars;
                value[j] -= u.lr * first[j];
            }
        }
        store_pack<W>(m + i, first);
        if (KIND == OPTIMIZER_ADAMW)
            store_pack<W>(v + i, second);
        store_pack<W>(p + i, value);
    }

    template <int W> __device__ void take(int i)
    {
        float value[W];

        load_pack<W>(value, p + i);
        if (!u.frozen)
            step<W>(value, i);
        if (p_half != nullptr)
            store_pack<W>(p_half + i, value);
        if (teacher == nullptr)
            return;
        float average[W];
        load_pack<W>(average, teacher + i);
#pragma unroll
        for (int j = 0; j < W; j++)
            average[j] = momentum * average[j] + (1.0f - momentum) * value[j];
        store_pack<W>(teacher + i, average);
        if (teacher_half != nullptr)
            store_pack<W>(teacher_half + i, average);
    }

    /* May all of it be read in packs? 16-bit copies need half as much. */
    __device__ __forceinline__ bool packed() const
    {
        return ((reinterpret_cast<uintptr_t>(p) | reinterpret_cast<uintptr_t>(g) |
                 reinterpret_cast<uintptr_t>(m) | reinterpret_cast<uintptr_t>(v) |
                 reinterpret_cast<uintptr_t>(teacher)) %
                    16 |
                (reinterpret_cast<uintptr_t>(p_half) | reinterpret_cast<uintptr_t>(teacher_half)) %
                    8) == 0;
    }
};

template <enum optimizer_kind KIND>
__global__ void __launch_bounds__(THREADS, 3) optimizer_step(step_arrays a)
{
    DYNAMIC_SHARED(int, first_chunk);
    SHARED(int, counts, WARPS);
    SHARED(double, sums, 2 * WARPS);
    SHARED(step_factors, factors, 1);

    find_chunks(first_chunk, a.segments, a.n_segments, counts);
    find_factors(factors, a, sums);
    if (!factors->finite)
        return; /* all threads of all blocks */
    for (int number = (int)blockIdx.x; number < first_chunk[a.n_segments];
         number += (int)gridDim.x) {
        chunk c = chunk_at(number, first_chunk, a.segments, a.n_segments);
        const struct segment &segment = a.segments[c.segment];
        int64_t at = segment.offset + c.first, there = segment.teacher_offset + c.first;
        bool averaged = segment.teacher_offset >= 0;
        chunk_update<KIND> change;
        change.p = a.parameter + at;
        change.g = a.gradient + at;
        change.m = a.moment1 + at;
        change.v = KIND == OPTIMIZER_ADAMW ? a.moment2 + at : nullptr;
        change.p_half = a.parameter_half != nullptr ? a.parameter_half + at : nullptr;
        change.teacher = averaged ? a.teacher + there : nullptr;
        change.teacher_half =
            averaged && a.teacher_half != nullptr ? a.teacher_half + there : nullptr;
        change.momentum = a.control->teacher_momentum;
        change.u = update_of(a, *factors, c.segment);
        for_elements(c.n, change.packed(), change);
    }
}

/* ------------------------------------------------------------------------------ LARS */

struct lars_squares_of {
    const float *p, *g;
    float clip, decay;
    double p_sum, g_sum;

    template <int W> __device__ void take(int i)
    {
        float value[W], gradient[W];
        load_pack<W>(value, p + i);
        load_pack<W>(gradient, g + i);
#pragma unroll
        for (int j = 0; j < W; j++) {
            float decayed = gradient[j] * clip + decay * value[j];
            p_sum += (double)value[j] * (double)value[j];
            g_sum += (double)decayed * (double)decayed;
        }
    }
};

/* partial[0 .. most) and [most .. 2 most): squares of the parameters and of the clipped and decayed
 * gradient, by chunk. */
__global__ void __launch_bounds__(THREADS, 3)
    lars_squares(double *__restrict__ partial, int most, step_arrays a)
{
    DYNAMIC_SHARED(int, first_chunk);
    SHARED(int, counts, WARPS);
    SHARED(double, sums, 2 * WARPS);
    SHARED(step_factors, factors, 1);

    find_chunks(first_chunk, a.segments, a.n_segments, counts);
    find_factors(factors, a, sums);
    for (int number = (int)blockIdx.x; number < first_chunk[a.n_segments];
         number += (int)gridDim.x) {
        chunk c = chunk_at(number, first_chunk, a.segments, a.n_segments);
        int64_t at = a.segments[c.segment].offset + c.first;
        update u = update_of(a, *factors, c.segment);
        lars_squares_of squares = {a.parameter + at, a.gradient + at, u.clip, u.decay, 0.0, 0.0};
        bool packed =
            (reinterpret_cast<uintptr_t>(squares.p) | reinterpret_cast<uintptr_t>(squares.g)) %
                16 ==
            0;
        __syncthreads(); /* sums are free */
        for_elements(c.n, packed, squares);
        double p_sum = block_sum<THREADS>(squares.p_sum, sums);
        double g_sum = block_sum<THREADS>(squares.g_sum, sums + WARPS);
        if (threadIdx.x == 0) {
            partial[number] = p_sum;
            partial[most + number] = g_sum;
        }
    }
}

/* 0.001 * |p| / |g + wd*p| of each segment, 1 when either is 0. */
__global__ void __launch_bounds__(THREADS, 4)
    lars_factors(float *__restrict__ factors, const double *__restrict__ partial, int most,
                 const struct segment *__restrict__ segments, int n_segments)
{
    DYNAMIC_SHARED(int, first_chunk);
    SHARED(int, counts, WARPS);

    find_chunks(first_chunk, segments, n_segments, counts);
    for (int s = (int)first_row(); s < n_segments; s += (int)row_stride()) {
        double p = sum_of_chunks(partial, first_chunk[s], first_chunk[s + 1]);
        double g = sum_of_chunks(partial + most, first_chunk[s], first_chunk[s + 1]);
        if (lane_of_warp() == 0)
            factors[s] = p > 0.0 && g > 0.0 ? (float)(0.001 * sqrt(p) / sqrt(g)) : 1.0f;
    }
}

/* ------------------------------------------------------------------------------ launchers */

/* Segments don't overlap: no more chunks than this. */
static int64_t most_chunks(int64_t n_elements, int32_t n_segments)
{
    return n_elements / CHUNK + n_segments;
}

static size_t table_bytes(int32_t n_segments)
{
    return (static_cast<size_t>(n_segments) + 1) * sizeof(int);
}

static unsigned chunk_blocks(const struct device *device, int64_t n_chunks, int each)
{
    int64_t most = static_cast<int64_t>(cuda_device_of(device)->sm_count) * each;
    return static_cast<unsigned>(n_chunks < most ? n_chunks : most);
}

enum status gradient_norms_cuda(struct device *device, const struct gradient_norms_args *args)
{
    int32_t n = args->n_segments;
    int64_t most = most_chunks(tensor_n_elements(&args->gradient), n);
    double *partial;

    CHECK(args->gradient.dtype == DTYPE_F32 && n >= 0 && n <= MOST_SEGMENTS && most <= INT32_MAX);
    CHECK(args->norms.dtype == DTYPE_F64 && args->norms.shape[0] >= n);
    if (n == 0)
        return STATUS_OK;
    TRY(cuda_scratch(device, &partial, static_cast<size_t>(most) * sizeof(double)));
    TRY(launch(device, "gradient_squares", chunk_blocks(device, most, 4), THREADS, table_bytes(n),
               gradient_squares, partial, data_of<float>(args->gradient), args->segments, n));
    return launch(device, "segment_norms", grid_for(n, ROW_WARPS), THREADS, table_bytes(n),
                  segment_norms, data_of<double>(args->norms), static_cast<const double *>(partial),
                  args->segments, n);
}

static void check_step(const struct optimizer_step_args *args)
{
    int32_t n = args->n_segments;

    CHECK(args->parameter.dtype == DTYPE_F32 && args->gradient.dtype == DTYPE_F32);
    CHECK(args->moment1.dtype == DTYPE_F32 && n >= 0 && n <= MOST_SEGMENTS);
    CHECK(args->teacher.data == nullptr || args->teacher.dtype == DTYPE_F32);
    CHECK(args->norms.dtype == DTYPE_F64 && args->norms.shape[0] >= n);
    CHECK(args->kind != OPTIMIZER_ADAMW ||
          (args->moment2.data != nullptr && args->moment2.dtype == DTYPE_F32));
    CHECK(args->parameter_half.data == nullptr || args->parameter_half.dtype == DTYPE_BF16);
    CHECK(args->teacher_half.data == nullptr || args->teacher_half.dtype == DTYPE_BF16);
    CHECK(args->guard.data == nullptr || args->guard.dtype == DTYPE_F64);
    CHECK(most_chunks(tensor_n_elements(&args->parameter), n) <= INT32_MAX);
}

static step_arrays arrays_of(const struct optimizer_step_args *args)
{
    step_arrays a = {};

    a.parameter = data_of<float>(args->parameter);
    a.moment1 = data_of<float>(args->moment1);
    a.moment2 = data_of<float>(args->moment2);
    a.teacher = data_of<float>(args->teacher);
    a.gradient = data_of<float>(args->gradient);
    a.parameter_half = data_of<bf16>(args->parameter_half);
    a.teacher_half = data_of<bf16>(args->teacher_half);
    a.norms = data_of<double>(args->norms);
    a.guard = data_of<double>(args->guard);
    a.segments = args->segments;
    a.control = args->control;
    a.n_guards = args->guard.data != nullptr ? tensor_n_elements(&args->guard) : 0;
    a.n_segments = args->n_segments;
    a.global_norm = args->global_norm;
    return a;
}

/* The adaptation of each segment, in working memory that `a` then names. */
static enum status find_lars(struct device *device, step_arrays *a, int64_t most, unsigned blocks)
{
    double *partial;

    TRY(cuda_scratch(device, &partial,
                     static_cast<size_t>(2 * most) * sizeof(double) +
                         static_cast<size_t>(a->n_segments) * sizeof(float)));
    float *factors = reinterpret_cast<float *>(partial + 2 * most);
    TRY(launch(device, "lars_squares", blocks, THREADS, table_bytes(a->n_segments), lars_squares,
               partial, most, *a));
    TRY(launch(device, "lars_factors", grid_for(a->n_segments, ROW_WARPS), THREADS,
               table_bytes(a->n_segments), lars_factors, factors,
               static_cast<const double *>(partial), most, a->segments, a->n_segments));
    a->lars = factors;
    return STATUS_OK;
}

enum status optimizer_step_cuda(struct device *device, const struct optimizer_step_args *args)
{
    int64_t most = most_chunks(tensor_n_elements(&args->parameter), args->n_segments);
    unsigned blocks = chunk_blocks(device, most, 3);
    step_arrays a = arrays_of(args);

    check_step(args);
    if (args->n_segments == 0)
        return STATUS_OK;
    if (args->kind == OPTIMIZER_LARS)
        TRY(find_lars(device, &a, most, blocks));
    return launch(device, "optimizer_step", blocks, THREADS, table_bytes(a.n_segments),
                  args->kind == OPTIMIZER_ADAMW ? optimizer_step<OPTIMIZER_ADAMW>
                  : args->kind == OPTIMIZER_SGD ? optimizer_step<OPTIMIZER_SGD>
                                                : optimizer_step<OPTIMIZER_LARS>,
                  a);
}
