/* The CUDA column of the op table. */
#include "kernels/op_cuda.h"

#include "kernels/kernels.h"

#ifdef IBOT_CUDA_EMULATOR
#define COLUMN_NAME "cuda_emulated"
#else
#define COLUMN_NAME "cuda"
#endif

static const struct op_table op_table_cuda = {
    .name = COLUMN_NAME,
    .cast = cast_cuda,
    .linear_forward = linear_forward_cuda,
    .linear_backward = linear_backward_cuda,
    .attention_forward = attention_forward_cuda,
    .attention_backward = attention_backward_cuda,
    .attention_map = attention_map_cuda,
    .window_attention_forward = window_attention_forward_cuda,
    .window_attention_backward = window_attention_backward_cuda,
};

enum status kernels_op_table(const struct op_table **out)
{
    *out = &op_table_cuda;
    return STATUS_OK;
}
