#include "trainer/eval/ranking.h"

#include <stdlib.h>

/* Trapezoid between the points before and after the right one number `found` at `rank`. */
static double trapezoid(int64_t found, int64_t rank, int64_t n_right)
{
    double before = rank == 0 ? 1.0 : (double)found / (double)rank;
    double after = (double)(found + 1) / (double)(rank + 1);

    return (before + after) / (2.0 * (double)n_right);
}

double average_precision(const int64_t *ranks, int64_t n_found, int64_t n_right)
{
    double area = 0.0;

    for (int64_t i = 0; i < n_found; i++)
        area += trapezoid(i, ranks[i], n_right);
    return area;
}

bool ranking_score(struct ranking_score *out, const int32_t *order, const uint8_t *relevance,
                   int64_t n, const int32_t *ks, int32_t n_ks)
{
    int64_t n_right = 0, found = 0, rank = 0, last = 0, within[RANKING_MAX_K] = {0};

    *out = (struct ranking_score){0};
    for (int64_t i = 0; i < n; i++)
        n_right += relevance[i] == RANK_RIGHT;
    for (int64_t i = 0; i < n; i++) {
        uint8_t what = relevance[order[i]];
        if (what == RANK_JUNK)
            continue;
        if (what == RANK_RIGHT) {
            out->average_precision += trapezoid(found++, rank, n_right);
            last = rank + 1;
            for (int32_t j = 0; j < n_ks; j++)
                within[j] += rank < ks[j];
        }
        rank++;
    }
    for (int32_t j = 0; j < n_ks && n_right > 0; j++)
        out->precision[j] = (double)within[j] / (double)(last < ks[j] ? last : ks[j]);
    return n_right > 0;
}

static int by_product(const void *a, const void *b, void *context)
{
    const float *products = context;
    int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;

    if (products[left] != products[right])
        return products[left] > products[right] ? -1 : 1;
    return left < right ? -1 : left > right;
}

void ranking_order(int32_t *order, float *products, const float *query, const float *database,
                   int64_t n, int32_t dim)
{
    for (int64_t i = 0; i < n; i++) {
        const float *row = database + i * dim;
        double sum = 0.0;
#pragma omp simd reduction(+ : sum)
        for (int32_t j = 0; j < dim; j++)
            sum += (double)query[j] * (double)row[j];
        products[i] = (float)sum;
        order[i] = (int32_t)i;
    }
    qsort_r(order, (size_t)n, sizeof(*order), by_product, products);
}
