/* cuBLASLt's handles and descriptors: fields that are set by number. */
#include "tests/cuda_emulator/cublaslt.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

using namespace emulator;

struct cublasLtContext {
    int unused;
};

namespace emulator
{
cublasStatus_t refuse_product(cublasStatus_t status, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "CUDA emulator: %s: ", cublasLtGetStatusName(status));
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    return status;
}
} // namespace emulator

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

/* ------------------------------------------------------------------------------ attributes */

/* Where a descriptor keeps an attribute. */
struct field {
    int attribute;
    size_t offset, bytes;
};
#define FIELD(attribute, descriptor, member)                                                       \
    {                                                                                              \
        attribute, offsetof(descriptor, member), sizeof(descriptor::member)                        \
    }

/* Sets one field from a value of exactly its size. */
template <size_t N>
static cublasStatus_t set_field(const field (&fields)[N], const char *call, void *descriptor,
                                int attribute, const void *value, size_t bytes)
{
    const field *f = fields;

    while (f < fields + N && f->attribute != attribute)
        f++;
    if (f == fields + N)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE, "%s: attribute %d", call, attribute);
    if (descriptor == nullptr || value == nullptr || bytes != f->bytes)
        return refuse_product(CUBLAS_STATUS_INVALID_VALUE,
                              "%s: attribute %d has %zu bytes, got %zu", call, attribute, f->bytes,
                              bytes);
    memcpy(static_cast<char *>(descriptor) + f->offset, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

static const field layout_fields[] = {
    FIELD(CUBLASLT_MATRIX_LAYOUT_TYPE, cublasLtMatrixLayoutOpaque, type),
    FIELD(CUBLASLT_MATRIX_LAYOUT_ORDER, cublasLtMatrixLayoutOpaque, order),
    FIELD(CUBLASLT_MATRIX_LAYOUT_ROWS, cublasLtMatrixLayoutOpaque, rows),
    FIELD(CUBLASLT_MATRIX_LAYOUT_COLS, cublasLtMatrixLayoutOpaque, columns),
    FIELD(CUBLASLT_MATRIX_LAYOUT_LD, cublasLtMatrixLayoutOpaque, ld),
    FIELD(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, cublasLtMatrixLayoutOpaque, n_batches),
    FIELD(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, cublasLtMatrixLayoutOpaque, batch_stride),
};

static const field product_fields[] = {
    FIELD(CUBLASLT_MATMUL_DESC_COMPUTE_TYPE, cublasLtMatmulDescOpaque, compute),
    FIELD(CUBLASLT_MATMUL_DESC_SCALE_TYPE, cublasLtMatmulDescOpaque, scale),
    FIELD(CUBLASLT_MATMUL_DESC_POINTER_MODE, cublasLtMatmulDescOpaque, pointer_mode),
    FIELD(CUBLASLT_MATMUL_DESC_TRANSA, cublasLtMatmulDescOpaque, trans_a),
    FIELD(CUBLASLT_MATMUL_DESC_TRANSB, cublasLtMatmulDescOpaque, trans_b),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE, cublasLtMatmulDescOpaque, epilogue),
    FIELD(CUBLASLT_MATMUL_DESC_BIAS_POINTER, cublasLtMatmulDescOpaque, bias),
    FIELD(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, cublasLtMatmulDescOpaque, bias_batch_stride),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, cublasLtMatmulDescOpaque, aux),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, cublasLtMatmulDescOpaque, aux_ld),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, cublasLtMatmulDescOpaque,
          aux_batch_stride),
    FIELD(CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, cublasLtMatmulDescOpaque, sm_count),
    FIELD(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, cublasLtMatmulDescOpaque, aux_type),
    FIELD(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, cublasLtMatmulDescOpaque, bias_type),
};

static const field preference_fields[] = {
    FIELD(CUBLASLT_MATMUL_PREF_SEARCH_MODE, cublasLtMatmulPreferenceOpaque, search_mode),
    FIELD(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, cublasLtMatmulPreferenceOpaque,
          most_workspace_bytes),
    FIELD(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, cublasLtMatmulPreferenceOpaque,
          reduction_mask),
    FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, cublasLtMatmulPreferenceOpaque, alignment[0]),
    FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, cublasLtMatmulPreferenceOpaque, alignment[1]),
    FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, cublasLtMatmulPreferenceOpaque, alignment[2]),
    FIELD(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, cublasLtMatmulPreferenceOpaque, alignment[3]),
};

/* ------------------------------------------------------------------------------ descriptors */

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
    return set_field(layout_fields, "cublasLtMatrixLayoutSetAttribute", layout, attribute, value,
                     bytes);
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
    return set_field(product_fields, "cublasLtMatmulDescSetAttribute", product, attribute, value,
                     bytes);
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
    return set_field(preference_fields, "cublasLtMatmulPreferenceSetAttribute", preference,
                     attribute, value, bytes);
}
