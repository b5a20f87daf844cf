/* What a CUDA library refuses becomes a status with a text: which call, what it answered. */
#ifndef IBOT_KERNELS_CUDA_CHECK_H
#define IBOT_KERNELS_CUDA_CHECK_H

#include <cuda_runtime_api.h>

#include "proto/base/status.h"

/* Leaves the function with STATUS_DEVICE unless the call of the CUDA runtime succeeded. */
#define CUDA_TRY(call)                                                                             \
    do {                                                                                           \
        cudaError_t cuda_error_ = (call);                                                          \
        if (cuda_error_ != cudaSuccess)                                                            \
            FAIL(STATUS_DEVICE, "%s: %s (%s)", #call, cudaGetErrorString(cuda_error_),             \
                 cudaGetErrorName(cuda_error_));                                                   \
    } while (0)

/* The same for cuBLASLt (include cublasLt.h). */
#define CUBLAS_TRY(call)                                                                           \
    do {                                                                                           \
        cublasStatus_t cublas_status_ = (call);                                                    \
        if (cublas_status_ != CUBLAS_STATUS_SUCCESS)                                               \
            FAIL(STATUS_DEVICE, "%s: %s", #call, cublasLtGetStatusString(cublas_status_));         \
    } while (0)

#endif
