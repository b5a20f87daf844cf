/* How the emulator says what is wrong, and its random numbers.
 *
 * What a GPU would answer with an error code is answered with the same code, and explained on
 * stderr. What a GPU would not notice, or notice too late, ends the process. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_REPORT_H
#define IBOT_TESTS_CUDA_EMULATOR_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime.h>

namespace emulator
{
/* Message with kernel, block, thread (when one runs) and seed; abort. */
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Explains an error code on stderr, remembers it for cudaGetLastError and returns it. */
cudaError_t refuse(cudaError_t error, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Without a text: errors that are answers (cudaErrorNotReady). */
cudaError_t remember(cudaError_t error);

/* A number of the environment; `otherwise` when it is not set. Anything else but a number fails. */
uint64_t environment_number(const char *name, uint64_t otherwise);

uint64_t seed(void);
/* A random number below n > 0. */
uint32_t random_below(uint32_t n);
} // namespace emulator

#endif
