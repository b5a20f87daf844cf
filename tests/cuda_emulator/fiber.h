/* Stacks that the threads of a block run on, and the switch between them. Sanitizers are told. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_FIBER_H
#define IBOT_TESTS_CUDA_EMULATOR_FIBER_H

#include <stddef.h>

namespace emulator
{
/* Something that can be left and gone on with: a fiber, or the operating system's thread. */
struct context {
    void *stack_pointer;       /* while it does not run */
    struct fiber_stack *stack; /* null for the operating system's */
    void *fake_stack;          /* address sanitizer's, while it does not run */
    const void *bottom;        /* of the operating system's stack, as the sanitizer says */
    size_t bytes;
};

/* A stack that calls entry() when switched to; entry never returns. */
void fiber_prepare(context *fiber, void (*entry)());
/* Gives the stack of a fiber that will not run again back; it may be the running one's, which then
 * must switch away. */
void fiber_release(context *fiber);
/* Leaves `from` for `to`; returns when somebody switches back. `ends`: from will not run again. */
void fiber_switch(context *from, context *to, bool ends);
/* The first thing a fiber does. `system`: the system's context when it came from there, else null.
 */
void fiber_entered(context *system);
/* Does the address lie in the guard of a stack? */
bool fiber_is_guard(const void *address);
} // namespace emulator

#endif
