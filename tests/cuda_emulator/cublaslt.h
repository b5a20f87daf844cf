/* What the emulator's cuBLASLt is made of: descriptors (cublaslt_descriptors.cpp), what a product
 * may be (cublaslt_checks.cpp), algorithms (cublaslt_algorithms.cpp), the call (cublaslt.cpp). */
#ifndef IBOT_TESTS_CUDA_EMULATOR_CUBLASLT_H
#define IBOT_TESTS_CUDA_EMULATOR_CUBLASLT_H

#include <stddef.h>
#include <stdint.h>

#include <cublasLt.h>

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

namespace emulator
{
/* What an algorithm was chosen for, and how it sums: cublasLtMatmulAlgo_t holds this. */
struct choice {
    uint64_t check;   /* of what follows */
    uint64_t product; /* hash, without n and k */
    uint64_t workspace_bytes;
    uint32_t alignment[4];
    uint32_t n_parts; /* of the sum over k */
    uint32_t scheme;  /* that puts them together */
    uint32_t n, k;    /* columns of d, and what is summed over */
};
static_assert(sizeof(choice) <= sizeof(cublasLtMatmulAlgo_t), "an algorithm holds a choice");

/* Explains a status on stderr and returns it. */
cublasStatus_t refuse_product(cublasStatus_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Are descriptors, shapes and types those of a product that cuBLASLt has? */
cublasStatus_t check_product(const cublasLtMatmulDescOpaque *product, cublasLtMatrixLayout_t a,
                             cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                             cublasLtMatrixLayout_t d);
/* Of all that an algorithm is chosen by but n and k. */
uint64_t hash_of(const cublasLtMatmulDescOpaque &product, cublasLtMatrixLayout_t a,
                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d);

/* Does an algorithm do for a product? For one with other n and k than it was chosen for it may; as
 * with the library, whether it does is to be asked (cublasLtMatmulAlgoCheck). */
bool suits(const choice &chosen, const cublasLtMatmulDescOpaque &product, cublasLtMatrixLayout_t a,
           cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d);

/* What is summed over. */
uint64_t depth_of(const cublasLtMatmulDescOpaque &product, cublasLtMatrixLayout_t a);

/* Does the epilogue read or write a vector, another matrix? */
bool wants_bias(unsigned epilogue);
bool wants_aux(unsigned epilogue);

/* An algorithm may be any bytes, that came from a file: false then. */
bool is_algorithm(const cublasLtMatmulAlgo_t *algorithm, choice *out);
} // namespace emulator

#endif
