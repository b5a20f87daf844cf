/* Features of a data set by a trained backbone: images through the same loaders, as evaluation
 * crops, in index order. */
#ifndef IBOT_TRAINER_EVAL_FEATURES_H
#define IBOT_TRAINER_EVAL_FEATURES_H

#include <stdatomic.h>

#include "trainer/inference.h"
#include "trainer/receiver.h"

/* A network for evaluation: the backbone of any weights, in the place of the teacher's. */
struct feature_model {
    struct inference network;
    struct ibot_feature_options options;
    int32_t dim;
};

struct feature_model_options {
    struct pretrained_options weights;
    struct ibot_feature_options features;
    int32_t batch_size;
    int32_t crop_size_px; /* 0: the run's global crop size */
    enum ibot_precision precision;
    bool gelu_tanh;
};

/* Loads strictly; says in the log what was loaded. Errors: STATUS_NOT_FOUND, STATUS_MISMATCH. */
enum status feature_model_open(struct feature_model *out, struct backend *backend,
                               const struct feature_model_options *options) IBOT_WARN_UNUSED;
void feature_model_close(struct feature_model *model);

struct features {
    float *values;   /* [n, dim] */
    int32_t *labels; /* [n] */
    int64_t n;
    int32_t dim, n_classes;
};

struct feature_data_options {
    const char *data;
    int32_t resize_px, n_loaders, loader_threads;
    bool unit_length; /* L2-normalised, as neighbours want them */
};

/* Divides by the Euclidean norm. */
void features_unit_length(float *row, int32_t dim);
bool features_are_finite(const float *row, int64_t n);

/* Ranks have the same images and make the same of them. Errors: those of rank_compare. */
enum status features_compare_images(struct collective *ranks, const struct dataset_info *dataset,
                                    const struct data_spec *spec) IBOT_WARN_UNUSED;

/* Every image of a folder: each rank of the backend computes its share, and has all in the end. A
 * bad image is an error: an evaluation leaves nothing out. Errors: those of receiver_next,
 * rank_agree and rank_compare; STATUS_NOT_FINITE, STATUS_NO_MEMORY. */
enum status features_compute(struct features *out, const struct feature_model *model,
                             const struct feature_data_options *options,
                             const atomic_int *stop) IBOT_WARN_UNUSED;

/* features.safetensors: "values" [n, dim] F32 and "labels" [n] I32. Errors: STATUS_CORRUPT,
 * STATUS_NOT_FINITE, those of safetensors_open. */
enum status features_write(const struct features *features, const char *path) IBOT_WARN_UNUSED;
enum status features_read(struct features *out, const char *path) IBOT_WARN_UNUSED;
void features_release(struct features *features);

/* The two splits of an evaluation, as train.safetensors and test.safetensors in a folder. */
enum status features_write_both(const struct features *train, const struct features *test,
                                const char *folder) IBOT_WARN_UNUSED;
/* Errors: those of features_read; both are empty then. */
enum status features_read_both(struct features *train, struct features *test,
                               const char *folder) IBOT_WARN_UNUSED;
/* Errors: STATUS_MISMATCH: other classes, or features of another width. */
enum status features_check_both(const struct features *train,
                                const struct features *test) IBOT_WARN_UNUSED;

#endif
