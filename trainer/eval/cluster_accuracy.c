/* The assignment problem by shortest augmenting paths (the Hungarian method as Jonker and Volgenant
 * 1987 do it): rows are added one at a time, each by the cheapest path through what is assigned
 * already, with potentials that keep every reduced cost at 0 or above. Costs are whole numbers, so
 * the result is exact. */
#include "trainer/eval/cluster_accuracy.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

/* ------------------------------------------------------------------------------ the table */

static int compare_i32(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The numbers that occur, each once, in order. */
struct names {
    int32_t *numbers;
    int32_t n;
};

static enum status names_open(struct names *out, const int32_t *numbers, size_t n)
{
    TRY(memory_alloc(&out->numbers, n, sizeof(*numbers), "clusters"));
    if (n > 0)
        memcpy(out->numbers, numbers, n * sizeof(*numbers));
    qsort(out->numbers, n, sizeof(*numbers), compare_i32);
    for (size_t i = 0; i < n; i++)
        if (out->n == 0 || out->numbers[i] != out->numbers[out->n - 1])
            out->numbers[out->n++] = out->numbers[i];
    return STATUS_OK;
}

static int32_t place_of(const struct names *names, int32_t number)
{
    const int32_t *at =
        bsearch(&number, names->numbers, (size_t)names->n, sizeof(number), compare_i32);
    return (int32_t)(at - names->numbers);
}

/* ------------------------------------------------------------------------------ assignment */

/* Rows and columns are counted from 1; column 0 stands for the row that is being added. */
struct assignment {
    int32_t n_rows, n_columns; /* no more rows than columns */
    const int32_t *count;      /* [n_rows, n_columns]: to be made great, that is cost = -count */
    int64_t *row_potential, *column_potential, *distance; /* distance: of the path to a column */
    int32_t *row_of,
        *before; /* of each column: its row, 0: none; the column before it on the path */
    bool *reached;
};

static enum status assignment_open(struct assignment *a)
{
    size_t rows = (size_t)a->n_rows + 1, columns = (size_t)a->n_columns + 1;

    TRY(memory_alloc(&a->row_potential, rows, sizeof(int64_t), "assignment"));
    TRY(memory_alloc(&a->column_potential, columns, sizeof(int64_t), "assignment"));
    TRY(memory_alloc(&a->distance, columns, sizeof(int64_t), "assignment"));
    TRY(memory_alloc(&a->row_of, columns, sizeof(int32_t), "assignment"));
    TRY(memory_alloc(&a->before, columns, sizeof(int32_t), "assignment"));
    return memory_alloc(&a->reached, columns, sizeof(bool), "assignment");
}

static void assignment_release(struct assignment *a)
{
    void *parts[] = {a->row_potential, a->column_potential, a->distance,
                     a->row_of,        a->before,           a->reached};

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        memory_free(parts[i]);
}

/* Goes on from a reached column: shortens the paths to the others through its row, and returns the
 * nearest of these, by whose distance potentials are moved. */
static int32_t step_from(struct assignment *a, int32_t column)
{
    int32_t row = a->row_of[column], nearest = 0;
    const int32_t *count = a->count + (int64_t)(row - 1) * a->n_columns;
    int64_t least = INT64_MAX;

    for (int32_t j = 1; j <= a->n_columns; j++) {
        if (a->reached[j])
            continue;
        int64_t reduced = -(int64_t)count[j - 1] - a->row_potential[row] - a->column_potential[j];
        if (reduced < a->distance[j]) {
            a->distance[j] = reduced;
            a->before[j] = column;
        }
        if (a->distance[j] < least) {
            least = a->distance[j];
            nearest = j;
        }
    }
    for (int32_t j = 0; j <= a->n_columns; j++) {
        if (a->reached[j]) {
            a->row_potential[a->row_of[j]] += least;
            a->column_potential[j] -= least;
        } else {
            a->distance[j] -= least;
        }
    }
    return nearest;
}

static void add_row(struct assignment *a, int32_t row)
{
    int32_t column = 0;

    memset(a->reached, 0, ((size_t)a->n_columns + 1) * sizeof(bool));
    for (int32_t j = 0; j <= a->n_columns; j++)
        a->distance[j] = INT64_MAX / 2;
    a->row_of[0] = row;
    while (a->row_of[column] != 0) {
        a->reached[column] = true;
        column = step_from(a, column);
    }
    while (column != 0) { /* back along the path: each column takes the row of the one before */
        int32_t before = a->before[column];
        a->row_of[column] = a->row_of[before];
        column = before;
    }
}

enum status cluster_accuracy(int64_t *n_right, const int32_t *labels, const int32_t *clusters,
                             size_t n)
{
    struct names classes = {0}, groups = {0};
    struct assignment a = {0};
    int32_t *count = NULL;
    int64_t right = 0;
    enum status status;

    TRY_OUT(names_open(&classes, labels, n));
    TRY_OUT(names_open(&groups, clusters, n));
    bool classes_first = classes.n <= groups.n;
    a.n_rows = classes_first ? classes.n : groups.n;
    a.n_columns = classes_first ? groups.n : classes.n;
    TRY_OUT(memory_alloc(&count, (size_t)a.n_rows * (size_t)a.n_columns, sizeof(*count),
                         "samples of each class and cluster"));
    for (size_t i = 0; i < n; i++) {
        int32_t class = place_of(&classes, labels[i]), group = place_of(&groups, clusters[i]);
        count[(int64_t)(classes_first ? class : group) * a.n_columns +
              (classes_first ? group : class)]++;
    }
    a.count = count;
    TRY_OUT(assignment_open(&a));
    for (int32_t row = 1; row <= a.n_rows; row++)
        add_row(&a, row);
    for (int32_t j = 1; j <= a.n_columns; j++)
        if (a.row_of[j] != 0)
            right += count[(int64_t)(a.row_of[j] - 1) * a.n_columns + j - 1];
    *n_right = right;
out:
    assignment_release(&a);
    memory_free(count);
    memory_free(classes.numbers);
    memory_free(groups.numbers);
    return status;
}
