/* All that kernels/ uses of cuDNN's graph interface is in cudnn.h. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_INCLUDE_CUDNN_BACKEND_H
#define IBOT_TESTS_CUDA_EMULATOR_INCLUDE_CUDNN_BACKEND_H

#include <cudnn.h>

#endif
