#include "tests/cuda_emulator/matmul.h"

#include <math.h>

#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/cuda_emulator/report.h"

namespace emulator
{
size_t type_bytes(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_64F ? 8 : 2;
}

static float load(const void *values, cudaDataType_t type, int64_t i)
{
    if (type == CUDA_R_16BF)
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(values)[i]);
    if (type == CUDA_R_16F)
        return __half2float(static_cast<const __half *>(values)[i]);
    return static_cast<const float *>(values)[i];
}

static void store(void *values, cudaDataType_t type, int64_t i, float value)
{
    if (type == CUDA_R_16BF)
        static_cast<__nv_bfloat16 *>(values)[i] = __float2bfloat16_rn(value);
    else if (type == CUDA_R_16F)
        static_cast<__half *>(values)[i] = __float2half_rn(value);
    else
        static_cast<float *>(values)[i] = value;
}

/* cuBLASLt's GELU: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) */
static const float SLOPE = 0.7978845608028654f, CUBE = 0.044715f;

static float gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(SLOPE * (x + CUBE * x * x * x)));
}

static float gelu_derivative(float x)
{
    float t = tanhf(SLOPE * (x + CUBE * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * SLOPE * (1.0f + 3.0f * CUBE * x * x);
}

/* The matrix as floats, or its transpose, column by column without gaps. */
static std::vector<float> as_floats(const matrix &m, bool transposed, int64_t batch)
{
    std::vector<float> out((size_t)(m.rows * m.columns));
    int64_t first = batch * m.batch_stride;

    for (int64_t j = 0; j < m.columns; j++)
        for (int64_t i = 0; i < m.rows; i++)
            out[(size_t)(transposed ? i * m.columns + j : j * m.rows + i)] =
                load(m.values, m.type, first + j * m.ld + i);
    return out;
}

/* One column of D: the sums over k from `first` to `end`, in the order of k. */
static void add_products(float *sums, const float *a, const float *b_column, int64_t m,
                         int64_t first, int64_t end)
{
    for (int64_t l = first; l < end; l++) {
        float factor = b_column[l];
        const float *column = a + l * m;
        for (int64_t i = 0; i < m; i++)
            sums[i] += factor * column[i];
    }
}

/* The same over all k in parts, which are put together in order, or in any. */
static void add_parts(float *sums, const product &p, const float *a, const float *b_column,
                      int64_t m, int64_t k)
{
    std::vector<float> part((size_t)m);
    int64_t n = p.n_parts, start = p.in_place ? (int64_t)random_below((uint32_t)n) : 0;

    if (n <= 1)
        return add_products(sums, a, b_column, m, 0, k);
    for (int64_t i = 0; i < n; i++) {
        int64_t which = (start + i) % n;
        part.assign((size_t)m, 0.0f);
        add_products(part.data(), a, b_column, m, which * k / n, (which + 1) * k / n);
        for (int64_t j = 0; j < m; j++)
            sums[j] += part[(size_t)j];
    }
}

static bool has(cublasLtEpilogue_t epilogue, unsigned bits)
{
    return ((unsigned)epilogue & bits) == bits;
}

static float finish(const product &p, float value, int64_t batch, int64_t i, int64_t j)
{
    int64_t aux = batch * p.aux_batch_stride + j * p.aux_ld + i;

    if (has(p.epilogue, CUBLASLT_EPILOGUE_BIAS))
        value += load(p.bias, p.bias_type, batch * p.bias_batch_stride + i);
    if (has(p.epilogue, CUBLASLT_EPILOGUE_DGELU))
        return value * gelu_derivative(load(p.aux, p.d.type, aux));
    if (has(p.epilogue, CUBLASLT_EPILOGUE_GELU_AUX)) {
        store(p.aux, p.d.type, aux, value);
        value = load(p.aux, p.d.type, aux);
    }
    if (has(p.epilogue, CUBLASLT_EPILOGUE_GELU))
        return gelu(value);
    if (has(p.epilogue, CUBLASLT_EPILOGUE_RELU))
        return value > 0.0f ? value : 0.0f;
    return value;
}

/* Sums over the columns (rows) of op(A) [m, k] (op(B) [k, n]). */
static void operand_sums(const product &p, const std::vector<float> &a, const std::vector<float> &b,
                         int64_t m, int64_t n, int64_t k, int64_t batch)
{
    bool of_a = p.epilogue == CUBLASLT_EPILOGUE_BGRADA;

    for (int64_t i = 0; i < (of_a ? m : n); i++) {
        float sum = 0.0f;
        for (int64_t l = 0; l < k; l++)
            sum += of_a ? a[(size_t)(l * m + i)] : b[(size_t)(i * k + l)];
        store(p.bias, p.bias_type, batch * p.bias_batch_stride + i, sum);
    }
}

static void compute_batch(const product &p, int64_t batch)
{
    int64_t m = p.d.rows, n = p.d.columns, k = p.a_transposed ? p.a.rows : p.a.columns;
    std::vector<float> a = as_floats(p.a, p.a_transposed, batch);
    std::vector<float> b = as_floats(p.b, p.b_transposed, batch);
    std::vector<float> sums((size_t)m), gradient((size_t)m, 0.0f);

    for (int64_t j = 0; j < n; j++) {
        sums.assign((size_t)m, 0.0f);
        add_parts(sums.data(), p, a.data(), b.data() + j * k, m, k);
        for (int64_t i = 0; i < m; i++) {
            float value = p.alpha * sums[(size_t)i];
            if (p.beta != 0.0f)
                value +=
                    p.beta * load(p.c.values, p.c.type, batch * p.c.batch_stride + j * p.c.ld + i);
            value = finish(p, value, batch, i, j);
            gradient[(size_t)i] += value;
            store(p.d.values, p.d.type, batch * p.d.batch_stride + j * p.d.ld + i, value);
        }
    }
    if (p.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD)
        for (int64_t i = 0; i < m; i++)
            store(p.bias, p.bias_type, batch * p.bias_batch_stride + i, gradient[(size_t)i]);
    if (p.epilogue == CUBLASLT_EPILOGUE_BGRADA || p.epilogue == CUBLASLT_EPILOGUE_BGRADB)
        operand_sums(p, a, b, m, n, k, batch);
}

void compute(const product &p)
{
    for (int64_t batch = 0; batch < p.d.n_batches; batch++)
        compute_batch(p, batch);
}
} // namespace emulator
