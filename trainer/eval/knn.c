/* k-NN: neighbours by the top-k op, votes on the host, in blocks of test rows. */
#include "trainer/eval/knn.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

enum { BLOCK = 1024 }; /* test rows at a time */

struct knn_work {
    float *train, *query, *value; /* device */
    int32_t *index;               /* device */
    float *host_value;
    int32_t *host_index;
    double *votes; /* [n_classes] */
};

/* How many classes beat that of the label: 0 means the vote is right. Votes that are not numbers
 * are never right. */
static int32_t rank_of(const double *votes, int32_t n_classes, int32_t label)
{
    int32_t rank = 0;

    for (int32_t c = 0; c < n_classes; c++)
        rank += !(votes[label] > votes[c] || (votes[label] == votes[c] && label <= c));
    return rank;
}

static void vote(const struct knn_args *args, const struct knn_work *work, int64_t row, int64_t at,
                 int32_t k_max)
{
    for (int32_t r = 0; r < args->n_results; r++) {
        struct knn_result *result = &args->results[r];
        const float *value = work->host_value + at * k_max;
        const int32_t *index = work->host_index + at * k_max;
        memset(work->votes, 0, (size_t)args->n_classes * sizeof(double));
        for (int32_t j = 0; j < result->k; j++) /* shares of the nearest one's: none overflows */
            work->votes[args->train_labels[index[j]]] +=
                exp(((double)value[j] - (double)value[0]) / (double)args->temperature);
        int32_t rank = rank_of(work->votes, args->n_classes, args->test_labels[row]);
        result->top1 += rank < 1;
        result->top5 += rank < 5;
    }
}

static enum status classify_block(struct device *device, const struct op_table *ops,
                                  const struct knn_args *args, const struct knn_work *work,
                                  int64_t first, int64_t n, int32_t k_max)
{
    size_t hits = (size_t)n * (size_t)k_max;
    struct topk_args topk = {
        .query = tensor_2d(work->query, DTYPE_F32, n, args->dim),
        .bank = tensor_2d(work->train, DTYPE_F32, args->n_train, args->dim),
        .value = tensor_2d(work->value, DTYPE_F32, n, k_max),
        .index = tensor_2d(work->index, DTYPE_I32, n, k_max),
    };

    TRY(device->copy_in(device, work->query, args->test + first * args->dim,
                        (size_t)(n * args->dim) * sizeof(float)));
    TRY(ops->topk(device, &topk));
    TRY(device->copy_out(device, work->host_value, work->value, hits * sizeof(float)));
    TRY(device->copy_out(device, work->host_index, work->index, hits * sizeof(int32_t)));
    TRY(device->synchronize(device));
    for (int64_t i = 0; i < n; i++)
        vote(args, work, first + i, i, k_max);
    return STATUS_OK;
}

enum status knn_classify(struct device *device, const struct op_table *ops,
                         const struct knn_args *args)
{
    size_t train = (size_t)args->n_train * (size_t)args->dim, dim = (size_t)args->dim;
    struct knn_work work = {0};
    int32_t k_max = 1;
    enum status status;

    for (int32_t r = 0; r < args->n_results; r++) {
        struct knn_result *result = &args->results[r];
        if (result->k < 1 || result->k > args->n_train)
            FAIL(STATUS_INVALID,
                 "k-NN with k = %d: wanted 1 to %lld, the number of training images", result->k,
                 (long long)args->n_train);
        k_max = result->k > k_max ? result->k : k_max;
        result->top1 = result->top5 = 0;
    }
    size_t hits = BLOCK * (size_t)k_max;
    TRY_OUT(device->alloc(device, (void **)&work.train, train * sizeof(float), "k-NN features"));
    TRY_OUT(
        device->alloc(device, (void **)&work.query, BLOCK * dim * sizeof(float), "k-NN queries"));
    TRY_OUT(device->alloc(device, (void **)&work.value, hits * sizeof(float), "k-NN hits"));
    TRY_OUT(device->alloc(device, (void **)&work.index, hits * sizeof(int32_t), "k-NN hits"));
    TRY_OUT(memory_alloc(&work.host_value, hits, sizeof(float), "k-NN hits"));
    TRY_OUT(memory_alloc(&work.host_index, hits, sizeof(int32_t), "k-NN hits"));
    TRY_OUT(memory_alloc(&work.votes, (size_t)args->n_classes, sizeof(double), "k-NN votes"));
    TRY_OUT(device->copy_in(device, work.train, args->train, train * sizeof(float)));
    for (int64_t first = 0; first < args->n_test; first += BLOCK) {
        int64_t n = args->n_test - first < BLOCK ? args->n_test - first : BLOCK;
        if (args->stop != NULL && atomic_load(args->stop) != 0)
            FAIL_OUT(STATUS_INTERRUPTED, "interrupted");
        TRY_OUT(classify_block(device, ops, args, &work, first, n, k_max));
    }
out:
    device->free(device, work.train);
    device->free(device, work.query);
    device->free(device, work.value);
    device->free(device, work.index);
    memory_free(work.host_value);
    memory_free(work.host_index);
    memory_free(work.votes);
    return status;
}
