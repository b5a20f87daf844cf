/* Attention backward on the matrix units, without atomics and without working memory in float32.
 *
 * A block has one (task, head), or a run of windows of one head: q, k, v and d_out lie in shared
 * memory. Its warps share 2 n jobs for n tiles of 16 places: first the tiles of keys (for d_k, d_v:
 * queries pass by), then those of queries (for d_q: keys pass by). Scores are computed from the
 * saved log-sum-exp in both, 14 L^2 Dh FLOP a head instead of 10; for that no warp waits for
 * another, every element has one owner and one order of its sum. Rows that are too many for shared
 * memory pass through it 64 at a time; then blockIdx.z tells the kinds of jobs apart.
 *
 * Windows come here, and sequences that attention_whole_backward.cuh and
 * attention_strip_backward.cuh do not take: wide or very narrow heads, and long ones.
 *
 * Must move 16 D bytes a token (q, k, v, out, d_out in; d_q, d_k, d_v out). At 197 tokens of width
 * 64: 202 KB and 38 MFLOP a head; with mma.sync at about 0.6 of the rate of the matrix units of
 * compute capability 9.0 the products are the bound, at about 1.6 times what memory allows. */
#ifndef IBOT_KERNELS_ATTENTION_MMA_BACKWARD_CUH
#define IBOT_KERNELS_ATTENTION_MMA_BACKWARD_CUH

#include "kernels/attention_mma.cuh"

enum { BACKWARD_WARPS = 6, BACKWARD_ROWS = 64 };

/* Tensors of a backward. */
struct mma_backward_tensors {
    const bf16 *qkv, *out, *d_out;
    const float *lse, *delta; /* delta: only if rows pass through shared memory */
    bf16 *d_qkv;
    float *d_bias, *d_pad; /* windows: sums over the run; or absent */
};

/* How a backward is laid out. */
struct mma_backward_plan {
    int64_t n_runs;
    int32_t n_tiles;        /* of 16 places */
    int32_t rows_in_memory; /* at a time */
};

/* Shared memory of a block; for rows that pass through, `k` and `v` are those at hand. */
struct mma_backward_memory {
    bf16 *q, *d_out, *k, *v;
    bf16 *rest_value;   /* rows pass through, wide heads: values, or d_out, of the warps' tiles */
    float *lse, *delta; /* in powers of two; infinite for what is no query */
    float *bias_sums;   /* [L, L] */
    float *pad_sums;    /* [tiles, 2, DH] */
};

/* What a job needs to know of its head. */
struct mma_backward_head {
    int32_t width, stride, head, head_dim, n_steps, length, n_rows;
    float scale;
};

/* The rows that pass by at a job from `first` on, when they are not all there. */
template <int DH, class Source, class Places>
__device__ __forceinline__ void pass_rows(const mma_backward_memory &memory,
                                          const mma_backward_tensors &x, const mma_backward_head &h,
                                          const Places &places, int64_t n_tokens, bool for_keys,
                                          int32_t first, int32_t n)
{
    const bf16 *q = x.qkv + h.head * h.head_dim;
    const bf16 *key = for_keys ? q : q + h.width;
    const bf16 *value = for_keys ? x.d_out + h.head * h.head_dim : q + 2 * h.width;

    __syncthreads();
    copy_rows<DH>(memory.k, key, h.stride, nullptr, places, first, n, h.head_dim);
    copy_rows<DH>(memory.v, value, for_keys ? h.width : h.stride, nullptr, places, first, n,
                  h.head_dim);
    copy_async_commit();
    for (int32_t i = threadIdx.x; i < n; i += static_cast<int32_t>(blockDim.x)) {
        int32_t row = places.row(first + i);
        int64_t at = row >= 0 ? places.sum_at(first + i, n_tokens) : 0;
        memory.lse[i] = row >= 0 ? LOG2_E * x.lse[at] : INFINITY;
        memory.delta[i] = row >= 0 ? x.delta[at] : 0.0f;
    }
    copy_async_wait<0>();
    __syncthreads();
}

/* Adds the rows of padding in d_k and d_v [16, DH] of one tile of keys. */
template <int DH>
__device__ __forceinline__ void add_padding(float *sums, const float (&d_k)[DH / 8][4],
                                            const float (&d_v)[DH / 8][4], const bool (&is_pad)[2],
                                            float scale)
{
    const int32_t lane = threadIdx.x % WARP;

#pragma unroll
    for (int j = 0; j < DH / 8; j++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float k = scale * ((is_pad[0] ? d_k[j][i] : 0.0f) + (is_pad[1] ? d_k[j][i + 2] : 0.0f));
            float v = (is_pad[0] ? d_v[j][i] : 0.0f) + (is_pad[1] ? d_v[j][i + 2] : 0.0f);
#pragma unroll
            for (int distance = 4; distance < WARP; distance *= 2) {
                k += __shfl_xor_sync(ALL_LANES, k, distance);
                v += __shfl_xor_sync(ALL_LANES, v, distance);
            }
            if (lane < 4) {
                sums[j * 8 + 2 * lane + i] += k;
                sums[DH + j * 8 + 2 * lane + i] += v;
            }
        }
}

/* One tile at rest, all rows of the other kind passing by. `tile` past the end: only barriers. */
template <bool FOR_KEYS, int DH, bool WHOLE, class Source>
__device__ __forceinline__ void
backward_job(const mma_backward_memory &memory, const mma_backward_tensors &x,
             const mma_backward_head &h, const mma_backward_plan &plan,
             const mma_places<Source> &places, int64_t n_tokens, int32_t tile)
{
    constexpr int STEPS = DH / 16;
    /* the sums of a wide head leave no registers for a second left operand */
    constexpr bool KEEP_VALUE = DH <= 64;
    const int32_t g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    const float to_exponent = LOG2_E * h.scale;
    const bf16 *q = x.qkv + h.head * h.head_dim, *d_out = x.d_out + h.head * h.head_dim;
    const bf16 *pass = FOR_KEYS && WHOLE ? memory.q : memory.k;
    const bf16 *pass_value = FOR_KEYS && WHOLE ? memory.d_out : memory.v;
    int32_t row[2] = {OUTSIDE, OUTSIDE};
    uint32_t left[STEPS][4], left_value[STEPS][4];
    float d_rest[2 * STEPS][4] = {}, d_value[2 * STEPS][4] = {};
    float lse[2] = {INFINITY, INFINITY}, delta[2] = {};
    int32_t mark[2] = {};

    if (tile < plan.n_tiles)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int32_t place = tile * MMA_ROWS + g + 8 * i;
            row[i] = places.row(place);
            if constexpr (Source::PADS)
                mark[i] = places.marks[place];
            if (!FOR_KEYS && row[i] >= 0) {
                int64_t at = places.sum_at(place, n_tokens);
                lse[i] = WHOLE ? memory.lse[place] : LOG2_E * x.lse[at];
                delta[i] = WHOLE ? memory.delta[place] : x.delta[at];
            }
        }
    /* padding is a key, but does not ask */
    const bool at_work =
        tile < plan.n_tiles && (FOR_KEYS || __any_sync(ALL_LANES, row[0] >= 0 || row[1] >= 0));
    if (at_work && WHOLE) {
        load_left<DH>(left, FOR_KEYS ? memory.k : memory.q, tile * MMA_ROWS);
        if (KEEP_VALUE)
            load_left<DH>(left_value, FOR_KEYS ? memory.v : memory.d_out, tile * MMA_ROWS);
    } else if (at_work) {
        const bf16 *from[2], *value_from[2];
        for (int i = 0; i < 2; i++) {
            bool there = row[i] >= 0;
            from[i] = there ? q + static_cast<int64_t>(row[i]) * h.stride + (FOR_KEYS ? h.width : 0)
                            : nullptr;
            value_from[i] = !there     ? nullptr
                            : FOR_KEYS ? from[i] + h.width
                                       : d_out + static_cast<int64_t>(row[i]) * h.width;
        }
        load_left<DH>(left, from[0], from[1], h.n_steps);
        if (KEEP_VALUE)
            load_left<DH>(left_value, value_from[0], value_from[1], h.n_steps);
    }
    const int32_t warp = threadIdx.x / WARP;
    const bf16 *rest_value = !WHOLE ? memory.rest_value : FOR_KEYS ? memory.v : memory.d_out;
    const int32_t first_rest = (WHOLE ? tile : warp) * MMA_ROWS;
    if (!WHOLE && !KEEP_VALUE) { /* the first rows that pass wait for these too */
        copy_rows<DH>(memory.rest_value, FOR_KEYS ? q + 2 * h.width : d_out,
                      FOR_KEYS ? h.stride : h.width, nullptr, places, (tile - warp) * MMA_ROWS,
                      static_cast<int32_t>(blockDim.x) / WARP * MMA_ROWS, h.head_dim);
        copy_async_commit();
    }
    for (int32_t first = 0; first < h.n_rows; first += plan.rows_in_memory) {
        const int32_t left_over = h.n_rows - first;
        const int32_t n = left_over < plan.rows_in_memory ? left_over : plan.rows_in_memory;
        if (!WHOLE)
            pass_rows<DH, Source>(memory, x, h, places, n_tokens, FOR_KEYS, first, n);
        if (!at_work)
            continue;
#pragma unroll 1
        for (int32_t here = 0; here < n; here += MMA_ROWS) {
            float s[2][4] = {}, ds[2][4] = {};
            uint32_t p[4];
            const bool full = first + here + MMA_ROWS <= h.length;
            add_scores<DH>(s, left, pass, here, h.n_steps);
            if (KEEP_VALUE)
                add_scores<DH>(ds, left_value, pass_value, here, h.n_steps);
            else
                add_scores<DH>(ds, rest_value, first_rest, pass_value, here, h.n_steps);
#pragma unroll
            for (int i = 0; i < 8; i++) {
                const int32_t at = here + i / 4 * 8 + 2 * t + i % 2, r = i % 4 / 2;
                float &score = s[i / 4][i % 4], &gradient = ds[i / 4][i % 4];
                float exponent = score * to_exponent;
                if constexpr (Source::PADS)
                    exponent += FOR_KEYS ? places.pair(places.marks[first + at], mark[r])
                                         : places.pair(mark[r], places.marks[first + at]);
                if (!FOR_KEYS && !full && first + at >= h.length)
                    exponent = -INFINITY;
                score = fast_exp2(exponent - (FOR_KEYS ? memory.lse[at] : lse[r]));
                gradient = score * (gradient - (FOR_KEYS ? memory.delta[at] : delta[r]));
                if constexpr (Source::PADS && !FOR_KEYS) {
                    int32_t query = tile * MMA_ROWS + g + 8 * r;
                    if (x.d_bias != nullptr && row[r] >= 0 && first + at < h.length)
                        memory.bias_sums[query * h.length + first + at] += gradient;
                }
            }
            if (FOR_KEYS) {
                left_of(p, s);
                add_rows<DH>(d_value, p, pass_value, here, h.n_steps);
            }
            left_of(p, ds);
            add_rows<DH>(d_rest, p, pass, here, h.n_steps);
        }
    }
    if (!at_work)
        return;
    if constexpr (Source::PADS && FOR_KEYS) {
        const bool is_pad[2] = {row[0] == -1, row[1] == -1};
        if (x.d_pad != nullptr && __any_sync(ALL_LANES, is_pad[0] || is_pad[1]))
            add_padding<DH>(memory.pad_sums + tile * 2 * DH, d_rest, d_value, is_pad, h.scale);
    }
    bf16 *to[2];
    const float factor[2] = {h.scale, h.scale}, one[2] = {1.0f, 1.0f};
#pragma unroll
    for (int i = 0; i < 2; i++)
        to[i] = row[i] >= 0 ? x.d_qkv + static_cast<int64_t>(row[i]) * h.stride +
                                  h.head * h.head_dim + (FOR_KEYS ? h.width : 0)
                            : nullptr;
    store_rows<DH>(to, d_rest, factor, h.n_steps);
    if (FOR_KEYS) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            to[i] = to[i] != nullptr ? to[i] + h.width : nullptr;
        store_rows<DH>(to, d_value, one, h.n_steps);
    }
}

/* <out, d_out> of a row of a head, in all DH / 8 lanes that share it. `at`: where a lane's part
 * begins, if it is there. */
template <int DH>
__device__ __forceinline__ float row_delta(const mma_backward_tensors &x, int64_t at, bool there)
{
    float sum = 0.0f;

    if (there) {
        float out[8], d_out[8];
        load_pack<8>(out, x.out + at);
        load_pack<8>(d_out, x.d_out + at);
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum = fmaf(out[j], d_out[j], sum);
    }
#pragma unroll
    for (int distance = mma_rows<DH>::PARTS / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    return sum;
}

/* lse and delta of all places into shared memory. */
template <int DH, class Places>
__device__ __forceinline__ void
load_row_sums(const mma_backward_memory &memory, const mma_backward_tensors &x,
              const mma_backward_head &h, const Places &places, int64_t n_tokens)
{
    constexpr int PARTS = mma_rows<DH>::PARTS;

#pragma unroll 2
    for (int32_t i = threadIdx.x; i < h.n_rows * PARTS; i += static_cast<int32_t>(blockDim.x)) {
        int32_t place = i / PARTS, part = i % PARTS;
        int32_t row = places.row(place);
        bool there = row >= 0 && part * 8 < h.head_dim;
        int64_t at = static_cast<int64_t>(row) * h.width + h.head * h.head_dim + part * 8;
        float sum = row_delta<DH>(x, at, there);
        if (part == 0) {
            memory.lse[place] =
                row >= 0 ? LOG2_E * x.lse[places.sum_at(place, n_tokens)] : INFINITY;
            memory.delta[place] = sum;
        }
    }
}

/* Of the values at rest, in halves. */
template <int DH> static __host__ __device__ constexpr int32_t rest_halves(bool whole)
{
    return whole || DH <= 64 ? 0 : BACKWARD_WARPS * MMA_ROWS * DH;
}

template <int DH>
__device__ __forceinline__ mma_backward_memory cut_memory(void *base, int32_t rows, bool whole)
{
    bf16 *halves = static_cast<bf16 *>(base);
    int32_t n = rows * DH;
    mma_backward_memory memory = {};

    memory.k = halves;
    memory.v = halves + n;
    memory.q = halves + 2 * n; /* with all rows there */
    memory.d_out = halves + 3 * n;
    memory.rest_value = halves + 2 * n;
    memory.lse = reinterpret_cast<float *>(halves + (whole ? 4 : 2) * n + rest_halves<DH>(whole));
    memory.delta = memory.lse + rows;
    memory.pad_sums = memory.delta + rows; /* windows; the places come next */
    return memory;
}

template <int DH, bool WHOLE, class Source>
__global__ void __launch_bounds__(BACKWARD_WARPS *WARP, DH <= 64 && WHOLE ? 2 : 1)
    attention_mma_backward(Source source, struct attention_shape shape,
                           struct mma_backward_plan plan, struct mma_backward_tensors x)
{
    DYNAMIC_SHARED(bf16, base);
    const int32_t warp = threadIdx.x / WARP, n_warps = static_cast<int32_t>(blockDim.x) / WARP;
    const int64_t run = blockIdx.x / shape.n_heads;
    /* a sequence is a run of its own */
    const int64_t first_task = Source::PADS ? run * shape.n_tasks / plan.n_runs : run;
    const int64_t end_task =
        Source::PADS ? (run + 1) * shape.n_tasks / plan.n_runs : first_task + 1;
    mma_backward_head h;
    mma_places<Source> places;

    h.head = static_cast<int32_t>(blockIdx.x % shape.n_heads);
    h.head_dim = DH <= 64 ? DH : shape.head_dim;
    h.n_steps = h.head_dim / 16;
    h.width = h.head_dim * shape.n_heads;
    h.stride = 3 * h.width;
    h.length = source.length();
    h.n_rows = plan.n_tiles * MMA_ROWS;
    h.scale = 1.0f / sqrtf(static_cast<float>(h.head_dim));
    mma_backward_memory memory = cut_memory<DH>(base, plan.rows_in_memory, WHOLE);
    const bf16 *q = x.qkv + h.head * h.head_dim;
    const float *pad = Source::PADS ? source.padding() + h.width + h.head * h.head_dim : nullptr;
    const int32_t n_pad_sums = Source::PADS ? plan.n_tiles * 2 * DH : 0;
    const int32_t n_bias_sums = Source::PADS && x.d_bias != nullptr ? h.length * h.length : 0;
    places.bind(memory.pad_sums + n_pad_sums, source, h.n_rows, h.head, shape.n_heads);
    if constexpr (Source::PADS) {
        memory.bias_sums = places.end();
        for (int32_t i = threadIdx.x; i < n_pad_sums; i += static_cast<int32_t>(blockDim.x))
            memory.pad_sums[i] = 0.0f;
        for (int32_t i = threadIdx.x; i < n_bias_sums; i += static_cast<int32_t>(blockDim.x))
            memory.bias_sums[i] = 0.0f;
    }
    for (int64_t task = first_task; task < end_task; task++) {
        if (Source::PADS)
            __syncthreads(); /* nobody reads the last task's rows any more */
        places.find(source, task);
        if (!WHOLE) {
            int32_t tile = static_cast<int32_t>(blockIdx.y) * n_warps + warp;
            if (blockIdx.z == 0)
                backward_job<true, DH, WHOLE, Source>(memory, x, h, plan, places, shape.n_tokens,
                                                      tile);
            else
                backward_job<false, DH, WHOLE, Source>(memory, x, h, plan, places, shape.n_tokens,
                                                       tile);
            continue;
        }
        if (Source::PADS)
            __syncthreads();
        copy_rows<DH>(memory.q, q, h.stride, nullptr, places, 0, h.n_rows, h.head_dim);
        copy_rows<DH>(memory.k, q + h.width, h.stride, pad, places, 0, h.n_rows, h.head_dim);
        copy_rows<DH>(memory.v, q + 2 * h.width, h.stride, Source::PADS ? pad + h.width : nullptr,
                      places, 0, h.n_rows, h.head_dim);
        copy_rows<DH>(memory.d_out, x.d_out + h.head * h.head_dim, h.width, nullptr, places, 0,
                      h.n_rows, h.head_dim);
        copy_async_commit();
        load_row_sums<DH>(memory, x, h, places, shape.n_tokens);
        copy_async_wait<0>();
        __syncthreads();
        for (int32_t job = warp; job < 2 * plan.n_tiles; job += n_warps)
            if (job < plan.n_tiles)
                backward_job<true, DH, WHOLE, Source>(memory, x, h, plan, places, shape.n_tokens,
                                                      job);
            else
                backward_job<false, DH, WHOLE, Source>(memory, x, h, plan, places, shape.n_tokens,
                                                       job - plan.n_tiles);
    }
    if constexpr (Source::PADS) {
        __syncthreads();
        for (int32_t i = threadIdx.x; i < n_bias_sums; i += static_cast<int32_t>(blockDim.x))
            x.d_bias[static_cast<int64_t>(blockIdx.x) * n_bias_sums + i] = memory.bias_sums[i];
        for (int32_t i = threadIdx.x; x.d_pad != nullptr && i < n_pad_sums;
             i += static_cast<int32_t>(blockDim.x))
            if (i % DH < h.head_dim)
                x.d_pad[(static_cast<int64_t>(blockIdx.x) * plan.n_tiles * 2 + i / DH) *
                            h.head_dim +
                        i % DH] = memory.pad_sums[i];
    }
}

/* ------------------------------------------------------------------------------ launches */

/* Shared memory for all rows of a task, and what windows sum up in it. */
template <int DH, class Source>
static size_t mma_backward_bytes(const Source &source, int32_t rows, bool with_bias)
{
    size_t length = static_cast<size_t>(source.length());
    size_t n_rows = static_cast<size_t>(rows);
    size_t bytes = n_rows * (4 * DH * sizeof(bf16) + 2 * sizeof(float));

    if (!Source::PADS)
        return bytes;
    return bytes + n_rows / MMA_ROWS * 2 * DH * sizeof(float) +
           mma_places<Source>::bytes(source, rows) +
           (with_bias ? length * length * sizeof(float) : 0);
}

static inline int32_t mma_tiles(int32_t length)
{
    return (length + MMA_ROWS - 1) / MMA_ROWS;
}

template <int DH, class Source>
static enum status launch_mma_backward_as(struct device *device, const Source &source,
                                          const struct attention_shape &shape, int64_t n_runs,
                                          const struct mma_backward_tensors &x)
{
    struct mma_backward_plan plan = {n_runs, mma_tiles(source.length()), 0};
    plan.rows_in_memory = plan.n_tiles * MMA_ROWS;
    size_t bytes = mma_backward_bytes<DH>(source, plan.rows_in_memory, x.d_bias != nullptr);
    int32_t n_warps = warps_for(2 * plan.n_tiles, BACKWARD_WARPS);
    dim3 grid(static_cast<unsigned>(n_runs * shape.n_heads));

    if (bytes <= cuda_device_of(device)->shared_bytes)
        return launch(device, "attention_mma_backward", grid, static_cast<unsigned>(n_warps * WARP),
                      bytes, attention_mma_backward<DH, true, Source>, source, shape, plan, x);
    if constexpr (!Source::PADS) {
        CHECK(x.delta != nullptr && n_runs == shape.n_tasks);
        n_warps = warps_for(plan.n_tiles, BACKWARD_WARPS);
        plan.rows_in_memory = BACKWARD_ROWS;
        bytes = BACKWARD_ROWS * (2 * DH * sizeof(bf16) + 2 * sizeof(float)) +
                rest_halves<DH>(false) * sizeof(bf16);
        grid.y = grid_for(plan.n_tiles, n_warps);
        grid.z = 2;
        return launch(device, "attention_mma_backward (rows passing)", grid,
                      static_cast<unsigned>(n_warps * WARP), bytes,
                      attention_mma_backward<DH, false, Source>, source, shape, plan, x);
    }
    FAIL(STATUS_UNSUPPORTED, "%d rows of width %d do not fit into shared memory", source.length(),
         DH);
}

/* Do all rows of a task fit into shared memory? Otherwise a backward wants delta; windows can't. */
template <class Source>
static bool mma_backward_fits(struct device *device, const Source &source, int32_t head_dim,
                              bool with_bias)
{
    return with_mma_width<Source>(head_dim, [&](auto width) {
        return mma_backward_bytes<decltype(width)::value>(
                   source, mma_tiles(source.length()) * MMA_ROWS, with_bias) <=
               cuda_device_of(device)->shared_bytes;
    });
}

template <class Source>
static enum status launch_mma_backward(struct device *device, const Source &source,
                                       const struct attention_shape &shape, int64_t n_runs,
                                       const struct mma_backward_tensors &x)
{
    return with_mma_width<Source>(shape.head_dim, [&](auto width) {
        return launch_mma_backward_as<decltype(width)::value>(device, source, shape, n_runs, x);
    });
}

#endif
