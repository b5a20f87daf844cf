/* The parameter table: every tensor of student and teacher once, in the official order of
 * enumeration. Allocation, initialisation, optimizer segments, teacher pairs, checkpoints and
 * weight import all walk it.
 *
 * The values of a network lie in one flat array; a parameter is a range of it, starting at a
 * multiple of 16 elements. */
#ifndef IBOT_TRAINER_MODEL_PARAMS_H
#define IBOT_TRAINER_MODEL_PARAMS_H

#include <stddef.h>
#include <stdint.h>

#include "ops/optimizer.h"
#include "proto/base/status.h"
#include "trainer/model/ibot.h"

struct classifier_options;

enum param_init {
    PARAM_ZEROS,
    PARAM_ONES,
    PARAM_NORMAL_002, /* truncated normal, std 0.02, bounds +-2: in effect a normal */
    PARAM_NORMAL,     /* normal, std `bound` */
    PARAM_UNIFORM,    /* U(-bound, bound), bound = 1/sqrt(fan_in) */
};

struct param {
    char name[96]; /* "backbone.blocks.0.attn.qkv.weight" */
    int32_t rank;
    int64_t shape[TENSOR_MAX_RANK];
    int64_t n, offset; /* elements; in its network's flat array */
    enum param_init init;
    float bound;    /* PARAM_NORMAL, PARAM_UNIFORM */
    uint32_t flags; /* enum segment_flags */
};

struct param_table {
    struct param *params;
    size_t n_params, capacity;
    int64_t n_elements; /* of the flat array, padding included */
};

/* Fills the table of the student (with masked_embed) or the teacher. */
enum status param_table_init(struct param_table *table, const struct ibot_options *options,
                             bool student) IBOT_WARN_UNUSED;
/* Of a classifier that is fine-tuned (classifier.h). */
enum status param_table_init_classifier(struct param_table *table,
                                        const struct classifier_options *options) IBOT_WARN_UNUSED;
/* For those who add parameters of their own (decoder.h): one of them; a batch norm, with its
 * running moments; what map_scales.h is made of, transposed convolutions drawn as PyTorch draws
 * them, whose fan in is that of the squares. Errors: STATUS_NO_MEMORY. */
enum status param_table_add(struct param_table *table, const char *name, enum param_init init,
                            float bound, int32_t rank, const int64_t *shape) IBOT_WARN_UNUSED;
enum status param_table_add_batchnorm(struct param_table *table, const char *prefix,
                                      int64_t n) IBOT_WARN_UNUSED;
enum status param_table_add_scales(struct param_table *table, int64_t width) IBOT_WARN_UNUSED;

void param_table_release(struct param_table *table);

/* -1 when there is none of that name. */
int64_t param_find(const struct param_table *table, const char *name);

/* Its initial values: of parameter `number`, drawn by Philox (RNG_INIT) from `seed`. */
void param_draw(const struct param *param, uint64_t seed, uint32_t number, float *values);

/* The parameter's place in a flat array, as a tensor of its official shape; CHECKs the name. */
struct tensor param_tensor(const struct param_table *table, float *flat, const char *name);
struct tensor param_tensor_at(const struct param_table *table, float *flat, size_t i);

#endif
