/* Plans of matrix products. A plan is found by everything about a product but its addresses, of
 * which only the alignment counts; there are some dozens in a run, so a list is searched. */
#include "kernels/matmul.h"

#include <string.h>

#include "kernels/cuda_check.h"
#include "kernels/cuda_device.h"
#include "proto/base/memory.h"

enum { MOST_ALIGNMENT = 256 };

/* All that a plan depends on; compared as bytes, so that it is zeroed before it is filled. */
struct matmul_key {
    int64_t m, n, k, lda, ldb, ldd, ld_aux;
    int32_t a_transposed, b_transposed, operand, result, bias_type, epilogue, beta;
    int32_t align_a, align_b, align_d, align_bias, align_aux;
};

struct matmul_plan {
    struct matmul_key key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
    bool supported;
};

struct matmul_plans {
    struct matmul_plan *plans;
    size_t n, capacity;
};

static const cublasLtEpilogue_t epilogues[] = {
    [MATMUL_PLAIN] = CUBLASLT_EPILOGUE_DEFAULT,
    [MATMUL_BIAS] = CUBLASLT_EPILOGUE_BIAS,
    [MATMUL_GELU_BIAS] = CUBLASLT_EPILOGUE_GELU_BIAS,
    [MATMUL_GELU_AUX_BIAS] = CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
    [MATMUL_DGELU] = CUBLASLT_EPILOGUE_DGELU,
    [MATMUL_B_SUMS] = CUBLASLT_EPILOGUE_BGRADB,
};

static cudaDataType_t type_of(enum dtype dtype)
{
    CHECK(dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16, "dtype %d", (int)dtype);
    return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static int32_t alignment_of(const void *pointer)
{
    uintptr_t address = (uintptr_t)pointer, alignment = address & (~address + 1);
    return pointer == NULL || alignment > MOST_ALIGNMENT ? MOST_ALIGNMENT : (int32_t)alignment;
}

static struct matmul_key key_of(const struct matmul *m)
{
    struct matmul_key key;

    memset(&key, 0, sizeof(key));
    key.m = m->m;
    key.n = m->n;
    key.k = m->k;
    key.lda = m->lda;
    key.ldb = m->ldb;
    key.ldd = m->ldd;
    key.ld_aux = m->aux != NULL ? m->ld_aux : 0;
    key.a_transposed = m->a_transposed;
    key.b_transposed = m->b_transposed;
    key.operand = (int32_t)m->operand;
    key.result = (int32_t)m->result;
    key.bias_type = m->bias != NULL ? (int32_t)m->bias_type : 0;
    key.epilogue = (int32_t)m->epilogue;
    key.beta = m->beta != 0.0f;
    key.align_a = alignment_of(m->a);
    key.align_b = alignment_of(m->b);
    key.align_d = alignment_of(m->d);
    key.align_bias = alignment_of(m->bias);
    key.align_aux = alignment_of(m->aux);
    return key;
}

static void plan_release(struct matmul_plan *plan)
{
    if (plan->product != NULL)
        (void)cublasLtMatmulDescDestroy(plan->product);
    cublasLtMatrixLayout_t layouts[] = {plan->a, plan->b, plan->d};
    for (int i = 0; i < 3; i++)
        if (layouts[i] != NULL)
            (void)cublasLtMatrixLayoutDestroy(layouts[i]);
    memset(plan, 0, sizeof(*plan));
}

static void plans_release(void *state)
{
    struct matmul_plans *plans = state;

    for (size_t i = 0; i < plans->n; i++)
        plan_release(&plans->plans[i]);
    memory_free(plans->plans);
    memory_free(plans);
}

/* ------------------------------------------------------------------------------ making one */

static enum status set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute,
                       const void *value, size_t bytes)
{
    CUBLAS_TRY(cublasLtMatmulDescSetAttribute(product, attribute, value, bytes));
    return STATUS_OK;
}

/* The addresses of the epilogue, which belong to the descriptor. */
static enum status set_pointers(const struct matmul_plan *plan, const struct matmul *m)
{
    if (m->bias != NULL)
        TRY(set(plan->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &m->bias, sizeof(m->bias)));
    if (m->aux != NULL)
        TRY(set(plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &m->aux, sizeof(m->aux)));
    return STATUS_OK;
}

static enum status describe(struct matmul_plan *plan, const struct matmul *m)
{
    cublasOperation_t op_a = m->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_b = m->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = epilogues[m->epilogue];
    cudaDataType_t operand = type_of(m->operand), result = type_of(m->result);

    CUBLAS_TRY(cublasLtMatmulDescCreate(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    TRY(set(plan->product, CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof(op_a)));
    TRY(set(plan->product, CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof(op_b)));
    TRY(set(plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)));
    if (m->bias != NULL) {
        cudaDataType_t type = type_of(m->bias_type);
        TRY(set(plan->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof(type)));
    }
    if (m->aux != NULL)
        TRY(set(plan->product, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &m->ld_aux,
                sizeof(m->ld_aux)));
    TRY(set_pointers(plan, m));
    CUBLAS_TRY(cublasLtMatrixLayoutCreate(&plan->a, operand,
                                          (uint64_t)(m->a_transposed ? m->k : m->m),
                                          (uint64_t)(m->a_transposed ? m->m : m->k), m->lda));
    CUBLAS_TRY(cublasLtMatrixLayoutCreate(&plan->b, operand,
                                          (uint64_t)(m->b_transposed ? m->n : m->k),
                                          (uint64_t)(m->b_transposed ? m->k : m->n), m->ldb));
    CUBLAS_TRY(
        cublasLtMatrixLayoutCreate(&plan->d, result, (uint64_t)m->m, (uint64_t)m->n, m->ldd));
    return STATUS_OK;
}

static enum status set_preference(cublasLtMatmulPreference_t preference,
                                  const struct cuda_device *cuda, const struct matmul_key *key)
{
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        int32_t bytes;
    } alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key->align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key->align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key->align_d},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key->align_d},
    };

    CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &cuda->matmul_workspace_bytes,
        sizeof(cuda->matmul_workspace_bytes)));
    for (size_t i = 0; i < sizeof(alignments) / sizeof(alignments[0]); i++) {
        uint32_t bytes = (uint32_t)alignments[i].bytes;
        CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(preference, alignments[i].attribute, &bytes,
                                                        sizeof(bytes)));
    }
    return STATUS_OK;
}

/* Asks for the algorithm that the library thinks fastest; none leaves the plan unsupported. */
static enum status choose_algorithm(const struct cuda_device *cuda, struct matmul_plan *plan)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found;
    enum status status = STATUS_OK;
    int n = 0;

    CUBLAS_TRY(cublasLtMatmulPreferenceCreate(&preference));
    TRY_OUT(set_preference(preference, cuda, &plan->key));
    cublasStatus_t answer = cublasLtMatmulAlgoGetHeuristic(
        cuda->matmul, plan->product, plan->a, plan->b, plan->d, plan->d, preference, 1, &found, &n);
    plan->supported =
        answer == CUBLAS_STATUS_SUCCESS && n > 0 && found.state == CUBLAS_STATUS_SUCCESS;
    if (plan->supported) {
        plan->algorithm = found.algo;
        plan->workspace_bytes = found.workspaceSize;
    } else if (answer != CUBLAS_STATUS_SUCCESS && answer != CUBLAS_STATUS_NOT_SUPPORTED &&
               answer != CUBLAS_STATUS_INVALID_VALUE) {
        FAIL_OUT(STATUS_DEVICE, "cublasLtMatmulAlgoGetHeuristic: %s",
                 cublasLtGetStatusString(answer));
    }
out:
    (void)cublasLtMatmulPreferenceDestroy(preference);
    return status;
}

static enum status find_plan(struct device *device, const struct matmul *m,
                             struct matmul_plan **out)
{
    struct cuda_device *cuda = cuda_device_of(device);
    struct matmul_plans *plans = cuda->matmul_plans.state;
    struct matmul_key key = key_of(m);

    if (plans == NULL) {
        TRY(memory_alloc(&plans, 1, sizeof(*plans), "matrix product plans"));
        cuda->matmul_plans = (struct cuda_attachment){plans, plans_release};
    }
    for (size_t i = 0; i < plans->n; i++)
        if (memcmp(&plans->plans[i].key, &key, sizeof(key)) == 0) {
            *out = &plans->plans[i];
            return STATUS_OK;
        }
    TRY(memory_grow(&plans->plans, &plans->capacity, plans->n + 1, sizeof(*plans->plans),
                    "matrix product plans"));
    struct matmul_plan *plan = &plans->plans[plans->n];
    memset(plan, 0, sizeof(*plan));
    plan->key = key;
    enum status status = describe(plan, m);
    if (status == STATUS_OK)
        status = choose_algorithm(cuda, plan);
    if (status != STATUS_OK) {
        plan_release(plan);
        return status;
    }
    plans->n++;
    *out = plan;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ calls */

enum status matmul_supported(struct device *device, const struct matmul *matmul, bool *out)
{
    struct matmul_plan *plan;

    TRY(find_plan(device, matmul, &plan));
    *out = plan->supported;
    return STATUS_OK;
}

enum status matmul_run(struct device *device, const struct matmul *m)
{
    struct cuda_device *cuda = cuda_device_of(device);
    struct cuda_branch *branch = &cuda->branches[cuda->branch];
    const float one = 1.0f;
    struct matmul_plan *plan;

    TRY(find_plan(device, m, &plan));
    if (!plan->supported)
        FAIL(STATUS_UNSUPPORTED,
             "cuBLASLt has no algorithm for a product of %lld x %lld x %lld, types %d -> %d, "
             "epilogue %d",
             (long long)m->m, (long long)m->n, (long long)m->k, (int)m->operand, (int)m->result,
             (int)m->epilogue);
    TRY(set_pointers(plan, m));
    CUBLAS_TRY(cublasLtMatmul(cuda->matmul, plan->product, &one, m->a, plan->a, m->b, plan->b,
                              &m->beta, m->d, plan->d, m->d, plan->d, &plan->algorithm,
                              branch->matmul_workspace, plan->workspace_bytes, branch->stream));
    return STATUS_OK;
}
