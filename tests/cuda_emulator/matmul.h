/* A matrix product as cuBLASLt's descriptors say it, checked, and its computation. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_MATMUL_H
#define IBOT_TESTS_CUDA_EMULATOR_MATMUL_H

#include <stddef.h>
#include <stdint.h>

#include <cublasLt.h>

namespace emulator
{
/* Column-major. */
struct matrix {
    cudaDataType_t type;
    int64_t rows, columns, ld, n_batches, batch_stride; /* in elements */
    void *values;
};

struct product {
    bool a_transposed, b_transposed;
    cublasLtEpilogue_t epilogue;
    float alpha, beta;
    matrix a, b, c, d;
    void *bias; /* a vector, or where its gradient goes */
    cudaDataType_t bias_type;
    int64_t bias_batch_stride;
    void *aux; /* [D's rows, columns] of D's type */
    int64_t aux_ld, aux_batch_stride;
    uint32_t n_parts; /* the sum over k is made in, and put together */
    bool in_place;    /* in whatever order they are ready */
};

size_t type_bytes(cudaDataType_t type);
void compute(const product &p);
} // namespace emulator

#endif
