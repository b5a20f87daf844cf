/* Rows of which each rank has made every so-manieth, as it is given its samples: all of them, on
 * every rank. */
#ifndef IBOT_TRAINER_RANK_ROWS_H
#define IBOT_TRAINER_RANK_ROWS_H

#include "ops/collective.h"

/* rows [n, row_bytes], host memory: in, rows rank, rank + world, … of this rank; out, all. Every
 * rank calls it with the same n and row_bytes. Errors: STATUS_NO_MEMORY, those of all_gather. */
enum status rank_gather_rows(struct collective *ranks, void *rows, size_t row_bytes,
                             int64_t n) IBOT_WARN_UNUSED;

/* The share of this rank where any would do: rows *first to *end - 1. */
void rank_share(const struct collective *ranks, int64_t n, int64_t *first, int64_t *end);

#endif
