/* cuBLASLt: descriptors are checked the way the library does, and further: every matrix must lie
 * inside its allocation, an algorithm must be used for the product it was chosen for. */
#include <cublasLt.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/cuda_emulator/matmul.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/report.h"
#include "tests/cuda_emulator/runtime.h"

using namespace emulator;

struct cublasLtContext {
    int unused;
};

struct cublasLtMatrixLayoutOpaque {
    cudaDataType_t type;
    int32_t order;
    uint64_t rows, columns;
    int64_t ld;
    int32_t n_batches;
    int64_t batch_stride;
};

struct cublasLtMatmulDescOpaque {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    int32_t trans_a, trans_b, pointer_mode;
    uint32_t epilogue;
    void *bias, *aux;
    int32_t bias_type, aux_type; /* -1: D's */
    int64_t bias_batch_stride, aux_ld, aux_batch_stride;
    int32_t sm_count;
};

struct cublasLtMatmulPreferenceOpaque {
    uint64_t most_workspace_bytes;
    uint32_t alignment[4]; /* of A, B, C, D */
    uint32_t search_mode, reduction_mask;
};

/* What an algorithm was chosen for, and how it sums: cublasLtMatmulAlgo_t holds this. */
struct choice {
    uint64_t check;   /* of what follows */
    uint64_t product; /* hash */
    uint64_t workspace_bytes;
    uint32_t alignment[4];
    uint32_t n_parts; /* of the sum over k */
    uint32_t scheme;  /* that puts them together */
};
static_assert(sizeof(choice) <= sizeof(cublasLtMatmulAlgo_t), "an algorithm holds a choice");

static cublasStatus_t refuse_product(cublasStatus_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static cublasStatus_t refuse_product(cublasStatus_t status, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "CUDA emulator: %s: ", cublasLtGetStatusName(status));
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    return status;
}

/* ------------------------------------------------------------------------------ names, handles */

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return "CUBLAS_STATUS_?";
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = new cublasLtContext{};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

/* ------------------------------------------------------------------------------ descriptors */

/* Sets one field from a value of exactly its size. */
template <class T>
static cublasStatus_t set_field(T *field, const char *call, int attribute, const void *value,
                                size_t bytes)
{
    if (value == nullptr || bytes != sizeof(T))
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "%s: attribute %d has %zu bytes, got %zu", call, attribute, sizeof(T),
                              bytes);
    memcpy(static_cast<void *>(field), value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld)
{
    *layout = new cublasLtMatrixLayoutOpaque{type, CUBLASLT_ORDER_COL, rows, columns, ld, 1, 0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes)
{
    const char *call = "cublasLtMatrixLayoutSetAttribute";

    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return set_field(&layout->type, call, attribute, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return set_field(&layout->order, call, attribute, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return set_field(&layout->rows, call, attribute, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return set_field(&layout->columns, call, attribute, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return set_field(&layout->ld, call, attribute, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return set_field(&layout->n_batches, call, attribute, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return set_field(&layout->batch_stride, call, attribute, value, bytes);
    }
    return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "%s: attribute %d", call, attribute);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *product, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    *product = new cublasLtMatmulDescOpaque{};
    (*product)->compute = compute;
    (*product)->scale = scale;
    (*product)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    (*product)->bias_type = (*product)->aux_type = -1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t product)
{
    delete product;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    const char *call = "cublasLtMatmulDescSetAttribute";

    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        return set_field(&product->compute, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return set_field(&product->scale, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return set_field(&product->pointer_mode, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set_field(&product->trans_a, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set_field(&product->trans_b, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set_field(&product->epilogue, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return set_field(&product->bias, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
        return set_field(&product->bias_batch_stride, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        return set_field(&product->aux, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        return set_field(&product->aux_ld, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
        return set_field(&product->aux_batch_stride, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET:
        return set_field(&product->sm_count, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
        return set_field(&product->aux_type, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return set_field(&product->bias_type, call, attribute, value, bytes);
    }
    return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "%s: attribute %d", call, attribute);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    *preference = new cublasLtMatmulPreferenceOpaque{
        0, {256, 256, 256, 256}, 0, CUBLASLT_REDUCTION_SCHEME_MASK};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    const char *call = "cublasLtMatmulPreferenceSetAttribute";

    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
        return set_field(&preference->search_mode, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return set_field(&preference->most_workspace_bytes, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return set_field(&preference->reduction_mask, call, attribute, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return set_field(
            &preference->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], call,
            attribute, value, bytes);
    }
    return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "%s: attribute %d", call, attribute);
}

/* ------------------------------------------------------------------------------ checks */

static bool is_half(cudaDataType_t type)
{
    return type == CUDA_R_16BF || type == CUDA_R_16F;
}

static cublasStatus_t check_layout(const char *name, cublasLtMatrixLayout_t layout, uint64_t rows,
                                   uint64_t columns)
{
    if (layout->order != CUBLASLT_ORDER_COL)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "matrix %s: order %d", name,
                              layout->order);
    if (layout->rows != rows || layout->columns != columns)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "matrix %s is %llu x %llu; the product wants %llu x %llu", name,
                              (unsigned long long)layout->rows, (unsigned long long)layout->columns,
                              (unsigned long long)rows, (unsigned long long)columns);
    if (rows == 0 || columns == 0)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "matrix %s is empty", name);
    if (layout->ld < (int64_t)rows)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "matrix %s: leading dimension %lld below its %llu rows", name,
                              (long long)layout->ld, (unsigned long long)rows);
    return CUBLAS_STATUS_SUCCESS;
}

static bool wants_bias(unsigned epilogue)
{
    return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0 || epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD ||
           epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

static bool wants_aux(unsigned epilogue)
{
    return (epilogue & 128) != 0;
}

static cublasStatus_t check_epilogue(const cublasLtMatmulDescOpaque &product, cudaDataType_t d)
{
    static const unsigned known[] = {
        CUBLASLT_EPILOGUE_DEFAULT,     CUBLASLT_EPILOGUE_RELU,          CUBLASLT_EPILOGUE_BIAS,
        CUBLASLT_EPILOGUE_RELU_BIAS,   CUBLASLT_EPILOGUE_GELU,          CUBLASLT_EPILOGUE_GELU_BIAS,
        CUBLASLT_EPILOGUE_GELU_AUX,    CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_DGELU,
        CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA,        CUBLASLT_EPILOGUE_BGRADB,
    };
    static const uint64_t lacking = environment_number("IBOT_EMULATOR_LACKS_EPILOGUES", 0);
    unsigned epilogue = product.epilogue;
    bool is_known = false;

    for (unsigned one : known)
        is_known |= one == epilogue;
    if (!is_known)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "epilogue %u", epilogue);
    if (epilogue != CUBLASLT_EPILOGUE_DEFAULT && (epilogue & lacking) != 0)
        return CUBLAS_STATUS_NOT_SUPPORTED; /* as asked by the environment */
    if (wants_bias(epilogue) && product.bias_type >= 0 && product.bias_type != (int32_t)d)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED,
                              "epilogue %u: bias of type %d, D of type %d", epilogue,
                              product.bias_type, (int)d);
    if (!wants_aux(epilogue))
        return CUBLAS_STATUS_SUCCESS;
    if (product.aux_type >= 0 && product.aux_type != (int32_t)d)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED,
                              "epilogue %u: auxiliary matrix of type %d, D of type %d", epilogue,
                              product.aux_type, (int)d);
    if (product.aux_ld % 8 != 0)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED,
                              "epilogue %u: leading dimension %lld of the auxiliary matrix is no "
                              "multiple of 8",
                              epilogue, (long long)product.aux_ld);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_types(const cublasLtMatmulDescOpaque &product, cudaDataType_t a,
                                  cudaDataType_t b, cudaDataType_t c, cudaDataType_t d)
{
    if ((product.compute != CUBLAS_COMPUTE_32F && product.compute != CUBLAS_COMPUTE_32F_PEDANTIC) ||
        product.scale != CUDA_R_32F)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "compute type %d with scale type %d",
                              (int)product.compute, (int)product.scale);
    if (a != b || c != d || (a != CUDA_R_32F && !is_half(a)) ||
        (d != a && !(is_half(a) && d == CUDA_R_32F)))
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "types A %d, B %d, C %d, D %d", (int)a,
                              (int)b, (int)c, (int)d);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t check_product(const cublasLtMatmulDescOpaque *product,
                                    cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d)
{
    if (product == nullptr || a == nullptr || b == nullptr || c == nullptr || d == nullptr)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "a descriptor is missing");
    if (product->trans_a > CUBLAS_OP_T || product->trans_b > CUBLAS_OP_T ||
        product->pointer_mode != 0)
        return refuse_product(CUBLAS_STATUS_NOT_SUPPORTED, "transposes %d, %d, pointer mode %d",
                              product->trans_a, product->trans_b, product->pointer_mode);
    bool ta = product->trans_a == CUBLAS_OP_T, tb = product->trans_b == CUBLAS_OP_T;
    uint64_t m = d->rows, n = d->columns, k = ta ? a->rows : a->columns;
    cublasStatus_t status = check_types(*product, a->type, b->type, c->type, d->type);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = check_layout("A", a, ta ? k : m, ta ? m : k);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = check_layout("B", b, tb ? n : k, tb ? k : n);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = check_layout("C", c, m, n);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = check_layout("D", d, m, n);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = check_epilogue(*product, d->type);
    if (status == CUBLAS_STATUS_SUCCESS && wants_aux(product->epilogue) &&
        product->aux_ld < (int64_t)m)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "auxiliary matrix: leading dimension %lld below D's %llu rows",
                              (long long)product->aux_ld, (unsigned long long)m);
    if (status == CUBLAS_STATUS_SUCCESS &&
        (a->n_batches != d->n_batches || b->n_batches != d->n_batches ||
         c->n_batches != d->n_batches || d->n_batches < 1))
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "batches: A %d, B %d, C %d, D %d",
                              a->n_batches, b->n_batches, c->n_batches, d->n_batches);
    return status;
}

static uint64_t hash_of(const cublasLtMatmulDescOpaque &product, cublasLtMatrixLayout_t a,
                        cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                        cublasLtMatrixLayout_t d)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a over numbers */
    auto add = [&hash](uint64_t value) { hash = (hash ^ value) * 0x100000001b3u; };

    for (const cublasLtMatrixLayoutOpaque *layout : {a, b, c, d})
        for (uint64_t value : {(uint64_t)layout->type, layout->rows, layout->columns,
                               (uint64_t)layout->ld, (uint64_t)layout->n_batches})
            add(value);
    for (uint64_t value : {(uint64_t)product.trans_a, (uint64_t)product.trans_b,
                           (uint64_t)product.epilogue, (uint64_t)product.aux_ld})
        add(value);
    return hash;
}

/* ------------------------------------------------------------------------------ algorithms */

static uint64_t check_of(const choice &c)
{
    uint64_t hash = 0xcbf29ce484222325u;
    const auto *bytes = reinterpret_cast<const unsigned char *>(&c);

    for (size_t i = sizeof(c.check); i < sizeof(c); i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

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
    uint64_t k = product->trans_a == CUBLAS_OP_T ? a->rows : a->columns;
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

/* An algorithm may be any bytes: they came from a file. */
static bool is_algorithm(const cublasLtMatmulAlgo_t *algorithm, choice *out)
{
    memcpy(out, algorithm, sizeof(*out));
    return out->check == check_of(*out);
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
    if (!is_algorithm(algorithm, &chosen) || chosen.product != hash_of(*product, a, b, c, d))
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

/* ------------------------------------------------------------------------------ the product */

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

static cublasStatus_t check_choice(const choice &chosen, const product &p, uint64_t hash,
                                   const void *workspace, size_t workspace_bytes)
{
    const char *names[] = {"A", "B", "C", "D"};
    const matrix *matrices[] = {&p.a, &p.b, &p.c, &p.d};

    if (chosen.check != check_of(chosen) || chosen.product != hash)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "the algorithm was chosen for another product");
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
    memcpy(&chosen, algorithm, sizeof(chosen));
    status = check_choice(chosen, p, hash_of(*descriptor, a, b, c, d), workspace, workspace_bytes);
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
