/* Features: the model from a checkpoint, the images from local loaders. */
#include "trainer/eval/features.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/checkpoint.h"

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

static enum status take_batches(struct features *out, const struct feature_model *model,
                                bool unit_length, struct receiver *receiver)
{
    struct ibot_input input;
    struct batch *batch;
    int64_t filled = 0;

    while (filled < out->n) {
        TRY(receiver_next(receiver, &batch, &input));
        CHECK(filled + batch->n_samples <= out->n);
        float *rows = out->values + filled * out->dim;
        TRY(ibot_features(model->network.ibot, input.globals, &model->options, rows));
        for (int32_t i = 0; i < batch->n_samples; i++) {
            if (unit_length)
                features_unit_length(rows + (int64_t)i * out->dim, out->dim);
            if (!features_are_finite(rows + (int64_t)i * out->dim, out->dim))
                FAIL(STATUS_NOT_FINITE,
                     "the features of image %lld are not finite: the weights are broken, or too "
                     "large for --precision",
                     (long long)(filled + i));
            out->labels[filled + i] = batch->samples[i].label;
        }
        filled += batch->n_samples;
        char line[80];
        snprintf(line, sizeof(line), "features: %lld of %lld images", (long long)filled,
                 (long long)out->n);
        log_status_line(line);
    }
    log_status_line(NULL);
    return STATUS_OK;
}

enum status features_compute(struct features *out, const struct feature_model *model,
                             const struct feature_data_options *o, const atomic_int *stop)
{
    struct data_spec spec = data_spec_centre_crop(o->resize_px, model->network.size_px);
    struct receiver_options options = {
        .spec = spec,
        .batch_size = model->network.batch_size,
        .slice_size = model->network.batch_size < 32 ? model->network.batch_size : 32,
        .prefetch = 4,
        .world = 1,
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
    out->n = (int64_t)dataset.n_samples;
    out->dim = model->dim;
    out->n_classes = dataset.n_classes;
    TRY_OUT(memory_alloc(&out->values, dataset.n_samples * (size_t)model->dim, sizeof(float),
                         "features"));
    TRY_OUT(memory_alloc(&out->labels, dataset.n_samples, sizeof(int32_t), "labels"));
    TRY_OUT(consumer_start(receiver.consumer, 0, 1));
    TRY_OUT(take_batches(out, model, o->unit_length, &receiver));
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
