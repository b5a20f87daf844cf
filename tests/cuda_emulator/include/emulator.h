/* What kernels/launch.cuh needs where a GPU has syntax of its own: launches and shared memory. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_INCLUDE_EMULATOR_H
#define IBOT_TESTS_CUDA_EMULATOR_INCLUDE_EMULATOR_H

#include <cuda_runtime.h>

#ifdef __cplusplus
#include <functional>
#include <utility>

/* An array of the block: poisoned at its start, with a guard page at its end. */
#define SHARED(type, name, n)                                                                      \
    static const char name##_key_ = 0;                                                             \
    type(&name)[n] = *static_cast<type(*)[n]>(                                                     \
        emulator::shared_array(&name##_key_, #name, sizeof(type[n]), alignof(type)))
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulator::dynamic_shared())

namespace emulator
{
void *shared_array(const void *key, const char *name, size_t bytes, size_t alignment);
void *dynamic_shared(void);

/* A pointer that a kernel is given, and the place of its argument. */
struct pointer_argument {
    const void *pointer;
    int place;
};

struct kernel_launch {
    const char *name;
    const void *kernel;
    dim3 grid, block;
    size_t shared_bytes;
    std::function<void()> body; /* the kernel with its arguments */
    bool opted_in;              /* to more than 48 KiB of shared memory; set by queue_kernel */
};

/* Checks the launch as the runtime does, and that every pointer is the device's; queues it. */
cudaError_t queue_kernel(kernel_launch &&launch, cudaStream_t stream,
                         const pointer_argument *pointers, int n_pointers);

template <class T> static inline const void *pointer_of(const T &argument)
{
    if constexpr (std::is_pointer<T>::value)
        return reinterpret_cast<const void *>(argument);
    else
        return nullptr;
}

template <class... Parameters, class... Args>
static inline cudaError_t launch(const char *name, void (*kernel)(Parameters...), dim3 grid,
                                 dim3 block, size_t shared_bytes, cudaStream_t stream, Args... args)
{
    static_assert(sizeof...(Parameters) == sizeof...(Args), "as many arguments as parameters");
    const void *candidates[] = {pointer_of(args)..., nullptr};
    pointer_argument pointers[sizeof...(Args) + 1] = {};
    int n = 0;

    for (int i = 0; i < (int)sizeof...(Args); i++)
        if (candidates[i] != nullptr)
            pointers[n++] = {candidates[i], i};
    return queue_kernel({name, reinterpret_cast<const void *>(kernel), grid, block, shared_bytes,
                         [=] { kernel(args...); }, false},
                        stream, pointers, n);
}

/* ------------------------------------------------------------------------------ for emulator_mma.h
 */

/* The copies that cp.async has begun for this thread: done when waited for, not before. */
void copy_async_begin(void *to, const void *from, size_t bytes);
void copy_async_commit(void);
void copy_async_wait(int most_pending_batches);
/* Fails unless `bytes` at `pointer` lie in shared memory of the block, aligned to `alignment`. */
void check_shared(const void *pointer, size_t bytes, size_t alignment, const char *what);
} // namespace emulator

#endif
#endif
