/* Runs a kernel: blocks one after the other in a random order, the threads of a block as fibers
 * that go on in a random order from every barrier and warp call. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_BLOCK_H
#define IBOT_TESTS_CUDA_EMULATOR_BLOCK_H

#include <stddef.h>

#include <emulator.h>

namespace emulator
{
enum { MOST_THREADS = 1024 };

void run_kernel(const kernel_launch &launch);

/* "kernel 'x', block (0, 0, 0), thread (3, 0, 0): " when one runs, "" otherwise. */
void describe_place(char *out, size_t bytes);
bool kernel_runs(void);
} // namespace emulator

#endif
