/* Image retrieval: features of whole images of any shape, at several sizes, and how well they rank
 * a database. Source: the original's evaluation on revisited Oxford and Paris. */
#ifndef IBOT_TRAINER_EVAL_RETRIEVAL_H
#define IBOT_TRAINER_EVAL_RETRIEVAL_H

#include "trainer/eval/feature_rows.h"
#include "trainer/eval/features.h"
#include "trainer/eval/image_paths.h"
#include "trainer/eval/ranking.h"
#include "trainer/eval/retrieval_truth.h"

/* Sizes of an image whose features are averaged: all of it, 1/sqrt(2) and 1/2 of either side. */
enum { RETRIEVAL_SCALES = 3 };

/* out [3, *out_height, *out_width] <- in [3, height, width], either side times `scale`, cut off:
 * bilinear without antialiasing, at sources (i + 0.5)/scale - 0.5, as PyTorch does it when it is
 * given a scale. out holds as much as in; scale < 1. */
void planes_shrink(float *out, int32_t *out_height, int32_t *out_width, const float *in,
                   int32_t height, int32_t width, double scale);

struct retrieval_features {
    struct feature_model *model; /* of one image at a time */
    int32_t most_px;             /* of either side: what the model was opened for */
    bool multiscale;
    int32_t n_threads;             /* that decode; 0: one per core */
    const struct image_box *boxes; /* of each image, or NULL: all of it */
    const atomic_int *stop;        /* NULL: never */
};

/* Rows of unit length, of all images that rows lack. Errors: those of images_read_thumbnails,
 * ibot_features and feature_rows_add. */
enum status retrieval_features(struct feature_rows *rows, const struct image_paths *paths,
                               const struct retrieval_features *options) IBOT_WARN_UNUSED;

enum retrieval_protocol { PROTOCOL_EASY, PROTOCOL_MEDIUM, PROTOCOL_HARD, PROTOCOLS };
extern const char *const retrieval_protocol_names[PROTOCOLS];

/* Means over the queries that have something to find. */
struct retrieval_score {
    double map, precision[RANKING_MAX_K];
    int32_t n_queries;
};

/* database [n_images, dim], queries [n_queries, dim]. Easy and hard are right or junk as the
 * protocol has it: easy: easy is right, hard is junk; medium: both are right; hard: the reverse of
 * easy. Errors: STATUS_NO_MEMORY. */
enum status retrieval_evaluate(struct retrieval_score out[PROTOCOLS],
                               const struct retrieval_truth *truth, const float *database,
                               const float *queries, int32_t dim, const int32_t *ks,
                               int32_t n_ks) IBOT_WARN_UNUSED;

#endif
