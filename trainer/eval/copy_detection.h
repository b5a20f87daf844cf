/* Copy detection: whose copy an image is, found among originals and distractors. A feature is the
 * [CLS] token (of a Swin the mean) and the generalised mean of the patch tokens after the final
 * norm: the fourth root of the mean of fourth powers, of what is at least 1e-6. Source: the
 * original's evaluation on Copydays; Radenovic et al. 2018 (GeM), Berman et al. 2019 (MultiGrain).
 */
#ifndef IBOT_TRAINER_EVAL_COPY_DETECTION_H
#define IBOT_TRAINER_EVAL_COPY_DETECTION_H

#include "ops/op_table.h"
#include "trainer/eval/copydays.h"
#include "trainer/eval/feature_rows.h"
#include "trainer/images.h"
#include "trainer/inference.h"

enum { COPY_RANKS = 20 }; /* of a ranking that count: right ones after these are not found */

/* out [2 * width] <- tokens [length, width] of one image. */
void copy_feature(float *out, const float *tokens, int64_t length, int32_t width);

/* Rows of all images that rows lack: squares of the network's size, both sides resized, bicubic.
 * stop: NULL: never. Errors: those of images_read, inference_tokens and feature_rows_add. */
enum status copy_features(struct feature_rows *rows, struct images *images,
                          struct inference *network, const atomic_int *stop) IBOT_WARN_UNUSED;

/* map [n_blocks] out: mean average precision of each block. queries [n, dim]: of all images of the
 * data; database [n_database, dim]: of the originals, then of distractors; all of unit length.
 * Errors: those of the op topk and of the device. */
enum status copy_evaluate(double *map, struct device *device, const struct op_table *ops,
                          const struct copydays *data, const float *queries, const float *database,
                          int64_t n_database, int32_t dim) IBOT_WARN_UNUSED;

#endif
