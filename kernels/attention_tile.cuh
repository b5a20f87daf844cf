/* Attention for any head width and length, in float32: the parity mode, and whatever the kernels of
 * attention_mma.cuh do not take. Sums are products of float32 in a fixed order; no TF32.
 *
 * A block of 128 threads has 32 rows and walks along the others, 32 at a time; a thread has 4 x 2
 * scores of 32 x 32. Heads wider than 64 are cut into chunks of 64 columns: all of them count in
 * the scores, one of them (blockIdx.z) is what the block writes. Softmax is online: a running
 * maximum and sum, so no length is too long.
 *
 * The backward computes scores again from the saved log-sum-exp, once with 32 queries at rest and
 * keys passing by (d_q), once with 32 keys at rest and queries passing by (d_k, d_v): every element
 * has one owner, and no order is left to chance. 12 L^2 Dh FLOP a head forward and 28 backward
 * against 4 and 10 of the definition for Dh <= 64 come to a few TFLOP/s: bound by the float32
 * units. */
#ifndef IBOT_KERNELS_ATTENTION_TILE_CUH
#define IBOT_KERNELS_ATTENTION_TILE_CUH

#include <math.h>

#include "kernels/attention_rows.cuh"
#include "kernels/launch.cuh"
#include "kernels/value.cuh"
#include "kernels/warp.cuh"

enum {
    TILE_ROWS = 32,
    TILE_COLUMNS = 64,
    TILE_PITCH = TILE_COLUMNS + 1,
    TILE_SCORES = TILE_ROWS + 1, /* from row to row of a tile of scores */
    TILE_THREADS = 128,
};
static const int32_t OUTSIDE = -2; /* row of a place past the end */

/* What all kernels of a call know. */
struct attention_shape {
    int64_t n_tokens, n_tasks;
    int32_t n_heads, head_dim;
};

/* Row and mark of each place of a tile. */
template <class Source>
__device__ __forceinline__ void find_places(int64_t *row, int32_t *mark, const Source &source,
                                            const typename Source::frame_type &frame, int32_t first)
{
    for (int32_t t = threadIdx.x; t < TILE_ROWS; t += TILE_THREADS) {
        bool inside = first + t < source.length();
        row[t] = inside ? source.row(frame, first + t) : int64_t{OUTSIDE};
        mark[t] = inside ? source.mark(frame, first + t) : 0;
    }
}

/* Columns `column` and on of one head of the rows, at most n of 64; 0 elsewhere. `from` is the
 * first row's, `pad` the same of padding (or absent: zeros). */
template <class T>
__device__ __forceinline__ void load_tile(float *tile, const T *__restrict__ from, int64_t stride,
                                          const float *__restrict__ pad, const int64_t *row,
                                          int32_t n)
{
    for (int32_t i = threadIdx.x; i < TILE_ROWS * TILE_COLUMNS; i += TILE_THREADS) {
        int32_t r = i / TILE_COLUMNS, c = i % TILE_COLUMNS;
        float value = 0.0f;
        if (c < n && row[r] >= 0)
            value = to_float(from[row[r] * stride + c]);
        else if (c < n && row[r] == -1 && pad != nullptr)
            value = pad[c];
        tile[r * TILE_PITCH + c] = value;
    }
}

/* s[i][j] += a[4 ty + i] . b[tx + 16 j] */
__device__ __forceinline__ void add_scores(float (&s)[4][2], const float *a, const float *b,
                                           int32_t n)
{
    const float *rows = a + threadIdx.x / 16 * 4 * TILE_PITCH;
    const float *columns = b + threadIdx.x % 16 * TILE_PITCH;

    for (int32_t c = 0; c < n; c++) {
        float near = columns[c], far = columns[16 * TILE_PITCH + c];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[i][0] = fmaf(rows[i * TILE_PITCH + c], near, s[i][0]);
            s[i][1] = fmaf(rows[i * TILE_PITCH + c], far, s[i][1]);
        }
    }
}

/* o[i][c] += sum over j of p[4 ty + i][j] v[j][tx + 16 c] */
__device__ __forceinline__ void add_rows(float (&o)[4][4], const float *p, const float *v)
{
    const float *rows = p + threadIdx.x / 16 * 4 * TILE_SCORES;
    const float *columns = v + threadIdx.x % 16;

#pragma unroll 4
    for (int j = 0; j < TILE_ROWS; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            float value = columns[j * TILE_PITCH + 16 * c];
#pragma unroll
            for (int i = 0; i < 4; i++)
                o[i][c] = fmaf(rows[i * TILE_SCORES + j], value, o[i][c]);
        }
}

__device__ __forceinline__ float half_warp_max(float value)
{
#pragma unroll
    for (int distance = 8; distance > 0; distance /= 2)
        value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, distance));
    return value;
}

__device__ __forceinline__ float half_warp_sum(float value)
{
#pragma unroll
    for (int distance = 8; distance > 0; distance /= 2)
        value += __shfl_xor_sync(ALL_LANES, value, distance);
    return value;
}

/* The columns of a head in the chunk that starts at `column`. */
__device__ __forceinline__ int32_t columns_at(int32_t head_dim, int32_t column)
{
    return head_dim - column < TILE_COLUMNS ? head_dim - column : TILE_COLUMNS;
}

/* ------------------------------------------------------------------------------ forward */

/* Grid: (task * n_heads + head, tile of queries, chunk of columns). MAP: writes probabilities
 * [task, head, L, L] to `map` instead of an output. */
template <class T, class Source, bool MAP>
__global__ void __launch_bounds__(TILE_THREADS)
    attention_tile_forward(Source source, struct attention_shape shape, const T *qkv, T *out,
                           float *lse, float *map)
{
    SHARED(float, q, TILE_ROWS *TILE_PITCH);
    SHARED(float, k, TILE_ROWS *TILE_PITCH);
    SHARED(float, v, TILE_ROWS *TILE_PITCH);
    SHARED(float, p, TILE_ROWS *TILE_SCORES);
    SHARED(int64_t, query_row, TILE_ROWS);
    SHARED(int64_t, key_row, TILE_ROWS);
    SHARED(int32_t, query_mark, TILE_ROWS);
    SHARED(int32_t, key_mark, TILE_ROWS);
    const int32_t head = static_cast<int32_t>(blockIdx.x % shape.n_heads);
    const int64_t task = blockIdx.x / shape.n_heads;
    const int32_t length = source.length(),
                  first_query = static_cast<int32_t>(blockIdx.y) * TILE_ROWS;
    const int32_t head_dim = shape.head_dim, own = static_cast<int32_t>(blockIdx.z) * TILE_COLUMNS;
    const int32_t ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const int64_t width = static_cast<int64_t>(head_dim) * shape.n_heads, stride = 3 * width;
    const float scale = 1.0f / sqrtf(static_cast<float>(head_dim));
    const float *pad = Source::PADS ? source.padding() + head * head_dim : nullptr;
    const typename Source::frame_type frame = source.frame(task);
    float o[4][4] = {}, most[4], sum[4] = {};

#pragma unroll
    for (int i = 0; i < 4; i++)
        most[i] = -INFINITY;
    find_places(query_row, query_mark, source, frame, first_query);
    for (int32_t first_key = 0; first_key < length; first_key += TILE_ROWS) {
        float s[4][2] = {};
        __syncthreads();
        find_places(key_row, key_mark, source, frame, first_key);
        for (int32_t column = 0; column < head_dim; column += TILE_COLUMNS) {
            int32_t n = columns_at(head_dim, column);
            const T *from = qkv + head * head_dim + column;
            __syncthreads();
            if (first_key == 0 || head_dim > TILE_COLUMNS)
                load_tile(q, from, stride, nullptr, query_row, n);
            load_tile(k, from + width, stride, Source::PADS ? pad + width + column : nullptr,
                      key_row, n);
            if (!MAP && column == own)
                load_tile(v, from + 2 * width, stride,
                          Source::PADS ? pad + 2 * width + column : nullptr, key_row, n);
            __syncthreads();
            add_scores(s, q, k, n);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int32_t query = 4 * ty + i;
            float top = -INFINITY;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int32_t key = tx + 16 * j;
                s[i][j] = first_key + key < length
                              ? s[i][j] * scale + source.bias(query_mark[query], key_mark[key],
                                                              head, shape.n_heads)
                              : -INFINITY;
                top = fmaxf(top, s[i][j]);
                if (MAP && first_query + query < length && first_key + key < length)
                    map[(static_cast<int64_t>(blockIdx.x) * length + first_query + query) * length +
                        first_key + key] = s[i][j];
            }
            top = fmaxf(half_warp_max(top), most[i]); /* finite: a tile has a key */
            float fade = expf(most[i] - top);
            float near = expf(s[i][0] - top), far = expf(s[i][1] - top);
            most[i] = top;
            sum[i] = sum[i] * fade + half_warp_sum(near + far);
            p[query * TILE_SCORES + tx] = near;
            p[query * TILE_SCORES + tx + 16] = far;
#pragma unroll
            for (int c = 0; c < 4; c++)
                o[i][c] *= fade;
        }
        if (MAP)
            continue;
        __syncthreads();
        add_rows(o, p, v);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int32_t query = 4 * ty + i;
        int64_t row = query_row[query];
        if (row < 0)
            continue;
        if (MAP) { /* a thread reads what it has written */
            float *to =
                map + (static_cast<int64_t>(blockIdx.x) * length + first_query + query) * length;
            for (int32_t key = tx; key < length; key += 16)
                to[key] = expf(to[key] - most[i]) / sum[i];
            continue;
        }
        if (lse != nullptr && tx == 0 && own == 0)
            lse[source.sum_at(frame, row, head, shape.n_heads, shape.n_tokens)] =
                most[i] + logf(sum[i]);
#pragma unroll
        for (int c = 0; c < 4; c++)
            if (own + tx + 16 * c < head_dim)
                out[row * width + head * head_dim + own + tx + 16 * c] =
                    from_float<T>(o[i][c] / sum[i]);
    }
}

/* ------------------------------------------------------------------------------ backward */

/* delta = <d_out, out> of each row and head, laid out as lse is: of sequences of `length` rows, or
 * (0) of windows. A warp has one. Grid: (rows, heads / 4). */
template <class T>
__global__ void __launch_bounds__(TILE_THREADS)
    attention_delta(float *__restrict__ delta, const T *__restrict__ out,
                    const T *__restrict__ d_out, int64_t first_row, int32_t length,
                    struct attention_shape shape)
{
    const int32_t lane = threadIdx.x % WARP;
    const int32_t head = static_cast<int32_t>(blockIdx.y) * (TILE_THREADS / WARP) +
                         static_cast<int32_t>(threadIdx.x) / WARP;
    const int64_t row = first_row + blockIdx.x;
    const int64_t sequence = length == 0 ? 0 : row - static_cast<int32_t>(blockIdx.x) % length;
    const int64_t at = (row * shape.n_heads + head) * shape.head_dim;
    float sum = 0.0f;

    if (head >= shape.n_heads)
        return;
    for (int32_t c = lane; c < shape.head_dim; c += WARP)
        sum = fmaf(to_float(out[at + c]), to_float(d_out[at + c]), sum);
    sum = warp_sum(sum);
    if (lane == 0)
        delta[length == 0 ? head * shape.n_tokens + row
                          : sequence * shape.n_heads + head * length + row - sequence] = sum;
}

/* Grid: (run * n_heads + head, tile of rows at rest, chunk of columns); a run is the tasks from
 * run * n_tasks / n_runs on.
 *   d_bias [run, H, L, L]      sums over the run of the scores' gradients; or absent
 *   d_pad  [run, H, L, 2, Dh]  sums over the run of d_k and d_v of padding; absent without PADS */
template <class T, class Source, bool FOR_KEYS>
__global__ void __launch_bounds__(TILE_THREADS)
    attention_tile_backward(Source source, struct attention_shape shape, int64_t n_runs,
                            const T *qkv, const T *d_out, const float *lse, const float *delta,
                            T *d_qkv, float *d_bias, float *d_pad)
{
    SHARED(float, rest, TILE_ROWS *TILE_PITCH);       /* q, or k */
    SHARED(float, rest_value, TILE_ROWS *TILE_PITCH); /* d_out, or v */
    SHARED(float, pass, TILE_ROWS *TILE_PITCH);       /* k, or q */
    SHARED(float, pass_value, TILE_ROWS *TILE_PITCH); /* v, or d_out */
    SHARED(float, p, TILE_ROWS *TILE_SCORES);
    SHARED(float, ds, TILE_ROWS *TILE_SCORES);
    SHARED(int64_t, rest_row, TILE_ROWS);
    SHARED(int64_t, pass_row, TILE_ROWS);
    SHARED(int32_t, rest_mark, TILE_ROWS);
    SHARED(int32_t, pass_mark, TILE_ROWS);
    const int32_t head = static_cast<int32_t>(blockIdx.x % shape.n_heads);
    const int64_t run = blockIdx.x / shape.n_heads;
    const int32_t length = source.length(),
                  first_rest = static_cast<int32_t>(blockIdx.y) * TILE_ROWS;
    const int32_t head_dim = shape.head_dim, own = static_cast<int32_t>(blockIdx.z) * TILE_COLUMNS;
    const int32_t ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    const int64_t width = static_cast<int64_t>(head_dim) * shape.n_heads, stride = 3 * width;
    const int32_t n_chunks = (head_dim + TILE_COLUMNS - 1) / TILE_COLUMNS;
    const float scale = 1.0f / sqrtf(static_cast<float>(head_dim));
    const float *pad = Source::PADS ? source.padding() + head * head_dim : nullptr;
    const int64_t first_task = run * shape.n_tasks / n_runs;
    const int64_t end_task = (run + 1) * shape.n_tasks / n_runs;

    for (int64_t task = first_task; task < end_task; task++) {
        const typename Source::frame_type frame = source.frame(task);
        float d_rest[4][4] = {}, d_value[4][4] = {};
        __syncthreads();
        find_places(rest_row, rest_mark, source, frame, first_rest);
        for (int32_t first_pass = 0; first_pass < length; first_pass += TILE_ROWS) {
            float s[4][2] = {}, dp[4][2] = {};
            __syncthreads();
            find_places(pass_row, pass_mark, source, frame, first_pass);
            for (int32_t chunk = 0; chunk < n_chunks; chunk++) { /* its own comes last */
                int32_t column = (own + (chunk + 1) * TILE_COLUMNS) % (n_chunks * TILE_COLUMNS);
                int32_t n = columns_at(head_dim, column);
                const T *q = qkv + head * head_dim + column;
                const T *d_o = d_out + head * head_dim + column;
                const float *pad_k = Source::PADS ? pad + width + column : nullptr;
                const float *pad_v = Source::PADS ? pad + 2 * width + column : nullptr;
                bool rest_is_there = first_pass > 0 && n_chunks == 1;
                __syncthreads();
                if (FOR_KEYS) {
                    if (!rest_is_there) {
                        load_tile(rest, q + width, stride, pad_k, rest_row, n);
                        load_tile(rest_value, q + 2 * width, stride, pad_v, rest_row, n);
                    }
                    load_tile(pass, q, stride, nullptr, pass_row, n);
                    load_tile(pass_value, d_o, width, nullptr, pass_row, n);
                } else {
                    if (!rest_is_there) {
                        load_tile(rest, q, stride, nullptr, rest_row, n);
                        load_tile(rest_value, d_o, width, nullptr, rest_row, n);
                    }
                    load_tile(pass, q + width, stride, pad_k, pass_row, n);
                    load_tile(pass_value, q + 2 * width, stride, pad_v, pass_row, n);
                }
                __syncthreads();
                add_scores(s, rest, pass, n);
                add_scores(dp, rest_value, pass_value, n);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    int32_t r = 4 * ty + i, c = tx + 16 * j;
                    int64_t query = FOR_KEYS ? pass_row[c] : rest_row[r];
                    bool there = query >= 0 && first_rest + r < length && first_pass + c < length;
                    float bias =
                        source.bias(FOR_KEYS ? pass_mark[c] : rest_mark[r],
                                    FOR_KEYS ? rest_mark[r] : pass_mark[c], head, shape.n_heads);
                    int64_t at = source.sum_at(frame, query, head, shape.n_heads, shape.n_tokens);
                    float probability = there ? expf(s[i][j] * scale + bias - lse[at]) : 0.0f;
                    float gradient = there ? probability * (dp[i][j] - delta[at]) : 0.0f;
                    if (!FOR_KEYS && d_bias != nullptr && own == 0 && first_rest + r < length &&
                        first_pass + c < length) {
                        float *sum =
                            d_bias +
                            ((static_cast<int64_t>(blockIdx.x) * length + first_rest + r) * length +
                             first_pass + c);
                        *sum = task == first_task ? gradient : *sum + gradient;
                    }
                    p[r * TILE_SCORES + c] = probability;
                    ds[r * TILE_SCORES + c] = gradient * scale;
                }
            __syncthreads();
            add_rows(d_rest, ds, pass);
            if (FOR_KEYS)
                add_rows(d_value, p, pass_value);
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                int32_t r = 4 * ty + i, column = own + tx + 16 * c;
                int64_t row = rest_row[r];
                if (column >= head_dim)
                    continue;
                if (row >= 0) {
                    T *to = d_qkv + row * stride + head * head_dim + column;
                    to[FOR_KEYS ? width : 0] = from_float<T>(d_rest[i][c]);
                    if (FOR_KEYS)
                        to[2 * width] = from_float<T>(d_value[i][c]);
                }
                if (FOR_KEYS && Source::PADS && d_pad != nullptr && row != OUTSIDE) {
                    float *sum = d_pad +
                                 (static_cast<int64_t>(blockIdx.x) * length + first_rest + r) * 2 *
                                     head_dim +
                                 column;
                    float before[2] = {task == first_task ? 0.0f : sum[0],
                                       task == first_task ? 0.0f : sum[head_dim]};
                    sum[0] = before[0] + (row < 0 ? d_rest[i][c] : 0.0f);
                    sum[head_dim] = before[1] + (row < 0 ? d_value[i][c] : 0.0f);
                }
            }
    }
}

/* ------------------------------------------------------------------------------ launches */

static inline unsigned tiles_of(int32_t length)
{
    return grid_for(length, TILE_ROWS);
}

template <class T, class Source>
static enum status launch_tile_forward(struct device *device, const Source &source,
                                       const struct attention_shape &shape, const T *qkv, T *out,
                                       float *lse)
{
    dim3 grid(static_cast<unsigned>(shape.n_tasks * shape.n_heads), tiles_of(source.length()),
              grid_for(shape.head_dim, TILE_COLUMNS));

    return launch(device, "attention_tile_forward", grid, TILE_THREADS, 0,
                  attention_tile_forward<T, Source, false>, source, shape, qkv, out, lse, nullptr);
}

template <class T, class Source>
static enum status launch_tile_map(struct device *device, const Source &source,
                                   const struct attention_shape &shape, const T *qkv, float *map)
{
    dim3 grid(static_cast<unsigned>(shape.n_tasks * shape.n_heads), tiles_of(source.length()));

    return launch(device, "attention_map", grid, TILE_THREADS, 0,
                  attention_tile_forward<T, Source, true>, source, shape, qkv, nullptr, nullptr,
                  map);
}

/* The rows of a call lie together from first_row on, as sequences of `length`, or (0) a map. */
template <class T>
static enum status launch_delta(struct device *device, const struct attention_shape &shape,
                                float *delta, const T *out, const T *d_out, int64_t first_row,
                                int64_t n_rows, int32_t length)
{
    dim3 grid(static_cast<unsigned>(n_rows), grid_for(shape.n_heads, TILE_THREADS / WARP));

    return launch(device, "attention_delta", grid, TILE_THREADS, 0, attention_delta<T>, delta, out,
                  d_out, first_row, length, shape);
}

template <class T, class Source>
static enum status launch_tile_backward(struct device *device, const Source &source,
                                        const struct attention_shape &shape, int64_t n_runs,
                                        const T *qkv, const T *d_out, const float *lse,
                                        const float *delta, T *d_qkv, float *d_bias, float *d_pad)
{
    dim3 grid(static_cast<unsigned>(n_runs * shape.n_heads), tiles_of(source.length()),
              grid_for(shape.head_dim, TILE_COLUMNS));

    TRY(launch(device, "attention_tile_backward (queries)", grid, TILE_THREADS, 0,
               attention_tile_backward<T, Source, false>, source, shape, n_runs, qkv, d_out, lse,
               delta, d_qkv, d_bias, d_pad));
    return launch(device, "attention_tile_backward (keys)", grid, TILE_THREADS, 0,
                  attention_tile_backward<T, Source, true>, source, shape, n_runs, qkv, d_out, lse,
                  delta, d_qkv, d_bias, d_pad);
}

#endif
