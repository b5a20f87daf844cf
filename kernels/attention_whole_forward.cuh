/* Attention forward of sequences of which keys and values fit into shared memory twice: up to 448
 * tokens with heads of 64 columns, 896 with 32.
 *
 * Blocks go from head to head: while a block's warps work at the keys and values of one, those of
 * the next come. A warp has 16 queries at a time, and softmax is online over 80 keys, of which no
 * step depends on a condition; the rest of the keys have a step of their own for each number of
 * them. A warp's next queries come to its registers as soon as the last scores are made.
 *
 * Must move 8 D bytes a token (q, k, v in, out out) for 4 L^2 Dh FLOP a head. Model for compute
 * capability 9.0, cycles of a multiprocessor for 16 x 16 scores of width 64: 16 mma at 0.6 of the
 * full rate, 26; 8 loads of matrices from shared memory at 128 bytes a cycle, 32; powers of two, 16
 * a cycle, 16; four schedulers with 75 instructions, 19. At 197 tokens (169 such tiles) 5.4
 * thousand cycles a head for shared memory, 5.6 thousand for its 101 KB at 4.3 TB/s, by two blocks
 * of 7 warps; at 37 tokens memory is the bound (1.1 thousand cycles against 0.3), by five blocks
 * of 3. Measured on an H200: 3072 heads of 197 tokens 180 us (192 with lse; cuDNN 166 and 181),
 * 15360 of 37 tokens 96 us, before queries were fetched to the cache ahead. */
#ifndef IBOT_KERNELS_ATTENTION_WHOLE_FORWARD_CUH
#define IBOT_KERNELS_ATTENTION_WHOLE_FORWARD_CUH

#include "kernels/attention_mma.cuh"

enum {
    WHOLE_FORWARD_WARPS = 8, /* of a block; twice as many of a multiprocessor */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
    WHOLE_FORWARD_BLOCKS = 1, /* 128 registers are not enough here */
#else
    WHOLE_FORWARD_BLOCKS = 2,
#endif
    WHOLE_FORWARD_TILES = 5, /* of 16 keys, whose scores a warp has at a time */
};

struct whole_forward_tensors {
    const bf16 *qkv;
    bf16 *out;
    float *lse; /* or absent */
};

/* Where a head's part of the tensors begins: its sequence's first row. */
template <int DH> struct whole_forward_head {
    int64_t row;
    int32_t head, n_heads, width;

    __device__ __forceinline__ whole_forward_head(const sequence_rows &source,
                                                  const struct attention_shape &shape,
                                                  uint32_t task)
    {
        const uint32_t n = static_cast<uint32_t>(shape.n_heads);
        row = source.frame(task / n).first_row;
        head = static_cast<int32_t>(task % n);
        n_heads = shape.n_heads;
        width = DH * n_heads;
    }
    __device__ __forceinline__ const bf16 *q(const bf16 *qkv) const
    {
        return qkv + 3 * row * width + head * DH;
    }
    __device__ __forceinline__ bf16 *out(bf16 *of) const
    {
        return of + row * width + head * DH;
    }
    __device__ __forceinline__ float *lse(float *of, int32_t length) const
    {
        return of + row * n_heads + head * length;
    }
};

/* Starts copying keys and values of a head, one after the other; zeros past the end. */
template <int DH>
__device__ __forceinline__ void whole_forward_copy(bf16 *keys, const bf16 *q, int32_t width,
                                                   int32_t length, int32_t n_rows)
{
    constexpr int PARTS = mma_rows<DH>::PARTS;
    const int32_t part = computed_here(threadIdx.x) % PARTS;
    const bf16 *from = q + width + part * 8;

#pragma unroll 2
    for (int32_t row = computed_here(threadIdx.x) / PARTS; row < n_rows;
         row += static_cast<int32_t>(blockDim.x) / PARTS) {
        const bool there = row < length;
        const bf16 *key = there ? from + row * 3 * width : from;
        bf16 *to = keys + mma_rows<DH>::at(row, part);
        copy_async(to, key, there);
        copy_async(to + n_rows * DH, key + width, there);
    }
    copy_async_commit();
}

/* What a warp has of 16 queries. */
template <int DH> struct whole_queries {
    static const int STEPS = DH / 16;
    uint32_t left[STEPS][4];
    float o[2 * STEPS][4];
    const bf16 *keys_at[STEPS], *values_at[STEPS]; /* a lane's next matrices */
    float most[2],
        sum[2]; /* of rows g and g + 8: the greatest score, what its multiples add up to */

    /* Of a head's rows from `first` on; absent ones are zeros. */
    __device__ __forceinline__ void load(const bf16 *q, int32_t width, int32_t first,
                                         int32_t length)
    {
        const int32_t row = first + computed_here(threadIdx.x) % WARP / 4;
        const bf16 *from = q + row * 3 * width;

        load_left<DH>(left, row < length ? from : nullptr,
                      row + 8 < length ? from + 24 * width : nullptr, STEPS);
    }
    __device__ __forceinline__ void begin(const bf16 *keys, int32_t n_rows)
    {
        const int32_t lane = computed_here(threadIdx.x % WARP);
        const int32_t of_scores = mma_rows<DH>::lane_of_scores(lane);
        const int32_t of_rows = mma_rows<DH>::lane_of_rows(lane) + n_rows * DH;

#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            keys_at[k] = keys + mma_rows<DH>::step(of_scores, 0, k);
            values_at[k] = keys + mma_rows<DH>::step(of_rows, 0, k);
        }
#pragma unroll
        for (int j = 0; j < 2 * STEPS; j++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                o[j][i] = 0.0f;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            most[i] = -INFINITY;
            sum[i] = 0.0f;
        }
    }
    /* TILES times 16 keys from `first` on, of which the last ones may be none. */
    template <int TILES, bool LAST>
    __device__ __forceinline__ void pass(int32_t first, int32_t length, float to_exponent)
    {
        const float nothing[4] = {};
        float s[TILES][2][4];

#pragma unroll
        for (int k = 0; k < STEPS; k++)
#pragma unroll
            for (int j = 0; j < TILES; j++) {
                uint32_t b[4];
                load_matrices(b, keys_at[k] + j * MMA_ROWS * DH);
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (k == 0)
                        mma<bf16>(s[j][i], left[k], b[2 * i], b[2 * i + 1], nothing);
                    else
                        mma<bf16>(s[j][i], left[k], b[2 * i], b[2 * i + 1]);
            }
        if (LAST) {
            const int32_t there =
                length - first - (TILES - 1) * MMA_ROWS - 2 * (computed_here(threadIdx.x) % 4);
#pragma unroll
            for (int i = 0; i < 8; i++)
                if (i / 4 * 8 + i % 2 >= there)
                    s[TILES - 1][i / 4][i % 4] = -INFINITY;
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float top = most[r], fade, part = 0.0f;
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    top = fmaxf(top, s[j][i / 2][2 * r + i % 2]);
            top = quad_max(top); /* finite: the first of these keys is one */
            fade = fast_exp2((most[r] - top) * to_exponent);
            most[r] = top;
            top *= to_exponent;
#pragma unroll
            for (int j = 0; j < TILES; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    float &score = s[j][i / 2][2 * r + i % 2];
                    score = fast_exp2(fmaf(score, to_exponent, -top));
                    part += score;
                }
            sum[r] = fmaf(sum[r], fade, part);
#pragma unroll
            for (int j = 0; j < 2 * STEPS; j++) {
                o[j][2 * r] *= fade;
                o[j][2 * r + 1] *= fade;
            }
        }
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            uint32_t p[4];
            left_of(p, s[j]);
#pragma unroll
            for (int k = 0; k < STEPS; k++) {
                uint32_t b[4];
                load_matrices_transposed(b, values_at[k] + j * MMA_ROWS * DH);
                mma<bf16>(o[2 * k], p, b[0], b[1]);
                mma<bf16>(o[2 * k + 1], p, b[2], b[3]);
            }
        }
#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            keys_at[k] += TILES * MMA_ROWS * DH;
            values_at[k] += TILES * MMA_ROWS * DH;
        }
    }
    /* The last TILES or fewer tiles. */
    template <int TILES>
    __device__ __forceinline__ void pass_last(int32_t n_rows, int32_t first, int32_t length,
                                              float to_exponent)
    {
        if constexpr (TILES > 1)
            if (n_rows - first < TILES * MMA_ROWS)
                return pass_last<TILES - 1>(n_rows, first, length, to_exponent);
        pass<TILES, true>(first, length, to_exponent);
    }
    __device__ __forceinline__ void store(bf16 *out, float *lse, int32_t width, int32_t first,
                                          int32_t length, float to_exponent)
    {
        const int32_t lane = computed_here(threadIdx.x % WARP);
        bf16 *to[2];
        float factor[2];

#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int32_t row = first + lane / 4 + 8 * i;
            sum[i] = quad_sum(sum[i]);
            factor[i] = 1.0f / sum[i];
            to[i] = row < length ? out + row * width : nullptr;
            if (lse != nullptr && row < length && lane % 4 == 0)
                lse[row] = LN_2 * (most[i] * to_exponent + log2f(sum[i]));
        }
        store_rows<DH>(to, o, factor, STEPS);
    }
};

template <int DH>
__global__ void __launch_bounds__(WHOLE_FORWARD_WARPS *WARP, WHOLE_FORWARD_BLOCKS)
    attention_whole_forward(struct sequence_rows source, struct attention_shape shape,
                            struct whole_forward_tensors x, int32_t n_rows)
{
    constexpr int TILES = WHOLE_FORWARD_TILES;
    DYNAMIC_SHARED(bf16, base);
    const int32_t n_warps = static_cast<int32_t>(blockDim.x) / WARP, length = source.length();
    const uint32_t n_tasks = static_cast<uint32_t>(shape.n_tasks * shape.n_heads);
    const float to_exponent = LOG2_E / sqrtf(static_cast<float>(DH));
    whole_queries<DH> queries;

    {
        const whole_forward_head<DH> head(source, shape, blockIdx.x);
        whole_forward_copy<DH>(base, head.q(x.qkv), head.width, length, n_rows);
        queries.load(head.q(x.qkv), head.width, static_cast<int32_t>(threadIdx.x) / WARP * MMA_ROWS,
                     length);
    }
    for (int32_t round = 0;; round++) {
        const bf16 *keys = base + round % 2 * 2 * n_rows * DH;
        const auto task_of = [](int32_t of_round) {
            return blockIdx.x + static_cast<uint32_t>(computed_here(of_round)) * gridDim.x;
        };
        copy_async_wait<0>();
        __syncthreads(); /* this head's rows are there, nobody reads the last one's any more */
        if (task_of(round + 1) < n_tasks) {
            const whole_forward_head<DH> next(source, shape, task_of(round + 1));
            whole_forward_copy<DH>(base + (round + 1) % 2 * 2 * n_rows * DH, next.q(x.qkv),
                                   next.width, length, n_rows);
            for (int32_t row = computed_here(threadIdx.x); row < length;
                 row += static_cast<int32_t>(blockDim.x))
                prefetch(next.q(x.qkv) + row * 3 * next.width);
        }
        for (int32_t row = computed_here(threadIdx.x) / static_cast<int32_t>(WARP) * MMA_ROWS;
             row < n_rows; row += MMA_ROWS * n_warps) {
            int32_t first = 0;
            queries.begin(keys, n_rows);
#pragma unroll 1
            for (; first + TILES * MMA_ROWS < n_rows; first += TILES * MMA_ROWS)
                queries.template pass<TILES, false>(first, length, to_exponent);
            queries.template pass_last<TILES>(n_rows, first, length, to_exponent);
            /* what comes next: other queries of this head, or the first ones of the next */
            const bool here = row + MMA_ROWS * n_warps < n_rows;
            const uint32_t task = task_of(here ? round : round + 1);
            if (task < n_tasks) {
                const whole_forward_head<DH> of(source, shape, task);
                queries.load(of.q(x.qkv), of.width,
                             here ? row + MMA_ROWS * n_warps
                                  : computed_here(threadIdx.x) / static_cast<int32_t>(WARP) *
                                        MMA_ROWS,
                             length);
            }
            const whole_forward_head<DH> head(source, shape, task_of(round));
            queries.store(head.out(x.out), x.lse != nullptr ? head.lse(x.lse, length) : nullptr,
                          head.width, row, length, to_exponent);
        }
        if (task_of(round + 1) >= n_tasks)
            break;
    }
}

/* ------------------------------------------------------------------------------ launches */

/* Of both buffers. */
static inline size_t whole_forward_bytes(int32_t length, int32_t head_dim)
{
    const size_t n_rows = static_cast<size_t>((length + MMA_ROWS - 1) / MMA_ROWS * MMA_ROWS);

    return n_rows * 4 * static_cast<size_t>(head_dim) * sizeof(bf16);
}

static inline bool whole_forward_takes(struct device *device, const sequence_rows &source,
                                       const struct attention_shape &shape)
{
    return (shape.head_dim == 32 || shape.head_dim == 64) &&
           shape.n_tasks * shape.n_heads <= INT32_MAX &&
           whole_forward_bytes(source.length(), shape.head_dim) <=
               cuda_device_of(device)->shared_bytes;
}

static enum status launch_whole_forward(struct device *device, const sequence_rows &source,
                                        const struct attention_shape &shape, const bf16 *qkv,
                                        bf16 *out, float *lse)
{
    const int32_t n_tiles = (source.length() + MMA_ROWS - 1) / MMA_ROWS;
    const int32_t n_threads = warps_for(n_tiles, WHOLE_FORWARD_WARPS) * WARP;
    const size_t bytes = whole_forward_bytes(source.length(), shape.head_dim);
    const auto kernel =
        shape.head_dim == 64 ? attention_whole_forward<64> : attention_whole_forward<32>;
    unsigned n_blocks;

    TRY(resident_grid(device, kernel, n_threads, bytes, shape.n_tasks * shape.n_heads, &n_blocks));
    return launch(device, "attention_whole_forward", n_blocks, static_cast<unsigned>(n_threads),
                  bytes, kernel, source, shape, whole_forward_tensors{qkv, out, lse},
                  n_tiles * MMA_ROWS);
}

#endif
