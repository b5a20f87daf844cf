/* Window attention on CUDA. Padding, rolling, cutting and the way back are in the row numbers that
 * the kernels of attention_tile.cuh ask window_rows for; the bias of a pair of places is read from
 * the table. Here are the sums over windows.
 *
 * A block of the backward walks through a run of windows and adds up, pair by pair, what the bias
 * gets; d_pad likewise, place by place. Two small kernels then add the runs in order. The number of
 * runs depends on the shapes alone: the same bits on every call and every GPU.
 *
 * Model for compute capability 9.0 in bf16, width 32, cycles of a multiprocessor for a window and
 * head. 49 tokens (16 tiles of 16 x 16 scores): forward 0.7 thousand for its 12.5 KB at 4.3 TB/s,
 * and per tile 16 for matrices from shared memory, 13 for mma, 16 for powers, 16 to 32 to look up
 * biases pair by pair, 1 thousand; backward 1.4 thousand for 25 KB, and per tile 56, 45, 32, and 50
 * to 100 to look up biases twice and to add to their sums, 2 thousand. 196 tokens (169 tiles):
 * forward 11 thousand against 2.8 for memory; backward 22 thousand against 5.6, by 6 warps alone on
 * their multiprocessor, because the sums of the biases take 154 of its 227 KB. So it is the biases
 * that shared memory is busy with, not the products. Predicted, not measured. */
#include "ops/window.h"

#include "kernels/attention_mma_backward.cuh"
#include "kernels/attention_mma_forward.cuh"
#include "kernels/attention_tile.cuh"
#include "kernels/op_cuda.h"
#include "ops/check.h"

enum { RUNS_OF_ALL_HEADS = 512, SUM_THREADS = 128 };

/* ------------------------------------------------------------------------------ sums over runs */

/* d_table [(2w-1)^2, H] += sum over the runs and the pairs at that distance of d_bias. A warp has
 * one element; lanes share the pairs. */
__global__ void __launch_bounds__(SUM_THREADS)
    add_bias_runs(float *__restrict__ d_table, const float *__restrict__ d_bias, int64_t n_runs,
                  int32_t n_heads, int32_t window)
{
    const int32_t reach = 2 * window - 1, length = window * window;
    const int32_t lane = threadIdx.x % WARP;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * (SUM_THREADS / WARP) + threadIdx.x / WARP;
    const int32_t head = static_cast<int32_t>(at % n_heads);
    const int32_t distance = static_cast<int32_t>(at / n_heads);
    const int32_t dy = distance / reach - window + 1, dx = distance % reach - window + 1;
    const int32_t first_y = dy > 0 ? dy : 0, first_x = dx > 0 ? dx : 0;
    const int32_t n_y = window - (dy > 0 ? dy : -dy), n_x = window - (dx > 0 ? dx : -dx);
    double sum = 0.0;

    if (at >= static_cast<int64_t>(reach) * reach * n_heads)
        return;
    for (int64_t run = 0; run < n_runs; run++) {
        const float *of_run = d_bias + (run * n_heads + head) * length * length;
        for (int32_t pair = lane; pair < n_y * n_x; pair += WARP) {
            int32_t y = first_y + pair / n_x, x = first_x + pair % n_x;
            sum +=
                static_cast<double>(of_run[(y * window + x) * length + (y - dy) * window + x - dx]);
        }
    }
    sum = warp_sum(sum);
    if (lane == 0)
        d_table[at] += static_cast<float>(sum);
}

/* d_pad [3D] += sum over the runs and places of pads [run, H, places, 2, Dh]. A thread has one
 * element of k or v. */
__global__ void __launch_bounds__(SUM_THREADS)
    add_pad_runs(float *__restrict__ d_pad, const float *__restrict__ pads, int64_t n_runs,
                 int32_t n_heads, int32_t n_places, int32_t head_dim)
{
    const int32_t width = n_heads * head_dim;
    const int32_t i = static_cast<int32_t>(blockIdx.x * SUM_THREADS + threadIdx.x);
    const int32_t third = i / width, head = i % width / head_dim, column = i % head_dim;
    double sum = 0.0;

    if (i >= 2 * width)
        return;
    for (int64_t run = 0; run < n_runs; run++)
        for (int32_t place = 0; place < n_places; place++)
            sum += static_cast<double>(
                pads[(((run * n_heads + head) * n_places + place) * 2 + third) * head_dim +
                     column]);
    d_pad[width + i] += static_cast<float>(sum);
}

/* ------------------------------------------------------------------------------ shapes */

static struct window_rows rows_of(const struct region_group *groups, int32_t n_groups,
                                  const struct tensor *pad, const struct tensor *table,
                                  int32_t window, int32_t shift)
{
    struct window_rows rows = {};

    rows.pad = data_of<const float>(*pad);
    rows.table = data_of<const float>(*table);
    rows.window = window;
    rows.shift = shift;
    for (int32_t i = 0; i < n_groups; i++) /* of those that have a map */
        if (groups[i].n_images > 0)
            rows.groups[rows.n_groups++] = groups[i];
    return rows;
}

static int64_t n_windows_of(const struct window_rows &rows)
{
    int64_t n = 0;
    for (int32_t i = 0; i < rows.n_groups; i++)
        n += rows.groups[i].n_images * rows.along(i) * rows.along(i);
    return n;
}

static void check_shapes(const struct tensor *qkv, const struct tensor *pad,
                         const struct tensor *table, const struct region_group *groups,
                         int32_t n_groups, int32_t n_heads, int32_t window, int32_t shift)
{
    int64_t reach = 2 * static_cast<int64_t>(window) - 1;

    CHECK(n_groups >= 0 && n_groups <= REGION_MAX_GROUPS);
    CHECK(n_heads > 0 && window > 0 && window < 1024 && shift >= 0 && shift < window);
    CHECK(qkv->rank == 2 && qkv->shape[1] % (3 * n_heads) == 0);
    CHECK(pad->data != nullptr && tensor_is_1d(pad, qkv->shape[1]) && pad->dtype == DTYPE_F32);
    CHECK(table->data != nullptr && tensor_is_2d(table, reach * reach, n_heads) &&
          table->dtype == DTYPE_F32);
    for (int32_t i = 0; i < n_groups; i++)
        CHECK(groups[i].first_row >= 0 && groups[i].n_images >= 0 && groups[i].side > 0 &&
              groups[i].first_row + groups[i].n_images * groups[i].side * groups[i].side <=
                  qkv->shape[0]);
}

/* ------------------------------------------------------------------------------ entry points */

enum status window_attention_forward_cuda(struct device *device,
                                          const struct window_attention_args *args)
{
    int64_t n_tokens = args->qkv.shape[0], width = args->qkv.shape[1] / 3;

    check_shapes(&args->qkv, &args->pad, &args->table, args->groups, args->n_groups, args->n_heads,
                 args->window, args->shift);
    CHECK(tensor_is_2d(&args->out, n_tokens, width) && args->out.dtype == args->qkv.dtype);
    CHECK(args->lse.data == nullptr || tensor_is_2d(&args->lse, args->n_heads, n_tokens));
    struct window_rows rows =
        rows_of(args->groups, args->n_groups, &args->pad, &args->table, args->window, args->shift);
    struct attention_shape shape = {n_tokens, n_windows_of(rows), args->n_heads,
                                    static_cast<int32_t>(width / args->n_heads)};
    return with_float_type(args->qkv.dtype, "window_attention_forward", [&](auto tag) {
        using T = typename decltype(tag)::type;
        const T *qkv = data_of<const T>(args->qkv);
        if constexpr (std::is_same_v<T, bf16>)
            if (mma_takes<struct window_rows>(shape.head_dim, args->qkv, args->out))
                return launch_mma_forward(device, rows, shape, qkv, data_of<T>(args->out),
                                          data_of<float>(args->lse));
        return launch_tile_forward(device, rows, shape, qkv, data_of<T>(args->out),
                                   data_of<float>(args->lse));
    });
}

static void check_backward(const struct window_attention_backward_args *args)
{
    int64_t n_tokens = args->qkv.shape[0], width = args->qkv.shape[1] / 3;
    int64_t reach = 2 * static_cast<int64_t>(args->window) - 1;

    check_shapes(&args->qkv, &args->pad, &args->table, args->groups, args->n_groups, args->n_heads,
                 args->window, args->shift);
    CHECK(args->lse.data != nullptr && tensor_is_2d(&args->lse, args->n_heads, n_tokens));
    CHECK(tensor_is_2d(&args->d_qkv, n_tokens, 3 * width));
    CHECK(tensor_is_2d(&args->out, n_tokens, width) && tensor_is_2d(&args->d_out, n_tokens, width));
    CHECK(args->d_out.dtype == args->qkv.dtype && args->out.dtype == args->qkv.dtype &&
          args->d_qkv.dtype == args->qkv.dtype);
    CHECK(args->d_pad.data == nullptr || tensor_is_1d(&args->d_pad, 3 * width));
    CHECK(args->d_table.data == nullptr ||
          tensor_is_2d(&args->d_table, reach * reach, args->n_heads));
}

/* How a backward sums over windows, and its working memory. */
struct window_sums {
    bool by_mma;
    int64_t n_runs;
    int32_t n_places; /* that have sums of padding of their own: places, or tiles of them */
    float *delta, *bias, *pads; /* [H, T]; [run, H, L, L]; [run, H, n_places, 2, Dh] */
};

static enum status plan_sums(struct device *device,
                             const struct window_attention_backward_args *args,
                             const struct window_rows &rows, const struct attention_shape &shape,
                             struct window_sums *out)
{
    int64_t length = rows.length(), most_runs = RUNS_OF_ALL_HEADS / shape.n_heads;

    out->by_mma = mma_takes<struct window_rows>(shape.head_dim, args->qkv, args->out) &&
                  mma_takes<struct window_rows>(shape.head_dim, args->d_qkv, args->d_out) &&
                  mma_backward_fits(device, rows, shape.head_dim, args->d_table.data != nullptr);
    out->n_places = out->by_mma ? mma_tiles(rows.length()) : rows.length();
    out->n_runs = most_runs < 1 ? 1 : most_runs < shape.n_tasks ? most_runs : shape.n_tasks;
    int64_t n_delta = (shape.n_tokens * shape.n_heads + 63) / 64 * 64;
    int64_t n_bias = out->n_runs * shape.n_heads * length * length;
    int64_t n_pads = out->n_runs * shape.n_heads * out->n_places * 2 * shape.head_dim;
    TRY(cuda_scratch(device, &out->delta,
                     static_cast<size_t>(n_delta + n_bias + n_pads) * sizeof(float)));
    out->bias = args->d_table.data != nullptr ? out->delta + n_delta : nullptr;
    out->pads = args->d_pad.data != nullptr ? out->delta + n_delta + n_bias : nullptr;
    return STATUS_OK;
}

static enum status add_runs(struct device *device,
                            const struct window_attention_backward_args *args,
                            const struct attention_shape &shape, const struct window_sums &sums)
{
    int64_t reach = 2 * static_cast<int64_t>(args->window) - 1;

    if (sums.bias != nullptr)
        TRY(launch(device, "add_bias_runs",
                   grid_for(reach * reach * shape.n_heads, SUM_THREADS / WARP), SUM_THREADS, 0,
                   add_bias_runs, data_of<float>(args->d_table), sums.bias, sums.n_runs,
                   shape.n_heads, args->window));
    if (sums.pads != nullptr)
        TRY(launch(device, "add_pad_runs",
                   grid_for(static_cast<int64_t>(2) * shape.n_heads * shape.head_dim, SUM_THREADS),
                   SUM_THREADS, 0, add_pad_runs, data_of<float>(args->d_pad), sums.pads,
                   sums.n_runs, shape.n_heads, sums.n_places, shape.head_dim));
    return STATUS_OK;
}

/* Everything but the sums over runs. */
template <class T>
static enum status
launch_scores_backward(struct device *device, const struct window_attention_backward_args *args,
                       const struct window_rows &rows, const struct attention_shape &shape,
                       const struct window_sums &sums)
{
    const T *qkv = data_of<const T>(args->qkv), *out = data_of<const T>(args->out);
    const T *d_out = data_of<const T>(args->d_out);
    const float *lse = data_of<const float>(args->lse);

    if constexpr (std::is_same_v<T, bf16>)
        if (sums.by_mma) {
            struct mma_backward_tensors x = {
                qkv, out, d_out, lse, nullptr, data_of<T>(args->d_qkv), sums.bias, sums.pads};
            return launch_mma_backward(device, rows, shape, sums.n_runs, x);
        }
    for (int32_t g = 0; g < rows.n_groups; g++)
        TRY(launch_delta(device, shape, sums.delta, out, d_out, rows.groups[g].first_row,
                         rows.groups[g].n_images * rows.groups[g].side * rows.groups[g].side, 0));
    return launch_tile_backward(device, rows, shape, sums.n_runs, qkv, d_out, lse, sums.delta,
                                data_of<T>(args->d_qkv), sums.bias, sums.pads);
}

enum status window_attention_backward_cuda(struct device *device,
                                           const struct window_attention_backward_args *args)
{
    check_backward(args);
    struct window_rows rows =
        rows_of(args->groups, args->n_groups, &args->pad, &args->table, args->window, args->shift);
    struct attention_shape shape = {args->qkv.shape[0], n_windows_of(rows), args->n_heads,
                                    static_cast<int32_t>(args->qkv.shape[1] / 3 / args->n_heads)};
    struct window_sums sums;
    if (shape.n_tasks == 0)
        return STATUS_OK;
    TRY(plan_sums(device, args, rows, shape, &sums));
    enum status status =
        with_float_type(args->qkv.dtype, "window_attention_backward", [&](auto tag) {
            return launch_scores_backward<typename decltype(tag)::type>(device, args, rows, shape,
                                                                        sums);
        });
    if (status != STATUS_OK)
        return status;
    return add_runs(device, args, shape, sums);
}
