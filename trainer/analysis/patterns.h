/* What prototypes stand for: the clusters of tokens that the head gives the same prototype, and the
 * tokens of each that fit it best. */
#ifndef IBOT_TRAINER_ANALYSIS_PATTERNS_H
#define IBOT_TRAINER_ANALYSIS_PATTERNS_H

#include <stdint.h>

#include "proto/base/status.h"

/* Prototype and logit of every token of a data set. */
struct pattern_bank {
    int32_t *index; /* [n_images, per_image] below n_prototypes */
    float *value;
    int64_t n_images;
    int32_t per_image, n_prototypes;
};

enum status pattern_bank_open(struct pattern_bank *out, int64_t n_images, int32_t per_image,
                              int32_t n_prototypes) IBOT_WARN_UNUSED;
void pattern_bank_release(struct pattern_bank *bank);

/* A file of safetensors: memory_bank.index [n, per_image] I32, memory_bank.value F32, and
 * num_per_cluster [prototypes] I32. Errors: those of safetensors_write. */
enum status pattern_bank_write(const struct pattern_bank *bank, const int64_t *counts,
                               const char *path) IBOT_WARN_UNUSED;

/* counts [n_prototypes] out: tokens of each. */
void pattern_counts(int64_t *counts, const struct pattern_bank *bank);

/* ranked [at most n_wanted] out: clusters by size, the largest first (the first of equals), empty
 * ones left out. Returns how many. */
int32_t pattern_rank(int32_t *ranked, int32_t n_wanted, const int64_t *counts, int32_t n);

struct pattern_place {
    int64_t image;
    int32_t token;
    float value;
};

/* The tokens of a cluster that fit best, at most one of each image, best first (the first of
 * equals); memory_free(*out). Errors: STATUS_NO_MEMORY. */
enum status pattern_best(struct pattern_place **out, int64_t *n, const struct pattern_bank *bank,
                         int32_t cluster) IBOT_WARN_UNUSED;

#endif
