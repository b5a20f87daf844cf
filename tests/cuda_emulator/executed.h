/* Which kernels ran: what a test holds against the kernels that there are. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_EXECUTED_H
#define IBOT_TESTS_CUDA_EMULATOR_EXECUTED_H

namespace emulator
{
/* With IBOT_EMULATOR_KERNELS=FOLDER in the environment every process appends the kernels that it
 * runs to the file FOLDER/PID, each once: "ADDRESS OBJECT", the address as nm of the object has it.
 */
void note_executed(const char *name, const void *kernel);
} // namespace emulator

#endif
