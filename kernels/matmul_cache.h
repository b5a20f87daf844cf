/* Which algorithm was the fastest for a matrix product, kept in a file from run to run. One line of
 * text for each, its parts parted by tabs:
 *
 *   ibot matrix products 1
 *   CHECK  DEVICE  PRODUCT  ALGORITHM  WORKSPACE  TIME  FIRST  CANDIDATES
 *
 *   CHECK       FNV-1a of what follows in the line, 16 hex digits
 *   DEVICE      chip and library: what an algorithm depends on besides the product
 *   PRODUCT     sizes, types, layouts, epilogue, alignments
 *   ALGORITHM   as the library has it, 128 hex digits
 *   WORKSPACE   bytes it wants
 *   TIME FIRST  nanoseconds that it took, and the one that the library would have taken
 *   CANDIDATES  how many were measured
 *
 * Ways of doing a thing are among them, whose number is the first byte of ALGORITHM (tuned_way.h).
 * Of attention it is 00 for the own kernels, 01 for cuDNN, 02 for the former own ones; of a product
 * with what goes with it 00 for the epilogue, 01 for a plain product and a kernel.
 *
 * Many processes may read and add to one file at once. The first choice for a product stays: who
 * comes later takes it over, so that all agree, and a run that goes on later has the same bits. */
#ifndef IBOT_KERNELS_MATMUL_CACHE_H
#define IBOT_KERNELS_MATMUL_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum {
    MATMUL_ALGORITHM_BYTES = 64,
    MATMUL_DEVICE_TEXT = 192,
    MATMUL_PRODUCT_TEXT = 256,
    MATMUL_CACHE_MOST_CHOICES = 1 << 14,
    MATMUL_CACHE_MOST_BYTES = MATMUL_CACHE_MOST_CHOICES * 800,
};

struct matmul_choice {
    char device[MATMUL_DEVICE_TEXT], product[MATMUL_PRODUCT_TEXT]; /* printable, without tabs */
    uint8_t algorithm[MATMUL_ALGORITHM_BYTES];
    uint64_t workspace_bytes, time_ns, first_ns;
    uint32_t n_candidates;
};

struct matmul_choices {
    struct matmul_choice *choices;
    size_t n, capacity;
};

/* The whole file as bytes. Errors: STATUS_CORRUPT (which line, and why), STATUS_UNSUPPORTED (of
 * another version), STATUS_NO_MEMORY; *out is as before then. */
enum status matmul_choices_parse(struct matmul_choices *out, const char *bytes,
                                 size_t n_bytes) IBOT_WARN_UNUSED;
/* The bytes of the file; to be freed with memory_free. */
enum status matmul_choices_format(const struct matmul_choices *choices, char **out,
                                  size_t *n_bytes) IBOT_WARN_UNUSED;
/* Valid until the choices change; NULL: none. */
const struct matmul_choice *matmul_choices_find(const struct matmul_choices *choices,
                                                const char *device, const char *product);
void matmul_choices_release(struct matmul_choices *choices);

/* Reads the file; none there: no choices. Errors: as parse; STATUS_IO. */
enum status matmul_cache_read(struct matmul_choices *out, const char *path) IBOT_WARN_UNUSED;

/* Adds a choice to the file, or takes over the one that is there meanwhile: *choice is what the
 * file says. `wrong`: a choice that is there and will not do, which is replaced; or NULL. A file
 * that can't be read, or is no such file, is left alone. Errors: as read. */
enum status matmul_cache_keep(const char *path, struct matmul_choice *choice,
                              const struct matmul_choice *wrong) IBOT_WARN_UNUSED;

#endif
