/* Plans of matrix products. A plan is found by everything about a product but its addresses, of
 * which only the alignment counts; there are some dozens in a run, so a list is searched. */
#include "kernels/matmul.h"

#include <stdio.h>
#include <string.h>

#include "kernels/cuda_check.h"
#include "kernels/cuda_device.h"
#include "kernels/matmul_plan.h"
#include "kernels/tuned_way.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

/* Leading dimensions of auxiliary matrices are multiples of a unit, as cublasLt.h demands; whether
 * the library looks is not for a product to find out. */
enum { MOST_ALIGNMENT = 256, AUX_UNIT = 8 };

struct matmul_plans {
    struct matmul_plan *plans;
    size_t n, capacity;
    struct matmul_tuning tuning;
};

static const cublasLtEpilogue_t epilogues[] = {
    [MATMUL_PLAIN] = CUBLASLT_EPILOGUE_DEFAULT,
    [MATMUL_BIAS] = CUBLASLT_EPILOGUE_BIAS,
    [MATMUL_GELU_BIAS] = CUBLASLT_EPILOGUE_GELU_BIAS,
    [MATMUL_GELU_AUX_BIAS] = CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
    [MATMUL_DGELU] = CUBLASLT_EPILOGUE_DGELU,
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

/* The product that the plan of one of changing sizes is made for. */
static struct matmul at_most(const struct matmul *m)
{
    struct matmul most = *m;

    most.n = m->most_n > m->n ? m->most_n : m->n;
    most.k = m->most_k > m->k ? m->most_k : m->k;
    return most;
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

void matmul_plan_release(struct matmul_plan *plan)
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
        matmul_plan_release(&plans->plans[i]);
    matmul_tuning_release(&plans->tuning);
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

enum status matmul_describe(struct matmul_plan *plan, const struct matmul *m)
{
    cublasOperation_t op_a = m->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t op_b = m->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = epilogues[m->epilogue];
    cudaDataType_t operand = type_of(m->operand), result = type_of(m->result);

    plan->key = key_of(m);
    plan->n = m->n;
    plan->k = m->k;
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

/* Sums in place are in no certain order: never. */
static enum status set_preference(cublasLtMatmulPreference_t preference, uint64_t workspace_bytes,
                                  const struct matmul_key *key)
{
    static const uint32_t schemes =
        CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
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
        preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof(schemes)));
    CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(preference,
                                                    CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                    &workspace_bytes, sizeof(workspace_bytes)));
    for (size_t i = 0; i < sizeof(alignments) / sizeof(alignments[0]); i++) {
        uint32_t bytes = (uint32_t)alignments[i].bytes;
        CUBLAS_TRY(cublasLtMatmulPreferenceSetAttribute(preference, alignments[i].attribute, &bytes,
                                                        sizeof(bytes)));
    }
    return STATUS_OK;
}

static bool is_among(const struct matmul_candidate *candidates, int n,
                     const cublasLtMatmulAlgo_t *algorithm)
{
    for (int i = 0; i < n; i++)
        if (memcmp(&candidates[i].algorithm, algorithm, sizeof(*algorithm)) == 0)
            return true;
    return false;
}

/* Adds what the library offers within a workspace. */
static enum status ask(const struct cuda_device *cuda, const struct matmul_plan *plan,
                       uint64_t workspace_bytes, struct matmul_candidate *out, int most, int *n)
{
    cublasLtMatmulHeuristicResult_t found[MATMUL_MOST_CANDIDATES];
    cublasLtMatmulPreference_t preference = NULL;
    enum status status = STATUS_OK;
    int n_found = 0;

    CUBLAS_TRY(cublasLtMatmulPreferenceCreate(&preference));
    TRY_OUT(set_preference(preference, workspace_bytes, &plan->key));
    cublasStatus_t answer =
        cublasLtMatmulAlgoGetHeuristic(cuda->matmul, plan->product, plan->a, plan->b, plan->d,
                                       plan->d, preference, most, found, &n_found);
    if (answer != CUBLAS_STATUS_SUCCESS && answer != CUBLAS_STATUS_NOT_SUPPORTED &&
        answer != CUBLAS_STATUS_INVALID_VALUE)
        FAIL_OUT(STATUS_DEVICE, "cublasLtMatmulAlgoGetHeuristic: %s",
                 cublasLtGetStatusString(answer));
    if (answer != CUBLAS_STATUS_SUCCESS)
        n_found = 0;
    for (int i = 0; i < n_found && *n < most; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && !is_among(out, *n, &found[i].algo))
            out[(*n)++] = (struct matmul_candidate){found[i].algo, found[i].workspaceSize};
out:
    (void)cublasLtMatmulPreferenceDestroy(preference);
    return status;
}

enum status matmul_candidates(const struct cuda_device *cuda, const struct matmul_plan *plan,
                              struct matmul_candidate *out, int most, int *n)
{
    *n = 0;
    TRY(ask(cuda, plan, cuda->matmul_workspace_bytes, out, most > 1 ? most * 2 / 3 : 1, n));
    return most > 1 ? ask(cuda, plan, 0, out, most, n) : STATUS_OK;
}

static enum status find_plans(struct cuda_device *cuda, struct matmul_plans **out)
{
    struct matmul_plans *plans = cuda->matmul_plans.state;

    if (plans == NULL) {
        TRY(memory_alloc(&plans, 1, sizeof(*plans), "matrix product plans"));
        cuda->matmul_plans = (struct cuda_attachment){plans, plans_release};
    }
    *out = plans;
    return STATUS_OK;
}

static enum status make_plan(const struct matmul_tuning *tuning, const struct cuda_device *cuda,
                             struct matmul_plan *plan, const struct matmul *m)
{
    int n = 1;

    TRY(matmul_describe(plan, m));
    TRY(matmul_recall(tuning, cuda, plan));
    if (!plan->settled)
        TRY(matmul_candidates(cuda, plan, &plan->choice, 1, &n));
    plan->supported = n > 0;
    plan->settled |= n == 0 || tuning->mode != DEVICE_TUNING_ON;
    return STATUS_OK;
}

static enum status find_plan(struct device *device, const struct matmul *m,
                             struct matmul_plan **out)
{
    struct cuda_device *cuda = cuda_device_of(device);
    struct matmul most = at_most(m);
    struct matmul_key key = key_of(&most);
    struct matmul_plans *plans;

    TRY(find_plans(cuda, &plans));
    for (size_t i = 0; i < plans->n; i++)
        if (memcmp(&plans->plans[i].key, &key, sizeof(key)) == 0) {
            *out = &plans->plans[i];
            return STATUS_OK;
        }
    TRY(memory_grow(&plans->plans, &plans->capacity, plans->n + 1, sizeof(*plans->plans),
                    "matrix product plans"));
    struct matmul_plan *plan = &plans->plans[plans->n];
    memset(plan, 0, sizeof(*plan));
    enum status status = make_plan(&plans->tuning, cuda, plan, &most);
    if (status != STATUS_OK) {
        matmul_plan_release(plan);
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

    *out = false;
    if (matmul->aux != NULL && matmul->ld_aux % AUX_UNIT != 0)
        return STATUS_OK;
    TRY(find_plan(device, matmul, &plan));
    *out = plan->supported;
    return STATUS_OK;
}

cublasStatus_t matmul_launch(struct cuda_device *cuda, const struct matmul_plan *plan,
                             const struct matmul *m, const struct matmul_candidate *candidate)
{
    struct cuda_branch *branch = &cuda->branches[cuda->branch];
    const float one = 1.0f;

    return cublasLtMatmul(cuda->matmul, plan->product, &one, m->a, plan->a, m->b, plan->b, &m->beta,
                          m->d, plan->d, m->d, plan->d, &candidate->algorithm,
                          branch->matmul_workspace, candidate->workspace_bytes, branch->stream);
}

static enum status set_size(cublasLtMatrixLayout_t layout, bool transposed, int64_t rows,
                            int64_t columns)
{
    uint64_t n_rows = (uint64_t)(transposed ? columns : rows);
    uint64_t n_columns = (uint64_t)(transposed ? rows : columns);

    CUBLAS_TRY(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ROWS, &n_rows,
                                                sizeof(n_rows)));
    CUBLAS_TRY(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_COLS, &n_columns,
                                                sizeof(n_columns)));
    return STATUS_OK;
}

/* The plan's layouts become those of a product of n and k. */
static enum status lay_out(struct matmul_plan *plan, int64_t n, int64_t k)
{
    const struct matmul_key *key = &plan->key;

    if (plan->n == n && plan->k == k)
        return STATUS_OK;
    TRY(set_size(plan->a, key->a_transposed, key->m, k));
    TRY(set_size(plan->b, key->b_transposed, k, n));
    TRY(set_size(plan->d, false, key->m, n));
    plan->n = n;
    plan->k = k;
    return STATUS_OK;
}

/* The plan's algorithm where it does for a product of another size, else the library's first
 * choice. */
static enum status choose_for_size(const struct cuda_device *cuda, const struct matmul_plan *plan,
                                   struct matmul_candidate *out)
{
    cublasLtMatmulHeuristicResult_t result;
    int n = 0;

    *out = plan->choice;
    memset(&result, 0, sizeof(result));
    if (cublasLtMatmulAlgoCheck(cuda->matmul, plan->product, plan->a, plan->b, plan->d, plan->d,
                                &out->algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
        result.state == CUBLAS_STATUS_SUCCESS &&
        result.workspaceSize <= cuda->matmul_workspace_bytes) {
        out->workspace_bytes = result.workspaceSize;
        return STATUS_OK;
    }
    TRY(matmul_candidates(cuda, plan, out, 1, &n));
    if (n == 0)
        FAIL(STATUS_UNSUPPORTED,
             "cuBLASLt has an algorithm for a product of %lld x %lld x %lld, and none for %lld x "
             "%lld x %lld",
             (long long)plan->key.m, (long long)plan->key.n, (long long)plan->key.k,
             (long long)plan->key.m, (long long)plan->n, (long long)plan->k);
    return STATUS_OK;
}

enum status matmul_run(struct device *device, const struct matmul *m)
{
    struct cuda_device *cuda = cuda_device_of(device);
    struct matmul_plan *plan;

    TRY(find_plan(device, m, &plan));
    if (!plan->supported)
        FAIL(STATUS_UNSUPPORTED,
             "cuBLASLt has no algorithm for a product of %lld x %lld x %lld, types %d -> %d, "
             "epilogue %d",
             (long long)m->m, (long long)m->n, (long long)m->k, (int)m->operand, (int)m->result,
             (int)m->epilogue);
    TRY(set_pointers(plan, m));
    struct matmul most = at_most(m);
    struct matmul_candidate choice;
    if (!plan->settled && !cuda->capturing) {
        struct matmul_plans *plans = cuda->matmul_plans.state;
        TRY(lay_out(plan, most.n, most.k));
        TRY(matmul_tune(&plans->tuning, device, plan, &most));
    }
    TRY(lay_out(plan, m->n, m->k));
    choice = plan->choice;
    if (m->n != most.n || m->k != most.k)
        TRY(choose_for_size(cuda, plan, &choice));
    CUBLAS_TRY(matmul_launch(cuda, plan, m, &choice));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ ways */

static enum status run_way(void *context, int which, bool *ran)
{
    const struct matmul_trial *trial = context;

    (void)ran;
    return trial->run(trial->context, (enum matmul_way)which);
}

/* Of a plan that is found again: plans move when others are made. */
static enum status settle_way(struct device *device, const struct matmul *m,
                              const struct matmul_trial *trial, int *way, bool *settled)
{
    static const char *const names[] = {[MATMUL_FUSED] = "fused", [MATMUL_SPLIT] = "split"};
    struct matmul_trial own = *trial;
    struct matmul_tuning *tuning;
    char product[MATMUL_PRODUCT_TEXT], name[MATMUL_PRODUCT_TEXT];
    struct matmul most = at_most(m);
    struct matmul_key key = key_of(&most);
    struct tuned_ways ways = {name, names, MATMUL_N_WAYS, {run_way, &own}};

    TRY(matmul_tuning_of(device, &tuning));
    matmul_name(product, sizeof(product), &key);
    CHECK(snprintf(name, sizeof(name), "%s, %s", product, trial->rest) < (int)sizeof(name));
    *settled = tuned_way_recall(tuning, &ways, way) || tuning->mode != DEVICE_TUNING_ON;
    if (*settled || cuda_device_of(device)->capturing)
        return STATUS_OK;
    *settled = true;
    enum status status = tuned_way_measure(tuning, device, &ways, way);
    if (status != STATUS_NO_MEMORY)
        return status;
    log_warning("the epilogue is taken for %s: %s", name, status_message());
    return STATUS_OK;
}

enum status matmul_way_of(struct device *device, const struct matmul *m,
                          const struct matmul_trial *trial, enum matmul_way *out)
{
    struct matmul_plan *plan;
    int way = MATMUL_FUSED;
    bool settled;

    TRY(find_plan(device, m, &plan));
    *out = plan->way;
    if (plan->way_settled)
        return STATUS_OK;
    TRY(settle_way(device, m, trial, &way, &settled));
    TRY(find_plan(device, m, &plan));
    *out = plan->way = (enum matmul_way)way;
    plan->way_settled = settled;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ tuning */

enum status matmul_set_tuning(struct device *device, const struct device_tuning *tuning)
{
    struct cuda_device *cuda = cuda_device_of(device);
    struct matmul_plans *plans;

    TRY(find_plans(cuda, &plans));
    CHECK(plans->n == 0, "tuning is set before the first product");
    return matmul_tuning_set(&plans->tuning, cuda, tuning);
}

enum status matmul_tuning_of(struct device *device, struct matmul_tuning **out)
{
    struct matmul_plans *plans;

    TRY(find_plans(cuda_device_of(device), &plans));
    *out = &plans->tuning;
    return STATUS_OK;
}
