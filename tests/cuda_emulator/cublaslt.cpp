/* cuBLASLt's product: descriptors are checked the way the library does, and further: every matrix
 * must lie inside its allocation, an algorithm must be used for the product it was chosen for. */
#include "tests/cuda_emulator/cublaslt.h"

#include <string.h>

#include "tests/cuda_emulator/matmul.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/runtime.h"

using namespace emulator;

static matrix matrix_of(const cublasLtMatrixLayoutOpaque &layout, const void *values)
{
    return {layout.type,      (int64_t)layout.rows, (int64_t)layout.columns,   layout.ld,
            layout.n_batches, layout.batch_stride,  const_cast<void *>(values)};
}

/* Does the matrix lie on the device, inside one allocation, aligned as was promised? */
static cublasStatus_t check_memory(const char *name, const matrix &m, size_t alignment)
{
    size_t elements =
        (size_t)((m.n_batches - 1) * m.batch_stride + (m.columns - 1) * m.ld + m.rows);

    if (const char *wrong = device_range_error(m.values, elements * type_bytes(m.type)))
        return refuse_product(
            CUBLAS_STATUS_INVALID_VALUE, "matrix %s (%lld x %lld, leading dimension %lld) at %p %s",
            name, (long long)m.rows, (long long)m.columns, (long long)m.ld, m.values, wrong);
    if ((uintptr_t)m.values % alignment != 0)
        return refuse_product(
            CUBLAS_STATUS_INVALID_VALUE,
            "matrix %s at %p is not aligned to %zu bytes, which the algorithm was "
            "chosen for",
            name, m.values, alignment);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_epilogue_memory(const product &p)
{
    bool of_columns = p.epilogue == CUBLASLT_EPILOGUE_BGRADB;
    matrix bias = {
        p.bias_type, of_columns ? p.d.columns : p.d.rows, 1, 1, p.d.n_batches, p.bias_batch_stride,
        p.bias};
    matrix aux = {p.d.type,      p.d.rows,           p.d.columns, p.aux_ld,
                  p.d.n_batches, p.aux_batch_stride, p.aux};
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;

    if (wants_bias(p.epilogue))
        status = check_memory("bias", bias, type_bytes(p.bias_type));
    if (status == CUBLAS_STATUS_SUCCESS && wants_aux(p.epilogue))
        status = check_memory("aux", aux, 16);
    return status;
}

static cublasStatus_t check_choice(const choice &chosen, const product &p, const void *workspace,
                                   size_t workspace_bytes)
{
    const char *names[] = {"A", "B", "C", "D"};
    const matrix *matrices[] = {&p.a, &p.b, &p.c, &p.d};

    for (int i = 0; i < 4; i++) {
        if (i == 2 && p.beta == 0.0f)
            continue;
        cublasStatus_t status = check_memory(names[i], *matrices[i], chosen.alignment[i]);
        if (status != CUBLAS_STATUS_SUCCESS)
            return status;
    }
    if (workspace_bytes < chosen.workspace_bytes)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "the algorithm wants %llu bytes of workspace, got %zu",
                              (unsigned long long)chosen.workspace_bytes, workspace_bytes);
    if (chosen.workspace_bytes == 0)
        return CUBLAS_STATUS_SUCCESS;
    const char *wrong = device_range_error(workspace, workspace_bytes);
    if (wrong == nullptr && (uintptr_t)workspace % 16 != 0)
        wrong = "is not aligned to 16 bytes";
    if (wrong != nullptr)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "the workspace at %p %s", workspace,
                              wrong);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t descriptor,
                              const void *alpha, const void *a_values, cublasLtMatrixLayout_t a,
                              const void *b_values, cublasLtMatrixLayout_t b, const void *beta,
                              const void *c_values, cublasLtMatrixLayout_t c, void *d_values,
                              cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algorithm,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    runtime_lock lock;
    choice chosen;

    if (handle == nullptr || alpha == nullptr || beta == nullptr || algorithm == nullptr)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "cublasLtMatmul: handle, alpha, beta or algorithm is missing");
    cublasStatus_t status = check_product(descriptor, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (!is_algorithm(algorithm, &chosen) || !suits(chosen, *descriptor, a, b, c, d))
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "the algorithm was chosen for another product");
    product p = {};
    p.a_transposed = descriptor->trans_a == CUBLAS_OP_T;
    p.b_transposed = descriptor->trans_b == CUBLAS_OP_T;
    p.epilogue = (cublasLtEpilogue_t)descriptor->epilogue;
    memcpy(&p.alpha, alpha, sizeof(p.alpha));
    memcpy(&p.beta, beta, sizeof(p.beta));
    p.a = matrix_of(*a, a_values);
    p.b = matrix_of(*b, b_values);
    p.c = matrix_of(*c, c_values);
    p.d = matrix_of(*d, d_values);
    p.bias = descriptor->bias;
    p.bias_type = descriptor->bias_type >= 0 ? (cudaDataType_t)descriptor->bias_type : d->type;
    p.bias_batch_stride = descriptor->bias_batch_stride;
    p.aux = descriptor->aux;
    p.aux_ld = descriptor->aux_ld;
    p.aux_batch_stride = descriptor->aux_batch_stride;
    status = check_choice(chosen, p, workspace, workspace_bytes);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = check_epilogue_memory(p);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (p.beta != 0.0f && c_values == d_values && c->ld != d->ld)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "C and D are one matrix with leading dimensions %lld and %lld",
                              (long long)c->ld, (long long)d->ld);
    p.n_parts = chosen.n_parts;
    p.in_place = chosen.scheme == CUBLASLT_REDUCTION_SCHEME_INPLACE;
    size_t used = chosen.workspace_bytes;
    cudaError_t error = queue(stream, "cublasLtMatmul", [=] {
        if (used > 0)
            memset(workspace, 0xff, used); /* whoever kept something there must notice */
        compute(p);
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
