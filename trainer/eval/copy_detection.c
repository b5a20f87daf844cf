#include "trainer/eval/copy_detection.h"

#include <math.h>

#include "proto/base/memory.h"
#include "trainer/eval/ranking.h"

static const double least_value = 1e-6;

/* ------------------------------------------------------------------------------ features */

void copy_feature(float *out, const float *tokens, int64_t length, int32_t width)
{
    for (int32_t j = 0; j < width; j++) {
        double sum = 0.0;
        for (int64_t t = 1; t < length; t++) {
            double value = (double)tokens[t * width + j];
            value = value < least_value ? least_value : value; /* what is no number stays so */
            sum += value * value * (value * value);
        }
        out[j] = tokens[j];
        out[width + j] = (float)sqrt(sqrt(sum / (double)(length - 1)));
    }
}

/* A batch on its way. */
struct buffers {
    uint8_t *rgb;   /* [batch, size, size, 3] */
    int64_t *which; /* [batch] */
    float *tokens;  /* [batch, length, width] */
    int64_t length; /* tokens of an image */
};

static enum status one_batch(struct feature_rows *rows, struct images *images,
                             struct inference *network, const struct buffers *b, int32_t n)
{
    const struct image_form form = {.fit = IMAGE_SQUASH, .size_px = network->size_px};
    const struct ibot_tokens out = {.tokens = b->tokens};

    for (int32_t i = 0; i < n; i++)
        b->which[i] = rows->done + i;
    TRY(images_read(images, b->rgb, b->which, n, &form));
    TRY(inference_tokens(network, b->rgb, n, &out));
#pragma omp parallel for schedule(static)
    for (int32_t i = 0; i < n; i++)
        copy_feature(rows->values + (rows->done + i) * rows->dim,
                     b->tokens + i * b->length * network->width, b->length, network->width);
    return STATUS_OK;
}

enum status copy_features(struct feature_rows *rows, struct images *images,
                          struct inference *network, const atomic_int *stop)
{
    size_t batch = (size_t)network->batch_size, size = (size_t)network->size_px;
    struct buffers b = {.length = (int64_t)network->grid * network->grid + 1};
    enum status status = STATUS_OK;

    CHECK(rows->n == images_n(images) && rows->dim == 2 * network->width);
    TRY_OUT(memory_alloc(&b.rgb, batch, 3 * size * size, "pictures"));
    TRY_OUT(memory_alloc(&b.which, batch, sizeof(*b.which), "pictures"));
    TRY_OUT(memory_alloc(&b.tokens, batch * (size_t)b.length,
                         (size_t)network->width * sizeof(float), "tokens"));
    while (rows->done < rows->n) {
        int64_t rest = rows->n - rows->done;
        int32_t n = rest < network->batch_size ? (int32_t)rest : network->batch_size;
        TRY_OUT(one_batch(rows, images, network, &b, n));
        TRY_OUT(feature_rows_add(rows, n, stop));
    }
out:
    memory_free(b.rgb);
    memory_free(b.which);
    memory_free(b.tokens);
    return status;
}

/* ------------------------------------------------------------------------------ evaluation */

/* Average precision of query i, whose ranking of `n` is `order`. */
static double score(const struct copydays *data, const struct copydays_block *block, int64_t i,
                    const int32_t *order, int64_t n)
{
    int64_t ranks[COPY_RANKS], n_found = 0, n_right = 0, n_originals = data->blocks[0].n;

    for (int64_t original = 0; original < n_originals; original++)
        n_right += copydays_is_copy(data, block, i, original);
    for (int64_t rank = 0; rank < n; rank++)
        if (order[rank] < n_originals && copydays_is_copy(data, block, i, order[rank]))
            ranks[n_found++] = rank;
    return average_precision(ranks, n_found, n_right);
}

enum status copy_evaluate(double *map, struct device *device, const struct op_table *ops,
                          const struct copydays *data, const float *queries, const float *database,
                          int64_t n_database, int32_t dim)
{
    int64_t k = n_database < COPY_RANKS ? n_database : COPY_RANKS, most = 0;
    size_t row = (size_t)dim * sizeof(float), hit = (size_t)k * sizeof(int32_t);
    void *d_database = NULL, *d_queries = NULL, *d_values = NULL, *d_order = NULL;
    enum status status = STATUS_OK;
    int32_t *order = NULL;

    for (int32_t b = 0; b < data->n_blocks; b++)
        most = data->blocks[b].n > most ? data->blocks[b].n : most;
    TRY_OUT(device->alloc(device, &d_database, (size_t)n_database * row, "originals"));
    TRY_OUT(device->alloc(device, &d_queries, (size_t)most * row, "copies"));
    TRY_OUT(device->alloc(device, &d_values, (size_t)most * hit, "rankings"));
    TRY_OUT(device->alloc(device, &d_order, (size_t)most * hit, "rankings"));
    TRY_OUT(memory_alloc(&order, (size_t)most, hit, "rankings"));
    TRY_OUT(device->copy_in(device, d_database, database, (size_t)n_database * row));
    for (int32_t b = 0; b < data->n_blocks; b++) {
        const struct copydays_block *block = &data->blocks[b];
        const struct topk_args topk = {
            .query = tensor_2d(d_queries, DTYPE_F32, block->n, dim),
            .bank = tensor_2d(d_database, DTYPE_F32, n_database, dim),
            .value = tensor_2d(d_values, DTYPE_F32, block->n, k),
            .index = tensor_2d(d_order, DTYPE_I32, block->n, k),
        };
        TRY_OUT(device->copy_in(device, d_queries, queries + block->first * dim,
                                (size_t)block->n * row));
        TRY_OUT(ops->topk(device, &topk));
        TRY_OUT(device->copy_out(device, order, d_order, (size_t)block->n * hit));
        TRY_OUT(device->synchronize(device));
        map[b] = 0.0;
        for (int64_t i = 0; i < block->n; i++)
            map[b] += score(data, block, i, order + i * k, k);
        map[b] /= (double)block->n;
    }
out:
    device->free(device, d_database);
    device->free(device, d_queries);
    device->free(device, d_values);
    device->free(device, d_order);
    memory_free(order);
    return status;
}
