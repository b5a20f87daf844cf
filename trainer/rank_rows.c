#include "trainer/rank_rows.h"

#include <string.h>

#include "proto/base/memory.h"

static const size_t piece_bytes = 4 << 20; /* of each rank, at a time */

/* Own rows of a piece that begins with row `first`; those that there are not are left as they were.
 */
static void pack(const struct collective *ranks, const char *rows, size_t row_bytes, int64_t n,
                 int64_t first, int64_t n_each, char *to)
{
    for (int64_t i = 0; i < n_each; i++) {
        int64_t row = first + i * ranks->world + ranks->rank;
        if (row < n)
            memcpy(to + (size_t)i * row_bytes, rows + (size_t)row * row_bytes, row_bytes);
    }
}

static void unpack(const struct collective *ranks, char *rows, size_t row_bytes, int64_t n,
                   int64_t first, int64_t n_each, const char *from)
{
    for (int64_t r = 0; r < ranks->world; r++)
        for (int64_t i = 0; i < n_each; i++) {
            int64_t row = first + i * ranks->world + r;
            if (row < n)
                memcpy(rows + (size_t)row * row_bytes, from + (size_t)(r * n_each + i) * row_bytes,
                       row_bytes);
        }
}

enum status rank_gather_rows(struct collective *ranks, void *rows, size_t row_bytes, int64_t n)
{
    int64_t world = ranks->world, most = (n + world - 1) / world;
    int64_t n_each = row_bytes < piece_bytes ? (int64_t)(piece_bytes / row_bytes) : 1;
    char *own = NULL, *all = NULL;
    enum status status;

    if (world == 1 || n == 0)
        return STATUS_OK;
    n_each = n_each < most ? n_each : most;
    TRY_OUT(memory_alloc(&own, (size_t)n_each, row_bytes, "rows of this rank"));
    TRY_OUT(memory_alloc(&all, (size_t)(n_each * world), row_bytes, "rows of all ranks"));
    for (int64_t first = 0; first < n; first += n_each * world) {
        pack(ranks, rows, row_bytes, n, first, n_each, own);
        TRY_OUT(ranks->all_gather(ranks, all, own, (size_t)n_each * row_bytes));
        unpack(ranks, rows, row_bytes, n, first, n_each, all);
    }
out:
    memory_free(own);
    memory_free(all);
    return status;
}

void rank_share(const struct collective *ranks, int64_t n, int64_t *first, int64_t *end)
{
    *first = n * ranks->rank / ranks->world;
    *end = n * (ranks->rank + 1) / ranks->world;
}
