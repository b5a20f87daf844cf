# Whether the CUDA column is built, and with cuDNN: sets IBOT_USE_CUDA and IBOT_USE_CUDNN, and enables
# the language. Included from the root, where a language must be enabled.
#
# AUTO: where a compiler and cuBLASLt are. Sanitizers run on the CPU, and on the emulator.
set(IBOT_USE_CUDA OFF)
set(IBOT_USE_CUDNN OFF)
if(IBOT_CUDA STREQUAL "ON" OR (IBOT_CUDA STREQUAL "AUTO" AND NOT IBOT_SANITIZE))
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_FOUND AND TARGET CUDA::cublasLt AND CUDAToolkit_NVCC_EXECUTABLE)
    set(IBOT_USE_CUDA ON)
  elseif(IBOT_CUDA STREQUAL "ON")
    message(FATAL_ERROR "IBOT_CUDA=ON, but no CUDA toolkit with nvcc and cuBLASLt was found; "
      "name its folder with -DCUDAToolkit_ROOT=/usr/local/cuda")
  endif()
endif()
if(IBOT_USE_CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${CUDAToolkit_NVCC_EXECUTABLE})
  endif()
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80-real 90-real 90-virtual CACHE STRING "GPUs to compile for")
  endif()
  enable_language(CUDA)
  message(STATUS "CUDA: ${CUDAToolkit_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}")
  # cuDNN offers attention beside the own kernels
  find_path(CUDNN_INCLUDE_DIR cudnn_backend.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_ROOT}/lib)
  if(CUDNN_INCLUDE_DIR AND CUDNN_LIBRARY)
    set(IBOT_USE_CUDNN ON)
    message(STATUS "cuDNN: ${CUDNN_LIBRARY}")
  endif()
else()
  message(STATUS "CUDA: none, all work is done on the CPU")
endif()
