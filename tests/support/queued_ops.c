/* The ops of the queued device: calls that wait in its queues, and their 16-bit floats. */
#include "tests/support/queued_device.h"

#include <stddef.h>
#include <string.h>

#include "ops/half_float.h"
#include "proto/base/memory.h"

enum { MAX_TENSORS = 16, MAX_ARGS_BYTES = 2048 };

/* A call of an op: where its arguments have tensors. */
struct call {
    enum status (*run)(struct device *, const void *args);
    size_t first[2]; /* two runs of tensors, each from this byte on */
    int n[2];
    bool native; /* the CPU's op takes 16-bit floats itself */
    size_t bytes;
    _Alignas(QUEUED_ALIGNMENT) char args[MAX_ARGS_BYTES]; /* the first `bytes` of them */
};

struct widened {
    void *narrow;
    float *wide;
    enum dtype dtype;
    int64_t n;
};

static bool is_half(const struct tensor *t)
{
    return t->data != NULL && (t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16);
}

/* The tensor in float32; one copy for all tensors at one address. */
static enum status widen(struct tensor *t, struct widened *copies, int *n_copies)
{
    int64_t n = tensor_n_elements(t);
    uint16_t *bits = t->data;
    int i = 0;

    while (i < *n_copies && copies[i].narrow != t->data)
        i++;
    if (i == *n_copies) {
        struct widened *copy = &copies[(*n_copies)++];
        *copy = (struct widened){.narrow = t->data, .dtype = t->dtype, .n = n};
        TRY(memory_alloc(&copy->wide, (size_t)n + 1, sizeof(float), "widened values"));
        for (int64_t k = 0; k < n; k++)
            copy->wide[k] = t->dtype == DTYPE_BF16 ? half_float_from_bf16(bits[k])
                                                   : half_float_from_f16(bits[k]);
    }
    CHECK(copies[i].n == n && copies[i].dtype == t->dtype, "aliases of different shapes");
    t->data = copies[i].wide;
    t->dtype = DTYPE_F32;
    return STATUS_OK;
}

static void narrow(const struct widened *copy)
{
    uint16_t *bits = copy->narrow;

    for (int64_t k = 0; k < copy->n; k++)
        bits[k] = copy->dtype == DTYPE_BF16 ? half_float_to_bf16(copy->wide[k])
                                            : half_float_to_f16(copy->wide[k]);
}

static enum status run_call(struct device *cpu, void *memory)
{
    const struct call *call = memory;
    struct widened copies[MAX_TENSORS];
    enum status status = STATUS_OK;
    int n_copies = 0;
    _Alignas(QUEUED_ALIGNMENT) char args[MAX_ARGS_BYTES];

    memcpy(args, call->args, call->bytes); /* a graph's arguments stay as they are */
    for (int r = 0; r < 2 && !call->native; r++)
        for (int i = 0; i < call->n[r]; i++) {
            struct tensor *t = (struct tensor *)(void *)(args + call->first[r]) + i;
            if (is_half(t))
                TRY_OUT(widen(t, copies, &n_copies));
        }
    TRY_OUT(call->run(cpu, args));
    for (int i = 0; i < n_copies; i++)
        narrow(&copies[i]);
out:
    for (int i = 0; i < n_copies; i++)
        memory_free(copies[i].wide);
    return status;
}

/* `call` with its arguments. */
static enum status push_call(struct device *device, struct call *call, const void *args,
                             size_t bytes)
{
    CHECK(bytes <= sizeof(call->args));
    call->bytes = bytes;
    memcpy(call->args, args, bytes);
    return queued_device_push(device, run_call, call, offsetof(struct call, args) + bytes);
}

/* Every op but one, see below: its arguments, how many tensors they begin with, where others are
 * and how many, and whether the CPU's takes 16-bit floats itself: X(name, args, n, offset, n,
 * native). */
#define EACH_OP(X)                                                                                 \
    X(patchify, patchify_args, 2, 0, 0, false)                                                     \
    X(tokens_forward, tokens_args, 6, 0, 0, false)                                                 \
    X(tokens_backward, tokens_backward_args, 6, 0, 0, false)                                       \
    X(position_interpolate, position_interpolate_args, 2, 0, 0, false)                             \
    X(position_interpolate_backward, position_interpolate_backward_args, 2, 0, 0, false)           \
    X(rows_gather, rows_gather_args, 0, 0, 0, true)                                                \
    X(rows_scatter, rows_scatter_args, 0, 0, 0, true)                                              \
    X(rows_add, rows_add_args, 0, 0, 0, true)                                                      \
    X(cast, cast_args, 0, 0, 0, true)                                                              \
    X(linear_forward, linear_args, 5, 0, 0, false)                                                 \
    X(linear_backward, linear_backward_args, 8, 0, 0, false)                                       \
    X(activation_forward, activation_args, 2, 0, 0, false)                                         \
    X(activation_backward, activation_backward_args, 3, 0, 0, false)                               \
    X(residual_layernorm_backward, residual_layernorm_backward_args, 13, 0, 0, false)              \
    X(batchnorm_moments, batchnorm_moments_args, 2, 0, 0, false)                                   \
    X(batchnorm_apply, batchnorm_apply_args, 10, 0, 0, false)                                      \
    X(batchnorm_backward_moments, batchnorm_backward_moments_args, 7, 0, 0, false)                 \
    X(batchnorm_backward_apply, batchnorm_backward_apply_args, 7, 0, 0, false)                     \
    X(attention_forward, attention_args, 3, 0, 0, false)                                           \
    X(attention_backward, attention_backward_args, 5, 0, 0, false)                                 \
    X(attention_map, attention_map_args, 2, 0, 0, false)                                           \
    X(unit_norm_forward, unit_norm_args, 3, 0, 0, false)                                           \
    X(unit_norm_backward, unit_norm_backward_args, 4, 0, 0, false)                                 \
    X(weight_norm_forward, weight_norm_args, 4, 0, 0, false)                                       \
    X(weight_norm_backward, weight_norm_backward_args, 6, 0, 0, false)                             \
    X(distill_loss, distill_loss_args, 5, offsetof(struct distill_loss_args, loss), 4, false)      \
    X(centre_update, centre_update_args, 0, 0, 0, true)                                            \
    X(gradient_norms, gradient_norms_args, 0, 0, 0, true)                                          \
    X(optimizer_step, optimizer_step_args, 0, 0, 0, true)                                          \
    X(rows_mean, rows_mean_args, 2, 0, 0, false)                                                   \
    X(rows_argmax, rows_argmax_args, 2, 0, 0, false)                                               \
    X(topk, topk_args, 0, 0, 0, true)                                                              \
    X(cross_entropy, cross_entropy_args, 7, 0, 0, false)                                           \
    X(dense_cross_entropy, dense_cross_entropy_args, 0, 0, 0, true)                                \
    X(photometric, photometric_args, 0, 0, 0, true)                                                \
    X(patch_mix, patch_mix_args, 2, 0, 0, false)                                                   \
    X(spmm, spmm_args, 0, 0, 0, true)                                                              \
    X(max_pool, max_pool_args, 3, 0, 0, false)                                                     \
    X(max_pool_backward, max_pool_backward_args, 3, 0, 0, false)                                   \
    X(channel_scale, channel_scale_args, 2, 0, 0, false)                                           \
    X(region_mask, region_mask_args, 3, 0, 0, false)                                               \
    X(region_mask_backward, region_mask_backward_args, 3, 0, 0, false)                             \
    X(patch_merge, patch_merge_args, 2, 0, 0, false)                                               \
    X(patch_merge_backward, patch_merge_backward_args, 2, 0, 0, false)                             \
    X(region_mean, region_mean_args, 2, 0, 0, false)                                               \
    X(region_mean_backward, region_mean_backward_args, 2, 0, 0, false)                             \
    X(window_attention_forward, window_attention_args, 5, 0, 0, false)                             \
    X(window_attention_backward, window_attention_backward_args, 9, 0, 0, false)

#define QUEUED(name, args_type, n_first, at_second, n_second, is_native)                           \
    QUEUED_AS(name, name, args_type, n_first, at_second, n_second, is_native)
#define QUEUED_AS(name, op, args_type, n_first, at_second, n_second, is_native)                    \
    static enum status run_##name(struct device *cpu, const void *args)                            \
    {                                                                                              \
        return op_table_cpu.op(cpu, args);                                                         \
    }                                                                                              \
    static enum status name##_queued(struct device *device, const struct args_type *args)          \
    {                                                                                              \
        struct call call = {                                                                       \
            .run = run_##name,                                                                     \
            .first = {0, at_second},                                                               \
            .n = {n_first, n_second},                                                              \
            .native = is_native,                                                                   \
        };                                                                                         \
        return push_call(device, &call, args, sizeof(*args));                                      \
    }
EACH_OP(QUEUED)
QUEUED_AS(residual_layernorm_of, residual_layernorm_forward, residual_layernorm_args, 10, 0, 0,
          false)

/* A norm is of the sum as it is stored: of one of 16 bits, after it was rounded. */
static enum status residual_layernorm_forward_queued(struct device *device,
                                                     const struct residual_layernorm_args *args)
{
    struct residual_layernorm_args sum = *args, norm = *args;
    struct tensor none = {0};

    if (!is_half(&args->sum) || args->y.data == NULL)
        return residual_layernorm_of_queued(device, args);
    sum.gamma = sum.beta = sum.y = sum.mean = sum.rstd = none;
    norm.x = args->sum;
    norm.branch = norm.scale = norm.sum = norm.branch_shift = none;
    TRY(residual_layernorm_of_queued(device, &sum));
    return residual_layernorm_of_queued(device, &norm);
}

#define SLOT(name, args_type, n_first, at_second, n_second, is_native) .name = name##_queued,

const struct op_table op_table_queued = {.name = "queued",
                                         .residual_layernorm_forward =
                                             residual_layernorm_forward_queued,
                                         EACH_OP(SLOT)};
