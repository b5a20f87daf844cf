/* Where the rows of a task of attention lie. A task is one sequence, or one window of a map; its
 * places are numbered from 0. What a kernel asks of a source:
 *
 *   PADS                   may a place be padding?
 *   length()               places of a task
 *   frame(task)            what its rows are found by; the same for all threads that share a task
 *   row(frame, place)      row of the packed buffers, or -1 for padding
 *   mark(frame, place)     what the bias of a pair of places is found by
 *   bias(mark, mark, head, n_heads) added to the score of a query (first) for a key
 *   sum_at(frame, row, head, n_heads, n_tokens) where lse and delta of a row are
 *   padding()              [3D] q, k, v of padding
 */
#ifndef IBOT_KERNELS_ATTENTION_ROWS_CUH
#define IBOT_KERNELS_ATTENTION_ROWS_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#include "ops/attention.h"
#include "ops/region.h"

/* Sequences of one group, one after the other. */
struct sequence_rows {
    static const bool PADS = false;
    int64_t first_row;
    int32_t n_places;

    struct frame_type {
        int64_t first_row;
    };

    __host__ __device__ __forceinline__ int32_t length() const
    {
        return n_places;
    }
    __device__ __forceinline__ frame_type frame(int64_t task) const
    {
        return {first_row + task * n_places};
    }
    __device__ __forceinline__ int64_t row(const frame_type &frame, int32_t place) const
    {
        return frame.first_row + place;
    }
    __device__ __forceinline__ int64_t sum_at(const frame_type &frame, int64_t row, int32_t head,
                                              int32_t n_heads, int64_t) const
    {
        return frame.first_row * n_heads + head * n_places + row - frame.first_row;
    }
    __device__ __forceinline__ int32_t mark(const frame_type &, int32_t) const
    {
        return 0;
    }
    __device__ __forceinline__ float bias(int32_t, int32_t, int32_t, int32_t) const
    {
        return 0.0f;
    }
    __device__ __forceinline__ const float *padding() const
    {
        return nullptr;
    }
};

/* Windows of all groups of maps, as ops/window.h draws them. A mark is the region of a place (the
 * high byte; 0 where the window has one region) and its number on a grid of 2w-1 columns, so that
 * the difference of two numbers is their row in the table of biases. */
struct window_rows {
    static const bool PADS = true;
    struct region_group groups[REGION_MAX_GROUPS];
    const float *pad, *table;
    int32_t n_groups, window, shift;

    struct frame_type {
        int64_t first_row; /* of the map */
        int32_t side, padded;
        int32_t y, x; /* of the window's first place, in the rolled map */
        bool parted;
    };

    __host__ __device__ __forceinline__ int32_t length() const
    {
        return window * window;
    }
    __host__ __device__ __forceinline__ int64_t along(int32_t group) const
    {
        return (groups[group].side + window - 1) / window;
    }
    __device__ __forceinline__ frame_type frame(int64_t task) const
    {
        int32_t g = 0;
        int64_t n = along(0);

        while (task >= groups[g].n_images * n * n) {
            task -= groups[g].n_images * n * n;
            n = along(++g);
        }
        int64_t image = task / (n * n), wy = task / n % n, wx = task % n;
        return {groups[g].first_row + image * groups[g].side * groups[g].side,
                static_cast<int32_t>(groups[g].side),
                static_cast<int32_t>(n) * window,
                static_cast<int32_t>(wy) * window,
                static_cast<int32_t>(wx) * window,
                shift > 0 && (wy == n - 1 || wx == n - 1)};
    }
    __device__ __forceinline__ int64_t row(const frame_type &frame, int32_t place) const
    {
        int32_t y = frame.y + place / window + shift, x = frame.x + place % window + shift;

        y -= y >= frame.padded ? frame.padded : 0;
        x -= x >= frame.padded ? frame.padded : 0;
        return y < frame.side && x < frame.side
                   ? frame.first_row + static_cast<int64_t>(y) * frame.side + x
                   : -1;
    }
    __device__ __forceinline__ int64_t sum_at(const frame_type &, int64_t row, int32_t head,
                                              int32_t, int64_t n_tokens) const
    {
        return head * n_tokens + row;
    }
    __device__ __forceinline__ int32_t part(const frame_type &frame, int32_t along_side) const
    {
        return along_side < frame.padded - window ? 0 : along_side < frame.padded - shift ? 1 : 2;
    }
    __device__ __forceinline__ int32_t mark(const frame_type &frame, int32_t place) const
    {
        int32_t y = place / window, x = place % window;
        int32_t region = frame.parted ? 3 * part(frame, frame.y + y) + part(frame, frame.x + x) : 0;

        return region << 24 | (y * (2 * window - 1) + x);
    }
    /* Row of the table for the pair; `window - 1` each way is its middle. */
    __device__ __forceinline__ int32_t table_row(int32_t query, int32_t key) const
    {
        return (query & 0xffffff) - (key & 0xffffff) + (window - 1) * 2 * window;
    }
    __device__ __forceinline__ float mask(int32_t query, int32_t key) const
    {
        return query >> 24 != key >> 24 ? -100.0f : 0.0f;
    }
    __device__ __forceinline__ float bias(int32_t query, int32_t key, int32_t head,
                                          int32_t n_heads) const
    {
        return __ldg(table + static_cast<int64_t>(table_row(query, key)) * n_heads + head) +
               mask(query, key);
    }
    __device__ __forceinline__ const float *padding() const
    {
        return pad;
    }
};

#endif
