#include "tests/bench/samples.h"

#include <stdlib.h>

#include "proto/base/status.h"

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct quartiles samples_quartiles(double *values, int n)
{
    CHECK(n > 0, "no values");
    qsort(values, (size_t)n, sizeof(values[0]), ascending);
    return (struct quartiles){
        .least = values[0],
        .first = values[n / 4],
        .median = (values[(n - 1) / 2] + values[n / 2]) / 2.0,
        .third = values[3 * n / 4],
        .most = values[n - 1],
    };
}
