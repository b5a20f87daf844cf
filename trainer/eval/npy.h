/* Masks in NumPy's .npy files, as the backgrounds challenge has them: one array [side, side] of
 * truth values or numbers, 0 outside. */
#ifndef IBOT_TRAINER_EVAL_NPY_H
#define IBOT_TRAINER_EVAL_NPY_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { NPY_MAX_SIDE = 4096 };

/* mask [side, side] out: 1 where the value is not 0. Booleans and integers of up to 64 bits and
 * float32 and float64, of either byte order, in C or Fortran order. `name` is for messages. Errors:
 * STATUS_CORRUPT (what is wrong with the file), STATUS_UNSUPPORTED (another type), STATUS_MISMATCH
 * (another shape). */
enum status npy_mask(uint8_t *mask, int32_t side, const void *bytes, size_t n_bytes,
                     const char *name) IBOT_WARN_UNUSED;

/* The same of a file. Errors: STATUS_NOT_FOUND and STATUS_IO too. */
enum status npy_mask_read(uint8_t *mask, int32_t side, const char *path) IBOT_WARN_UNUSED;

#endif
