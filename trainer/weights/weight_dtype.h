/* Types of tensors in weight files: more than the ops compute with, since files hold index tables
 * and flags too. One table serves safetensors names, PyTorch storages and sizes. */
#ifndef IBOT_TRAINER_WEIGHTS_WEIGHT_DTYPE_H
#define IBOT_TRAINER_WEIGHTS_WEIGHT_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/tensor.h"

enum weight_dtype {
    WEIGHT_F32,
    WEIGHT_BF16,
    WEIGHT_F16,
    WEIGHT_F64,
    WEIGHT_U8,
    WEIGHT_I8,
    WEIGHT_I16,
    WEIGHT_I32,
    WEIGHT_I64,
    WEIGHT_BOOL,
    WEIGHT_DTYPE_COUNT
};

enum { WEIGHT_MAX_RANK = 8 };

/* "F32", as safetensors call it. */
const char *weight_dtype_name(enum weight_dtype dtype);
/* "FloatStorage", as PyTorch calls it. */
const char *weight_dtype_storage(enum weight_dtype dtype);
size_t weight_dtype_bytes(enum weight_dtype dtype);

/* False when there is none of that name. */
bool weight_dtype_from_name(const char *name, enum weight_dtype *out);
bool weight_dtype_from_storage(const char *name, enum weight_dtype *out);

enum weight_dtype weight_dtype_of(enum dtype dtype);

/* Whether values of this type are real numbers, so that they convert to float32. */
bool weight_dtype_is_real(enum weight_dtype dtype);

/* n values of a real type as float32; float64 is rounded. */
void weight_dtype_to_f32(float *out, const void *values, enum weight_dtype dtype, size_t n);

/* One value of any type, widened. */
double weight_dtype_value(const void *values, enum weight_dtype dtype, size_t i);

#endif
