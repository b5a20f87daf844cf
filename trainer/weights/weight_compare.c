/* Comparing by name, shape, type and value. */
#include "trainer/weights/weight_compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

static int by_name(const void *left, const void *right)
{
    const struct weight_named *a = left, *b = right;
    return strcmp(a->name, b->name);
}

static void measure(struct weight_comparison *c, const void *a, const void *b, double tolerance)
{
    double limit;

    for (int64_t i = 0; i < c->n_values; i++) {
        double value = fabs(weight_dtype_value(a, c->a->dtype, (size_t)i));
        c->largest = value > c->largest ? value : c->largest;
    }
    limit = tolerance * c->largest;
    for (int64_t i = 0; i < c->n_values; i++) {
        double x = weight_dtype_value(a, c->a->dtype, (size_t)i);
        double y = weight_dtype_value(b, c->b->dtype, (size_t)i);
        if (x == y || (isnan(x) && isnan(y)))
            continue;
        double difference = isnan(x) || isnan(y) ? INFINITY : fabs(x - y);
        c->n_different += difference > limit;
        c->largest_difference = fmax(c->largest_difference, difference);
    }
}

static enum status compare_pair(struct weight_comparison *c, const struct weight_set *a,
                                const struct weight_set *b, double tolerance)
{
    enum status status = STATUS_OK;
    void *first = NULL, *second = NULL;

    c->kind = WEIGHT_SHAPE_DIFFERS;
    if (c->a->rank != c->b->rank ||
        memcmp(c->a->shape, c->b->shape, (size_t)c->a->rank * sizeof(int64_t)) != 0)
        return STATUS_OK;
    c->n_values = 1;
    for (int32_t i = 0; i < c->a->rank; i++)
        c->n_values *= c->a->shape[i];
    TRY_OUT(memory_alloc_unset(&first, c->a->n_bytes, 1, c->name));
    TRY_OUT(memory_alloc_unset(&second, c->b->n_bytes, 1, c->name));
    TRY_OUT(weight_file_read(a->file, c->a, first));
    TRY_OUT(weight_file_read(b->file, c->b, second));
    measure(c, first, second, tolerance);
    bool same = c->n_different == 0 && strcmp(c->a->type, c->b->type) == 0;
    c->kind = same ? WEIGHT_SAME : WEIGHT_VALUES_DIFFER;
out:
    memory_free(first);
    memory_free(second);
    return status;
}

enum status weight_compare(struct weight_set *a, struct weight_set *b, double tolerance,
                           void (*tell)(const struct weight_comparison *, void *), void *context)
{
    size_t i = 0, j = 0;

    if (a->n > 1)
        qsort(a->tensors, a->n, sizeof(*a->tensors), by_name);
    if (b->n > 1)
        qsort(b->tensors, b->n, sizeof(*b->tensors), by_name);
    while (i < a->n || j < b->n) {
        int order = i == a->n ? 1 : j == b->n ? -1 : strcmp(a->tensors[i].name, b->tensors[j].name);
        struct weight_comparison c = {
            .kind = order < 0 ? WEIGHT_ONLY_A : WEIGHT_ONLY_B,
            .name = order <= 0 ? a->tensors[i].name : b->tensors[j].name,
            .a = order <= 0 ? a->tensors[i].entry : NULL,
            .b = order >= 0 ? b->tensors[j].entry : NULL,
        };
        if (order == 0)
            TRY(compare_pair(&c, a, b, tolerance));
        tell(&c, context);
        i += order <= 0;
        j += order >= 0;
    }
    return STATUS_OK;
}
