/* Attention on the matrix units: bf16 operands, float32 scores and sums, heads of a multiple of 16
 * columns up to 128. Here is what the forward (attention_mma_forward.cuh) and the backwards
 * (attention_mma_backward.cuh and others, which tell what for) share: how rows of a head lie in
 * shared memory, and the products of a warp that has 16 of them.
 *
 * A warp owns 16 rows; the other side comes 16 rows at a time. Scores stay in registers as they
 * come from the matrix units; in bf16 they are at once the left operand of the next product. */
#ifndef IBOT_KERNELS_ATTENTION_MMA_CUH
#define IBOT_KERNELS_ATTENTION_MMA_CUH

#include <math.h>

#include "kernels/attention_rows.cuh"
#include "kernels/attention_tile.cuh"
#include "kernels/launch.cuh"
#include "kernels/mma.cuh"
#include "kernels/value.cuh"
#include "kernels/warp.cuh"
#include "ops/check.h"

enum { MMA_ROWS = 16 };
static const float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

/* Rows of one head in shared memory, DH columns each, in parts of 16 bytes. The parts of a row are
 * permuted by its number, so that 8 rows' parts of the same column lie in different banks:
 *
 *   part c of row r is at   DH 64, 128: c ^ (r & 7)   32: c ^ (r >> 1 & 3)   16: c ^ (r >> 2 & 1)
 *
 * Tiles of 16 rows are permuted alike, and two parts further is the same bit of an offset flipped:
 * a lane needs one offset for all tiles and steps of 16 columns. */
template <int DH> struct mma_rows {
    static_assert(DH == 16 || DH == 32 || DH == 64 || DH == 128, "a power of two");
    static const int PARTS = DH / 8;
    static const int ROWS_PER_LINE = PARTS < 8 ? 8 / PARTS : 1; /* of 128 bytes */
    static const int PERMUTED = PARTS < 8 ? PARTS : 8;

    /* Of a part, in halves. */
    static __device__ __forceinline__ int32_t at(int32_t row, int32_t part)
    {
        return row * DH + ((part ^ (row / ROWS_PER_LINE % PERMUTED)) * 8);
    }
    /* Of the part 2 k further than that at `offset`, in the rows from `first` (of a tile) on. */
    static __device__ __forceinline__ int32_t step(int32_t offset, int32_t first, int32_t k)
    {
        return (offset ^ (16 * k)) + first * DH;
    }
    /* What a lane reads of a tile for a right operand: as it lies (scores), transposed (rows). A
     * left operand lies as the latter. */
    static __device__ __forceinline__ int32_t lane_of_scores(int32_t lane)
    {
        return at(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    }
    static __device__ __forceinline__ int32_t lane_of_rows(int32_t lane)
    {
        return at(lane % 16, lane / 16);
    }
    static __device__ __forceinline__ int32_t lane_of_scores()
    {
        return lane_of_scores(threadIdx.x % WARP);
    }
    static __device__ __forceinline__ int32_t lane_of_rows()
    {
        return lane_of_rows(threadIdx.x % WARP);
    }
};

/* A left operand, k step by k step: of 16 rows in shared memory. */
template <int DH>
__device__ __forceinline__ void load_left(uint32_t (&to)[DH / 16][4], const bf16 *rows,
                                          int32_t first)
{
    const int32_t offset = mma_rows<DH>::lane_of_rows();

#pragma unroll
    for (int k = 0; k < DH / 16; k++)
        load_matrices(to[k], rows + mma_rows<DH>::step(offset, first, k));
}

/* The same from global memory; `row` and `other` are rows g and g + 8, absent ones zero. */
template <int DH>
__device__ __forceinline__ void load_left(uint32_t (&to)[DH / 16][4], const bf16 *row,
                                          const bf16 *other, int32_t n_steps)
{
    const int32_t t = threadIdx.x % 4;

#pragma unroll
    for (int k = 0; k < DH / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const bf16 *from = i % 2 == 0 ? row : other;
            to[k][i] = 0;
            if (from != nullptr && k < n_steps)
                to[k][i] = *reinterpret_cast<const uint32_t *>(from + 16 * k + i / 2 * 8 + 2 * t);
        }
}

/* s [16, 16] += left [16, DH] rows [16, DH]^T: two tiles of 8 columns. */
template <int DH>
__device__ __forceinline__ void add_scores(float (&s)[2][4], const uint32_t (&left)[DH / 16][4],
                                           const bf16 *rows, int32_t first, int32_t n_steps)
{
    const int32_t offset = mma_rows<DH>::lane_of_scores();

#pragma unroll
    for (int k = 0; k < DH / 16; k++)
        if (k < n_steps) {
            uint32_t b[4];
            load_matrices(b, rows + mma_rows<DH>::step(offset, first, k));
            mma<bf16>(s[0], left[k], b[0], b[1]);
            mma<bf16>(s[1], left[k], b[2], b[3]);
        }
}

/* The same with the left operand read from shared memory on the way. */
template <int DH>
__device__ __forceinline__ void add_scores(float (&s)[2][4], const bf16 *left, int32_t left_first,
                                           const bf16 *rows, int32_t first, int32_t n_steps)
{
    const int32_t offset = mma_rows<DH>::lane_of_scores();
    const int32_t left_offset = mma_rows<DH>::lane_of_rows();

#pragma unroll
    for (int k = 0; k < DH / 16; k++)
        if (k < n_steps) {
            uint32_t a[4], b[4];
            load_matrices(a, left + mma_rows<DH>::step(left_offset, left_first, k));
            load_matrices(b, rows + mma_rows<DH>::step(offset, first, k));
            mma<bf16>(s[0], a, b[0], b[1]);
            mma<bf16>(s[1], a, b[2], b[3]);
        }
}

/* o [16, DH] += p [16, 16] rows [16, DH]; p as the scores came, in bf16. */
template <int DH>
__device__ __forceinline__ void add_rows(float (&o)[DH / 8][4], const uint32_t (&p)[4],
                                         const bf16 *rows, int32_t first, int32_t n_steps)
{
    const int32_t offset = mma_rows<DH>::lane_of_rows();

#pragma unroll
    for (int k = 0; k < DH / 16; k++)
        if (k < n_steps) {
            uint32_t b[4];
            load_matrices_transposed(b, rows + mma_rows<DH>::step(offset, first, k));
            mma<bf16>(o[2 * k], p, b[0], b[1]);
            mma<bf16>(o[2 * k + 1], p, b[2], b[3]);
        }
}

/* A tile of scores as a left operand. */
__device__ __forceinline__ void left_of(uint32_t (&to)[4], const float (&s)[2][4])
{
    to[0] = pack_halves<bf16>(s[0][0], s[0][1]);
    to[1] = pack_halves<bf16>(s[0][2], s[0][3]);
    to[2] = pack_halves<bf16>(s[1][0], s[1][1]);
    to[3] = pack_halves<bf16>(s[1][2], s[1][3]);
}

/* Stores factor[i] * o of rows g (to[0]) and g + 8 (to[1]); absent ones are left out. Neighbours
 * swap halves first: a lane then has 8 bytes in a row, four lanes the 32 bytes of a sector. */
template <int DH>
__device__ __forceinline__ void store_rows(bf16 *const (&to)[2], const float (&o)[DH / 8][4],
                                           const float (&factor)[2], int32_t n_steps)
{
    const int32_t t = threadIdx.x % 4;
    const bool odd = t % 2 != 0;

#pragma unroll
    for (int k = 0; k < DH / 16; k++)
        if (k < n_steps)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t low =
                    pack_halves<bf16>(o[2 * k][2 * i] * factor[i], o[2 * k][2 * i + 1] * factor[i]);
                uint32_t high = pack_halves<bf16>(o[2 * k + 1][2 * i] * factor[i],
                                                  o[2 * k + 1][2 * i + 1] * factor[i]);
                uint32_t other = __shfl_xor_sync(ALL_LANES, odd ? low : high, 1);
                if (to[i] != nullptr)
                    *reinterpret_cast<uint2 *>(to[i] + 16 * k + (odd ? 8 : 0) + t / 2 * 4) =
                        odd ? make_uint2(other, high) : make_uint2(low, other);
            }
}

/* Sum and maximum over the four lanes that share a row of scores. */
__device__ __forceinline__ float quad_sum(float value)
{
    value += __shfl_xor_sync(ALL_LANES, value, 1);
    return value + __shfl_xor_sync(ALL_LANES, value, 2);
}

__device__ __forceinline__ float quad_max(float value)
{
    value = fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 1));
    return fmaxf(value, __shfl_xor_sync(ALL_LANES, value, 2));
}

/* Where the rows of the task at hand are. Sequences need no memory for it; windows list them. */
template <class Source> struct mma_places;

template <> struct mma_places<sequence_rows> {
    int32_t first_row, length, head, n_heads;

    static __host__ __device__ size_t bytes(const sequence_rows &, int32_t)
    {
        return 0;
    }
    __device__ __forceinline__ void bind(void *, const sequence_rows &rows, int32_t,
                                         int32_t of_head, int32_t of_heads)
    {
        length = rows.n_places;
        head = of_head;
        n_heads = of_heads;
    }
    __device__ __forceinline__ void find(const sequence_rows &rows, int64_t task)
    {
        first_row = static_cast<int32_t>(rows.frame(task).first_row);
    }
    /* -1: padding; OUTSIDE */
    __device__ __forceinline__ int32_t row(int32_t place) const
    {
        return place < length ? first_row + place : OUTSIDE;
    }
    /* where lse and delta of a place that has a row are */
    __device__ __forceinline__ int64_t sum_at(int32_t place, int64_t) const
    {
        return static_cast<int64_t>(first_row) * n_heads + head * length + place;
    }
};

/* bias[] and the mask are in powers of two, as the scores. */
template <> struct mma_places<window_rows> {
    int32_t *rows, *marks;
    float *bias;
    int32_t n_rows, n_bias, middle, head;

    static __host__ __device__ size_t bytes(const window_rows &rows, int32_t n_rows)
    {
        int32_t reach = 2 * rows.window - 1;
        return static_cast<size_t>(2 * n_rows + (reach * reach + 3) / 4 * 4) * sizeof(int32_t);
    }
    /* All threads; a barrier must follow before rows are asked for. */
    __device__ __forceinline__ void bind(void *memory, const window_rows &source, int32_t n,
                                         int32_t of_head, int32_t n_heads)
    {
        int32_t reach = 2 * source.window - 1;
        rows = static_cast<int32_t *>(memory);
        marks = rows + n;
        bias = reinterpret_cast<float *>(marks + n);
        n_rows = n;
        head = of_head;
        n_bias = (reach * reach + 3) / 4 * 4;
        middle = source.table_row(0, 0);
        for (int32_t i = threadIdx.x; i < reach * reach; i += static_cast<int32_t>(blockDim.x))
            bias[i] = LOG2_E * source.table[i * n_heads + head];
    }
    __device__ __forceinline__ void find(const window_rows &source, int64_t task)
    {
        const window_rows::frame_type frame = source.frame(task);
        for (int32_t i = threadIdx.x; i < n_rows; i += static_cast<int32_t>(blockDim.x)) {
            bool inside = i < source.length();
            rows[i] = inside ? static_cast<int32_t>(source.row(frame, i)) : OUTSIDE;
            marks[i] = inside ? source.mark(frame, i) : 0;
        }
    }
    /* Past what bytes() counted. */
    __device__ __forceinline__ float *end() const
    {
        return bias + n_bias;
    }
    __device__ __forceinline__ int32_t row(int32_t place) const
    {
        return rows[place];
    }
    __device__ __forceinline__ int64_t sum_at(int32_t place, int64_t n_tokens) const
    {
        return head * n_tokens + rows[place];
    }
    __device__ __forceinline__ float pair(int32_t query_mark, int32_t key_mark) const
    {
        float value = bias[(query_mark & 0xffffff) - (key_mark & 0xffffff) + middle];
        return query_mark >> 24 != key_mark >> 24 ? value - 100.0f * LOG2_E : value;
    }
};

/* Starts copying n_rows rows of a head from place `first` on into shared memory; padding from
 * `pad`, zeros past the end. All threads of the block; commit and wait are the caller's. */
template <int DH, class Places>
__device__ __forceinline__ void copy_rows(bf16 *rows, const bf16 *from, int64_t stride,
                                          const float *pad, const Places &places, int32_t first,
                                          int32_t n_rows, int32_t head_dim)
{
    const int32_t parts = mma_rows<DH>::PARTS;

#pragma unroll 2
    for (int32_t i = threadIdx.x; i < n_rows * parts; i += static_cast<int32_t>(blockDim.x)) {
        int32_t r = i / parts, part = i % parts;
        int32_t row = places.row(first + r);
        bf16 *to = rows + mma_rows<DH>::at(r, part);
        if (part * 8 >= head_dim)
            continue; /* never read */
        if (row == -1 && pad != nullptr) {
            float values[8];
#pragma unroll
            for (int j = 0; j < 8; j++)
                values[j] = pad[part * 8 + j];
            store_pack<8>(to, values);
        } else {
            copy_async(to, row >= 0 ? from + row * stride + part * 8 : from, row >= 0);
        }
    }
}

/* Warps for so many jobs of one block: all equally often at work, at most `most`. */
static inline int32_t warps_for(int32_t n_jobs, int32_t most)
{
    int32_t rounds = (n_jobs + most - 1) / most;
    return (n_jobs + rounds - 1) / rounds;
}

/* A grid for n_tasks of blocks that go from one to the next: as many as the device has under way at
 * a time. */
template <class... Parameters>
static enum status resident_grid(struct device *device, void (*kernel)(Parameters...),
                                 int32_t n_threads, size_t shared_bytes, int64_t n_tasks,
                                 unsigned *out)
{
    const void *function = reinterpret_cast<const void *>(kernel);
    int n_blocks = 0;

    CUDA_TRY(cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    if (shared_bytes > 48 * 1024)
        CUDA_TRY(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      static_cast<int>(shared_bytes)));
    CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n_blocks, function, n_threads,
                                                           shared_bytes));
    CHECK(n_blocks > 0);
    const int64_t resident = static_cast<int64_t>(cuda_device_of(device)->sm_count) * n_blocks;
    *out = static_cast<unsigned>(n_tasks < resident ? n_tasks : resident);
    return STATUS_OK;
}

/* Will the kernels take heads of this width in these buffers? Absent ones count as aligned. Those
 * of windows are made for the widths that there are: 16 and 32. */
template <class Source>
static inline bool mma_takes(int32_t head_dim, const struct tensor &qkv, const struct tensor &out)
{
    return qkv.dtype == DTYPE_BF16 && head_dim % 16 == 0 &&
           (Source::PADS ? head_dim <= 32 : head_dim <= 128) && qkv.shape[0] <= INT32_MAX &&
           is_packed(qkv.data, qkv.shape[1], DTYPE_BF16, 16) &&
           is_packed(out.data, qkv.shape[1] / 3, DTYPE_BF16, 16);
}

/* Calls f with the width that the kernel for such a head is made for, as a constant type. */
template <class Source, class F> static auto with_mma_width(int32_t head_dim, const F &f)
{
    if (head_dim == 16)
        return f(std::integral_constant<int, 16>{});
    if constexpr (!Source::PADS) {
        if (head_dim == 64)
            return f(std::integral_constant<int, 64>{});
        if (head_dim != 32)
            return f(std::integral_constant<int, 128>{});
    }
    return f(std::integral_constant<int, 32>{});
}

#endif
