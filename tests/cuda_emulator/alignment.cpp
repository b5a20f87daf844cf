/* A GPU faults on an address that is no multiple of its type's size; a CPU reads it. Kernels are
 * compiled with -fsanitize=alignment, whose reports come here (where the undefined behaviour
 * sanitizer is not there to take them). */
#include <stdint.h>

#include "tests/cuda_emulator/report.h"

namespace
{
struct source_place {
    const char *file;
    uint32_t line, column;
};

struct type_name {
    uint16_t kind, info;
    char text[1]; /* and more: in quotes */
};

struct mismatch {
    source_place at;
    const type_name *type;
    unsigned char log_alignment, access;
};
} // namespace

/* The compiler's interface: names and layouts are given. */
extern "C" [[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(const mismatch *wrong,
                                                                   const void *address);

void __ubsan_handle_type_mismatch_v1_abort(const mismatch *wrong, const void *address)
{
    emulator::fail("%s:%u: misaligned address %p: %s is aligned to %u bytes", wrong->at.file,
                   wrong->at.line, address, wrong->type->text, 1u << wrong->log_alignment);
}
