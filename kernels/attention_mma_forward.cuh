/* Attention forward on the matrix units.
 *
 * A block has one (task, head): its keys and values lie in shared memory, and its warps take 16
 * queries each until none is left. KEYS keys are scored at a time; up to KEYS keys the whole row is
 * in registers and softmax is a single pass, beyond that it is online. Where keys and values are
 * too many for shared memory, KEYS of them at a time pass through it, and the queries are spread
 * over blockIdx.y.
 *
 * Must move 8 D bytes a token (q, k, v in, out out) for 4 L^2 Dh FLOP a head. Model for compute
 * capability 9.0, cycles of a multiprocessor for 16 x 16 scores of width 64: 16 mma at 0.6 of the
 * full rate, 26; 8 loads of matrices from shared memory at 128 bytes a cycle, 32; powers of two, 16
 * a cycle, 16. At 197 tokens 5.4 thousand cycles a head for shared memory, 5.6 thousand for its 101
 * KB at 4.3 TB/s: as good as balanced, given two blocks of 7 warps under way. 32 queries a warp
 * would halve the loads, but leave registers for one block only, so that nobody works while it
 * loads; a whole row of 208 scores in registers the same. At 37 tokens memory is the bound (1.1
 * thousand cycles against 0.3). So predicted. Measured on an H200, 3072 heads of 197 tokens take
 * 254 us, 15360 of 37 tokens 121 us. */
#ifndef IBOT_KERNELS_ATTENTION_MMA_FORWARD_CUH
#define IBOT_KERNELS_ATTENTION_MMA_FORWARD_CUH

#include "kernels/attention_mma.cuh"

enum { FORWARD_WARPS = 7, FORWARD_TASKS = 4 };

/* How a forward is laid out. */
struct mma_forward_plan {
    int32_t n_tiles;        /* of 16 places */
    int32_t rows_in_memory; /* keys in shared memory at a time */
    int32_t n_rounds;       /* tiles of queries a warp takes */
    int32_t tasks;          /* a block takes, one after the other */
};

/* Grid: (ceil(tasks / plan.tasks) * n_heads, groups of queries). Dynamic shared memory: keys,
 * values, places. */
template <int DH, int KEYS, class Source>
__global__ void __launch_bounds__(FORWARD_WARPS *WARP, DH <= 64 ? 2 : 1)
    attention_mma_forward(Source source, struct attention_shape shape, struct mma_forward_plan plan,
                          const bf16 *qkv, bf16 *out, float *lse)
{
    constexpr int STEPS = DH / 16, TILES = KEYS / 16;
    DYNAMIC_SHARED(bf16, keys);
    bf16 *values = keys + plan.rows_in_memory * DH;
    const int32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    const int32_t n_warps = static_cast<int32_t>(blockDim.x) / WARP;
    const int32_t head = static_cast<int32_t>(blockIdx.x % shape.n_heads);
    const int32_t head_dim = DH <= 64 ? DH : shape.head_dim, n_steps = head_dim / 16;
    const int32_t length = source.length(), n_rows = plan.n_tiles * MMA_ROWS;
    const int64_t width = static_cast<int64_t>(head_dim) * shape.n_heads, stride = 3 * width;
    const float to_exponent = LOG2_E / sqrtf(static_cast<float>(head_dim));
    const bool whole = plan.rows_in_memory == n_rows;
    const bf16 *q = qkv + head * head_dim;
    const float *pad = Source::PADS ? source.padding() + width + head * head_dim : nullptr;
    const int64_t first_task = blockIdx.x / shape.n_heads * plan.tasks;
    const int64_t end_task =
        first_task + plan.tasks < shape.n_tasks ? first_task + plan.tasks : shape.n_tasks;
    mma_places<Source> places;

    places.bind(values + plan.rows_in_memory * DH, source, n_rows, head, shape.n_heads);
    for (int64_t task = first_task; task < end_task; task++) {
        if (Source::PADS || task > first_task)
            __syncthreads(); /* nobody reads the last task's rows any more */
        places.find(source, task);
        if (Source::PADS)
            __syncthreads();
        if (whole) {
            copy_rows<DH>(keys, q + width, stride, pad, places, 0, n_rows, head_dim);
            copy_async_commit();
            copy_rows<DH>(values, q + 2 * width, stride, Source::PADS ? pad + width : nullptr,
                          places, 0, n_rows, head_dim);
            copy_async_commit();
        }
        for (int32_t round = 0; round < plan.n_rounds; round++) {
            const int32_t tile =
                (static_cast<int32_t>(blockIdx.y) * plan.n_rounds + round) * n_warps + warp;
            int32_t row[2] = {OUTSIDE, OUTSIDE};
            uint32_t left[STEPS][4];
            float o[2 * STEPS][4] = {}, most[2] = {-INFINITY, -INFINITY}, sum[2] = {};
            int32_t mark[2] = {};
            if (tile < plan.n_tiles)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    row[i] = places.row(tile * MMA_ROWS + g + 8 * i);
                    if constexpr (Source::PADS)
                        mark[i] = places.marks[tile * MMA_ROWS + g + 8 * i];
                }
            /* only tokens ask, not padding */
            const bool at_work = __any_sync(ALL_LANES, row[0] >= 0 || row[1] >= 0);
            if (at_work)
                load_left<DH>(left, row[0] >= 0 ? q + row[0] * stride : nullptr,
                              row[1] >= 0 ? q + row[1] * stride : nullptr, n_steps);
            for (int32_t first = 0; first < n_rows; first += KEYS) {
                const int32_t n = n_rows - first < KEYS ? (n_rows - first) / MMA_ROWS : TILES;
                const int32_t base = whole ? first : 0; /* of these keys in shared memory */
                float s[TILES][2][4];
                if (!whole) {
                    __syncthreads();
                    copy_rows<DH>(keys, q + width, stride, pad, places, first, n * MMA_ROWS,
                                  head_dim);
                    copy_rows<DH>(values, q + 2 * width, stride,
                                  Source::PADS ? pad + width : nullptr, places, first, n * MMA_ROWS,
                                  head_dim);
                    copy_async_commit();
                    copy_async_wait<0>();
                    __syncthreads();
                } else if (round == 0 && first == 0) { /* the keys are there, values may not be */
                    copy_async_wait<1>();
                    __syncthreads();
                }
                if (at_work) {
                    float top[2] = {most[0], most[1]};
#pragma unroll
                    for (int j = 0; j < TILES; j++)
                        if (j < n) {
#pragma unroll
                            for (int i = 0; i < 8; i++)
                                s[j][i / 4][i % 4] = 0.0f;
                            add_scores<DH>(s[j], left, keys, base + j * MMA_ROWS, n_steps);
                        }
#pragma unroll
                    for (int j = 0; j < TILES; j++)
                        if (j < n) {
                            const int32_t key = first + j * MMA_ROWS;
                            const bool full = key + MMA_ROWS <= length;
#pragma unroll
                            for (int i = 0; i < 8; i++) {
                                float &score = s[j][i / 4][i % 4];
                                const int32_t at = key + i / 4 * 8 + 2 * t + i % 2;
                                score *= to_exponent;
                                if constexpr (Source::PADS)
                                    score += places.pair(mark[i % 4 / 2], places.marks[at]);
                                if (!full && at >= length)
                                    score = -INFINITY;
                                top[i % 4 / 2] = fmaxf(top[i % 4 / 2], score);
                            }
                        }
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        top[i] = quad_max(top[i]); /* finite: the first key of these is one */
                        float fade = fast_exp2(most[i] - top[i]);
                        most[i] = top[i];
                        sum[i] *= fade;
                        if (first > 0)
#pragma unroll
                            for (int j = 0; j < 2 * STEPS; j++) {
                                o[j][2 * i] *= fade;
                                o[j][2 * i + 1] *= fade;
                            }
                    }
#pragma unroll
                    for (int j = 0; j < TILES; j++)
                        if (j < n)
#pragma unroll
                            for (int i = 0; i < 8; i++) {
                                float &score = s[j][i / 4][i % 4];
                                score = fast_exp2(score - most[i % 4 / 2]);
                                sum[i % 4 / 2] += score;
                            }
                }
                if (whole && round == 0 && first == 0) {
                    copy_async_wait<0>();
                    __syncthreads();
                }
                if (at_work)
#pragma unroll
                    for (int j = 0; j < TILES; j++)
                        if (j < n) {
                            uint32_t p[4];
                            left_of(p, s[j]);
                            add_rows<DH>(o, p, values, base + j * MMA_ROWS, n_steps);
                        }
            }
            if (!at_work)
                continue;
            bf16 *to[2];
            float factor[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                sum[i] = quad_sum(sum[i]);
                factor[i] = 1.0f / sum[i];
                to[i] = row[i] >= 0 ? out + row[i] * width + head * head_dim : nullptr;
                if (lse != nullptr && row[i] >= 0 && t == 0)
                    lse[places.sum_at(tile * MMA_ROWS + g + 8 * i, shape.n_tokens)] =
                        LN_2 * (most[i] + log2f(sum[i]));
            }
            store_rows<DH>(to, o, factor, n_steps);
        }
    }
}

/* ------------------------------------------------------------------------------ launches */

template <int DH, int KEYS, class Source>
static enum status launch_mma_forward_as(struct device *device, const Source &source,
                                         const struct attention_shape &shape, const bf16 *qkv,
                                         bf16 *out, float *lse)
{
    struct mma_forward_plan plan = {};
    size_t row_bytes = 2 * DH * sizeof(bf16); /* key and value */
    size_t most_bytes = cuda_device_of(device)->shared_bytes;
    unsigned groups = 1;

    plan.n_tiles = (source.length() + MMA_ROWS - 1) / MMA_ROWS;
    plan.rows_in_memory = plan.n_tiles * MMA_ROWS;
    size_t places_bytes = mma_places<Source>::bytes(source, plan.rows_in_memory);
    int32_t n_warps = warps_for(plan.n_tiles, FORWARD_WARPS);
    plan.n_rounds = (plan.n_tiles + n_warps - 1) / n_warps;
    if (static_cast<size_t>(plan.rows_in_memory) * row_bytes + places_bytes > most_bytes) {
        plan.rows_in_memory = KEYS;
        groups = static_cast<unsigned>(plan.n_rounds);
        plan.n_rounds = 1;
    }
    plan.tasks = Source::PADS && groups == 1 ? FORWARD_TASKS : 1;
    dim3 grid(grid_for(shape.n_tasks, plan.tasks) * static_cast<unsigned>(shape.n_heads), groups);
    return launch(device, "attention_mma_forward", grid, static_cast<unsigned>(n_warps * WARP),
                  static_cast<size_t>(plan.rows_in_memory) * row_bytes + places_bytes,
                  attention_mma_forward<DH, KEYS, Source>, source, shape, plan, qkv, out, lse);
}

template <class Source>
static enum status launch_mma_forward(struct device *device, const Source &source,
                                      const struct attention_shape &shape, const bf16 *qkv,
                                      bf16 *out, float *lse)
{
    return with_mma_width<Source>(shape.head_dim, [&](auto width) {
        constexpr int DH = decltype(width)::value;
        constexpr int KEYS = DH == 32 ? 112 : DH == 64 ? 80 : 64; /* what the registers hold */
        if (source.length() > 64 && KEYS > 64)
            return launch_mma_forward_as<DH, KEYS>(device, source, shape, qkv, out, lse);
        return launch_mma_forward_as<DH, 64>(device, source, shape, qkv, out, lse);
    });
}

#endif
