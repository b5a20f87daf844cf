/* What the planted mistakes of the emulator's tests share, and a list of them for each file. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_PLANTED_H
#define IBOT_TESTS_CUDA_EMULATOR_PLANTED_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <emulator.h>

#include <vector>

/* Of the children: a call that must succeed, a value that must be right. */
#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define DONE(call) MUST((call) == cudaSuccess)

template <class T> static T *device_array(size_t n)
{
    void *pointer;
    DONE(cudaMalloc(&pointer, n * sizeof(T)));
    return static_cast<T *>(pointer);
}

template <class... Parameters, class... Args>
static void run(dim3 grid, dim3 block, size_t shared_bytes, void (*kernel)(Parameters...),
                Args... args)
{
    DONE(emulator::launch("planted", kernel, grid, block, shared_bytes, nullptr,
                          static_cast<Parameters>(args)...));
    DONE(cudaDeviceSynchronize());
}

static inline void download(float *to, const float *from, size_t n)
{
    DONE(cudaMemcpy(to, from, n * sizeof(float), cudaMemcpyDeviceToHost));
}

/* Ones, from to[first] on, by the first n threads. */
__global__ static inline void write_at(float *to, int64_t first, int64_t n)
{
    if (threadIdx.x < n)
        to[first + threadIdx.x] = 1.0f;
}

struct planted_case {
    const char *name;
    void (*body)();
    const char *message; /* null: ends well */
    const char *sanitizer_message;
};

#define CASE(body, message)                                                                        \
    {                                                                                              \
#body, body, message, message                                                              \
    }
/* The address sanitizer is the first to notice, where there is one. */
#define CASE_OF_MEMORY(body, message)                                                              \
    {                                                                                              \
#body, body, message, "AddressSanitizer"                                                   \
    }
#define RIGHT(body)                                                                                \
    {                                                                                              \
#body, body, nullptr, nullptr                                                              \
    }

std::vector<planted_case> memory_cases();
std::vector<planted_case> thread_cases();
std::vector<planted_case> stream_cases();
std::vector<planted_case> product_cases();
std::vector<planted_case> attention_cases();
std::vector<planted_case> collective_cases();

#endif
