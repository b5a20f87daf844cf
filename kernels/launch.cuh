/* The one way to launch a kernel, and the two ways to name shared memory: what differs between a
 * GPU and the emulator (tests/cuda_emulator) is here and in mma.cuh, nowhere else. */
#ifndef IBOT_KERNELS_LAUNCH_CUH
#define IBOT_KERNELS_LAUNCH_CUH

#include <cuda_runtime.h>

#include <tuple>
#include <type_traits>

#include "kernels/cuda_check.h"
#include "kernels/cuda_device.h"

#ifdef IBOT_CUDA_EMULATOR
#include <emulator.h> /* SHARED, DYNAMIC_SHARED, emulator::launch */
#else
/* SHARED(float, tile, 32 * 33): an array of the block, of a constant size.
 * DYNAMIC_SHARED(float, rows): the block's dynamic shared memory, aligned to 16 bytes. One in a
 * kernel. */
#define SHARED(type, name, n) __shared__ type name[n]
#define DYNAMIC_SHARED(type, name)                                                                 \
    extern __shared__ __align__(16) unsigned char dynamic_shared_[];                               \
    type *name = reinterpret_cast<type *>(dynamic_shared_)
#endif

/* Queues kernel(args...) on the branch of the device that is in use. `name` is for the message of a
 * failure. An empty grid is nothing to do. More than 48 KiB of dynamic shared memory are asked for
 * as the runtime wants it; for more than 16 a multiprocessor is to have as much of it as it can,
 * since several blocks are counted upon. */
template <class... Parameters, class... Args>
static inline enum status launch(struct device *device, const char *name, dim3 grid, dim3 block,
                                 size_t shared_bytes, void (*kernel)(Parameters...), Args... args)
{
    static_assert(sizeof...(Parameters) == sizeof...(Args), "as many arguments as parameters");
    cudaStream_t stream = cuda_stream(device);

    if (grid.x == 0 || grid.y == 0 || grid.z == 0)
        return STATUS_OK;
    cudaError_t error = cudaSuccess;
    if (shared_bytes > 16 * 1024)
        error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                     cudaFuncAttributePreferredSharedMemoryCarveout,
                                     cudaSharedmemCarveoutMaxShared);
    if (error == cudaSuccess && shared_bytes > 48 * 1024)
        error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     static_cast<int>(shared_bytes));
#ifdef IBOT_CUDA_EMULATOR
    if (error == cudaSuccess)
        error = emulator::launch(name, kernel, grid, block, shared_bytes, stream,
                                 static_cast<Parameters>(args)...);
#else
    std::tuple<std::remove_cv_t<Parameters>...> values(static_cast<Parameters>(args)...);
    if (error == cudaSuccess)
        error = std::apply(
            [&](auto &...value) {
                void *pointers[] = {static_cast<void *>(&value)..., nullptr};
                return cudaLaunchKernel(reinterpret_cast<const void *>(kernel), grid, block,
                                        pointers, shared_bytes, stream);
            },
            values);
#endif
    if (error != cudaSuccess)
        FAIL(STATUS_DEVICE,
             "kernel '%s' (grid %u x %u x %u, block %u x %u, %zu bytes of shared memory): %s", name,
             grid.x, grid.y, grid.z, block.x, block.y, shared_bytes, cudaGetErrorString(error));
    return STATUS_OK;
}

/* ceil(n / d) as a grid dimension. */
static inline unsigned grid_for(int64_t n, int64_t d)
{
    return static_cast<unsigned>((n + d - 1) / d);
}

#endif
