/* Features: the model from a checkpoint, the images from local loaders. */
#include "trainer/eval/features.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ops/rank_monitor.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/checkpoint.h"
#include "trainer/rank_agreement.h"
#include "trainer/rank_rows.h"

/* Limits of a file of features. */
enum { MAX_DIM = 1 << 24, MAX_CLASSES = 1 << 24 };

/* ------------------------------------------------------------------------------ model */

enum status feature_model_open(struct feature_model *out, struct backend *backend,
                               const struct feature_model_options *o)
{
    struct inference_options options = {
        .weights = o->weights,
        .batch_size = o->batch_size,
        .size_px = o->crop_size_px,
        .precision = o->precision,
        .gelu_tanh = o->gelu_tanh,
    };

    memset(out, 0, sizeof(*out));
    TRY(inference_open(&out->network, backend, &options));
    out->options = o->features;
    out->dim = ibot_feature_dim(out->network.ibot, &out->options);
    return STATUS_OK;
}

void feature_model_close(struct feature_model *model)
{
    if (model != NULL)
        inference_close(&model->network);
}

/* ------------------------------------------------------------------------------ data */

void features_unit_length(float *row, int32_t dim)
{
    double squares = 0.0;

    for (int32_t i = 0; i < dim; i++)
        squares += (double)row[i] * (double)row[i];
    double factor = 1.0 / fmax(sqrt(squares), 1e-12);
    for (int32_t i = 0; i < dim; i++)
        row[i] = (float)(row[i] * factor);
}

bool features_are_finite(const float *row, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(row[i]))
            return false;
    return true;
}

/* Features of the images of a batch, each to its place in `out`. `rows`: room for a batch.
 * Positions behind the last image are the first ones once more: they are left out. */
static enum status take_batch(struct features *out, const struct feature_model *model,
                              bool unit_length, const struct batch *batch, struct tensor pixels,
                              float *rows)
{
    int64_t n = 0;

    while (n < batch->n_samples && (int64_t)batch->samples[n].position < out->n)
        n++;
    if (n == 0)
        return STATUS_OK;
    pixels.shape[0] = n;
    TRY(ibot_features(model->network.ibot, pixels, &model->options, rows));
    for (int64_t i = 0; i < n; i++) {
        float *row = rows + i * out->dim;
        int64_t at = (int64_t)batch->samples[i].position;
        if (unit_length)
            features_unit_length(row, out->dim);
        if (!features_are_finite(row, out->dim))
            FAIL(STATUS_NOT_FINITE,
                 "the features of image %lld are not finite: the weights are broken, or too "
                 "large for --precision",
                 (long long)at);
        memcpy(out->values + at * out->dim, row, (size_t)out->dim * sizeof(float));
        out->labels[at] = batch->samples[i].label;
    }
    return STATUS_OK;
}

/* Those of this rank, n_own of them. */
static enum status take_batches(struct features *out, const struct feature_model *model,
                                bool unit_length, struct receiver *receiver, int64_t n_own)
{
    struct collective *ranks = &model->network.backend->collective;
    struct ibot_input input;
    struct batch *batch;
    float *rows = NULL;
    enum status status;
    char line[80];

    TRY(memory_alloc(&rows, (size_t)model->network.batch_size * (size_t)out->dim, sizeof(float),
                     "features"));
    for (int64_t seen = 0; seen < n_own; seen += batch->n_samples) {
        ranks->progress(ranks, seen, RANK_WAITS_FOR_DATA);
        TRY_OUT(receiver_next(receiver, &batch, &input));
        ranks->progress(ranks, seen, "computes features");
        TRY_OUT(take_batch(out, model, unit_length, batch, input.globals, rows));
        snprintf(line, sizeof(line), "features: %lld of %lld images",
                 (long long)(seen + batch->n_samples), (long long)n_own);
        log_status_line(line);
    }
    log_status_line(NULL);
out:
    memory_free(rows);
    return status;
}

/* `status`: how this rank has fared with its own. */
static enum status gather(struct features *out, struct collective *ranks, enum status status)
{
    struct rank_word word = {0};

    TRY(rank_agree(ranks, status, &word));
    ranks->progress(ranks, out->n, "gathers features");
    TRY(rank_gather_rows(ranks, out->values, (size_t)out->dim * sizeof(float), out->n));
    return rank_gather_rows(ranks, out->labels, sizeof(int32_t), out->n);
}

enum status features_compare_images(struct collective *ranks, const struct dataset_info *dataset,
                                    const struct data_spec *spec)
{
    char text[80];

    snprintf(text, sizeof(text), "%016llx as %016llx", (unsigned long long)dataset->index_digest,
             (unsigned long long)data_spec_digest(spec));
    return rank_compare(ranks, "the images", text, "give all ranks the same data and crops");
}

enum status features_compute(struct features *out, const struct feature_model *model,
                             const struct feature_data_options *o, const atomic_int *stop)
{
    struct collective *ranks = &model->network.backend->collective;
    struct receiver_options options = {
        .spec = data_spec_centre_crop(o->resize_px, model->network.size_px),
        .batch_size = model->network.batch_size,
        .slice_size = model->network.batch_size < 32 ? model->network.batch_size : 32,
        .prefetch = 4,
        .rank = ranks->rank,
        .world = ranks->world,
        .data = o->data,
        .n_loaders = o->n_loaders,
        .loader_threads = o->loader_threads,
    };
    struct receiver receiver = {0};
    struct dataset_info dataset;
    enum status status;

    memset(out, 0, sizeof(*out));
    options.spec.bad_image_policy = BAD_IMAGE_FAIL;
    TRY(data_spec_check(&options.spec));
    TRY(receiver_open(&receiver, &model->network.backend->device, &options, stop));
    TRY_OUT(receiver_dataset(&receiver, &dataset));
    TRY_OUT(features_compare_images(ranks, &dataset, &options.spec));
    out->n = (int64_t)dataset.n_samples;
    out->dim = model->dim;
    out->n_classes = dataset.n_classes;
    TRY_OUT(memory_alloc(&out->values, dataset.n_samples * (size_t)model->dim, sizeof(float),
                         "features"));
    TRY_OUT(memory_alloc(&out->labels, dataset.n_samples, sizeof(int32_t), "labels"));
    TRY_OUT(consumer_start(receiver.consumer, 0, 1));
    int64_t n_own = (int64_t)data_spec_epoch_positions(&options.spec, dataset.n_samples,
                                                       (uint32_t)ranks->world);
    TRY_OUT(gather(out, ranks, take_batches(out, model, o->unit_length, &receiver, n_own)));
out:
    receiver_close(&receiver);
    if (status != STATUS_OK)
        features_release(out);
    return status;
}

/* ------------------------------------------------------------------------------ files */

enum status features_write(const struct features *features, const char *path)
{
    char classes[16];
    struct safetensors_item items[] = {
        {"values", tensor_2d(features->values, DTYPE_F32, features->n, features->dim)},
        {"labels", tensor_1d(features->labels, DTYPE_I32, features->n)},
    };
    const char *metadata[] = {"n_classes", classes};

    snprintf(classes, sizeof(classes), "%d", features->n_classes);
    return safetensors_write(path, items, 2, metadata, 1);
}

static enum status read_n_classes(int32_t *out, const char *text, const char *path)
{
    char *end;
    long n = strtol(text, &end, 10);

    if (end == text || *end != '\0' || n < 1 || n > MAX_CLASSES)
        FAIL(STATUS_CORRUPT, "%s: n_classes is '%.20s', wanted 1 to %d", path, text, MAX_CLASSES);
    *out = (int32_t)n;
    return STATUS_OK;
}

enum status features_read(struct features *out, const char *path)
{
    struct safetensors file;
    enum status status = STATUS_OK;

    memset(out, 0, sizeof(*out));
    TRY(safetensors_open(&file, path));
    const struct safetensors_entry *values = safetensors_find(&file, "values");
    const struct safetensors_entry *labels = safetensors_find(&file, "labels");
    const char *classes = safetensors_metadata(&file, "n_classes");
    if (values == NULL || labels == NULL || classes == NULL || values->tensor.dtype != DTYPE_F32 ||
        labels->tensor.dtype != DTYPE_I32 || values->file_rank != 2 || labels->file_rank != 1 ||
        labels->file_shape[0] != values->file_shape[0] || values->file_shape[0] < 1 ||
        values->file_shape[1] < 1 || values->file_shape[1] > MAX_DIM)
        FAIL_OUT(STATUS_CORRUPT,
                 "%s: wanted 'values' [n, dim] F32, 'labels' [n] I32 and n_classes, "
                 "as --dump_features writes them",
                 path);
    out->n = values->file_shape[0];
    out->dim = (int32_t)values->file_shape[1];
    TRY_OUT(read_n_classes(&out->n_classes, classes, path));
    TRY_OUT(memory_alloc(&out->values, values->n_bytes, 1, "features"));
    TRY_OUT(memory_alloc(&out->labels, labels->n_bytes, 1, "labels"));
    memcpy(out->values, values->tensor.data, values->n_bytes);
    memcpy(out->labels, labels->tensor.data, labels->n_bytes);
    for (int64_t i = 0; i < out->n; i++)
        if (out->labels[i] < 0 || out->labels[i] >= out->n_classes)
            FAIL_OUT(STATUS_CORRUPT, "%s: label %d of %d classes", path, out->labels[i],
                     out->n_classes);
    if (!features_are_finite(out->values, out->n * out->dim))
        FAIL_OUT(STATUS_NOT_FINITE, "%s: 'values' has some that are not finite", path);
out:
    safetensors_release(&file);
    if (status != STATUS_OK)
        features_release(out);
    return status;
}

void features_release(struct features *features)
{
    if (features == NULL)
        return;
    memory_free(features->values);
    memory_free(features->labels);
    memset(features, 0, sizeof(*features));
}

/* ------------------------------------------------------------------------------ both splits */

enum status features_write_both(const struct features *train, const struct features *test,
                                const char *folder)
{
    char path[CHECKPOINT_MAX_PATH];

    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", folder, strerror(errno));
    snprintf(path, sizeof(path), "%s/train.safetensors", folder);
    TRY(features_write(train, path));
    snprintf(path, sizeof(path), "%s/test.safetensors", folder);
    return features_write(test, path);
}

enum status features_read_both(struct features *train, struct features *test, const char *folder)
{
    char path[CHECKPOINT_MAX_PATH];

    memset(test, 0, sizeof(*test));
    snprintf(path, sizeof(path), "%s/train.safetensors", folder);
    if (access(path, F_OK) != 0)
        FAIL(STATUS_NOT_FOUND,
             "no features in '%s': %s; wanted train.safetensors and test.safetensors, as ibot-eval "
             "knn --dump_features keeps them",
             folder, strerror(errno));
    TRY(features_read(train, path));
    snprintf(path, sizeof(path), "%s/test.safetensors", folder);
    enum status status = features_read(test, path);
    if (status != STATUS_OK)
        features_release(train);
    return status;
}

enum status features_check_both(const struct features *train, const struct features *test)
{
    if (train->dim != test->dim || train->n_classes != test->n_classes)
        FAIL(STATUS_MISMATCH,
             "train has %d classes (features of %d), test %d (%d): wanted the same "
             "class folders in both",
             train->n_classes, train->dim, test->n_classes, test->dim);
    return STATUS_OK;
}
