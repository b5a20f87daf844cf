/* Everything `ibot-train` can be told, and what follows from it: model, data, schedules. Names and
 * meaning are the original's; defaults are the published recipe. */
#ifndef IBOT_TRAINER_TRAIN_RUN_OPTIONS_H
#define IBOT_TRAINER_TRAIN_RUN_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/config/options.h"
#include "proto/wire/data_spec.h"
#include "trainer/backend_options.h"
#include "trainer/model/ibot.h"
#include "trainer/train/schedule.h"

enum { RUN_MAX_LIST = DATA_SPEC_MAX_RATIOS };

enum clip_mode { CLIP_PER_TENSOR, CLIP_GLOBAL };
enum record_kind { RECORD_PIXELS, RECORD_IDS };
enum resume_mode { RESUME_AUTO, RESUME_NONE };

struct run_options {
    /* model */
    const char *arch;
    int32_t patch_size, window_size, embed_dim, depth, num_heads;
    int32_t out_dim, patch_out_dim, head_hidden_dim, bottleneck_dim;
    bool shared_head, shared_head_teacher, norm_last_layer, use_masked_im_modeling;
    int norm_in_head, act_in_head;
    float drop_path;
    /* crops and masks */
    int32_t global_crops_number, local_crops_number, global_crop_size, local_crop_size;
    float global_crops_scale[2], local_crops_scale[2];
    int32_t n_global_scale, n_local_scale;
    float pred_ratio[RUN_MAX_LIST], pred_ratio_var[RUN_MAX_LIST];
    int32_t n_pred_ratio, n_pred_ratio_var, pred_start_epoch;
    int pred_shape;
    float flip, color_jitter[4], jitter_probability, grayscale, blur[3], solarize;
    int32_t n_color_jitter, n_blur;
    /* loss */
    float lambda1, lambda2;
    double warmup_teacher_temp, teacher_temp, warmup_teacher_patch_temp, teacher_patch_temp;
    int32_t warmup_teacher_temp_epochs;
    double student_temp, center_momentum, center_momentum2, momentum_teacher;
    /* optimization */
    int optimizer;
    double lr, min_lr, weight_decay, weight_decay_end, clip_grad;
    int clip_mode;
    int32_t batch_size_per_gpu, accumulation_steps, epochs, warmup_epochs, freeze_last_layer;
    int64_t seed, order_seed;
    /* data */
    const char *data, *index;
    int32_t loaders, loader_threads, num_workers, slice_size, prefetch;
    const char *listen, *key, *allow, *index_digest;
    bool insecure;
    int bad_images;
    int photometric;
    bool upright;
    /* run */
    const char *output_dir;
    int resume;
    const char *load_from, *init_from;
    int32_t saveckp_freq, checkpoint_every_steps, keep_checkpoints;
    double checkpoint_every_minutes;
    int64_t stop_at_step;
    const char *skip_steps; /* proto/config/ranges.h */
    const char *log_digests, *record;
    int record_kind;
    struct backend_options backend;
    struct network_options network;
    struct backward_options backward;
    int residual_stream; /* enum ibot_precision */
    bool use_fp16, cuda_graph, weight_gradient_branch, check;
    int32_t local_rank;
    const char *metrics;
    const char *dist_url;
};

extern const struct options_program run_program;

/* Defaults that follow other options: without --pred_ratio_var a given --pred_ratio stays fixed, as
 * in the original. Before anything else looks at the values. */
void run_options_settle(struct run_options *options, const struct options *parsed);

/* Contradictions between options: all that can be said before data are known. Errors:
 * STATUS_INVALID names the options. */
enum status run_options_check(const struct run_options *options) IBOT_WARN_UNUSED;

enum status run_options_model(const struct run_options *options,
                              struct ibot_options *out) IBOT_WARN_UNUSED;
enum status run_options_data(const struct run_options *options,
                             struct data_spec *out) IBOT_WARN_UNUSED;

/* The data set that loaders must have; 0: any. Errors: STATUS_INVALID. */
enum status run_options_index_digest(const struct run_options *options,
                                     uint64_t *out) IBOT_WARN_UNUSED;

/* steps_per_epoch: optimizer steps. */
void run_options_schedule(const struct run_options *options, int64_t steps_per_epoch, int world,
                          struct schedule *out);

#endif
