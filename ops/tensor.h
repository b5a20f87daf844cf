/* A view of contiguous, row-major memory with a type and a shape. Never owns; passed by value or
 * const pointer. The data may lie on any device: only ops and device_copy look at it. */
#ifndef IBOT_OPS_TENSOR_H
#define IBOT_OPS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F64, DTYPE_U8, DTYPE_I32, DTYPE_COUNT };

enum { TENSOR_MAX_RANK = 4 };

struct tensor {
    void *data; /* NULL: absent, where a contract allows it */
    enum dtype dtype;
    int32_t rank;
    int64_t shape[TENSOR_MAX_RANK];
};

static inline size_t dtype_size_bytes(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F64:
        return 8;
    case DTYPE_F32:
    case DTYPE_I32:
        return 4;
    case DTYPE_BF16:
    case DTYPE_F16:
        return 2;
    default:
        return 1;
    }
}

static inline int64_t tensor_n_elements(const struct tensor *tensor)
{
    int64_t n = 1;
    for (int32_t i = 0; i < tensor->rank; i++)
        n *= tensor->shape[i];
    return n;
}

static inline size_t tensor_size_bytes(const struct tensor *tensor)
{
    return (size_t)tensor_n_elements(tensor) * dtype_size_bytes(tensor->dtype);
}

static inline struct tensor tensor_1d(void *data, enum dtype dtype, int64_t n)
{
    struct tensor tensor = {data, dtype, 1, {n, 0, 0, 0}};
    return tensor;
}

static inline struct tensor tensor_2d(void *data, enum dtype dtype, int64_t n, int64_t m)
{
    struct tensor tensor = {data, dtype, 2, {n, m, 0, 0}};
    return tensor;
}

/* The first n rows of a tensor of rank >= 1. */
static inline struct tensor tensor_rows(struct tensor tensor, int64_t first, int64_t n)
{
    int64_t row = 1;
    for (int32_t i = 1; i < tensor.rank; i++)
        row *= tensor.shape[i];
    if (tensor.data != NULL)
        tensor.data = (char *)tensor.data + (size_t)(first * row) * dtype_size_bytes(tensor.dtype);
    tensor.shape[0] = n;
    return tensor;
}

#ifdef __cplusplus
}
#endif

#endif
