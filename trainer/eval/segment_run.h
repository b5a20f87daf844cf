/* The run of a semantic segmentation: a linear layer, or UPerNet, on what several blocks of a ViT
 * leave of each patch, trained on crops of scenes while the backbone stays or is trained too; the
 * classes of test pictures by windows that slide over them, and their scores; a folder to go on
 * from. Ranks, if there are several, share out crops and test pictures.
 *
 *   FOLDER/run.yaml          every effective option; --config run.yaml repeats the run
 *   FOLDER/log.txt           one JSON object for each validation
 *   FOLDER/state.safetensors where the run stands: weights, moments, meters
 *   FOLDER/best.safetensors  the weights that were best on the test pictures */
#ifndef IBOT_TRAINER_EVAL_SEGMENT_RUN_H
#define IBOT_TRAINER_EVAL_SEGMENT_RUN_H

#include <stdatomic.h>

#include "trainer/backend_options.h"
#include "trainer/eval/class_names.h"
#include "trainer/eval/segment_scores.h"
#include "trainer/model/classifier.h"
#include "trainer/pretrained.h"

enum { SEGMENT_MAX_RATIOS = 8 };

/* Between taps and classes: nothing, or UPerNet (trainer/model/upernet.h). */
enum segment_decoder { SEGMENT_LINEAR, SEGMENT_UPERNET };

/* As the option table has them. */
struct segment_options {
    struct pretrained_options weights;
    struct backend_options backend;
    struct network_options network;
    float taps[CLASSIFIER_MAX_TAPS]; /* blocks, whole numbers */
    int32_t n_taps;                  /* 0: those of the original */
    bool out_with_norm, frozen;
    int32_t decoder; /* enum segment_decoder */
    double dropout;  /* of UPerNet's channels */
    double drop_path;
    struct backward_options backward;

    const char *data_path, *train, *train_labels, *test, *test_labels;
    int32_t num_classes;
    bool reduce_zero_label;
    int32_t crop_size, resize_size, stride; /* 0: as others say */
    float ratio_range[2];
    int32_t n_ratio_range;
    float img_ratios[SEGMENT_MAX_RATIOS]; /* of test pictures */
    int32_t n_img_ratios;
    bool flip;
    double cat_max_ratio;
    bool photometric;

    int32_t batch_size_per_gpu, update_freq, steps, warmup_steps;
    double lr, min_lr, warmup_ratio, power, weight_decay, clip_grad, layer_decay;
    int64_t seed;

    int32_t val_freq, checkpoint_every_steps;
    const char *output_dir, *masks, *class_names;
    bool eval, check, json;
};

/* Learning rate of step `step`: a power of what is left of the run, and a linear warm-up of it. */
double segment_lr(const struct segment_options *options, int64_t step);

struct segment_result {
    int64_t step;                                 /* steps done; 0: there is none */
    double mean_iou, all_accuracy, mean_accuracy; /* in percent */
};

struct segment_results {
    struct segment_result best, last;
    struct segment_scores scores; /* of options->eval, */
    struct class_names names;     /* and how they are called, if that is said */
};

/* Trains, or with options->eval measures alone (then `last` and `scores` are set, where there are
 * labels) and writes masks. Errors: STATUS_INVALID, STATUS_NOT_FOUND, STATUS_MISMATCH (another run
 * in the folder, ranks that differ), STATUS_UNSUPPORTED (a Swin), STATUS_NOT_FINITE, those of
 * scene_reader.h, STATUS_INTERRUPTED: the folder goes on. */
enum status segment_run(struct segment_results *out, const struct segment_options *options,
                        const struct options *parsed, struct backend *backend,
                        const atomic_int *stop) IBOT_WARN_UNUSED;

#endif
