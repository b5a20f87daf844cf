/* Linear probing: many linear classifiers, each with an optimizer setting of its own, trained side
 * by side on the same features of a frozen backbone. One product makes the logits of all of them.
 *
 *   linear_probe_open ─> per epoch: linear_probe_set_rate, per batch: linear_probe_step …
 *      ─> linear_probe_score ─> linear_probe_write ─> … ─> linear_probe_close
 *
 * Source: the official evaluation (torch.optim.SGD with momentum 0.9, LARS as in pre-training). */
#ifndef IBOT_TRAINER_EVAL_LINEAR_PROBE_H
#define IBOT_TRAINER_EVAL_LINEAR_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/collective.h"
#include "ops/device.h"
#include "ops/op_table.h"

enum { LINEAR_PROBE_MAX = 256 }; /* classifiers */

struct linear_classifier {
    enum optimizer_kind optimizer; /* SGD or LARS */
    double lr;                     /* at the first step */
    double weight_decay;           /* of weight and bias */
};

struct linear_probe_options {
    int32_t dim, n_classes, batch_size; /* rows at a time, at most */
    uint64_t seed;                      /* of the initial weights */
    const struct linear_classifier *classifiers;
    int32_t n_classifiers;
    /* Ranks that train together, each with as many rows in a step: borrowed; NULL: this one alone.
     */
    struct collective *ranks;
};

/* Sums over rows, of one classifier. */
struct linear_score {
    int64_t n, top1, top5; /* rows; those whose class is the likeliest, or among the five */
    double loss;           /* nats */
};

struct linear_probe; /* opaque: device arrays */

/* Weights N(0, 0.01^2), biases 0. Device memory: three times the parameters, which are C K (D+1)
 * floats for C classifiers of K classes, and B C K floats of logits. Errors: STATUS_NO_MEMORY,
 * STATUS_DEVICE. */
enum status linear_probe_open(struct linear_probe **out, struct device *device,
                              const struct op_table *ops,
                              const struct linear_probe_options *options) IBOT_WARN_UNUSED;

/* The learning rate of each classifier becomes factor times its own. */
enum status linear_probe_set_rate(struct linear_probe *probe, double factor) IBOT_WARN_UNUSED;

/* One step of each classifier on the mean loss of n rows, of each rank.
 *   features [n, dim] f32, labels [n] in 0 .. n_classes-1, host memory
 *   scores   [n_classifiers]: added to, as the classifiers were before the step, of these rows */
enum status linear_probe_step(struct linear_probe *probe, const float *features,
                              const int32_t *labels, int64_t n,
                              struct linear_score *scores) IBOT_WARN_UNUSED;

/* Scores any number of rows; changes no classifier. */
enum status linear_probe_score(struct linear_probe *probe, const float *features,
                               const int32_t *labels, int64_t n,
                               struct linear_score *scores) IBOT_WARN_UNUSED;

/* weight [C, K, D] and bias [C, K], momentum of both: "weight", "bias", "weight_momentum",
 * "bias_momentum", with metadata. Read: into a probe of the same shapes. Errors: STATUS_IO;
 * STATUS_CORRUPT and STATUS_MISMATCH, with what the file has. */
enum status linear_probe_write(struct linear_probe *probe, const char *path,
                               const char *const *metadata, size_t n_pairs) IBOT_WARN_UNUSED;
enum status linear_probe_read(struct linear_probe *probe, const char *path) IBOT_WARN_UNUSED;

/* One classifier as torch.nn.Linear has it: "linear.weight" [K, D], "linear.bias" [K]. */
enum status linear_probe_write_one(struct linear_probe *probe, int32_t classifier, const char *path,
                                   const char *const *metadata, size_t n_pairs) IBOT_WARN_UNUSED;

void linear_probe_close(struct linear_probe **probe);

#endif
