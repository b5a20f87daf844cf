/* Attention backward of sequences of which everything fits into shared memory, the gradients of all
 * scores of a head among it: up to 208 tokens with heads of 64 columns, 256 with 32. Every product
 * is made once: 10 L^2 Dh FLOP a head.
 *
 * A block has one (sequence, head) at a time, and a warp for each 16 tokens of it:
 *
 *      queries pass by the warp's 16 keys    scores, probabilities, their gradients; d_v
 *      barrier
 *      gradients times rows                  d_k of 32 keys, or d_q of 32 queries
 *
 * So warps meet twice a head, all have the same to do, and none needs more than 128 registers: 13
 * of them are at work on a multiprocessor at 197 tokens, 15 (of five blocks) at 37.
 *
 *      k  q  k  q  d_out [L, Dh]   gradients of scores [L (keys), L + 8 (queries)]   sums of
 * queries
 *
 * Blocks go from head to head. The next head's k and q come into the second pair while queries pass
 * by, its d_out where this head's was, which is done with by then; values go from global memory to
 * the registers that want them.
 *
 * Must move 16 D bytes a token. Model for compute capability 9.0, cycles of a multiprocessor for 16
 * x 16 scores of width 64: shared memory, 128 bytes a cycle, 12 loads of matrices for 24 mma while
 * queries pass, 6 for 16 then: 58 and 24; mma at 0.6 of the full rate 38 and 26, and the scheduler
 * with 4 of 13 warps has 1.23 times its share, 47 and 32. At 197 tokens (169 such tiles) 58 + 32
 * make 15 thousand cycles a head, against 11 thousand for its 202 KB at 4.3 TB/s: 206 us for 3072
 * heads. Measured on an H200, before values were fetched to the cache ahead: 398 us; 15360 heads of
 * 37 tokens 187 us. */
#ifndef IBOT_KERNELS_ATTENTION_WHOLE_BACKWARD_CUH
#define IBOT_KERNELS_ATTENTION_WHOLE_BACKWARD_CUH

#include "kernels/attention_mma_backward.cuh"

enum {
    WHOLE_WARPS = 16,  /* of a multiprocessor, with 128 registers each thread */
    WHOLE_BUFFERS = 5, /* of rows */
    WHOLE_GAP = 8,     /* between rows of gradients: those of 8 rows lie in different banks */
};

/* Where things are in shared memory. Two pairs of k and q: of the head at work, and of the next. */
template <int DH> struct whole_memory {
    bf16 *base;
    int32_t n_rows;
    int32_t pair;  /* of the head at work: 0 or 1 */
    int32_t pitch; /* of gradients */

    static __host__ __device__ size_t bytes(int32_t n_rows)
    {
        return static_cast<size_t>(n_rows) *
               ((WHOLE_BUFFERS * DH + n_rows + WHOLE_GAP) * sizeof(bf16) + 3 * sizeof(float));
    }
    __device__ __forceinline__ whole_memory(bf16 *memory, int32_t n)
        : base(memory), n_rows(n), pair(0), pitch(n + WHOLE_GAP)
    {
    }
    __device__ __forceinline__ bf16 *k(int32_t of_pair) const
    {
        return base + of_pair * 2 * n_rows * DH;
    }
    __device__ __forceinline__ bf16 *q(int32_t of_pair) const
    {
        return base + (of_pair * 2 + 1) * n_rows * DH;
    }
    __device__ __forceinline__ bf16 *d_out() const
    {
        return base + 4 * n_rows * DH;
    }
    /* [keys, pitch] */
    __device__ __forceinline__ bf16 *gradients() const
    {
        return base + WHOLE_BUFFERS * n_rows * DH;
    }
    /* Of two queries: -delta0, -delta1, and the same again. */
    __device__ __forceinline__ float4 *delta() const
    {
        return reinterpret_cast<float4 *>(gradients() + n_rows * pitch);
    }
    /* In powers of two; infinite for what is no query. */
    __device__ __forceinline__ float *lse() const
    {
        return reinterpret_cast<float *>(delta() + n_rows / 2);
    }
};

/* A head's part of the tensors, from its sequence's first row on. */
template <int DH> struct whole_head {
    const bf16 *q, *out, *d_out;
    bf16 *d_q;
    const float *lse;
    int32_t width, length;

    __device__ __forceinline__ whole_head(const sequence_rows &source,
                                          const struct attention_shape &shape,
                                          const mma_backward_tensors &x, uint32_t task)
    {
        const uint32_t n_heads = static_cast<uint32_t>(shape.n_heads);
        const int64_t row = source.frame(task / n_heads).first_row;
        const int32_t head = static_cast<int32_t>(task % n_heads);
        width = DH * shape.n_heads;
        length = source.length();
        const int64_t at = row * width + head * DH, at_q = 3 * row * width + head * DH;
        q = x.qkv + at_q;
        d_q = x.d_qkv + at_q;
        out = x.out + at;
        d_out = x.d_out + at;
        lse = x.lse + row * shape.n_heads + head * length;
    }
};

/* A thread's share of a head's rows: PIECES pieces of 16 bytes, the same of every operand. */
template <int DH> struct whole_share {
    static const int PARTS = mma_rows<DH>::PARTS, PIECES = MMA_ROWS * PARTS / WARP;
    uint4 out[PIECES];
    float lse; /* of the first threads, a row each */

    /* Of its piece i. */
    static __device__ __forceinline__ int32_t row_of(int32_t thread, int i)
    {
        return thread / PARTS + i * static_cast<int32_t>(blockDim.x) / PARTS;
    }
    /* Starts copying rows into a buffer; zeros past the end. */
    __device__ __forceinline__ void copy(bf16 *buffer, const bf16 *from, int32_t stride,
                                         int32_t length) const
    {
        const int32_t thread = computed_here(threadIdx.x), part = thread % PARTS;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int32_t row = row_of(thread, i);
            copy_async(buffer + mma_rows<DH>::at(row, part),
                       row < length ? from + row * stride + part * 8 : from, row < length);
        }
    }
    /* What delta is made of, besides d_out. */
    __device__ __forceinline__ void load(const whole_head<DH> &head)
    {
        const int32_t thread = computed_here(threadIdx.x), part = thread % PARTS;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int32_t row = row_of(thread, i);
            out[i] = make_uint4(0, 0, 0, 0);
            if (row < head.length)
                out[i] = *reinterpret_cast<const uint4 *>(head.out + row * head.width + part * 8);
        }
        lse = thread < head.length ? head.lse[thread] : INFINITY;
    }
    /* The sums of queries, after this thread's copies have come: it needs no others. */
    __device__ __forceinline__ void finish(const whole_memory<DH> &memory) const
    {
        const int32_t thread = computed_here(threadIdx.x), part = thread % PARTS;
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            const int32_t row = row_of(thread, i);
            const uint4 d_out =
                *reinterpret_cast<const uint4 *>(memory.d_out() + mma_rows<DH>::at(row, part));
            const uint32_t a[4] = {out[i].x, out[i].y, out[i].z, out[i].w};
            const uint32_t b[4] = {d_out.x, d_out.y, d_out.z, d_out.w};
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                sum = fmaf(low_half(a[j]), low_half(b[j]), sum);
                sum = fmaf(high_half(a[j]), high_half(b[j]), sum);
            }
#pragma unroll
            for (int distance = PARTS / 2; distance > 0; distance /= 2)
                sum += __shfl_xor_sync(ALL_LANES, sum, distance);
            if (part == 0) {
                float *pair = reinterpret_cast<float *>(memory.delta() + row / 2) + row % 2;
                pair[0] = -sum;
                pair[2] = -sum;
            }
        }
        if (thread < memory.n_rows)
            memory.lse()[thread] = LOG2_E * lse;
    }
};

/* Stores factor * o, rows of one of the three gradients, from `first` on. */
template <int DH>
__device__ __forceinline__ void whole_store(const whole_head<DH> &head, int32_t which,
                                            int32_t first, const float (&o)[DH / 8][4], float scale)
{
    const float factor[2] = {scale, scale};
    const int32_t lane = computed_here(threadIdx.x % WARP);
    bf16 *to[2];

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int32_t row = first + lane / 4 + 8 * i;
        to[i] = row < head.length ? head.d_q + row * 3 * head.width + which * head.width : nullptr;
    }
    store_rows<DH>(to, o, factor, DH / 16);
}

/* Queries pass by the warp's 16 keys from `first` on: the gradients of their scores, and d_v. */
template <int DH>
__device__ __forceinline__ void whole_pass(float (&d_v)[DH / 8][4], const whole_memory<DH> &memory,
                                           const uint32_t (&k)[DH / 16][4],
                                           const uint32_t (&v)[DH / 16][4], int32_t first,
                                           int32_t n_rows, int32_t length, float to_exponent)
{
    constexpr int STEPS = DH / 16;
    const int32_t lane = computed_here(threadIdx.x % WARP), g = lane / 4, t = lane % 4;
    const int32_t of_scores = mma_rows<DH>::lane_of_scores(lane);
    const int32_t of_rows = mma_rows<DH>::lane_of_rows(lane);
    /* what is no key has a score of 0, which may be beyond all others */
    const float low = first + g < length ? 0.0f : -INFINITY;
    const float high = first + g + 8 < length ? 0.0f : -INFINITY;
    const float there[4] = {low, low, high, high};
    bf16 *gradients = memory.gradients() + (first + g) * memory.pitch + 2 * t;
    const bf16 *scores_at[STEPS], *rows_at[STEPS];
    const int32_t to_d_out = static_cast<int32_t>(memory.d_out() - memory.q(memory.pair));

#pragma unroll
    for (int i = 0; i < STEPS; i++) {
        scores_at[i] = memory.q(memory.pair) + mma_rows<DH>::step(of_scores, 0, i);
        rows_at[i] = memory.d_out() + mma_rows<DH>::step(of_rows, 0, i);
    }
#pragma unroll 1
    for (int32_t query = 0; query < n_rows; query += MMA_ROWS) {
        float s[2][4], ds[2][4];
        uint32_t b[STEPS][4], p[4];

#pragma unroll
        for (int i = 0; i < STEPS; i++)
            load_matrices(b[i], scores_at[i]);
#pragma unroll
        for (int i = 0; i < STEPS; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (i == 0)
                    mma<bf16>(s[j], k[i], b[i][2 * j], b[i][2 * j + 1], there);
                else
                    mma<bf16>(s[j], k[i], b[i][2 * j], b[i][2 * j + 1]);
#pragma unroll
        for (int i = 0; i < STEPS; i++)
            load_matrices(b[i], scores_at[i] + to_d_out);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float4 delta = memory.delta()[query / 2 + 4 * j + t];
            const float minus_delta[4] = {delta.x, delta.y, delta.z, delta.w};
            mma<bf16>(ds[j], v[0], b[0][2 * j], b[0][2 * j + 1], minus_delta);
        }
#pragma unroll
        for (int i = 1; i < STEPS; i++)
#pragma unroll
            for (int j = 0; j < 2; j++)
                mma<bf16>(ds[j], v[i], b[i][2 * j], b[i][2 * j + 1]);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float2 lse =
                *reinterpret_cast<const float2 *>(memory.lse() + query + 8 * j + 2 * t);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s[j][i] = fast_exp2(fmaf(s[j][i], to_exponent, -(i % 2 == 0 ? lse.x : lse.y)));
                ds[j][i] *= s[j][i];
            }
        }
#pragma unroll
        for (int i = 0; i < STEPS; i++)
            load_matrices_transposed(b[i], rows_at[i]);
        left_of(p, s);
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            mma<bf16>(d_v[2 * i], p, b[i][0], b[i][1]);
            mma<bf16>(d_v[2 * i + 1], p, b[i][2], b[i][3]);
        }
        left_of(p, ds);
#pragma unroll
        for (int i = 0; i < 4; i++)
            *reinterpret_cast<uint32_t *>(gradients + i % 2 * 8 * memory.pitch + i / 2 * 8) = p[i];
        gradients += MMA_ROWS;
#pragma unroll
        for (int i = 0; i < STEPS; i++) {
            scores_at[i] += MMA_ROWS * DH;
            rows_at[i] += MMA_ROWS * DH;
        }
    }
}

/* The gradients of TILES times 16 keys (d_k) or queries (d_q) from `first` on, times all rows of
 * the other kind. */
template <int DH, int TILES, bool OF_KEYS>
__device__ __forceinline__ void whole_product(float (&o)[TILES][DH / 8][4],
                                              const whole_memory<DH> &memory, int32_t first,
                                              int32_t n_rows)
{
    constexpr int STEPS = DH / 16;
    const int32_t lane = computed_here(threadIdx.x % WARP), pitch = memory.pitch;
    const bf16 *rows = (OF_KEYS ? memory.q(memory.pair) : memory.k(memory.pair));
    const bf16 *gradients =
        memory.gradients() + (OF_KEYS
                                  ? (first + lane % 16) * pitch + lane / 16 * 8
                                  : (lane / 16 * 8 + lane % 8) * pitch + first + lane / 8 % 2 * 8);
    const int32_t next_tile = MMA_ROWS * (OF_KEYS ? pitch : 1);
    const int32_t next = MMA_ROWS * (OF_KEYS ? 1 : pitch);
    const bf16 *rows_at[STEPS];

#pragma unroll
    for (int i = 0; i < STEPS; i++)
        rows_at[i] = rows + mma_rows<DH>::step(mma_rows<DH>::lane_of_rows(lane), 0, i);
#pragma unroll
    for (int m = 0; m < TILES; m++)
#pragma unroll
        for (int j = 0; j < 2 * STEPS; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                o[m][j][i] = 0.0f;
#pragma unroll 1
    for (int32_t other = 0; other < n_rows; other += MMA_ROWS) {
        uint32_t a[TILES][4], b[STEPS][4];
#pragma unroll
        for (int m = 0; m < TILES; m++)
            if (OF_KEYS)
                load_matrices(a[m], gradients + m * next_tile);
            else
                load_matrices_transposed(a[m], gradients + m * next_tile);
#pragma unroll
        for (int i = 0; i < STEPS; i++)
            load_matrices_transposed(b[i], rows_at[i]);
#pragma unroll
        for (int i = 0; i < STEPS; i++)
#pragma unroll
            for (int m = 0; m < TILES; m++) {
                mma<bf16>(o[m][2 * i], a[m], b[i][0], b[i][1]);
                mma<bf16>(o[m][2 * i + 1], a[m], b[i][2], b[i][3]);
            }
        gradients += next;
#pragma unroll
        for (int i = 0; i < STEPS; i++)
            rows_at[i] += MMA_ROWS * DH;
    }
}

/* What a warp has of values: its rows, from global memory. */
template <int DH>
__device__ __forceinline__ void whole_values(uint32_t (&v)[DH / 16][4], const whole_head<DH> &head)
{
    const int32_t thread = computed_here(threadIdx.x);
    const int32_t row = thread / WARP * MMA_ROWS + thread % WARP / 4;
    const bf16 *from = head.q + 2 * head.width + row * 3 * head.width;

    load_left<DH>(v, row < head.length ? from : nullptr,
                  row + 8 < head.length ? from + 24 * head.width : nullptr, DH / 16);
}

/* d_k or d_q of TILES times 16 rows; `meanwhile` is called before they are stored. */
template <int DH, int TILES, bool OF_KEYS, class F>
__device__ __forceinline__ void whole_rows_of(const whole_memory<DH> &memory,
                                              const whole_head<DH> &head, int32_t first,
                                              int32_t n_rows, float scale, const F &meanwhile)
{
    float o[TILES][DH / 8][4];

    whole_product<DH, TILES, OF_KEYS>(o, memory, first, n_rows);
    meanwhile();
#pragma unroll
    for (int m = 0; m < TILES; m++)
        whole_store<DH>(head, OF_KEYS ? 1 : 0, first + m * MMA_ROWS, o[m], scale);
}

template <int DH>
__global__ void __launch_bounds__(WHOLE_WARPS *WARP, 1)
    attention_whole_backward(struct sequence_rows source, struct attention_shape shape,
                             struct mma_backward_tensors x, int32_t n_rows)
{
    constexpr int STEPS = DH / 16;
    DYNAMIC_SHARED(bf16, base);
    const int32_t n_tiles = n_rows / MMA_ROWS;
    const uint32_t n_tasks = static_cast<uint32_t>(shape.n_tasks * shape.n_heads);
    const float scale = 1.0f / sqrtf(static_cast<float>(DH));
    whole_memory<DH> memory(base, n_rows);
    whole_share<DH> share;
    uint32_t v[STEPS][4];

    {
        const whole_head<DH> head(source, shape, x, blockIdx.x);
        share.copy(memory.q(0), head.q, 3 * head.width, head.length);
        share.copy(memory.k(0), head.q + head.width, 3 * head.width, head.length);
        share.copy(memory.d_out(), head.d_out, head.width, head.length);
        copy_async_commit();
        share.load(head);
        whole_values<DH>(v, head);
        copy_async_wait<0>();
        share.finish(memory);
    }
    __syncthreads();
    for (uint32_t round = 0;; round++) {
        const uint32_t task = blockIdx.x + round * gridDim.x, next_task = task + gridDim.x;
        const bool more = next_task < n_tasks;
        memory.pair = static_cast<int32_t>(round % 2);
        if (more) {
            const whole_head<DH> next(source, shape, x, next_task);
            share.copy(memory.q(1 - memory.pair), next.q, 3 * next.width, next.length);
            share.copy(memory.k(1 - memory.pair), next.q + next.width, 3 * next.width, next.length);
            copy_async_commit();
            /* threads are twice as many as rows; these come to registers later */
            const int32_t row = computed_here(threadIdx.x) / 2;
            if (row < next.length)
                prefetch(threadIdx.x % 2 == 0 ? next.q + 2 * next.width + row * 3 * next.width
                                              : next.out + row * next.width);
        }
        const whole_head<DH> head(source, shape, x, task);
        const int32_t warp = computed_here(threadIdx.x) / WARP;
        {
            uint32_t k[STEPS][4];
            float d_v[2 * STEPS][4] = {};
            const int32_t of_rows = mma_rows<DH>::lane_of_rows(computed_here(threadIdx.x % WARP));
#pragma unroll
            for (int i = 0; i < STEPS; i++)
                load_matrices(k[i], memory.k(memory.pair) +
                                        mma_rows<DH>::step(of_rows, warp * MMA_ROWS, i));
            whole_pass<DH>(d_v, memory, k, v, warp * MMA_ROWS, n_rows, head.length, LOG2_E * scale);
            whole_store<DH>(head, 2, warp * MMA_ROWS, d_v, 1.0f);
        }
        __syncthreads(); /* all gradients are there; nobody reads d_out any more */
        if (more) {
            const whole_head<DH> next(source, shape, x, next_task);
            share.copy(memory.d_out(), next.d_out, next.width, next.length);
            copy_async_commit();
        }
        const auto load_next = [&] {
            if (more) {
                const whole_head<DH> next(source, shape, x, next_task);
                share.load(next);
            }
        };
        /* halves of the warps have two tiles each; the last of an odd number one of both kinds */
        if (warp < n_tiles / 2) {
            whole_rows_of<DH, 2, true>(memory, head, warp * 2 * MMA_ROWS, n_rows, scale, load_next);
        } else if (warp < n_tiles / 2 * 2) {
            whole_rows_of<DH, 2, false>(memory, head, (warp - n_tiles / 2) * 2 * MMA_ROWS, n_rows,
                                        scale, load_next);
        } else {
            whole_rows_of<DH, 1, true>(memory, head, warp * MMA_ROWS, n_rows, scale, [] {});
            whole_rows_of<DH, 1, false>(memory, head, warp * MMA_ROWS, n_rows, scale, load_next);
        }
        if (!more)
            break;
        const whole_head<DH> next(source, shape, x, next_task);
        whole_values<DH>(v, next);
        copy_async_wait<0>();
        share.finish(memory);
        __syncthreads();
    }
}

/* ------------------------------------------------------------------------------ launches */

static inline bool whole_backward_takes(struct device *device, const sequence_rows &source,
                                        const struct attention_shape &shape)
{
    const int32_t head_dim = shape.head_dim;
    const int32_t n_tiles = mma_tiles(source.length()), n_rows = n_tiles * MMA_ROWS;
    const size_t bytes =
        head_dim == 64 ? whole_memory<64>::bytes(n_rows) : whole_memory<32>::bytes(n_rows);

    return (head_dim == 32 || head_dim == 64) && n_tiles <= WHOLE_WARPS &&
           shape.n_tasks * shape.n_heads <= INT32_MAX &&
           bytes <= cuda_device_of(device)->shared_bytes;
}

template <int DH>
static enum status launch_whole_backward_as(struct device *device, const sequence_rows &source,
                                            const struct attention_shape &shape,
                                            const struct mma_backward_tensors &x)
{
    const int32_t n_tiles = mma_tiles(source.length()), n_rows = n_tiles * MMA_ROWS;
    const size_t bytes = whole_memory<DH>::bytes(n_rows);
    unsigned n_blocks;

    TRY(resident_grid(device, attention_whole_backward<DH>, n_tiles * WARP, bytes,
                      shape.n_tasks * shape.n_heads, &n_blocks));
    return launch(device, "attention_whole_backward", n_blocks,
                  static_cast<unsigned>(n_tiles * WARP), bytes, attention_whole_backward<DH>,
                  source, shape, x, n_rows);
}

static enum status launch_whole_backward(struct device *device, const sequence_rows &source,
                                         const struct attention_shape &shape,
                                         const struct mma_backward_tensors &x)
{
    return shape.head_dim == 64 ? launch_whole_backward_as<64>(device, source, shape, x)
                                : launch_whole_backward_as<32>(device, source, shape, x);
}

#endif
