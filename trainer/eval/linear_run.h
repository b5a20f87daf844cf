/* The run of a linear evaluation: epochs of augmented crops through the frozen backbone into the
 * classifiers, their accuracy on the test images every few epochs, and a folder to go on from.
 *
 *   FOLDER/log.txt                 one JSON object for each validation, with the official keys
 *   FOLDER/classifiers.safetensors where the run stands: all classifiers and their momentum
 *   FOLDER/linear.safetensors      the best classifier so far: linear.weight, linear.bias */
#ifndef IBOT_TRAINER_EVAL_LINEAR_RUN_H
#define IBOT_TRAINER_EVAL_LINEAR_RUN_H

#include "trainer/eval/features.h"
#include "trainer/eval/linear_probe.h"

struct linear_run_options {
    const char *train, *test;
    const char *folder;   /* NULL: nothing is written, nothing gone on with */
    const char *identity; /* what must be the same to go on with the folder, as a text */
    int32_t resize_px, n_loaders, loader_threads;
    int32_t epochs, val_freq;
    uint64_t seed;
    double lr_scale; /* of all learning rates: for a batch that theirs is not for */
    const struct linear_classifier *classifiers;
    int32_t n_classifiers;
};

/* Accuracies in percent, of one classifier at one validation. */
struct linear_result {
    int32_t classifier, epoch; /* epochs done: 1 for the first */
    double top1, top5, loss;
};

/* Every rank of the model's backend with its share of the images: a step takes a batch of each. The
 * first one writes the folder.
 * best: over all classifiers and validations, as the official program reports it: it is chosen on
 * the test images. last: the best at the end of the last epoch. Errors: those of features_compute,
 * linear_probe_open; STATUS_MISMATCH (other classes in test, another run in the folder,
 * ranks with other images); STATUS_INTERRUPTED: the folder goes on. */
enum status linear_run(struct linear_result *best, struct linear_result *last,
                       struct feature_model *model, const struct linear_run_options *options,
                       const atomic_int *stop) IBOT_WARN_UNUSED;

#endif
