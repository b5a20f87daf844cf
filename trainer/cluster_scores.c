/* Scores from the contingency table, which is never laid out: sorting (label, cluster) pairs gives
 * its non-zero cells as runs, and the row and column sums in the same way. Pair counts are exact
 * integers, as in scikit-learn; their products need 128 bits. */
#include "trainer/cluster_scores.h"

#include <math.h>
#include <stdlib.h>

#include "proto/base/memory.h"

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* A key that sorts like the number. */
static uint64_t key_of(int32_t number)
{
    return (uint32_t)number ^ 0x80000000u;
}

/* Sorts keys and turns them into the lengths of their runs; returns how many there are. Each run's
 * common key goes to `names` where that is not NULL. */
static size_t run_lengths(uint64_t *keys, uint64_t *names, size_t n)
{
    size_t n_runs = 0, start = 0;

    qsort(keys, n, sizeof(*keys), compare_u64);
    for (size_t i = 1; i <= n; i++) {
        if (i < n && keys[i] == keys[start])
            continue;
        if (names != NULL)
            names[n_runs] = keys[start];
        keys[n_runs++] = i - start; /* n_runs <= start: already read */
        start = i;
    }
    return n_runs;
}

static double entropy(const uint64_t *sums, size_t n_sums, double n)
{
    double result = 0;
    for (size_t i = 0; i < n_sums; i++)
        result -= (double)sums[i] / n * (log((double)sums[i]) - log(n));
    return result;
}

static uint64_t sum_of_squares(const uint64_t *sums, size_t n)
{
    uint64_t result = 0;
    for (size_t i = 0; i < n; i++)
        result += sums[i] * sums[i];
    return result;
}

/* Place of a key in a sorted list that has it. */
static size_t place_of(const uint64_t *names, size_t n, uint64_t key)
{
    size_t low = 0;
    while (n > 1) {
        size_t half = n / 2;
        if (names[low + half] <= key)
            low += half;
        n -= half;
    }
    return low;
}

/* The contingency table: cells (label key << 32 | cluster key, count), row and column sums. */
struct table {
    uint64_t *cells, *cell_names, *rows, *row_names, *columns, *column_names;
    size_t n_cells, n_rows, n_columns;
};

static double mutual_information(const struct table *table, double n)
{
    double result = 0;

    for (size_t i = 0; i < table->n_cells; i++) {
        uint64_t name = table->cell_names[i];
        double row = (double)table->rows[place_of(table->row_names, table->n_rows, name >> 32)];
        double column =
            (double)table->columns[place_of(table->column_names, table->n_columns, (uint32_t)name)];
        double cell = (double)table->cells[i];
        result += cell / n * (log(cell) + log(n) - log(row) - log(column));
    }
    return result > 0 ? result : 0;
}

static void scores_of(struct cluster_scores *out, const struct table *table, size_t n)
{
    __int128 tp = (__int128)sum_of_squares(table->cells, table->n_cells) - (__int128)n;
    __int128 same_row = (__int128)sum_of_squares(table->rows, table->n_rows) - (__int128)n;
    __int128 same_column = (__int128)sum_of_squares(table->columns, table->n_columns) - (__int128)n;
    __int128 fp = same_column - tp, fn = same_row - tp;
    __int128 tn = (__int128)n * (__int128)n - (__int128)n - tp - fp - fn;

    double information = mutual_information(table, (double)n);
    double entropies = (entropy(table->rows, table->n_rows, (double)n) +
                        entropy(table->columns, table->n_columns, (double)n)) /
                       2;
    if (table->n_rows == 1 && table->n_columns == 1)
        out->nmi = 1;
    else /* below the resolution of doubles there is no information (scikit-learn) */
        out->nmi = information <= 0x1p-52 ? 0 : information / entropies;
    /* n < 2^31, so that every count is below 2^62 and every product below 2^124 */
    if (fn == 0 && fp == 0)
        out->ari = 1;
    else
        out->ari = (double)(2.0L * (long double)(tp * tn - fn * fp) /
                            (long double)((tp + fn) * (fn + tn) + (tp + fp) * (fp + tn)));
    out->fmi =
        tp == 0 ? 0 : sqrt((double)tp / (double)same_column) * sqrt((double)tp / (double)same_row);
}

enum status cluster_scores_compute(struct cluster_scores *out, const int32_t *labels,
                                   const int32_t *clusters, size_t n)
{
    struct table table = {.n_cells = 0};
    enum status status = STATUS_OK;

    CHECK(n <= INT32_MAX, "%zu samples", n);
    if (n == 0) {
        *out = (struct cluster_scores){.nmi = 1, .ari = 1};
        return STATUS_OK;
    }
    TRY_OUT(memory_alloc(&table.cells, 6 * n, sizeof(uint64_t), "cluster scores"));
    table.cell_names = table.cells + n;
    table.rows = table.cells + 2 * n;
    table.row_names = table.cells + 3 * n;
    table.columns = table.cells + 4 * n;
    table.column_names = table.cells + 5 * n;
    for (size_t i = 0; i < n; i++) {
        table.rows[i] = key_of(labels[i]);
        table.columns[i] = key_of(clusters[i]);
        table.cells[i] = table.rows[i] << 32 | table.columns[i];
    }
    table.n_cells = run_lengths(table.cells, table.cell_names, n);
    table.n_rows = run_lengths(table.rows, table.row_names, n);
    table.n_columns = run_lengths(table.columns, table.column_names, n);
    scores_of(out, &table, n);
    out->n_classes = (int64_t)table.n_rows;
    out->n_clusters = (int64_t)table.n_columns;
out:
    memory_free(table.cells);
    return status;
}
