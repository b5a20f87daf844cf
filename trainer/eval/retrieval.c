#include "trainer/eval/retrieval.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/images.h"

enum { CHUNK = 16 }; /* images that are decoded together */

const char *const retrieval_protocol_names[PROTOCOLS] = {"easy", "medium", "hard"};

/* ------------------------------------------------------------------------------ sizes */

/* Between which two inputs output i lies. */
struct between {
    int32_t first, second;
    float share; /* of the second */
};

static struct between between_at(int32_t i, int32_t n, float step)
{
    float at = step * ((float)i + 0.5f) - 0.5f;
    struct between b = {.share = 0.0f};

    at = at < 0.0f ? 0.0f : at;
    b.first = (int32_t)at < n - 1 ? (int32_t)at : n - 1;
    b.second = b.first + (b.first < n - 1);
    b.share = at - (float)b.first;
    return b;
}

void planes_shrink(float *out, int32_t *out_height, int32_t *out_width, const float *in,
                   int32_t height, int32_t width, double scale)
{
    int32_t rows = (int32_t)floor(height * scale), columns = (int32_t)floor(width * scale);
    float step = (float)(1.0 / scale);

    CHECK(scale < 1.0);
    *out_height = rows;
    *out_width = columns;
#pragma omp parallel for schedule(static)
    for (int32_t i = 0; i < 3 * rows; i++) {
        struct between y = between_at(i % rows, height, step);
        const float *plane = in + (int64_t)(i / rows) * height * width;
        const float *above = plane + (int64_t)y.first * width;
        const float *below = plane + (int64_t)y.second * width;
        for (int32_t j = 0; j < columns; j++) {
            struct between x = between_at(j, width, step);
            float left = 1.0f - x.share, up = 1.0f - y.share;
            out[(int64_t)i * columns + j] =
                up * (left * above[x.first] + x.share * above[x.second]) +
                y.share * (left * below[x.first] + x.share * below[x.second]);
        }
    }
}

/* ------------------------------------------------------------------------------ features */

struct buffers {
    uint8_t *rgb;             /* [CHUNK, size * size, 3] */
    float *normal, *shrunken; /* [3, size * size] */
    float *features;          /* [dim] */
};

static void buffers_release(struct buffers *b)
{
    memory_free(b->rgb);
    memory_free(b->normal);
    memory_free(b->shrunken);
    memory_free(b->features);
}

static enum status buffers_make(struct buffers *b, const struct retrieval_features *o)
{
    size_t picture = 3 * (size_t)o->most_px * (size_t)o->most_px;

    TRY(memory_alloc(&b->rgb, CHUNK, picture, "pictures"));
    TRY(memory_alloc(&b->normal, picture, sizeof(float), "pictures"));
    TRY(memory_alloc(&b->shrunken, picture, sizeof(float), "pictures"));
    return memory_alloc(&b->features, (size_t)o->model->dim, sizeof(float), "features");
}

static enum status add_features(struct feature_model *model, const struct buffers *b,
                                const float *picture, int32_t height, int32_t width, float *row)
{
    struct tensor pixels;

    TRY(inference_reshape(&model->network, height, width));
    TRY(inference_upload(&model->network, picture, DTYPE_F32, 1, &pixels));
    TRY(ibot_features(model->network.ibot, pixels, &model->options, b->features));
    for (int32_t i = 0; i < model->dim; i++)
        row[i] += b->features[i];
    return STATUS_OK;
}

static enum status one_image(const struct retrieval_features *o, const struct buffers *b,
                             const uint8_t *rgb, struct image_size size, float *row)
{
    static const double scales[RETRIEVAL_SCALES] = {1.0, 0.70710678118654752440, 0.5};
    int32_t n = o->multiscale ? RETRIEVAL_SCALES : 1, dim = o->model->dim, height, width;

    memset(row, 0, (size_t)dim * sizeof(*row));
    ibot_normalise(b->normal, rgb, (int64_t)size.width * size.height);
    TRY(add_features(o->model, b, b->normal, size.height, size.width, row));
    for (int32_t s = 1; s < n; s++) {
        planes_shrink(b->shrunken, &height, &width, b->normal, size.height, size.width, scales[s]);
        TRY(add_features(o->model, b, b->shrunken, height, width, row));
    }
    features_unit_length(row, dim); /* of the sum, as of the mean */
    return STATUS_OK;
}

enum status retrieval_features(struct feature_rows *rows, const struct image_paths *paths,
                               const struct retrieval_features *o)
{
    int32_t size = o->most_px;
    size_t picture = 3 * (size_t)size * (size_t)size;
    struct image_size sizes[CHUNK];
    struct images *images = NULL;
    struct buffers b = {0};
    enum status status = STATUS_OK;
    int64_t which[CHUNK];

    CHECK(rows->n == (int64_t)paths->n && rows->dim == o->model->dim);
    if (rows->done == rows->n)
        return STATUS_OK;
    TRY_OUT(images_open(&images, (const char *const *)paths->paths, (int)paths->n, o->n_threads));
    CHECK(images_n(images) == rows->n);
    TRY_OUT(buffers_make(&b, o));
    while (rows->done < rows->n) {
        int64_t first = rows->done, rest = rows->n - first;
        int32_t n = rest < CHUNK ? (int32_t)rest : CHUNK;
        for (int32_t i = 0; i < n; i++)
            which[i] = first + i;
        TRY_OUT(images_read_thumbnails(images, b.rgb, sizes, which, n, size,
                                       o->boxes != NULL ? o->boxes + first : NULL));
        for (int32_t i = 0; i < n; i++) {
            TRY_OUT(one_image(o, &b, b.rgb + (size_t)i * picture, sizes[i],
                              rows->values + (first + i) * rows->dim));
            TRY_OUT(feature_rows_add(rows, 1, o->stop));
        }
    }
out:
    images_close(&images);
    buffers_release(&b);
    return status;
}

/* ------------------------------------------------------------------------------ evaluation */

static void mark(uint8_t *relevance, const struct retrieval_query *query, enum retrieval_list list,
                 enum relevance what)
{
    for (int32_t i = 0; i < query->n[list]; i++)
        relevance[query->images[list][i]] = (uint8_t)what;
}

/* Junk first: an image that is in both lists is right to be found no less. */
static void mark_all(uint8_t *relevance, int32_t n, const struct retrieval_query *query,
                     enum retrieval_protocol protocol)
{
    memset(relevance, RANK_WRONG, (size_t)n);
    mark(relevance, query, RETRIEVAL_JUNK, RANK_JUNK);
    if (protocol == PROTOCOL_EASY)
        mark(relevance, query, RETRIEVAL_HARD, RANK_JUNK);
    if (protocol == PROTOCOL_HARD)
        mark(relevance, query, RETRIEVAL_EASY, RANK_JUNK);
    if (protocol != PROTOCOL_HARD)
        mark(relevance, query, RETRIEVAL_EASY, RANK_RIGHT);
    if (protocol != PROTOCOL_EASY)
        mark(relevance, query, RETRIEVAL_HARD, RANK_RIGHT);
}

enum status retrieval_evaluate(struct retrieval_score out[PROTOCOLS],
                               const struct retrieval_truth *truth, const float *database,
                               const float *queries, int32_t dim, const int32_t *ks, int32_t n_ks)
{
    size_t n = (size_t)truth->n_images;
    enum status status = STATUS_OK;
    struct ranking_score score;
    uint8_t *relevance = NULL;
    float *products = NULL;
    int32_t *order = NULL;

    memset(out, 0, PROTOCOLS * sizeof(*out));
    TRY_OUT(memory_alloc(&relevance, n, 1, "relevance"));
    TRY_OUT(memory_alloc(&products, n, sizeof(*products), "similarities"));
    TRY_OUT(memory_alloc(&order, n, sizeof(*order), "a ranking"));
    for (int32_t q = 0; q < truth->n_queries; q++) {
        ranking_order(order, products, queries + (int64_t)q * dim, database, truth->n_images, dim);
        for (int p = 0; p < PROTOCOLS; p++) {
            mark_all(relevance, truth->n_images, &truth->queries[q], (enum retrieval_protocol)p);
            if (!ranking_score(&score, order, relevance, truth->n_images, ks, n_ks))
                continue;
            out[p].n_queries++;
            out[p].map += score.average_precision;
            for (int32_t k = 0; k < n_ks; k++)
                out[p].precision[k] += score.precision[k];
        }
    }
    for (int p = 0; p < PROTOCOLS; p++) {
        double of = out[p].n_queries > 0 ? (double)out[p].n_queries : (double)NAN;
        out[p].map /= of;
        for (int32_t k = 0; k < n_ks; k++)
            out[p].precision[k] /= of;
    }
out:
    memory_free(relevance);
    memory_free(products);
    memory_free(order);
    return status;
}
