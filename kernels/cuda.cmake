# Whether the CUDA column is built, with cuDNN, with NCCL: sets IBOT_USE_CUDA, IBOT_USE_CUDNN,
# IBOT_USE_NCCL and IBOT_CUBLASLT, and enables the language. Included from the root, where a language
# must be enabled.
#
# AUTO: where a compiler and cuBLASLt are. Sanitizers run on the CPU, and on the emulator.
#
# The three libraries are looked for beside the toolkit and in CMAKE_PREFIX_PATH, which may name the
# folders of Python's wheels (nvidia/cu13, nvidia/cudnn, nvidia/nccl). Those have no links without a
# version, hence the second names below.
set(IBOT_USE_CUDA OFF)
set(IBOT_USE_CUDNN OFF)
set(IBOT_USE_NCCL OFF)
if(IBOT_CUDA STREQUAL "ON" OR (IBOT_CUDA STREQUAL "AUTO" AND NOT IBOT_SANITIZE))
  find_package(CUDAToolkit QUIET)
  set(IBOT_CUBLASLT)
  if(TARGET CUDA::cublasLt)
    set(IBOT_CUBLASLT CUDA::cublasLt)
  elseif(CUDAToolkit_FOUND)
    find_path(CUBLASLT_INCLUDE_DIR cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    find_library(CUBLASLT_LIBRARY NAMES cublasLt libcublasLt.so.${CUDAToolkit_VERSION_MAJOR})
    if(CUBLASLT_INCLUDE_DIR AND CUBLASLT_LIBRARY)
      add_library(ibot_cublaslt INTERFACE)
      target_link_libraries(ibot_cublaslt INTERFACE ${CUBLASLT_LIBRARY})
      # after the toolkit's: the same folder may hold other releases of its headers
      target_compile_options(ibot_cublaslt INTERFACE
        "$<$<COMPILE_LANGUAGE:C,CXX>:SHELL:-idirafter ${CUBLASLT_INCLUDE_DIR}>"
        "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler -idirafter,${CUBLASLT_INCLUDE_DIR}>")
      set(IBOT_CUBLASLT ibot_cublaslt)
    endif()
  endif()
  if(CUDAToolkit_FOUND AND IBOT_CUBLASLT AND CUDAToolkit_NVCC_EXECUTABLE)
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
  # releases of CMake differ in which of these they set
  set(library_folders ${CUDAToolkit_LIBRARY_DIR} ${CUDAToolkit_LIBRARY_SEARCH_DIRS}
    ${CUDAToolkit_TARGET_DIR}/lib ${CUDAToolkit_TARGET_DIR}/lib64)
  if(CUDAToolkit_LIBRARY_ROOT)
    list(APPEND library_folders ${CUDAToolkit_LIBRARY_ROOT}/lib)
  endif()
  # cuDNN offers attention beside the own kernels
  find_path(CUDNN_INCLUDE_DIR cudnn_backend.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${library_folders})
  if(CUDNN_INCLUDE_DIR AND CUDNN_LIBRARY)
    set(IBOT_USE_CUDNN ON)
    message(STATUS "cuDNN: ${CUDNN_LIBRARY}")
  endif()
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${library_folders})
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY AND IBOT_USE_ZMQ) # where ranks meet
    set(IBOT_USE_NCCL ON)
    message(STATUS "NCCL: ${NCCL_LIBRARY}")
  else()
    message(STATUS "CUDA: no NCCL, so one GPU for each run")
  endif()
else()
  message(STATUS "CUDA: none, all work is done on the CPU")
endif()
