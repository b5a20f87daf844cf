/* Sums down the columns of tall arrays, in double and in a fixed order. Rows are cut into chunks,
 * so that narrow arrays fill the chip too; a second kernel adds the chunks. A warp has the loads of
 * four rows under way at once.
 *
 *            32 lanes x WIDTH columns
 *   chunk 0  +---------------+---------------+   a block: eight warps, each every eighth row
 *            |               |               |   -> partial[chunk][sum][column]
 *   chunk 1  +---------------+---------------+
 *
 * What is summed is a struct passed by value:
 *
 *   struct sums_of_something {
 *       enum { SUMS = 2 };                    // sums a column
 *       template <int W> struct item { … };   // what is read of W columns of a row
 *       template <int W> __device__ void load(item<W> &, int64_t row, int64_t column) const;
 *       template <int W> __device__ void add(double (&sum)[2][W], const item<W> &, int64_t row,
 *                                            int64_t column) const;
 *       __device__ void finish(int which, int64_t column, double total) const;
 *   };
 *
 * `load` and `add` see every row once for each column, and `add` may write on the way; `finish` is
 * called once for each column and sum. */
#ifndef IBOT_KERNELS_COLUMN_SUMS_CUH
#define IBOT_KERNELS_COLUMN_SUMS_CUH

#include "kernels/rows.cuh"

enum {
    COLUMN_LOADS = 4,                            /* rows that a warp loads at once */
    COLUMN_LEAST_ROWS = COLUMN_LOADS * ROW_WARPS /* of a chunk */
};

template <int WIDTH, class What>
__global__ void __launch_bounds__(ROW_THREADS, What::SUMS == 1 ? 3 : 2)
    column_partials(double *__restrict__ partial, int64_t n_rows, int64_t n_columns,
                    int64_t chunk_rows, What what)
{
    constexpr int SUMS = What::SUMS, SPAN = WARP * WIDTH;
    SHARED(double, sums, ROW_WARPS *SUMS *SPAN);
    int lane = lane_of_warp(), warp = (int)threadIdx.x / WARP;
    int64_t column = ((int64_t)blockIdx.x * WARP + lane) * WIDTH;
    int64_t first = (int64_t)blockIdx.y * chunk_rows;
    int64_t end = first + chunk_rows < n_rows ? first + chunk_rows : n_rows;
    double sum[SUMS][WIDTH] = {};

    for (int64_t row = first + warp; column < n_columns && row < end;
         row += COLUMN_LOADS * ROW_WARPS) {
        typename What::template item<WIDTH> items[COLUMN_LOADS];
#pragma unroll
        for (int i = 0; i < COLUMN_LOADS; i++)
            if (row + i * ROW_WARPS < end)
                what.template load<WIDTH>(items[i], row + i * ROW_WARPS, column);
#pragma unroll
        for (int i = 0; i < COLUMN_LOADS; i++)
            if (row + i * ROW_WARPS < end)
                what.template add<WIDTH>(sum, items[i], row + i * ROW_WARPS, column);
    }
#pragma unroll
    for (int s = 0; s < SUMS; s++)
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            sums[(warp * SUMS + s) * SPAN + lane * WIDTH + j] = sum[s][j];
    __syncthreads();
    for (int i = (int)threadIdx.x; i < SUMS * SPAN; i += ROW_THREADS) {
        int64_t at = (int64_t)blockIdx.x * SPAN + i % SPAN;
        double total = sums[i];
        for (int w = 1; w < ROW_WARPS; w++)
            total += sums[w * SUMS * SPAN + i];
        if (at < n_columns)
            partial[((int64_t)blockIdx.y * SUMS + i / SPAN) * n_columns + at] = total;
    }
}

/* Adds partial[chunk][sum][column] over the chunks: a lane a column, each warp every WARPS-th
 * chunk. */
template <int WARPS, class P, class What>
__global__ void __launch_bounds__(WARPS *WARP)
    column_totals(const P *__restrict__ partial, int64_t n_chunks, int64_t n_columns, What what)
{
    SHARED(P, sums, WARPS * WARP);
    int lane = lane_of_warp(), warp = (int)threadIdx.x / WARP;
    int64_t n = (int64_t)What::SUMS * n_columns, at = (int64_t)blockIdx.x * WARP + lane;
    P sum = 0;

    if (at < n) {
#pragma unroll 8
        for (int64_t chunk = warp; chunk < n_chunks; chunk += WARPS)
            sum += partial[chunk * n + at];
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (warp == 0 && at < n) {
        for (int w = 1; w < WARPS; w++)
            sum += sums[w * WARP + lane];
        what.finish((int)(at / n_columns), at % n_columns, sum);
    }
}

template <class P, class What>
static inline enum status add_column_totals(struct device *device, const char *name,
                                            const P *partial, int64_t n_chunks, int64_t n_columns,
                                            const What &what)
{
    constexpr int FEW = 8, MANY = 32;
    unsigned blocks = grid_for(What::SUMS * n_columns, WARP);

    if (n_chunks <= 4 * FEW)
        return launch(device, name, blocks, FEW * WARP, 0, column_totals<FEW, P, What>, partial,
                      n_chunks, n_columns, what);
    return launch(device, name, blocks, MANY * WARP, 0, column_totals<MANY, P, What>, partial,
                  n_chunks, n_columns, what);
}

/* Takes working memory of the device. `packed`: `add` may be called with W = 4 (the columns are a
 * multiple of 4, and where they lie allows packs), else with 1. */
template <class What>
static inline enum status column_sums(struct device *device, const char *name, int64_t n_rows,
                                      int64_t n_columns, bool packed, const What &what)
{
    int64_t across = grid_for(n_columns, packed ? 4 * WARP : WARP);
    int64_t most = (n_rows + COLUMN_LEAST_ROWS - 1) / COLUMN_LEAST_ROWS;
    int64_t n_chunks = (static_cast<int64_t>(cuda_device_of(device)->sm_count) * 4 + across - 1) /
                       (across > 0 ? across : 1);
    double *partial;

    n_chunks = n_chunks < most ? n_chunks : most;
    int64_t chunk_rows = n_chunks > 0 ? (n_rows + n_chunks - 1) / n_chunks : 0;
    TRY(cuda_scratch(device, &partial,
                     static_cast<size_t>(n_chunks * What::SUMS * n_columns) * sizeof(double)));
    dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(n_chunks));
    if (packed)
        TRY(launch(device, name, grid, ROW_THREADS, 0, column_partials<4, What>, partial, n_rows,
                   n_columns, chunk_rows, what));
    else
        TRY(launch(device, name, grid, ROW_THREADS, 0, column_partials<1, What>, partial, n_rows,
                   n_columns, chunk_rows, what));
    return add_column_totals(device, name, static_cast<const double *>(partial), n_chunks,
                             n_columns, what);
}

#endif
