/* The option table, and what follows from it. */
#include "trainer/train/run_options.h"

#include <stddef.h>
#include <string.h>

static const char *const head_norms[] = {"none", "ln", "bn", "syncbn", NULL};
static const char *const activations[] = {"gelu", "relu", NULL};
static const char *const mask_shapes[] = {"block", "rand", NULL};
static const char *const optimizers[] = {"adamw", "sgd", "lars", NULL};
static const char *const clip_modes[] = {"per_tensor", "global", NULL};
static const char *const policies[] = {"substitute", "fail", NULL};
static const char *const resume_modes[] = {"auto", "none", NULL};
static const char *const backends[] = {"cpu", "cuda", NULL};

#define AT(field)    .offset = offsetof(struct run_options, field)
#define COUNT(field) .count_offset = offsetof(struct run_options, field)

static const struct option_spec specs[] = {
    {.name = "arch",
     .type = OPTION_STRING,
     AT(arch),
     .text = "vit_small",
     .argument = "NAME",
     .group = "Model",
     .help = "vit_tiny, vit_small, vit_base, vit_large, deit_tiny, deit_small, or "
             "vit_test (width 96, depth 3) for small experiments"},
    {.name = "patch_size",
     .type = OPTION_INT32,
     AT(patch_size),
     .text = "16",
     .minimum = 1,
     .maximum = 512,
     .unit = "px",
     .help = "side of a patch, and of a mask cell"},
    {.name = "embed_dim",
     .type = OPTION_INT32,
     AT(embed_dim),
     .text = "0",
     .minimum = 0,
     .maximum = 16384,
     .help = "width, instead of the architecture's; 0: the architecture's"},
    {.name = "depth",
     .type = OPTION_INT32,
     AT(depth),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .help = "blocks, instead of the architecture's"},
    {.name = "num_heads",
     .type = OPTION_INT32,
     AT(num_heads),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .help = "attention heads, instead of the architecture's"},
    {.name = "out_dim",
     .type = OPTION_INT32,
     AT(out_dim),
     .text = "8192",
     .minimum = 1,
     .maximum = 1 << 20,
     .help = "prototypes for [CLS] tokens"},
    {.name = "patch_out_dim",
     .type = OPTION_INT32,
     AT(patch_out_dim),
     .text = "8192",
     .minimum = 1,
     .maximum = 1 << 20,
     .help = "prototypes for patches; used when neither head is "
             "shared"},
    {.name = "shared_head",
     .type = OPTION_BOOL,
     AT(shared_head),
     .text = "on",
     .help =
         "student: one last layer for both token kinds, as published (the original's default is "
         "off)"},
    {.name = "shared_head_teacher",
     .type = OPTION_BOOL,
     AT(shared_head_teacher),
     .text = "on",
     .help = "the same for the teacher"},
    {.name = "norm_last_layer",
     .type = OPTION_BOOL,
     AT(norm_last_layer),
     .text = "off",
     .help = "hold the last layer's gains at 1, as is safer for small data; off as published for "
             "ViT-S (the original's default is on)"},
    {.name = "norm_in_head",
     .type = OPTION_CHOICE,
     AT(norm_in_head),
     .choices = head_norms,
     .text = "none",
     .help = "norm between the head's linear layers; bn is synchronised over ranks, "
             "as syncbn"},
    {.name = "act_in_head",
     .type = OPTION_CHOICE,
     AT(act_in_head),
     .choices = activations,
     .text = "gelu",
     .help = "activation in the head"},
    {.name = "head_hidden_dim",
     .type = OPTION_INT32,
     AT(head_hidden_dim),
     .text = "2048",
     .minimum = 1,
     .maximum = 1 << 16,
     .help = "width of the head's hidden layers"},
    {.name = "bottleneck_dim",
     .type = OPTION_INT32,
     AT(bottleneck_dim),
     .text = "256",
     .minimum = 1,
     .maximum = 1 << 14,
     .help = "width of the head's bottleneck"},
    {.name = "use_masked_im_modeling",
     .type = OPTION_BOOL,
     AT(use_masked_im_modeling),
     .text = "on",
     .help = "replace masked patches by the mask token in the student"},
    {.name = "drop_path",
     .type = OPTION_FLOAT,
     AT(drop_path),
     .text = "0.1",
     .minimum = 0,
     .maximum = 0.99,
     .help = "stochastic depth of the student's last block"},

    {.name = "global_crops_number",
     .type = OPTION_INT32,
     AT(global_crops_number),
     .text = "2",
     .minimum = 1,
     .maximum = 16,
     .group = "Crops and masks",
     .help = "global crops"},
    {.name = "global_crops_scale",
     .type = OPTION_FLOAT_LIST,
     AT(global_crops_scale),
     COUNT(n_global_scale),
     .capacity = 2,
     .text = "0.25 1",
     .minimum = 1e-4,
     .maximum = 1,
     .help = "their share of the image's area, as published (the original's default is 0.14 1)"},
    {.name = "global_crop_size",
     .type = OPTION_INT32,
     AT(global_crop_size),
     .text = "224",
     .minimum = 8,
     .maximum = 4096,
     .unit = "px",
     .help = "their side"},
    {.name = "local_crops_number",
     .type = OPTION_INT32,
     AT(local_crops_number),
     .text = "10",
     .minimum = 0,
     .maximum = 48,
     .help = "local crops (the original's default is 0)"},
    {.name = "local_crops_scale",
     .type = OPTION_FLOAT_LIST,
     AT(local_crops_scale),
     COUNT(n_local_scale),
     .capacity = 2,
     .text = "0.05 0.25",
     .minimum = 1e-4,
     .maximum = 1,
     .help = "their share of the image's area (the original's default is 0.05 0.4)"},
    {.name = "local_crop_size",
     .type = OPTION_INT32,
     AT(local_crop_size),
     .text = "96",
     .minimum = 8,
     .maximum = 4096,
     .unit = "px",
     .help = "their side"},
    {.name = "pred_ratio",
     .type = OPTION_FLOAT_LIST,
     AT(pred_ratio),
     COUNT(n_pred_ratio),
     .capacity = RUN_MAX_LIST,
     .text = "0 0.3",
     .minimum = 0,
     .maximum = 1,
     .help = "share of patches to mask; of several, each crop draws one; 0 alone: no masks (the "
             "original's default is 0.3)"},
    {.name = "pred_ratio_var",
     .type = OPTION_FLOAT_LIST,
     AT(pred_ratio_var),
     COUNT(n_pred_ratio_var),
     .capacity = RUN_MAX_LIST,
     .text = "0 0.2",
     .minimum = 0,
     .maximum = 1,
     .help = "half-width of a uniform around each ratio; one value serves all"},
    {.name = "pred_shape",
     .type = OPTION_CHOICE,
     AT(pred_shape),
     .choices = mask_shapes,
     .text = "block",
     .help = "rectangles, or single patches"},
    {.name = "pred_start_epoch",
     .type = OPTION_INT32,
     AT(pred_start_epoch),
     .text = "0",
     .minimum = 0,
     .maximum = 100000,
     .unit = "epochs",
     .help = "no masks before this epoch"},
    {.name = "flip",
     .type = OPTION_FLOAT,
     AT(flip),
     .text = "0.5",
     .minimum = 0,
     .maximum = 1,
     .help = "probability of a horizontal flip"},
    {.name = "color_jitter",
     .type = OPTION_FLOAT_LIST,
     AT(color_jitter),
     COUNT(n_color_jitter),
     .capacity = 4,
     .text = "0.4 0.4 0.2 0.1",
     .minimum = 0,
     .maximum = 1,
     .help = "brightness, contrast, saturation, hue (hue at most 0.5)"},
    {.name = "jitter_probability",
     .type = OPTION_FLOAT,
     AT(jitter_probability),
     .text = "0.8",
     .minimum = 0,
     .maximum = 1,
     .help = "probability of colour jitter"},
    {.name = "grayscale",
     .type = OPTION_FLOAT,
     AT(grayscale),
     .text = "0.2",
     .minimum = 0,
     .maximum = 1,
     .help = "probability of greyscale"},
    {.name = "blur",
     .type = OPTION_FLOAT_LIST,
     AT(blur),
     COUNT(n_blur),
     .capacity = 3,
     .text = "1 0.1 0.5",
     .minimum = 0,
     .maximum = 1,
     .help = "probability of blur: first global crop, the others, local crops"},
    {.name = "solarize",
     .type = OPTION_FLOAT,
     AT(solarize),
     .text = "0.2",
     .minimum = 0,
     .maximum = 1,
     .help = "probability of solarization of the other global crops"},

    {.name = "lambda1",
     .type = OPTION_FLOAT,
     AT(lambda1),
     .text = "1",
     .minimum = 0,
     .maximum = 1000,
     .group = "Loss",
     .help = "weight of the [CLS] loss"},
    {.name = "lambda2",
     .type = OPTION_FLOAT,
     AT(lambda2),
     .text = "1",
     .minimum = 0,
     .maximum = 1000,
     .help = "weight of the patch loss"},
    {.name = "warmup_teacher_temp",
     .type = OPTION_DOUBLE,
     AT(warmup_teacher_temp),
     .text = "0.04",
     .minimum = 1e-3,
     .maximum = 10,
     .help = "teacher temperature for [CLS] at the start"},
    {.name = "teacher_temp",
     .type = OPTION_DOUBLE,
     AT(teacher_temp),
     .text = "0.07",
     .minimum = 1e-3,
     .maximum = 10,
     .help = "and after its warm-up, as published (the original's "
             "default is 0.04)"},
    {.name = "warmup_teacher_patch_temp",
     .type = OPTION_DOUBLE,
     AT(warmup_teacher_patch_temp),
     .text = "0.04",
     .minimum = 1e-3,
     .maximum = 10,
     .help = "the same for patches"},
    {.name = "teacher_patch_temp",
     .type = OPTION_DOUBLE,
     AT(teacher_patch_temp),
     .text = "0.07",
     .minimum = 1e-3,
     .maximum = 10,
     .help = "and after its warm-up"},
    {.name = "warmup_teacher_temp_epochs",
     .type = OPTION_INT32,
     AT(warmup_teacher_temp_epochs),
     .text = "30",
     .minimum = 0,
     .maximum = 100000,
     .unit = "epochs",
     .help = "warm-up of both temperatures"},
    {.name = "student_temp",
     .type = OPTION_DOUBLE,
     AT(student_temp),
     .text = "0.1",
     .minimum = 1e-3,
     .maximum = 10,
     .help = "student temperature (fixed in the original)"},
    {.name = "center_momentum",
     .type = OPTION_DOUBLE,
     AT(center_momentum),
     .text = "0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "of the [CLS] centre (fixed in the original)"},
    {.name = "center_momentum2",
     .type = OPTION_DOUBLE,
     AT(center_momentum2),
     .text = "0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "of the patch centre (fixed in the original)"},
    {.name = "momentum_teacher",
     .type = OPTION_DOUBLE,
     AT(momentum_teacher),
     .text = "0.996",
     .minimum = 0,
     .maximum = 1,
     .help = "of the teacher's average at the start; rises to 1"},

    {.name = "optimizer",
     .type = OPTION_CHOICE,
     AT(optimizer),
     .choices = optimizers,
     .text = "adamw",
     .group = "Optimization",
     .help = "optimizer"},
    {.name = "lr",
     .type = OPTION_DOUBLE,
     AT(lr),
     .text = "0.0005",
     .minimum = 0,
     .maximum = 100,
     .help = "peak learning rate for a total batch of 256 images; scaled linearly"},
    {.name = "min_lr",
     .type = OPTION_DOUBLE,
     AT(min_lr),
     .text = "1e-6",
     .minimum = 0,
     .maximum = 100,
     .help = "learning rate at the end; not scaled"},
    {.name = "warmup_epochs",
     .type = OPTION_INT32,
     AT(warmup_epochs),
     .text = "10",
     .minimum = 0,
     .maximum = 100000,
     .unit = "epochs",
     .help = "linear warm-up of the learning rate"},
    {.name = "weight_decay",
     .type = OPTION_DOUBLE,
     AT(weight_decay),
     .text = "0.04",
     .minimum = 0,
     .maximum = 100,
     .help = "at the start"},
    {.name = "weight_decay_end",
     .type = OPTION_DOUBLE,
     AT(weight_decay_end),
     .text = "0.4",
     .minimum = 0,
     .maximum = 100,
     .help = "at the end"},
    {.name = "clip_grad",
     .type = OPTION_DOUBLE,
     AT(clip_grad),
     .text = "3",
     .minimum = 0,
     .maximum = 1e6,
     .help = "limit on the L2 norm of a gradient; 0: none"},
    {.name = "clip_mode",
     .type = OPTION_CHOICE,
     AT(clip_mode),
     .choices = clip_modes,
     .text = "per_tensor",
     .help = "of each tensor by itself, as the original, or of all together"},
    {.name = "batch_size_per_gpu",
     .type = OPTION_INT32,
     AT(batch_size_per_gpu),
     .text = "64",
     .minimum = 1,
     .maximum = 65536,
     .unit = "images",
     .help = "of each rank (and micro-batch)"},
    {.name = "accumulation_steps",
     .type = OPTION_INT32,
     AT(accumulation_steps),
     .text = "1",
     .minimum = 1,
     .maximum = 4096,
     .help = "micro-batches added up before each step"},
    {.name = "epochs",
     .type = OPTION_INT32,
     AT(epochs),
     .text = "800",
     .minimum = 1,
     .maximum = 100000,
     .unit = "epochs",
     .help = "length of training (the original's default is "
             "100)"},
    {.name = "freeze_last_layer",
     .type = OPTION_INT32,
     AT(freeze_last_layer),
     .text = "1",
     .minimum = 0,
     .maximum = 100000,
     .unit = "epochs",
     .help = "epochs before the last layer moves"},
    {.name = "seed",
     .type = OPTION_INT64,
     AT(seed),
     .text = "0",
     .minimum = 0,
     .maximum = 9e18,
     .help = "of initial weights, crops, masks and stochastic depth"},
    {.name = "order_seed",
     .type = OPTION_INT64,
     AT(order_seed),
     .text = "0",
     .minimum = 0,
     .maximum = 9e18,
     .help = "of the order of images (always 0 in the original)"},

    {.name = "data",
     .alias = "data_path",
     .type = OPTION_STRING,
     AT(data),
     .flags = OPTION_OUTSIDE_DIGEST,
     .argument = "DIR",
     .group = "Data",
     .help = "images for local loaders: one folder per class, or one folder"},
    {.name = "index",
     .type = OPTION_STRING,
     AT(index),
     .flags = OPTION_OUTSIDE_DIGEST,
     .argument = "FILE",
     .help = "index made by ibot-index, for local loaders"},
    {.name = "loaders",
     .type = OPTION_INT32,
     AT(loaders),
     .text = "0",
     .minimum = 0,
     .maximum = 64,
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "local loader processes of each rank; 0: one when "
             "--data is given without --listen"},
    {.name = "loader_threads",
     .type = OPTION_INT32,
     AT(loader_threads),
     .text = "1",
     .minimum = 0,
     .maximum = 1024,
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "threads of each local loader; 0: one "
             "per core"},
    {.name = "num_workers",
     .type = OPTION_INT32,
     AT(num_workers),
     .text = "0",
     .minimum = 0,
     .maximum = 1024,
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "the original's name for the number of "
             "data workers: the same as --loaders 1 --loader_threads N"},
    {.name = "listen",
     .type = OPTION_STRING,
     AT(listen),
     .flags = OPTION_OUTSIDE_DIGEST,
     .argument = "ENDPOINT",
     .help = "where loaders connect, such as tcp://127.0.0.1:5550; rank r "
             "takes the port r above it"},
    {.name = "insecure",
     .type = OPTION_BOOL,
     AT(insecure),
     .text = "off",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "allow --listen on an address that others can reach, "
             "without encryption"},
    {.name = "slice_size",
     .type = OPTION_INT32,
     AT(slice_size),
     .text = "16",
     .minimum = 1,
     .maximum = 256,
     .flags = OPTION_OUTSIDE_DIGEST,
     .unit = "images",
     .help = "images leased to a "
             "loader at a time"},
    {.name = "prefetch",
     .type = OPTION_INT32,
     AT(prefetch),
     .text = "4",
     .minimum = 1,
     .maximum = 256,
     .flags = OPTION_OUTSIDE_DIGEST,
     .unit = "batches",
     .help = "batches in the "
             "making or ready"},
    {.name = "bad_images",
     .type = OPTION_CHOICE,
     AT(bad_images),
     .choices = policies,
     .text = "substitute",
     .help = "an image that can't be read: take the next one, or stop"},

    {.name = "output_dir",
     .type = OPTION_STRING,
     AT(output_dir),
     .letter = 'o',
     .text = "runs/ibot",
     .flags = OPTION_OUTSIDE_DIGEST,
     .argument = "DIR",
     .group = "Run",
     .help = "the run folder"},
    {.name = "resume",
     .type = OPTION_CHOICE,
     AT(resume),
     .choices = resume_modes,
     .text = "auto",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "go on from the newest checkpoint of the run folder, or "
             "refuse to when there is one"},
    {.name = "saveckp_freq",
     .type = OPTION_INT32,
     AT(saveckp_freq),
     .text = "40",
     .minimum = 0,
     .maximum = 100000,
     .flags = OPTION_OUTSIDE_DIGEST,
     .unit = "epochs",
     .help = "keep every n-th epoch's checkpoint for good; 0: none"},
    {.name = "checkpoint_every_steps",
     .type = OPTION_INT32,
     AT(checkpoint_every_steps),
     .text = "0",
     .minimum = 0,
     .maximum = 100000000,
     .flags = OPTION_OUTSIDE_DIGEST,
     .unit = "steps",
     .help = "save within epochs too; 0: at their end alone"},
    {.name = "keep_checkpoints",
     .type = OPTION_INT32,
     AT(keep_checkpoints),
     .text = "3",
     .minimum = 1,
     .maximum = 100000,
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "newest ones to keep"},
    {.name = "stop_at_step",
     .type = OPTION_INT64,
     AT(stop_at_step),
     .text = "0",
     .minimum = 0,
     .maximum = 9e18,
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "save and end after this many steps of "
             "the run; 0: at its end"},
    {.name = "log_digests",
     .type = OPTION_STRING,
     AT(log_digests),
     .flags = OPTION_OUTSIDE_DIGEST,
     .argument = "FILE",
     .help = "add a line with step and hash of every batch"},
    {.name = "backend",
     .type = OPTION_CHOICE,
     AT(backend),
     .choices = backends,
     .text = "cpu",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "what computes"},
    {.name = "threads",
     .type = OPTION_INT32,
     AT(threads),
     .text = "0",
     .minimum = 0,
     .maximum = 1024,
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "threads of the CPU backend; 0: one per "
             "core"},
    {.name = "use_fp16",
     .type = OPTION_BOOL,
     AT(use_fp16),
     .text = "off",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "half precision on a GPU; the CPU computes in float32 "
             "and refuses it"},
    {.name = "check",
     .type = OPTION_BOOL,
     AT(check),
     .text = "off",
     .flags = OPTION_COMMAND_LINE_ONLY,
     .help = "check the options, print the effective run, end"},
    {.name = "local_rank",
     .type = OPTION_INT32,
     AT(local_rank),
     .text = "0",
     .minimum = 0,
     .maximum = 65536,
     .flags = OPTION_COMMAND_LINE_ONLY | OPTION_UNDOCUMENTED,
     .help = "accepted for torch.distributed.launch; the rank comes from the environment"},
    {.name = "dist_url",
     .type = OPTION_STRING,
     AT(dist_url),
     .flags = OPTION_COMMAND_LINE_ONLY | OPTION_UNDOCUMENTED,
     .help = "accepted; the address comes from the environment"},
};

const struct options_program run_program = {
    .name = "ibot-train",
    .summary = "Pre-train a vision transformer with iBOT.",
    .epilogue =
        "Recipes: vit_small_16, vit_base_16, vit_large_16 (as published), cifar10_small.\n\n"
        "  ibot-train --recipe vit_small_16 --data /data/imagenet/train --loaders 8 -o runs/small\n"
        "  ibot-train --recipe vit_small_16 --listen tcp://127.0.0.1:5550 -o runs/small\n\n"
        "The same command again goes on where it stopped. Exit status: 0 done, 2 wrong options, 3 "
        "the run folder holds another run, 75 interrupted after a checkpoint, 1 anything else.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .run_file = true,
    .recipe_folders = IBOT_RECIPE_FOLDERS,
};

enum status run_options_check(const struct run_options *o)
{
    if (o->n_pred_ratio_var != 1 && o->n_pred_ratio_var != o->n_pred_ratio)
        FAIL(STATUS_INVALID,
             "--pred_ratio has %d values and --pred_ratio_var %d: give one half-width, "
             "or one for each ratio",
             o->n_pred_ratio, o->n_pred_ratio_var);
    for (int32_t i = 0; i < o->n_pred_ratio; i++) {
        float half = o->pred_ratio_var[o->n_pred_ratio_var == 1 ? 0 : i];
        if (half > o->pred_ratio[i])
            FAIL(STATUS_INVALID,
                 "--pred_ratio_var %g exceeds its --pred_ratio %g: the ratio would be "
                 "negative",
                 (double)half, (double)o->pred_ratio[i]);
    }
    if (o->n_global_scale != 2 || o->n_local_scale != 2 ||
        o->global_crops_scale[0] > o->global_crops_scale[1] ||
        o->local_crops_scale[0] > o->local_crops_scale[1])
        FAIL(STATUS_INVALID,
             "--global_crops_scale and --local_crops_scale want two shares each, the "
             "lower one first");
    if (o->n_color_jitter != 4 || o->color_jitter[3] > 0.5f)
        FAIL(STATUS_INVALID, "--color_jitter wants four values (brightness, contrast, saturation, "
                             "hue), hue at most 0.5");
    if (o->n_blur != 3)
        FAIL(STATUS_INVALID,
             "--blur wants three probabilities: first global crop, others, local ones");
    if (o->warmup_epochs > o->epochs)
        FAIL(STATUS_INVALID, "--warmup_epochs %d exceeds --epochs %d: lower it", o->warmup_epochs,
             o->epochs);
    if (o->warmup_teacher_temp_epochs + o->pred_start_epoch > o->epochs)
        FAIL(STATUS_INVALID,
             "--warmup_teacher_temp_epochs %d plus --pred_start_epoch %d exceed "
             "--epochs %d: lower them",
             o->warmup_teacher_temp_epochs, o->pred_start_epoch, o->epochs);
    if (o->global_crop_size % o->patch_size != 0 && o->n_pred_ratio > 0)
        FAIL(STATUS_INVALID,
             "--global_crop_size %d is no multiple of --patch_size %d: masks need "
             "whole patches",
             o->global_crop_size, o->patch_size);
    if (o->use_fp16 && o->backend == BACKEND_CPU)
        FAIL(STATUS_INVALID, "--use_fp16 on: the CPU backend computes in float32; leave it off");
    if (o->data == NULL && o->listen == NULL)
        FAIL(STATUS_INVALID, "no images: give --data DIR (local loaders), or --listen ENDPOINT for "
                             "loaders started elsewhere");
    if (o->loaders > 0 && o->data == NULL)
        FAIL(STATUS_INVALID, "--loaders %d without --data DIR", o->loaders);
    return STATUS_OK;
}

enum status run_options_model(const struct run_options *o, struct ibot_options *out)
{
    memset(out, 0, sizeof(*out));
    TRY(backbone_options_for(&out->backbone, o->arch));
    struct backbone_options *b = &out->backbone;
    b->embed_dim = o->embed_dim > 0 ? o->embed_dim : b->embed_dim;
    b->depth = o->depth > 0 ? o->depth : b->depth;
    b->n_heads = o->num_heads > 0 ? o->num_heads : b->n_heads;
    b->patch_size_px = o->patch_size;
    b->image_size_px = o->global_crop_size;
    b->drop_path = o->drop_path;
    bool any_shared = o->shared_head || o->shared_head_teacher;
    out->head = (struct head_options){
        .hidden_dim = o->head_hidden_dim,
        .bottleneck_dim = o->bottleneck_dim,
        .out_dim = o->out_dim,
        .patch_out_dim = any_shared ? o->out_dim : o->patch_out_dim,
        .shared_student = o->shared_head,
        .shared_teacher = o->shared_head_teacher,
        .fixed_gains = o->norm_last_layer,
        .norm = o->norm_in_head >= 2 ? HEAD_NORM_BN : (enum head_norm)o->norm_in_head,
        .activation = o->act_in_head == 0 ? ACTIVATION_GELU : ACTIVATION_RELU,
    };
    out->batch_size = o->batch_size_per_gpu;
    out->n_global = o->global_crops_number;
    out->global_size_px = o->global_crop_size;
    out->n_local = o->local_crops_number;
    out->local_size_px = o->local_crop_size;
    out->masked_im_modeling = o->use_masked_im_modeling;
    out->lambda1 = o->lambda1;
    out->lambda2 = o->lambda2;
    out->optimizer = (enum optimizer_kind)o->optimizer;
    out->clip_global_norm = o->clip_mode == CLIP_GLOBAL;
    out->accumulation_steps = o->accumulation_steps;
    return STATUS_OK;
}

enum status run_options_data(const struct run_options *o, struct data_spec *out)
{
    *out = data_spec_default();
    out->seed = (uint64_t)o->seed;
    out->order_seed = (uint64_t)o->order_seed;
    out->n_global = o->global_crops_number;
    out->global_size_px = o->global_crop_size;
    out->n_local = o->local_crops_number;
    out->local_size_px = o->local_crop_size;
    memcpy(out->global_scale, o->global_crops_scale, sizeof(out->global_scale));
    memcpy(out->local_scale, o->local_crops_scale, sizeof(out->local_scale));
    out->first =
        (struct view_transform){o->flip, o->jitter_probability, o->grayscale, o->blur[0], 0};
    out->other = (struct view_transform){o->flip, o->jitter_probability, o->grayscale, o->blur[1],
                                         o->solarize};
    out->local =
        (struct view_transform){o->flip, o->jitter_probability, o->grayscale, o->blur[2], 0};
    out->brightness = o->color_jitter[0];
    out->contrast = o->color_jitter[1];
    out->saturation = o->color_jitter[2];
    out->hue = o->color_jitter[3];
    out->mask_cell_px = o->patch_size;
    out->mask_shape = o->pred_shape == 0 ? MASK_BLOCK : MASK_RANDOM;
    out->n_pred_ratios = o->n_pred_ratio;
    if (o->n_pred_ratio == 1 && o->pred_ratio[0] == 0.0f)
        out->n_pred_ratios = 0;
    for (int32_t i = 0; i < o->n_pred_ratio; i++) {
        out->pred_ratio[i] = o->pred_ratio[i];
        out->pred_ratio_var[i] = o->pred_ratio_var[o->n_pred_ratio_var == 1 ? 0 : i];
    }
    out->pred_start_epoch = o->pred_start_epoch;
    out->bad_image_policy = o->bad_images == 0 ? BAD_IMAGE_SUBSTITUTE : BAD_IMAGE_FAIL;
    return data_spec_check(out);
}

void run_options_schedule(const struct run_options *o, int64_t steps_per_epoch, int world,
                          struct schedule *out)
{
    double batch = (double)o->batch_size_per_gpu * o->accumulation_steps * world;

    *out = (struct schedule){
        .steps_per_epoch = steps_per_epoch,
        .epochs = o->epochs,
        .lr = o->lr * batch / 256.0,
        .min_lr = o->min_lr,
        .warmup_epochs = o->warmup_epochs,
        .weight_decay = o->weight_decay,
        .weight_decay_end = o->weight_decay_end,
        .momentum_teacher = o->momentum_teacher,
        .warmup_teacher_temp = o->warmup_teacher_temp,
        .teacher_temp = o->teacher_temp,
        .warmup_teacher_patch_temp = o->warmup_teacher_patch_temp,
        .teacher_patch_temp = o->teacher_patch_temp,
        .warmup_teacher_temp_epochs = o->warmup_teacher_temp_epochs,
        .pred_start_epoch = o->pred_start_epoch,
        .freeze_last_layer = o->freeze_last_layer,
        .student_temp = o->student_temp,
        .centre_momentum = o->center_momentum,
        .centre_patch_momentum = o->center_momentum2,
        .clip_grad = o->clip_grad,
    };
}
