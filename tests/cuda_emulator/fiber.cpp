#include "tests/cuda_emulator/fiber.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

#include "tests/cuda_emulator/report.h"
#include "tests/cuda_emulator/sanitizer.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif

#ifdef WITH_ADDRESS_SANITIZER
static const size_t STACK_BYTES = 512 * 1024;
#else
static const size_t STACK_BYTES = 192 * 1024;
#endif

namespace emulator
{
struct fiber_stack {
    char *low; /* above the guard */
};

static const size_t GUARD_BYTES = 16 * 1024; /* pages of at most 16 KiB */
/* kept for ever: blocks may run until the process ends */
static std::vector<fiber_stack *> &free_stacks = *new std::vector<fiber_stack *>;
static std::vector<fiber_stack *> &all_stacks = *new std::vector<fiber_stack *>;

static fiber_stack *take_stack()
{
    if (!free_stacks.empty()) {
        fiber_stack *stack = free_stacks.back();
        free_stacks.pop_back();
        return stack;
    }
    void *map = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (map == MAP_FAILED || mprotect(map, GUARD_BYTES, PROT_NONE) != 0)
        fail("no memory for the stack of thread %zu", all_stacks.size());
    fiber_stack *stack = new fiber_stack{static_cast<char *>(map) + GUARD_BYTES};
    all_stacks.push_back(stack);
    free_stacks.reserve(all_stacks.size());
    return stack;
}

bool fiber_is_guard(const void *address)
{
    for (const fiber_stack *stack : all_stacks)
        if (address < stack->low && address >= stack->low - GUARD_BYTES)
            return true;
    return false;
}

void fiber_release(context *fiber)
{
    free_stacks.push_back(fiber->stack);
    fiber->stack = nullptr;
}

/* ------------------------------------------------------------------------------ the switch */

/* Saves what a called function must keep on the stack, the stack pointer in *save, and returns on
 * the other stack. A new stack returns into its entry, with zeros for the registers. */
#if defined(__x86_64__)
extern "C" void emulator_switch_stack(void **save, void *to);
asm(R"(
    .text
    .p2align 4
    .globl emulator_switch_stack
    .type emulator_switch_stack, @function
emulator_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch_stack, . - emulator_switch_stack
)");

static void *initial_stack(char *top, void (*entry)())
{
    void **slot = reinterpret_cast<void **>(top);
    *--slot = nullptr; /* the entry's return address: it finds the stack as after a call */
    *--slot = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++)
        *--slot = nullptr;
    return slot;
}
#elif defined(__aarch64__)
extern "C" void emulator_switch_stack(void **save, void *to);
asm(R"(
    .text
    .p2align 4
    .globl emulator_switch_stack
    .type emulator_switch_stack, %function
emulator_switch_stack:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size emulator_switch_stack, . - emulator_switch_stack
)");

static void *initial_stack(char *top, void (*entry)())
{
    void **slot = reinterpret_cast<void **>(top - 160);
    for (int i = 0; i < 20; i++)
        slot[i] = nullptr;
    slot[11] = reinterpret_cast<void *>(entry); /* x30 */
    return slot;
}
#else
/* Any other machine: the C library's contexts, kept at the top of the stack. The system's thread
 * has one of its own. */
static ucontext_t system_context;

static void emulator_switch_stack(void **save, void *to)
{
    ucontext_t here;
    *save = &here;
    swapcontext(&here, static_cast<ucontext_t *>(to));
}

static void *initial_stack(char *top, void (*entry)())
{
    ucontext_t *fresh = reinterpret_cast<ucontext_t *>(top) - 1;
    getcontext(fresh);
    fresh->uc_stack.ss_sp = top - STACK_BYTES;
    fresh->uc_stack.ss_size = STACK_BYTES - sizeof(ucontext_t);
    fresh->uc_link = &system_context;
    makecontext(fresh, entry, 0);
    return fresh;
}
#endif

void fiber_prepare(context *fiber, void (*entry)())
{
    fiber->stack = take_stack();
    fiber->fake_stack = nullptr;
    fiber->stack_pointer = initial_stack(fiber->stack->low + STACK_BYTES, entry);
}

void fiber_switch(context *from, context *to, bool ends)
{
#ifdef WITH_ADDRESS_SANITIZER
    __sanitizer_start_switch_fiber(ends ? nullptr : &from->fake_stack,
                                   to->stack != nullptr ? to->stack->low : to->bottom,
                                   to->stack != nullptr ? STACK_BYTES : to->bytes);
#else
    (void)ends;
#endif
    emulator_switch_stack(&from->stack_pointer, to->stack_pointer);
#ifdef WITH_ADDRESS_SANITIZER
    __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

void fiber_entered(context *system)
{
#ifdef WITH_ADDRESS_SANITIZER
    const void *bottom;
    size_t bytes;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (system != nullptr) {
        system->bottom = bottom;
        system->bytes = bytes;
    }
#else
    (void)system;
#endif
}
} // namespace emulator
