# Whether the CUDA column is built: sets IBOT_USE_CUDA, and enables the language. Included from the
# root, where a language must be enabled.
#
# AUTO: where a compiler and cuBLASLt are. Sanitizers run on the CPU, and on the emulator.
set(IBOT_USE_CUDA OFF)
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
else()
  message(STATUS "CUDA: none, all work is done on the CPU")
endif()
