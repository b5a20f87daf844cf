/* What the planted mistakes of the emulator's tests share, and those of one file that another runs.
 */
#ifndef IBOT_TESTS_CUDA_EMULATOR_PLANTED_H
#define IBOT_TESTS_CUDA_EMULATOR_PLANTED_H

#include <stdio.h>
#include <stdlib.h>

#include <emulator.h>

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

/* cuBLASLt: planted_products.cpp */
void product_right();
void product_with_a_great_leading_dimension();
void product_with_a_small_leading_dimension();
void product_with_a_bad_alignment();
void product_of_wrong_shapes();
void product_with_bias_on_the_host();

/* NCCL: planted_collectives.cpp */
void collectives_right();
void collectives_in_a_graph();
void collectives_of_other_counts();
void collectives_in_another_order();
void collective_of_host_memory();
void collective_past_the_end();
void collective_while_one_is_in_progress();
void collective_after_abort();
void communicator_of_two_threads();
void communicator_with_a_graph_is_finalized();
void communicator_of_one_device_for_two();
void communicator_of_another_device();

/* cuDNN: planted_attention.cpp */
void attention_right();
void attention_with_a_great_stride();
void attention_with_loose_statistics();
void attention_that_lacks_a_tensor();
void attention_with_a_tensor_twice();
void attention_with_its_scale_on_the_device();
void attention_with_a_bad_alignment();
void attention_without_workspace();
void transposition_with_wrong_strides();

#endif
