/* The former attention backward of sequences that fit into shared memory, where
 * attention_whole_backward.cuh is the newer: up to 256 tokens, heads of 32 or 64 columns. Every
 * product is made once: 10 L^2 Dh FLOP a head.
 *
 * A block has one (sequence, head) at a time. A warp has 16 keys, of longer sequences 32: d_k and
 * d_v of these are its sums, what it reads of the queries serves all of them. Queries come by 16 at
 * a time. What a warp has of the scores' gradients is at once its left operand for d_k, and is laid
 * down in a strip of shared memory, [keys, 16 queries]; after a barrier two warps, each time
 * others, multiply the strip by the keys: d_q. There are two strips, so that nobody waits for those
 * two.
 *
 *      strips [2, L, 16]   q   k   d_out   v   sums     rows [L, Dh], in one buffer, or in two
 *
 * Blocks of 5 warps or more are alone on their multiprocessor. So there is one for each, which goes
 * from head to head, and while it works in one buffer the next head comes into the other.
 *
 * Model for compute capability 9.0, cycles of a multiprocessor for 16 x 16 scores of width 64: 40
 * mma at 0.6 of the full rate, 64. Shared memory, 128 bytes a cycle: 48 for the matrices of scores,
 * d_p, d_v and d_k with 32 keys a warp, 24 for those of d_q, 5 for the strip and the sums: 77.
 * Powers of two, 16 a cycle: 16. At 197 tokens (169 such tiles) 13 thousand cycles a head, against
 * 11 thousand for its 202 KB at 4.3 TB/s. attention_mma_backward.cuh, which computes scores twice
 * with 16 rows a warp, has 112 cycles for shared memory, 90 for mma, 32 for powers: 18.9 thousand a
 * head. At 37 tokens memory is the bound in both (2.1 thousand cycles against 1.0), if enough
 * blocks are under way: 4 here, 2 there. So predicted. Measured on an H200, 3072 heads of 197
 * tokens take 926 us, 15360 of 37 tokens 362 us. The tiles that a warp may lack make branches of
 * every step, so that each load of matrices is waited for. */
#ifndef IBOT_KERNELS_ATTENTION_STRIP_BACKWARD_CUH
#define IBOT_KERNELS_ATTENTION_STRIP_BACKWARD_CUH

#include "kernels/attention_mma_backward.cuh"

enum {
    STRIP_COLUMNS = 32,    /* of d_q, with 16 queries, that a warp makes at a time */
    STRIP_WARPS = 8,       /* with 32 keys each; what the registers hold of them */
    STRIP_SHORT_WARPS = 4, /* with 16 keys each */
};
using strip_rows = mma_rows<MMA_ROWS>; /* of a strip: keys, 16 queries in a row */

/* One buffer. */
template <int DH> struct strip_memory {
    bf16 *q, *k, *d_out, *v;
    float2 *sums; /* of a query: lse in powers of two, or infinity for what is no query; delta */

    static __host__ __device__ size_t bytes(int32_t n_rows)
    {
        return static_cast<size_t>(n_rows) * (4 * DH * sizeof(bf16) + sizeof(float2));
    }
    __device__ __forceinline__ strip_memory(unsigned char *base, int32_t n_rows)
    {
        q = reinterpret_cast<bf16 *>(base);
        k = q + n_rows * DH;
        d_out = k + n_rows * DH;
        v = d_out + n_rows * DH;
        sums = reinterpret_cast<float2 *>(v + n_rows * DH);
    }
};

/* Of both strips. */
static __host__ __device__ inline size_t strip_bytes(int32_t n_rows)
{
    return static_cast<size_t>(n_rows) * 2 * MMA_ROWS * sizeof(bf16);
}

/* Where a head's rows are: a sequence's, from its first row on. */
template <int DH> struct strip_task {
    mma_places<sequence_rows> places;
    int64_t row; /* the first */
    int32_t width, column;

    __device__ __forceinline__ strip_task(const sequence_rows &source,
                                          const struct attention_shape &shape, int64_t task)
    {
        const int32_t head = static_cast<int32_t>(task % shape.n_heads);
        places.bind(nullptr, source, 0, head, shape.n_heads);
        places.find(source, task / shape.n_heads);
        row = places.first_row;
        width = DH * shape.n_heads;
        column = head * DH;
    }
};

/* Starts the copies of a head's rows; their sums are there after the next barrier. */
template <int DH>
__device__ __forceinline__ void strip_load(const strip_memory<DH> &memory,
                                           const mma_backward_tensors &x,
                                           const strip_task<DH> &task, int32_t n_rows)
{
    constexpr int PARTS = mma_rows<DH>::PARTS;
    const bf16 *q = x.qkv + task.column;
    const int32_t stride = 3 * task.width;

    copy_rows<DH>(memory.k, q + task.width, stride, nullptr, task.places, 0, n_rows, DH);
    copy_rows<DH>(memory.v, q + 2 * task.width, stride, nullptr, task.places, 0, n_rows, DH);
    copy_rows<DH>(memory.q, q, stride, nullptr, task.places, 0, n_rows, DH);
    copy_rows<DH>(memory.d_out, x.d_out + task.column, task.width, nullptr, task.places, 0, n_rows,
                  DH);
    copy_async_commit();
#pragma unroll 1
    for (int32_t i = threadIdx.x; i < n_rows * PARTS; i += static_cast<int32_t>(blockDim.x)) {
        const int32_t place = i / PARTS, part = i % PARTS;
        const bool there = place < task.places.length;
        const int64_t at = (task.row + place) * task.width + task.column + part * 8;
        const float sum = row_delta<DH>(x, at, there);
        if (part == 0)
            memory.sums[place] =
                make_float2(there ? LOG2_E * x.lse[task.places.sum_at(place, 0)] : INFINITY, sum);
    }
}

/* d_q of the 16 queries from `query` on, and 32 columns: the strip times all keys. */
template <int DH>
__device__ __forceinline__ void strip_queries(const strip_memory<DH> &memory, const bf16 *strip,
                                              const mma_backward_tensors &x,
                                              const strip_task<DH> &task, int32_t n_rows,
                                              int32_t query, int32_t columns, float scale)
{
    const int32_t g = threadIdx.x % WARP / 4;
    const int32_t of_strip = strip_rows::lane_of_scores();
    const int32_t of_keys = mma_rows<DH>::lane_of_rows();
    const float factor[2] = {scale, scale};
    float o[4][4] = {};
    bf16 *to[2];

#pragma unroll 2
    for (int32_t key = 0; key < n_rows; key += MMA_ROWS) {
        uint32_t a[4], b[4];
        load_matrices_transposed(a, strip + strip_rows::step(of_strip, key, 0));
#pragma unroll
        for (int c = 0; c < 2; c++) {
            load_matrices_transposed(
                b, memory.k + mma_rows<DH>::step(of_keys, key, columns / MMA_ROWS + c));
            mma<bf16>(o[2 * c], a, b[0], b[1]);
            mma<bf16>(o[2 * c + 1], a, b[2], b[3]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int32_t place = query + g + 8 * i;
        to[i] = place < task.places.length
                    ? x.d_qkv + (task.row + place) * 3 * task.width + task.column + columns
                    : nullptr;
    }
    store_rows<STRIP_COLUMNS>(to, o, factor, STRIP_COLUMNS / MMA_ROWS);
}

/* What a warp has of its keys, TILES times 16 of them from `first` on; `n` of the tiles exist. */
template <int DH, int TILES> struct strip_keys {
    static const int STEPS = DH / 16;
    int32_t first, n, length;
    uint32_t left[TILES][STEPS][4];
    float d_k[TILES][2 * STEPS][4], d_v[TILES][2 * STEPS][4];

    __device__ __forceinline__ void begin(const strip_memory<DH> &memory, int32_t n_rows,
                                          int32_t of_length)
    {
        first = static_cast<int32_t>(threadIdx.x) / WARP * TILES * MMA_ROWS;
        n = (n_rows - first) / MMA_ROWS < TILES ? (n_rows - first) / MMA_ROWS : TILES;
        length = of_length;
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            if (m < n)
                load_left<DH>(left[m], memory.k, first + m * MMA_ROWS);
#pragma unroll
            for (int j = 0; j < 2 * STEPS; j++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    d_k[m][j][i] = d_v[m][j][i] = 0.0f;
        }
    }
    /* s [16 keys, 16 queries] and dp likewise, of each tile. */
    __device__ __forceinline__ void scores(float (&s)[TILES][2][4], float (&dp)[TILES][2][4],
                                           const strip_memory<DH> &memory, int32_t query) const
    {
        const int32_t of_queries = mma_rows<DH>::lane_of_scores();
        const int32_t of_values = mma_rows<DH>::lane_of_rows();

#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            uint32_t b[4];
            load_matrices(b, memory.q + mma_rows<DH>::step(of_queries, query, k));
#pragma unroll
            for (int m = 0; m < TILES; m++)
                if (m < n) {
                    mma<bf16>(s[m][0], left[m][k], b[0], b[1]);
                    mma<bf16>(s[m][1], left[m][k], b[2], b[3]);
                }
            load_matrices(b, memory.d_out + mma_rows<DH>::step(of_queries, query, k));
#pragma unroll
            for (int m = 0; m < TILES; m++)
                if (m < n) {
                    uint32_t a[4];
                    load_matrices(a, memory.v +
                                         mma_rows<DH>::step(of_values, first + m * MMA_ROWS, k));
                    mma<bf16>(dp[m][0], a, b[0], b[1]);
                    mma<bf16>(dp[m][1], a, b[2], b[3]);
                }
        }
    }
    /* sums[m] += p[m] rows, for all tiles with the same loads. */
    __device__ __forceinline__ void add(float (&sums)[TILES][2 * STEPS][4],
                                        const uint32_t (&p)[TILES][4], const bf16 *rows,
                                        int32_t query) const
    {
        const int32_t offset = mma_rows<DH>::lane_of_rows();

#pragma unroll
        for (int k = 0; k < STEPS; k++) {
            uint32_t b[4];
            load_matrices_transposed(b, rows + mma_rows<DH>::step(offset, query, k));
#pragma unroll
            for (int m = 0; m < TILES; m++)
                if (m < n) {
                    mma<bf16>(sums[m][2 * k], p[m], b[0], b[1]);
                    mma<bf16>(sums[m][2 * k + 1], p[m], b[2], b[3]);
                }
        }
    }
    /* 16 queries from `query` on: their part in d_k and d_v; this warp's part of the strip. */
    __device__ __forceinline__ void pass(const strip_memory<DH> &memory, bf16 *strip, int32_t query,
                                         float to_exponent)
    {
        const int32_t g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
        float s[TILES][2][4] = {}, ds[TILES][2][4] = {};
        uint32_t p[TILES][4];

        scores(s, ds, memory, query);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            const float4 sums =
                *reinterpret_cast<const float4 *>(memory.sums + query + 8 * j + 2 * t);
#pragma unroll
            for (int m = 0; m < TILES; m++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float lse = i % 2 == 0 ? sums.x : sums.z;
                    const float delta = i % 2 == 0 ? sums.y : sums.w;
                    const bool there = first + m * MMA_ROWS + g + i / 2 * 8 < length;
                    /* what is no key has a score of 0, which may be beyond all others */
                    const float exponent = there ? s[m][j][i] * to_exponent - lse : -INFINITY;
                    s[m][j][i] = fast_exp2(exponent);
                    ds[m][j][i] = s[m][j][i] * (ds[m][j][i] - delta);
                }
        }
#pragma unroll
        for (int m = 0; m < TILES; m++)
            left_of(p[m], s[m]);
        add(d_v, p, memory.d_out, query);
#pragma unroll
        for (int m = 0; m < TILES; m++) {
            left_of(p[m], ds[m]);
            if (m < n)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    *reinterpret_cast<uint32_t *>(
                        strip + strip_rows::at(first + m * MMA_ROWS + g + i % 2 * 8, i / 2) +
                        2 * t) = p[m][i];
        }
        add(d_k, p, memory.q, query);
    }
    __device__ __forceinline__ void store(const mma_backward_tensors &x, const strip_task<DH> &task,
                                          float scale) const
    {
        const float factor[2] = {scale, scale}, one[2] = {1.0f, 1.0f};
        bf16 *to[2];

#pragma unroll
        for (int m = 0; m < TILES; m++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int32_t key = first + m * MMA_ROWS + threadIdx.x % WARP / 4 + 8 * i;
                to[i] = key < length
                            ? x.d_qkv + (task.row + key) * 3 * task.width + task.column + task.width
                            : nullptr;
            }
            store_rows<DH>(to, d_k[m], factor, STEPS);
#pragma unroll
            for (int i = 0; i < 2; i++)
                to[i] = to[i] != nullptr ? to[i] + task.width : nullptr;
            store_rows<DH>(to, d_v[m], one, STEPS);
        }
    }
};

/* A head whose rows are there. */
template <int DH, int TILES>
__device__ __forceinline__ void strip_head(const strip_memory<DH> &memory, bf16 *strips,
                                           const mma_backward_tensors &x,
                                           const strip_task<DH> &task, int32_t n_rows)
{
    constexpr int UNITS = DH / STRIP_COLUMNS; /* of d_q for 16 queries */
    const int32_t warp = threadIdx.x / WARP, n_warps = static_cast<int32_t>(blockDim.x) / WARP;
    const float scale = 1.0f / sqrtf(static_cast<float>(DH)), to_exponent = LOG2_E * scale;
    strip_keys<DH, TILES> keys;
    int32_t turn = 0; /* the warp that is next to make d_q */

    keys.begin(memory, n_rows, task.places.length);
#pragma unroll 1
    for (int32_t query = 0; query < n_rows; query += MMA_ROWS) {
        bf16 *strip = strips + query % (2 * MMA_ROWS) * n_rows;
        keys.pass(memory, strip, query, to_exponent);
        __syncthreads();
#pragma unroll 1
        for (int32_t unit = warp >= turn ? warp - turn : warp - turn + n_warps; unit < UNITS;
             unit += n_warps)
            strip_queries<DH>(memory, strip, x, task, n_rows, query, unit * STRIP_COLUMNS, scale);
        turn = (turn + UNITS) % n_warps;
    }
    keys.store(x, task, scale);
}

/* Blocks with one buffer have one task each. */
template <int DH, int TILES, int WARPS, int BLOCKS>
__global__ void __launch_bounds__(WARPS *WARP, BLOCKS)
    attention_strip_backward(struct sequence_rows source, struct attention_shape shape,
                             struct mma_backward_tensors x, int32_t n_rows, int32_t n_buffers)
{
    DYNAMIC_SHARED(unsigned char, base);
    bf16 *strips = reinterpret_cast<bf16 *>(base);
    unsigned char *buffers = base + strip_bytes(n_rows);
    const int64_t n_tasks = shape.n_tasks * shape.n_heads;
    int32_t buffer = 0;

    strip_load<DH>(strip_memory<DH>(buffers, n_rows), x, strip_task<DH>(source, shape, blockIdx.x),
                   n_rows);
    for (int64_t task = blockIdx.x; task < n_tasks; task += gridDim.x) {
        const strip_memory<DH> memory(buffers + buffer * strip_memory<DH>::bytes(n_rows), n_rows);
        copy_async_wait<0>();
        __syncthreads(); /* all rows are there, and nobody is at work in the other buffer */
        buffer = (buffer + 1) % n_buffers;
        if (task + gridDim.x < n_tasks)
            strip_load<DH>(
                strip_memory<DH>(buffers + buffer * strip_memory<DH>::bytes(n_rows), n_rows), x,
                strip_task<DH>(source, shape, task + gridDim.x), n_rows);
        strip_head<DH, TILES>(memory, strips, x, strip_task<DH>(source, shape, task), n_rows);
    }
}

/* ------------------------------------------------------------------------------ launches */

template <int DH, int TILES, int WARPS, int BLOCKS>
static enum status launch_strip_backward_as(struct device *device, const sequence_rows &source,
                                            const struct attention_shape &shape,
                                            const struct mma_backward_tensors &x)
{
    const struct cuda_device *cuda = cuda_device_of(device);
    const int32_t n_tiles = mma_tiles(source.length()), n_rows = n_tiles * MMA_ROWS;
    const int32_t n_warps = (n_tiles + TILES - 1) / TILES;
    const size_t strips = strip_bytes(n_rows), buffer = strip_memory<DH>::bytes(n_rows);
    const bool alone = n_warps > WARPS * BLOCKS / 2;
    const bool twice = alone && strips + 2 * buffer <= cuda->shared_bytes;
    int64_t n_blocks = shape.n_tasks * shape.n_heads;

    if (twice && n_blocks > cuda->sm_count)
        n_blocks = cuda->sm_count;
    return launch(device, "attention_strip_backward", static_cast<unsigned>(n_blocks),
                  static_cast<unsigned>(n_warps * WARP), strips + (twice ? 2 : 1) * buffer,
                  attention_strip_backward<DH, TILES, WARPS, BLOCKS>, source, shape, x, n_rows,
                  twice ? 2 : 1);
}

static inline bool strip_backward_takes(struct device *device, const sequence_rows &source,
                                        int32_t head_dim)
{
    const int32_t n_tiles = mma_tiles(source.length()), n_rows = n_tiles * MMA_ROWS;
    const size_t buffer =
        head_dim == 64 ? strip_memory<64>::bytes(n_rows) : strip_memory<32>::bytes(n_rows);

    return (head_dim == 32 || head_dim == 64) && n_tiles <= 2 * STRIP_WARPS &&
           strip_bytes(n_rows) + buffer <= cuda_device_of(device)->shared_bytes;
}

static enum status launch_strip_backward(struct device *device, const sequence_rows &source,
                                         const struct attention_shape &shape,
                                         const struct mma_backward_tensors &x)
{
    bool is_short = mma_tiles(source.length()) <= STRIP_SHORT_WARPS;

    if (shape.head_dim == 64)
        return is_short
                   ? launch_strip_backward_as<64, 1, STRIP_SHORT_WARPS, 3>(device, source, shape, x)
                   : launch_strip_backward_as<64, 2, STRIP_WARPS, 1>(device, source, shape, x);
    return is_short
               ? launch_strip_backward_as<32, 1, STRIP_SHORT_WARPS, 4>(device, source, shape, x)
               : launch_strip_backward_as<32, 2, STRIP_WARPS, 1>(device, source, shape, x);
}

#endif
