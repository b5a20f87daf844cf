/* Self-attention on CUDA: which kernel takes a group of sequences. Whether cuDNN does instead, or
 * the former kernels where there are newer, is for attention_choice.c to say. */
#include "ops/attention.h"

#include "kernels/attention_choice.h"
#include "kernels/attention_mma_backward.cuh"
#include "kernels/attention_mma_forward.cuh"
#include "kernels/attention_strip_backward.cuh"
#include "kernels/attention_tile.cuh"
#include "kernels/attention_whole_backward.cuh"
#include "kernels/attention_whole_forward.cuh"
#include "kernels/op_cuda.h"
#include "ops/check.h"

/* ------------------------------------------------------------------------------ checks */

static void check_shapes(const struct tensor *qkv, int32_t n_heads,
                         const struct attention_group *groups, int32_t n_groups)
{
    CHECK(qkv->rank == 2 && n_heads > 0 && qkv->shape[1] % (3 * n_heads) == 0);
    CHECK(n_groups >= 0 && n_groups <= ATTENTION_MAX_GROUPS);
    for (int32_t i = 0; i < n_groups; i++)
        CHECK(groups[i].first_row >= 0 && groups[i].n_sequences >= 0 &&
              (groups[i].length > 0 || groups[i].n_sequences == 0) &&
              groups[i].first_row + groups[i].n_sequences * groups[i].length <= qkv->shape[0]);
}

static struct attention_shape shape_of(const struct tensor *qkv, int32_t n_heads,
                                       const struct attention_group *group)
{
    return {qkv->shape[0], group->n_sequences, n_heads,
            static_cast<int32_t>(qkv->shape[1] / 3 / n_heads)};
}

static struct sequence_rows rows_of(const struct attention_group *group)
{
    return {group->first_row, static_cast<int32_t>(group->length)};
}

/* ------------------------------------------------------------------------------ own kernels */

/* Is the call for the newest of the forwards? */
static bool whole_forward_is_for(struct device *device, const struct attention_call *call)
{
    const struct attention_shape shape = shape_of(&call->qkv, call->n_heads, &call->group);

    return mma_takes<struct sequence_rows>(shape.head_dim, call->qkv, call->out) &&
           whole_forward_takes(device, rows_of(&call->group), shape);
}

template <class T>
static enum status forward_group(struct device *device, const struct attention_call *call,
                                 bool former)
{
    struct attention_shape shape = shape_of(&call->qkv, call->n_heads, &call->group);
    struct sequence_rows rows = rows_of(&call->group);
    const T *qkv = data_of<const T>(call->qkv);
    T *out = data_of<T>(call->out);
    float *lse = data_of<float>(call->lse);

    if constexpr (std::is_same_v<T, bf16>) {
        if (!former && whole_forward_is_for(device, call))
            return launch_whole_forward(device, rows, shape, qkv, out, lse);
        if (mma_takes<struct sequence_rows>(shape.head_dim, call->qkv, call->out))
            return launch_mma_forward(device, rows, shape, qkv, out, lse);
    }
    return launch_tile_forward(device, rows, shape, qkv, out, lse);
}

/* Is the call for the newest of the backwards? */
static bool whole_backward_is_for(struct device *device, const struct attention_call *call)
{
    const struct attention_shape shape = shape_of(&call->qkv, call->n_heads, &call->group);

    return mma_takes<struct sequence_rows>(shape.head_dim, call->qkv, call->out) &&
           mma_takes<struct sequence_rows>(shape.head_dim, call->d_qkv, call->d_out) &&
           whole_backward_takes(device, rows_of(&call->group), shape);
}

template <class T>
static enum status backward_group(struct device *device, const struct attention_call *call,
                                  bool former)
{
    struct attention_shape shape = shape_of(&call->qkv, call->n_heads, &call->group);
    struct sequence_rows rows = rows_of(&call->group);
    const T *qkv = data_of<const T>(call->qkv), *out = data_of<const T>(call->out);
    const T *d_out = data_of<const T>(call->d_out);
    const float *lse = data_of<const float>(call->lse);
    float *delta = nullptr; /* working memory, as lse is laid out */
    bool fits = mma_backward_fits(device, rows, shape.head_dim, false);
    bool by_mma = mma_takes<struct sequence_rows>(shape.head_dim, call->qkv, call->out) &&
                  mma_takes<struct sequence_rows>(shape.head_dim, call->d_qkv, call->d_out);

    if (!by_mma || !fits) {
        TRY(cuda_scratch(device, &delta,
                         static_cast<size_t>(shape.n_tokens * shape.n_heads) * sizeof(float)));
        TRY(launch_delta(device, shape, delta, out, d_out, call->group.first_row,
                         call->group.n_sequences * call->group.length, rows.n_places));
    }
    if constexpr (std::is_same_v<T, bf16>)
        if (by_mma) {
            struct mma_backward_tensors x = {
                qkv, out, d_out, lse, delta, data_of<T>(call->d_qkv), nullptr, nullptr};
            if (!former && whole_backward_is_for(device, call))
                return launch_whole_backward(device, rows, shape, x);
            return strip_backward_takes(device, rows, shape.head_dim)
                       ? launch_strip_backward(device, rows, shape, x)
                       : launch_mma_backward(device, rows, shape, shape.n_tasks, x);
        }
    return launch_tile_backward(device, rows, shape, shape.n_tasks, qkv, d_out, lse, delta,
                                data_of<T>(call->d_qkv), nullptr, nullptr);
}

enum status attention_by_own(struct device *device, const struct attention_call *call, bool former)
{
    bool back = call->d_qkv.data != nullptr;

    if (call->group.n_sequences == 0) /* of any length, perhaps 0 */
        return STATUS_OK;
    return with_float_type(call->qkv.dtype, back ? "attention_backward" : "attention_forward",
                           [&](auto tag) {
                               using T = typename decltype(tag)::type;
                               return back ? backward_group<T>(device, call, former)
                                           : forward_group<T>(device, call, former);
                           });
}

bool attention_has_former(struct device *device, const struct attention_call *call)
{
    return call->d_qkv.data != nullptr ? whole_backward_is_for(device, call)
                                       : whole_forward_is_for(device, call);
}

/* ------------------------------------------------------------------------------ entry points */

enum status attention_forward_cuda(struct device *device, const struct attention_args *args)
{
    int64_t n_tokens = args->qkv.shape[0], width = args->qkv.shape[1] / 3;

    check_shapes(&args->qkv, args->n_heads, args->groups, args->n_groups);
    CHECK(tensor_is_2d(&args->out, n_tokens, width) && args->out.dtype == args->qkv.dtype);
    CHECK(args->lse.data == nullptr || tensor_is_2d(&args->lse, n_tokens, args->n_heads));
    for (int32_t g = 0; g < args->n_groups; g++) {
        struct attention_call call = {args->qkv, args->out,       args->lse,     {},
                                      {},        args->groups[g], args->n_heads, args->changing};
        TRY(attention_by_choice(device, &call));
    }
    return STATUS_OK;
}

enum status attention_backward_cuda(struct device *device,
                                    const struct attention_backward_args *args)
{
    int64_t n_tokens = args->qkv.shape[0], width = args->qkv.shape[1] / 3;

    check_shapes(&args->qkv, args->n_heads, args->groups, args->n_groups);
    CHECK(args->lse.data != nullptr && tensor_is_2d(&args->lse, n_tokens, args->n_heads));
    CHECK(tensor_is_2d(&args->d_qkv, n_tokens, 3 * width));
    CHECK(tensor_is_2d(&args->out, n_tokens, width) && tensor_is_2d(&args->d_out, n_tokens, width));
    CHECK(args->d_out.dtype == args->qkv.dtype && args->out.dtype == args->qkv.dtype &&
          args->d_qkv.dtype == args->qkv.dtype);
    for (int32_t g = 0; g < args->n_groups; g++) {
        struct attention_call call = {args->qkv,   args->out,       args->lse,     args->d_out,
                                      args->d_qkv, args->groups[g], args->n_heads, args->changing};
        TRY(attention_by_choice(device, &call));
    }
    return STATUS_OK;
}

enum status attention_map_cuda(struct device *device, const struct attention_map_args *args)
{
    int64_t length = args->group.length;

    check_shapes(&args->qkv, args->n_heads, &args->group, 1);
    CHECK(tensor_n_elements(&args->map) ==
              args->group.n_sequences * args->n_heads * length * length &&
          args->map.dtype == DTYPE_F32);
    return with_float_type(args->qkv.dtype, "attention_map", [&](auto tag) {
        using T = typename decltype(tag)::type;
        return launch_tile_map(device, rows_of(&args->group),
                               shape_of(&args->qkv, args->n_heads, &args->group),
                               data_of<const T>(args->qkv), data_of<float>(args->map));
    });
}
