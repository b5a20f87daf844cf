/* Buffers of a network: memory planned in one type, whose shape is given where it is used. */
#ifndef IBOT_TRAINER_MODEL_BUFFER_H
#define IBOT_TRAINER_MODEL_BUFFER_H

#include "ops/tensor.h"
#include "ops/workspace.h"

static inline struct tensor matrix(float *data, int64_t n, int64_t m)
{
    return tensor_2d(data, DTYPE_F32, n, m);
}

static inline struct tensor vector(float *data, int64_t n)
{
    return tensor_1d(data, DTYPE_F32, n);
}

/* A buffer as [n, m]. */
static inline struct tensor shaped(struct tensor buffer, int64_t n, int64_t m)
{
    return tensor_2d(buffer.data, buffer.dtype, n, m);
}

/* The same from element `first` on. */
static inline struct tensor shaped_from(struct tensor buffer, int64_t first, int64_t n, int64_t m)
{
    char *data = buffer.data;
    return tensor_2d(data + (size_t)first * dtype_size_bytes(buffer.dtype), buffer.dtype, n, m);
}

static inline enum status plan_floats(struct workspace *w, float **pointer, int64_t n)
{
    return workspace_reserve(w, pointer, (size_t)n * sizeof(float));
}

static inline enum status plan_buffer(struct workspace *w, struct tensor *buffer, enum dtype dtype,
                                      int64_t n)
{
    *buffer = tensor_1d(NULL, dtype, n);
    return workspace_reserve(w, &buffer->data, tensor_size_bytes(buffer));
}

#endif
