/* Products whose descriptors are wrong, each in one way. */
#include <cublasLt.h>

#include "tests/cuda_emulator/planted.h"

__global__ static void ones(float *to, int n)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        to[i] = 1.0f;
}

enum { ROWS = 24, COLUMNS = 16, DEPTH = 8 };

struct call {
    int64_t lda = ROWS;
    size_t a_offset = 0; /* bytes */
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    uint64_t depth = DEPTH;
    bool bias_on_host = false, other_algorithm = false, small_workspace = false;
};

/* d [24, 16] = a [24, 8] b [8, 16] + bias of ones; the status that it ends with. */
static cublasStatus_t multiply(const call &c, float *got)
{
    static float host_bias[ROWS];
    float *a = device_array<float>(ROWS * DEPTH), *b = device_array<float>(COLUMNS * DEPTH);
    float *d = device_array<float>(ROWS * COLUMNS), *bias = device_array<float>(ROWS);
    void *workspace = device_array<char>(1 << 20),
         *bias_pointer = c.bias_on_host ? host_bias : bias;
    size_t workspace_bytes = 1 << 20;
    const float one = 1.0f, zero = 0.0f;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t la, lb, ld;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found;
    int n;

    run(1, 256, 0, ones, a, ROWS * DEPTH);
    run(1, 256, 0, ones, b, COLUMNS * DEPTH);
    run(1, 256, 0, ones, bias, ROWS);
    MUST(cublasLtCreate(&handle) == CUBLAS_STATUS_SUCCESS);
    cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_EPILOGUE, &c.epilogue, 4);
    cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias_pointer, 8);
    cublasLtMatrixLayoutCreate(&la, CUDA_R_32F, ROWS, c.depth, c.lda);
    cublasLtMatrixLayoutCreate(&lb, CUDA_R_32F, DEPTH, COLUMNS, DEPTH);
    cublasLtMatrixLayoutCreate(&ld, CUDA_R_32F, ROWS, COLUMNS, ROWS);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace_bytes, sizeof(workspace_bytes));
    cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle, product, la, lb, ld, ld, preference, 1, &found, &n);
    if (c.other_algorithm)
        found.algo.data[1]++;
    if (c.small_workspace)
        found.workspaceSize--;
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(handle, product, &one, (char *)a + c.a_offset, la, b, lb, &zero, d,
                                ld, d, ld, &found.algo, workspace, found.workspaceSize, nullptr);
    DONE(cudaDeviceSynchronize());
    if (got != nullptr)
        download(got, d, ROWS * COLUMNS);
    cublasLtMatmulPreferenceDestroy(preference);
    for (cublasLtMatrixLayout_t layout : {la, lb, ld})
        cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(product);
    cublasLtDestroy(handle);
    return status;
}

static void product_right()
{
    float got[ROWS * COLUMNS];
    MUST(multiply({}, got) == CUBLAS_STATUS_SUCCESS);
    for (float value : got)
        MUST(value == (float)(DEPTH + 1));
}

static void product_with_a_great_leading_dimension()
{
    call c;
    c.lda = ROWS + 1;
    MUST(multiply(c, nullptr) == CUBLAS_STATUS_INVALID_VALUE);
}

static void product_with_a_small_leading_dimension()
{
    call c;
    c.lda = ROWS - 1;
    MUST(multiply(c, nullptr) == CUBLAS_STATUS_INVALID_VALUE);
}

static void product_with_a_bad_alignment()
{
    call c;
    c.a_offset = 4;
    c.lda = ROWS;
    MUST(multiply(c, nullptr) == CUBLAS_STATUS_INVALID_VALUE);
}

static void product_of_wrong_shapes()
{
    call c;
    c.depth = DEPTH + 1;
    MUST(multiply(c, nullptr) == CUBLAS_STATUS_INVALID_VALUE);
}

static void product_with_bias_on_the_host()
{
    call c;
    c.bias_on_host = true;
    MUST(multiply(c, nullptr) == CUBLAS_STATUS_INVALID_VALUE);
}

static void product_by_an_algorithm_of_another()
{
    call c;
    c.other_algorithm = true;
    MUST(multiply(c, nullptr) == CUBLAS_STATUS_INVALID_VALUE);
}

static void product_with_a_small_workspace()
{
    call c;
    c.small_workspace = true;
    MUST(multiply(c, nullptr) == CUBLAS_STATUS_INVALID_VALUE);
}

static void attributes_of_other_sizes()
{
    cublasLtMatrixLayout_t layout;
    uint64_t rows = 3;
    MUST(cublasLtMatrixLayoutCreate(&layout, CUDA_R_32F, 2, 2, 2) == CUBLAS_STATUS_SUCCESS);
    MUST(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, 4) ==
         CUBLAS_STATUS_INVALID_VALUE);
    MUST(cublasLtMatrixLayoutSetAttribute(layout, (cublasLtMatrixLayoutAttribute_t)7, &rows, 8) ==
         CUBLAS_STATUS_INVALID_VALUE);
    MUST(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, &rows, 8) ==
         CUBLAS_STATUS_SUCCESS);
    cublasLtMatrixLayoutDestroy(layout);
}

std::vector<planted_case> product_cases()
{
    return {
        RIGHT(product_right),
        RIGHT(product_with_a_great_leading_dimension),
        RIGHT(product_with_a_small_leading_dimension),
        RIGHT(product_with_a_bad_alignment),
        RIGHT(product_of_wrong_shapes),
        RIGHT(product_with_bias_on_the_host),
        RIGHT(product_by_an_algorithm_of_another),
        RIGHT(product_with_a_small_workspace),
        RIGHT(attributes_of_other_sizes),
    };
}
