/* cuDNN takes bf16 alone, in memory aligned to 16 bytes. */
#include "kernels/attention_choice.h"

#include "kernels/cuda_device.h"
#include "proto/base/status.h"

enum { ALIGNMENT = 16 };

/* From row `row` of a tensor of rows on; NULL of an absent one. */
static void *rows_from(const struct tensor *tensor, int64_t row)
{
    size_t row_bytes = (size_t)tensor->shape[1] * dtype_size_bytes(tensor->dtype);

    return tensor->data != NULL ? (char *)tensor->data + (size_t)row * row_bytes : NULL;
}

static struct attention_cudnn_buffers buffers_of(const struct attention_call *call)
{
    int64_t row = call->group.first_row;

    return (struct attention_cudnn_buffers){
        .qkv = rows_from(&call->qkv, row),
        .d_out = rows_from(&call->d_out, row),
        .out = rows_from(&call->out, row),
        .stats = rows_from(&call->lse, row),
        .d_qkv = rows_from(&call->d_qkv, row),
    };
}

/* Can it be cuDNN's? Every head of every row must be aligned. */
static bool is_open(const struct attention_call *call, int64_t head_dim)
{
    struct attention_cudnn_buffers b = buffers_of(call);
    uintptr_t any = (uintptr_t)b.qkv | (uintptr_t)b.d_out | (uintptr_t)b.out | (uintptr_t)b.stats |
                    (uintptr_t)b.d_qkv;

    return call->group.n_sequences > 0 && call->qkv.dtype == DTYPE_BF16 && any % ALIGNMENT == 0 &&
           head_dim * 2 % ALIGNMENT == 0;
}

enum status attention_by_plan(struct device *device, const struct attention_call *call,
                              const struct attention_cudnn_plan *plan)
{
    struct attention_cudnn_buffers buffers = buffers_of(call);

    TRY(cuda_scratch(device, &buffers.memory, attention_cudnn_bytes(plan)));
    return attention_cudnn_run(device, plan, &buffers);
}

enum status attention_by_choice(struct device *device, const struct attention_call *call)
{
    struct attention_cudnn_shape shape = {
        .n_sequences = call->group.n_sequences,
        .length = call->group.length,
        .n_heads = call->n_heads,
        .head_dim = call->qkv.shape[1] / 3 / call->n_heads,
    };
    enum attention_cudnn_kind kind = call->d_qkv.data != NULL ? ATTENTION_CUDNN_BACKWARD
                                     : call->lse.data != NULL ? ATTENTION_CUDNN_FORWARD_STATS
                                                              : ATTENTION_CUDNN_FORWARD;
    enum attention_maker maker = attention_maker_of(device);
    struct attention_cudnn_plan *plan = NULL;

    bool planned = maker == ATTENTION_BY_CUDNN || !call->changing;
    if (maker != ATTENTION_BY_OWN && maker != ATTENTION_BY_FORMER && planned &&
        is_open(call, shape.head_dim))
        TRY(attention_cudnn_find(device, kind, &shape, &plan));
    if (plan == NULL)
        return attention_by_own(device, call, maker == ATTENTION_BY_FORMER);
    if (maker == ATTENTION_BY_CUDNN)
        return attention_by_plan(device, call, plan);
    if (plan->verdict == ATTENTION_UNSETTLED)
        TRY(attention_settle(device, call, plan));
    return plan->verdict == ATTENTION_TAKEN
               ? attention_by_plan(device, call, plan)
               : attention_by_own(device, call, plan->verdict == ATTENTION_LEFT_TO_FORMER);
}
