/* What cuBLASLt takes as a product: shapes, types, epilogues. Stricter than the library where it is
 * silent: the epilogue's vector and matrix must be of D's type. */
#include "tests/cuda_emulator/cublaslt.h"

#include <initializer_list>

#include "tests/cuda_emulator/report.h"

namespace emulator
{
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

bool wants_bias(unsigned epilogue)
{
    return (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0 || epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD ||
           epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

bool wants_aux(unsigned epilogue)
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

cublasStatus_t check_product(const cublasLtMatmulDescOpaque *product, cublasLtMatrixLayout_t a,
                             cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                             cublasLtMatrixLayout_t d)
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

uint64_t hash_of(const cublasLtMatmulDescOpaque &product, cublasLtMatrixLayout_t a,
                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a over numbers */
    auto add = [&hash](uint64_t value) { hash = (hash ^ value) * 0x100000001b3u; };

    for (const cublasLtMatrixLayoutOpaque *layout : {a, b, c, d})
        for (uint64_t value :
             {(uint64_t)layout->type, (uint64_t)layout->ld, (uint64_t)layout->n_batches})
            add(value);
    for (uint64_t value : {d->rows, (uint64_t)product.trans_a, (uint64_t)product.trans_b,
                           (uint64_t)product.epilogue, (uint64_t)product.aux_ld})
        add(value);
    return hash;
}

uint64_t depth_of(const cublasLtMatmulDescOpaque &product, cublasLtMatrixLayout_t a)
{
    return product.trans_a == CUBLAS_OP_T ? a->rows : a->columns;
}

bool suits(const choice &chosen, const cublasLtMatmulDescOpaque &product, cublasLtMatrixLayout_t a,
           cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d)
{
    uint64_t n = d->columns, k = depth_of(product, a);

    if (chosen.product != hash_of(product, a, b, c, d))
        return false;
    if (n == chosen.n && k == chosen.k)
        return true;
    /* some do, some don't */
    return n <= chosen.n && k >= chosen.n_parts && (n + k) % 3 != 1;
}
} // namespace emulator
