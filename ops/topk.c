/* Top-k on the CPU. Each thread has its share of the queries and walks over the bank: similarities
 * of a block of both by one product, single-threaded inside a parallel region, then a small heap
 * for each query. */
#include "ops/topk.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>

#include "ops/check.h"
#include "ops/cpu_scratch.h"

/* A block of similarities stays in the second-level cache. */
enum { QUERY_BLOCK = 128, BANK_BLOCK = 2048 };

/* Is (value, index) a worse hit than the other? NaN is worse than any number; of equal ones the
 * higher index is. */
static bool worse(float value_a, int32_t index_a, float value_b, int32_t index_b)
{
    if (value_a < value_b)
        return true;
    if (value_a > value_b)
        return false;
    bool nan_a = isnan(value_a), nan_b = isnan(value_b);
    return nan_a != nan_b ? nan_a : index_a > index_b;
}

/* Restores the heap (worst on top) below `at`. */
static void sift_down(float *value, int32_t *index, int64_t n, int64_t at)
{
    for (;;) {
        int64_t last = at;
        for (int64_t child = 2 * at + 1; child <= 2 * at + 2 && child < n; child++)
            if (worse(value[child], index[child], value[last], index[last]))
                last = child;
        if (last == at)
            return;
        float v = value[at];
        int32_t i = index[at];
        value[at] = value[last];
        index[at] = index[last];
        value[last] = v;
        index[last] = i;
        at = last;
    }
}

/* Offers bank rows first .. first+n-1, with these similarities, to the heap of a query. */
static void offer(float *value, int32_t *index, int64_t k, int64_t first, int64_t n,
                  const float *similarity)
{
    for (int64_t j = 0; j < n; j++) {
        int64_t row = first + j;
        if (row < k) { /* the first k rows fill the heap */
            value[row] = similarity[j];
            index[row] = (int32_t)row;
            if (row == k - 1)
                for (int64_t at = k / 2; at >= 0; at--)
                    sift_down(value, index, k, at);
        } else if (worse(value[0], index[0], similarity[j], (int32_t)row)) {
            value[0] = similarity[j];
            index[0] = (int32_t)row;
            sift_down(value, index, k, 0);
        }
    }
}

/* Heap to list, best first. */
static void sort_hits(float *value, int32_t *index, int64_t k)
{
    for (int64_t n = k - 1; n > 0; n--) {
        float v = value[0];
        int32_t i = index[0];
        value[0] = value[n];
        index[0] = index[n];
        value[n] = v;
        index[n] = i;
        sift_down(value, index, n, 0);
    }
}

/* The hits of queries q .. q + rows - 1; `block` holds their similarities. */
static void search(const struct topk_args *args, int64_t q, int64_t rows, float *block)
{
    int64_t d = args->query.shape[1], n_bank = args->bank.shape[0], k = args->value.shape[1];
    const float *query = (const float *)args->query.data + q * d, *bank = args->bank.data;
    float *value = (float *)args->value.data + q * k;
    int32_t *index = (int32_t *)args->index.data + q * k;

    for (int64_t first = 0; first < n_bank; first += BANK_BLOCK) {
        int64_t n = n_bank - first < BANK_BLOCK ? n_bank - first : BANK_BLOCK;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)n, (int)d, 1.0f, query,
                    (int)d, bank + first * d, (int)d, 0.0f, block, (int)n);
        for (int64_t i = 0; i < rows; i++)
            offer(value + i * k, index + i * k, k, first, n, block + i * n);
    }
    for (int64_t i = 0; i < rows; i++)
        sort_hits(value + i * k, index + i * k, k);
}

enum status topk_cpu(struct device *device, const struct topk_args *args)
{
    int64_t n_queries = args->query.shape[0], d = args->query.shape[1];
    int64_t n_bank = args->bank.shape[0], k = args->value.shape[1];
    int64_t n_threads = device->n_threads, n_blocks = (n_queries + QUERY_BLOCK - 1) / QUERY_BLOCK;
    float *blocks;

    CHECK_F32("topk", args->query);
    CHECK_F32("topk", args->bank);
    CHECK(args->bank.shape[1] == d && n_bank <= INT32_MAX && k >= 1 && k <= n_bank);
    CHECK(tensor_is_2d(&args->value, n_queries, k) && tensor_is_2d(&args->index, n_queries, k));
    n_blocks = (n_blocks + n_threads - 1) / n_threads * n_threads; /* as many for each thread */
    n_blocks = n_blocks < n_queries ? n_blocks : n_queries;
    TRY(cpu_scratch(device, &blocks, sizeof(float) * QUERY_BLOCK * BANK_BLOCK * (size_t)n_threads));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n_blocks; i++) {
        int64_t q = i * n_queries / n_blocks, end = (i + 1) * n_queries / n_blocks;
        search(args, q, end - q, blocks + (int64_t)omp_get_thread_num() * QUERY_BLOCK * BANK_BLOCK);
    }
    return STATUS_OK;
}
