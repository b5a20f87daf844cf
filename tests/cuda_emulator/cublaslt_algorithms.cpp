/* cuBLASLt's algorithms: which are offered for a product, and whether one belongs to it. */
#include "tests/cuda_emulator/cublaslt.h"

#include <string.h>

#include "tests/cuda_emulator/runtime.h"

using namespace emulator;

static uint64_t check_of(const choice &c)
{
    uint64_t hash = 0xcbf29ce484222325u;
    const auto *bytes = reinterpret_cast<const unsigned char *>(&c);

    for (size_t i = sizeof(c.check); i < sizeof(c); i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

namespace emulator
{
bool is_algorithm(const cublasLtMatmulAlgo_t *algorithm, choice *out)
{
    memcpy(out, algorithm, sizeof(*out));
    return out->check == check_of(*out);
}
} // namespace emulator

/* Kinds of algorithms, in the order in which they are offered: they sum in other orders. */
static const struct {
    uint32_t n_parts, scheme;
    bool wants_workspace;
} kinds[] = {
    {1, CUBLASLT_REDUCTION_SCHEME_NONE, true},
    {2, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, true},
    {1, CUBLASLT_REDUCTION_SCHEME_NONE, false},
    {3, CUBLASLT_REDUCTION_SCHEME_INPLACE, true},
    {5, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, true},
};

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int n_wanted,
                                              cublasLtMatmulHeuristicResult_t *results,
                                              int *n_results)
{
    runtime_lock lock;
    enum { WORKSPACE_BYTES = 64 * 1024 };

    *n_results = 0;
    if (handle == nullptr || preference == nullptr || n_wanted < 1)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmulAlgoGetHeuristic");
    cublasStatus_t status = check_product(product, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    uint64_t k = depth_of(*product, a);
    uint64_t most = preference->most_workspace_bytes;
    for (const auto &kind : kinds) {
        bool parts = kind.scheme != CUBLASLT_REDUCTION_SCHEME_NONE;
        uint64_t needed = parts ? kind.n_parts * d->rows * d->columns * sizeof(float) : 0;
        if (*n_results == n_wanted || needed > most || k < kind.n_parts ||
            (parts && (kind.scheme & preference->reduction_mask) == 0))
            continue;
        choice chosen = {};
        chosen.product = hash_of(*product, a, b, c, d);
        chosen.workspace_bytes = needed;
        if (!parts && kind.wants_workspace)
            chosen.workspace_bytes = most < WORKSPACE_BYTES ? most : (uint64_t)WORKSPACE_BYTES;
        memcpy(chosen.alignment, preference->alignment, sizeof(chosen.alignment));
        chosen.n = (uint32_t)d->columns;
        chosen.k = (uint32_t)k;
        chosen.n_parts = kind.n_parts;
        chosen.scheme = kind.scheme;
        chosen.check = check_of(chosen);
        cublasLtMatmulHeuristicResult_t *result = &results[(*n_results)++];
        memset(result, 0, sizeof(*result));
        memcpy(&result->algo, &chosen, sizeof(chosen));
        result->workspaceSize = chosen.workspace_bytes;
        result->state = CUBLAS_STATUS_SUCCESS;
        result->wavesCount = 1.0f;
    }
    return *n_results > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t product,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    runtime_lock lock;
    choice chosen;

    if (handle == nullptr || algorithm == nullptr || result == nullptr)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmulAlgoCheck");
    cublasStatus_t status = check_product(product, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (!is_algorithm(algorithm, &chosen) || !suits(chosen, *product, a, b, c, d))
        return CUBLAS_STATUS_INVALID_VALUE;
    result->state = CUBLAS_STATUS_SUCCESS;
    result->workspaceSize = chosen.workspace_bytes;
    result->wavesCount = 1.0f;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void *value, size_t bytes, size_t *written)
{
    choice chosen;

    if (algorithm == nullptr || value == nullptr || bytes != sizeof(uint32_t) ||
        !is_algorithm(algorithm, &chosen))
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "cublasLtMatmulAlgoConfigGetAttribute");
    switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
        memcpy(value, &chosen.n_parts, bytes);
        break;
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
        memcpy(value, &chosen.scheme, bytes);
        break;
    default:
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "cublasLtMatmulAlgoConfigGetAttribute: attribute %d", attribute);
    }
    if (written != nullptr)
        *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}
