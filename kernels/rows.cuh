/* A warp for each row: the shape of most kernels that are bound by memory. Blocks stride over the
 * rows, as many as keep the chip full. */
#ifndef IBOT_KERNELS_ROWS_CUH
#define IBOT_KERNELS_ROWS_CUH

#include "kernels/launch.cuh"
#include "kernels/warp.cuh"

enum { ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / WARP };

/* for (int64_t row = first_row(); row < n; row += row_stride()): the same row in all lanes. */
__device__ __forceinline__ int64_t first_row()
{
    return (int64_t)blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
}

__device__ __forceinline__ int64_t row_stride()
{
    return (int64_t)gridDim.x * (blockDim.x / WARP);
}

__device__ __forceinline__ int lane_of_warp()
{
    return (int)(threadIdx.x % WARP);
}

/* for (int64_t i = first_element(); i < n; i += element_stride()): an item for each thread. */
__device__ __forceinline__ int64_t first_element()
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t element_stride()
{
    return (int64_t)gridDim.x * blockDim.x;
}

/* Host: blocks of ROW_THREADS for n items, `items` to a block, at most eight for each
 * multiprocessor. */
static inline unsigned filling_blocks(const struct device *device, int64_t n, int64_t items)
{
    int64_t most = static_cast<int64_t>(cuda_device_of(device)->sm_count) * 8;
    int64_t blocks = (n + items - 1) / items;
    return static_cast<unsigned>(blocks < most ? blocks : most);
}

static inline unsigned row_blocks(const struct device *device, int64_t n_rows)
{
    return filling_blocks(device, n_rows, ROW_WARPS);
}

static inline unsigned element_blocks(const struct device *device, int64_t n)
{
    return filling_blocks(device, n, ROW_THREADS);
}

#endif
