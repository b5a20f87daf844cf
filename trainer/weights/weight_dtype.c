/* The table of types, and conversion to float32. */
#include "trainer/weights/weight_dtype.h"

#include <string.h>

#include "proto/base/status.h"

static const struct {
    const char *name, *storage;
    size_t n_bytes;
    bool real;
} rows[WEIGHT_DTYPE_COUNT] = {
    [WEIGHT_F32] = {"F32", "FloatStorage", 4, true},
    [WEIGHT_BF16] = {"BF16", "BFloat16Storage", 2, true},
    [WEIGHT_F16] = {"F16", "HalfStorage", 2, true},
    [WEIGHT_F64] = {"F64", "DoubleStorage", 8, true},
    [WEIGHT_U8] = {"U8", "ByteStorage", 1, false},
    [WEIGHT_I8] = {"I8", "CharStorage", 1, false},
    [WEIGHT_I16] = {"I16", "ShortStorage", 2, false},
    [WEIGHT_I32] = {"I32", "IntStorage", 4, false},
    [WEIGHT_I64] = {"I64", "LongStorage", 8, false},
    [WEIGHT_BOOL] = {"BOOL", "BoolStorage", 1, false},
};

const char *weight_dtype_name(enum weight_dtype dtype)
{
    return rows[dtype].name;
}

const char *weight_dtype_storage(enum weight_dtype dtype)
{
    return rows[dtype].storage;
}

size_t weight_dtype_bytes(enum weight_dtype dtype)
{
    return rows[dtype].n_bytes;
}

bool weight_dtype_is_real(enum weight_dtype dtype)
{
    return rows[dtype].real;
}

bool weight_dtype_from_name(const char *name, enum weight_dtype *out)
{
    for (int i = 0; i < WEIGHT_DTYPE_COUNT; i++)
        if (strcmp(rows[i].name, name) == 0) {
            *out = (enum weight_dtype)i;
            return true;
        }
    return false;
}

bool weight_dtype_from_storage(const char *name, enum weight_dtype *out)
{
    for (int i = 0; i < WEIGHT_DTYPE_COUNT; i++)
        if (strcmp(rows[i].storage, name) == 0) {
            *out = (enum weight_dtype)i;
            return true;
        }
    return false;
}

enum weight_dtype weight_dtype_of(enum dtype dtype)
{
    static const enum weight_dtype same[DTYPE_COUNT] = {
        [DTYPE_F32] = WEIGHT_F32, [DTYPE_BF16] = WEIGHT_BF16, [DTYPE_F16] = WEIGHT_F16,
        [DTYPE_F64] = WEIGHT_F64, [DTYPE_U8] = WEIGHT_U8,     [DTYPE_I32] = WEIGHT_I32,
    };
    return same[dtype];
}

static float from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static float from_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 0x1f;
    uint32_t fraction = half & 0x3ff;

    if (exponent == 0x1f)
        return from_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0)
        return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
    float small = (float)fraction * 0x1p-24f; /* zero or subnormal: exact */
    return sign != 0 ? -small : small;
}

double weight_dtype_value(const void *values, enum weight_dtype dtype, size_t i)
{
    const char *at = (const char *)values + i * rows[dtype].n_bytes;
    union {
        float f32;
        double f64;
        uint16_t u16;
        int16_t i16;
        int32_t i32;
        int64_t i64;
        uint8_t u8;
        int8_t i8;
    } v;

    memcpy(&v, at, rows[dtype].n_bytes);
    switch (dtype) {
    case WEIGHT_F32:
        return (double)v.f32;
    case WEIGHT_BF16:
        return (double)from_bits((uint32_t)v.u16 << 16);
    case WEIGHT_F16:
        return (double)from_half(v.u16);
    case WEIGHT_F64:
        return v.f64;
    case WEIGHT_I8:
        return v.i8;
    case WEIGHT_I16:
        return v.i16;
    case WEIGHT_I32:
        return v.i32;
    case WEIGHT_I64:
        return (double)v.i64;
    default:
        return v.u8;
    }
}

void weight_dtype_to_f32(float *out, const void *values, enum weight_dtype dtype, size_t n)
{
    CHECK(rows[dtype].real, "type %s is not real", rows[dtype].name);
    if (dtype == WEIGHT_F32) {
        memcpy(out, values, n * sizeof(float));
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = (float)weight_dtype_value(values, dtype, i);
}
