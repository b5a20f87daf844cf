/* The run of a fine-tuning: epochs of augmented crops through the whole network, its accuracy on
 * the test images every few epochs, and a folder to go on from.
 *
 *   FOLDER/run.yaml            every effective option; --config run.yaml repeats the run
 *   FOLDER/log.txt             one JSON object an epoch, with the official keys
 *   FOLDER/state.safetensors   where the run stands: weights, moments, average, meters
 *   FOLDER/best.safetensors    the weights that were best on the test images
 *   FOLDER/average.safetensors the same of the average, where one is kept */
#ifndef IBOT_TRAINER_EVAL_FINETUNE_RUN_H
#define IBOT_TRAINER_EVAL_FINETUNE_RUN_H

#include "trainer/eval/frozen_options.h"
#include "trainer/eval/mixing.h"
#include "trainer/model/classifier.h"

enum finetune_schedule { FINETUNE_BY_STEP, FINETUNE_BY_EPOCH };

/* As the option table has them. */
struct finetune_options {
    struct pretrained_options weights;
    struct frozen_data_options data;
    struct backend_options backend;
    struct network_options network;
    int pooling; /* enum classifier_pooling */
    struct backward_options backward;
    int32_t finetune_head_layer;
    double init_scale, drop_path;

    int train_interpolation, test_interpolation; /* enum interpolation */
    float crop_scale[2];
    int32_t n_crop_scale;
    const char *aa; /* as rand_augment_parse takes it, or "none" */
    bool repeated_aug;
    double color_jitter, reprob, mixup, cutmix, mixup_prob, mixup_switch_prob, smoothing;

    int32_t batch_size_per_gpu, update_freq, epochs, warmup_epochs, lr_batch;
    double lr, min_lr, warmup_lr, weight_decay, clip_grad, layer_decay;
    int lr_schedule; /* enum finetune_schedule */
    bool model_ema;
    double model_ema_decay;
    int64_t seed;

    int32_t val_freq, checkpoint_every_steps;
    const char *output_dir;
    bool eval, check, json;
};

/* Learning rate of update `update`, of updates_per_epoch in each epoch. By step: as the BEiT
 * recipe, linear from warmup_lr over the warm-up's updates, then a cosine to min_lr. By epoch: as
 * timm's, which is asked for the epoch before, so that the first two are the same; its cosine
 * begins at epoch 0, behind the warm-up. The rate is lr, or lr for lr_batch images, scaled to those
 * of a step, of all ranks. */
double finetune_lr(const struct finetune_options *options, int64_t update,
                   int64_t updates_per_epoch, int n_ranks);

/* Accuracies in percent at one validation. */
struct finetune_result {
    int32_t epoch; /* epochs done */
    double top1, top5, loss;
};

struct finetune_results {
    struct finetune_result best, last;                 /* epoch 0: there was none */
    struct finetune_result best_average, last_average; /* of the average */
};

/* Trains, or with options->eval measures alone (then `last` is set); every rank of the backend with
 * its share of the images. Errors: STATUS_INVALID, STATUS_MISMATCH (other classes in test, another
 * run in the folder, ranks that were started with other things), STATUS_NOT_FINITE,
 * STATUS_INTERRUPTED: the folder goes on. */
enum status finetune_run(struct finetune_results *out, const struct finetune_options *options,
                         const struct options *parsed, struct backend *backend,
                         const atomic_int *stop) IBOT_WARN_UNUSED;

#endif
