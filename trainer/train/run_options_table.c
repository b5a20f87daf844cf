/* The option table of ibot-train. */
#include <stddef.h>

#include "proto/config/rows.h"
#include "trainer/train/run_options.h"

static const char *const head_norms[] = {"none", "ln", "bn", "syncbn", NULL};
static const char *const activations[] = {"gelu", "relu", NULL};
static const char *const mask_shapes[] = {"block", "rand", NULL};
static const char *const optimizers[] = {"adamw", "sgd", "lars", NULL};
static const char *const clip_modes[] = {"per_tensor", "global", NULL};
static const char *const policies[] = {"substitute", "fail", NULL};
static const char *const photometric_places[] = {"loader", "trainer", NULL};
static const char *const resume_modes[] = {"auto", "none", NULL};
static const char *const record_kinds[] = {"full", "ids", NULL};
static const char *const streams[] = {"f32", "bf16", NULL}; /* enum ibot_precision */

/* An option is called like its field. */
#define ROW(kind, field, ...)                                                                      \
    {                                                                                              \
        .name = #field, .type = OPTION_##kind, .offset = offsetof(struct run_options, field),      \
        __VA_ARGS__                                                                                \
    }
/* None of these changes what is to be computed. */
#define PART(rows, field)                                                                          \
    {                                                                                              \
        .part = &rows, .offset = offsetof(struct run_options, field),                              \
        .flags = OPTION_OUTSIDE_DIGEST                                                             \
    }

static const struct option_spec specs[] = {
    ROW(STRING, arch, .text = "vit_small", .argument = "NAME", .group = "Model",
        .help = "vit_tiny, vit_small, vit_base, vit_large, deit_tiny, deit_small; swin_tiny, "
                "swin_small, swin_base, swin_large; or, for small experiments, vit_test (width "
                "96, depth 3) and swin_test (two stages of two blocks, widths 64 and 128)"),
    ROW(INT32, patch_size, .text = "16", .minimum = 1, .maximum = 512, .unit = "px",
        .help = "side of a ViT's patch, and of its mask cell; a Swin's patch has 4 px, its mask "
                "cell 32 px (in the original, whose cell is 8 patches, the default 16 leaves a "
                "Swin without masks)"),
    ROW(INT32, window_size, .text = "7", .minimum = 1, .maximum = BACKBONE_MAX_WINDOW,
        .unit = "tokens",
        .help = "side of a Swin's windows: 7 or 14 as published; a map that is no larger is one "
                "window. A ViT has none"),
    ROW(INT32, embed_dim, .text = "0", .minimum = 0, .maximum = 16384,
        .help = "width; 0: the architecture's"),
    ROW(INT32, depth, .text = "0", .minimum = 0, .maximum = 256,
        .help = "number of blocks; 0: the architecture's"),
    ROW(INT32, num_heads, .text = "0", .minimum = 0, .maximum = 256,
        .help = "attention heads; 0: the architecture's"),
    ROW(INT32, out_dim, .text = "8192", .minimum = 1, .maximum = 1 << 20,
        .help = "prototypes for [CLS] tokens"),
    ROW(INT32, patch_out_dim, .text = "8192", .minimum = 1, .maximum = 1 << 20,
        .help = "prototypes for patches; used when neither head is shared"),
    ROW(BOOL, shared_head, .text = "on",
        .help = "student: one last layer for both token kinds, as published (the original's "
                "default is off)"),
    ROW(BOOL, shared_head_teacher, .text = "on",
        .help = "teacher: one last layer for both token kinds"),
    ROW(BOOL, norm_last_layer, .text = "off",
        .help = "hold the last layer's gains at 1, as is safer for small data; off as published "
                "for ViT-S (the original's default is on)"),
    ROW(CHOICE, norm_in_head, .choices = head_norms, .text = "none",
        .help = "norm between the head's linear layers; bn is synchronised over ranks, as syncbn"),
    ROW(CHOICE, act_in_head, .choices = activations, .text = "gelu",
        .help = "activation in the head"),
    ROW(INT32, head_hidden_dim, .text = "2048", .minimum = 1, .maximum = 1 << 16,
        .help = "width of the head's hidden layers"),
    ROW(INT32, bottleneck_dim, .text = "256", .minimum = 1, .maximum = 1 << 14,
        .help = "width of the head's bottleneck"),
    ROW(BOOL, use_masked_im_modeling, .text = "on",
        .help = "replace masked patches by the mask token in the student; off: the patch loss is "
                "taken at the same places, unmasked"),
    ROW(FLOAT, drop_path, .text = "0.1", .minimum = 0, .maximum = 0.99,
        .help =
            "stochastic depth of the student's last block; it rises to this from 0 at the first. A "
            "Swin's default is its own: 0.1 for swin_tiny, 0.2 for the larger ones"),

    ROW(INT32, global_crops_number, .text = "2", .minimum = 1, .maximum = 16,
        .group = "Crops and masks", .help = "global crops of each image"),
    ROW(FLOAT_LIST, global_crops_scale,
        .count_offset = offsetof(struct run_options, n_global_scale), .capacity = 2,
        .text = "0.25 1", .minimum = 1e-4, .maximum = 1,
        .help = "range of a global crop's share of the image's area, as published (the original's "
                "default is 0.14 1)"),
    ROW(INT32, global_crop_size, .text = "224", .minimum = 8, .maximum = 4096, .unit = "px",
        .help = "side of a global crop"),
    ROW(INT32, local_crops_number, .text = "10", .minimum = 0, .maximum = 48,
        .help = "local crops of each image, as published (the original's default is 0)"),
    ROW(FLOAT_LIST, local_crops_scale, .count_offset = offsetof(struct run_options, n_local_scale),
        .capacity = 2, .text = "0.05 0.25", .minimum = 1e-4, .maximum = 1,
        .help = "range of a local crop's share of the image's area, as published (the original's "
                "default is 0.05 0.4)"),
    ROW(INT32, local_crop_size, .text = "96", .minimum = 8, .maximum = 4096, .unit = "px",
        .help = "side of a local crop"),
    ROW(FLOAT_LIST, pred_ratio, .count_offset = offsetof(struct run_options, n_pred_ratio),
        .capacity = RUN_MAX_LIST, .text = "0 0.3", .minimum = 0, .maximum = 1,
        .help = "share of patches to mask; of several, each crop draws one; 0 alone: no masks (the "
                "original's default is 0.3)"),
    ROW(FLOAT_LIST, pred_ratio_var, .count_offset = offsetof(struct run_options, n_pred_ratio_var),
        .capacity = RUN_MAX_LIST, .text = "0 0.2", .minimum = 0, .maximum = 1,
        .help = "half-width of a uniform around each mask ratio; one value serves all; 0 when "
                "--pred_ratio is given without it"),
    ROW(CHOICE, pred_shape, .choices = mask_shapes, .text = "block",
        .help = "shape of masks: rectangles (block), or single patches (rand)"),
    ROW(INT32, pred_start_epoch, .text = "0", .minimum = 0, .maximum = 100000, .unit = "epochs",
        .help = "no masks before this epoch; the patch temperature's warm-up begins there"),
    ROW(FLOAT, flip, .text = "0.5", .minimum = 0, .maximum = 1,
        .help = "probability of a horizontal flip"),
    ROW(FLOAT_LIST, color_jitter, .count_offset = offsetof(struct run_options, n_color_jitter),
        .capacity = 4, .text = "0.4 0.4 0.2 0.1", .minimum = 0, .maximum = 1,
        .help = "strengths of brightness, contrast, saturation and hue jitter (hue at most 0.5)"),
    ROW(FLOAT, jitter_probability, .text = "0.8", .minimum = 0, .maximum = 1,
        .help = "probability of colour jitter"),
    ROW(FLOAT, grayscale, .text = "0.2", .minimum = 0, .maximum = 1,
        .help = "probability of greyscale"),
    ROW(FLOAT_LIST, blur, .count_offset = offsetof(struct run_options, n_blur), .capacity = 3,
        .text = "1 0.1 0.5", .minimum = 0, .maximum = 1,
        .help = "probability of blur: first global crop, the others, local crops"),
    ROW(FLOAT, solarize, .text = "0.2", .minimum = 0, .maximum = 1,
        .help = "probability of solarization of the other global crops"),

    ROW(FLOAT, lambda1, .text = "1", .minimum = 0, .maximum = 1000, .group = "Loss",
        .help = "weight of the [CLS] loss"),
    ROW(FLOAT, lambda2, .text = "1", .minimum = 0, .maximum = 1000,
        .help = "weight of the patch loss"),
    ROW(DOUBLE, warmup_teacher_temp, .text = "0.04", .minimum = 1e-3, .maximum = 10,
        .help = "teacher temperature for [CLS] tokens at the start"),
    ROW(DOUBLE, teacher_temp, .text = "0.07", .minimum = 1e-3, .maximum = 10,
        .help = "teacher temperature for [CLS] tokens after the warm-up, as published (the "
                "original's default is 0.04)"),
    ROW(DOUBLE, warmup_teacher_patch_temp, .text = "0.04", .minimum = 1e-3, .maximum = 10,
        .help = "teacher temperature for patches at the start"),
    ROW(DOUBLE, teacher_patch_temp, .text = "0.07", .minimum = 1e-3, .maximum = 10,
        .help = "teacher temperature for patches after the warm-up"),
    ROW(INT32, warmup_teacher_temp_epochs, .text = "30", .minimum = 0, .maximum = 100000,
        .unit = "epochs", .help = "linear warm-up of both teacher temperatures"),
    ROW(DOUBLE, student_temp, .text = "0.1", .minimum = 1e-3, .maximum = 10,
        .help = "student temperature (fixed in the original)"),
    ROW(DOUBLE, center_momentum, .text = "0.9", .minimum = 0, .maximum = 1,
        .help = "momentum of the [CLS] centre (fixed in the original)"),
    ROW(DOUBLE, center_momentum2, .text = "0.9", .minimum = 0, .maximum = 1,
        .help = "momentum of the patch centre (fixed in the original)"),
    ROW(DOUBLE, momentum_teacher, .text = "0.996", .minimum = 0, .maximum = 1,
        .help = "momentum of the teacher's average at the start; a half cosine leads to 1"),

    ROW(CHOICE, optimizer, .choices = optimizers, .text = "adamw", .group = "Optimization",
        .help = "how weights are moved"),
    ROW(DOUBLE, lr, .text = "0.0005", .minimum = 0, .maximum = 100,
        .help = "peak learning rate for a total batch of 256 images; scaled linearly"),
    ROW(DOUBLE, min_lr, .text = "1e-6", .minimum = 0, .maximum = 100,
        .help = "learning rate at the end; not scaled"),
    ROW(INT32, warmup_epochs, .text = "10", .minimum = 0, .maximum = 100000, .unit = "epochs",
        .help = "linear warm-up of the learning rate"),
    ROW(DOUBLE, weight_decay, .text = "0.04", .minimum = 0, .maximum = 100,
        .help = "weight decay at the start; a half cosine leads to --weight_decay_end"),
    ROW(DOUBLE, weight_decay_end, .text = "0.4", .minimum = 0, .maximum = 100,
        .help = "weight decay at the end"),
    ROW(DOUBLE, clip_grad, .text = "3", .minimum = 0, .maximum = 1e6,
        .help = "limit on the L2 norm of a gradient; 0: none"),
    ROW(CHOICE, clip_mode, .choices = clip_modes, .text = "per_tensor",
        .help = "--clip_grad limits each tensor's gradient by itself, as in the original, or all "
                "together"),
    ROW(INT32, batch_size_per_gpu, .text = "64", .minimum = 1, .maximum = 65536, .unit = "images",
        .zero = "auto", .argument = "N|auto",
        .help = "images of each rank's micro-batch; with one micro-batch in a step, the rank's "
                "batch (the original's default is 128). auto: the largest multiple of 8 that fits "
                "into the memory of every rank's accelerator, less a sixteenth of it; the learning "
                "rate follows, and a run that goes on keeps what it began with"),
    ROW(INT32, accumulation_steps, .text = "1", .minimum = 1, .maximum = 4096,
        .help = "micro-batches added up before each step"),
    ROW(INT32, epochs, .text = "800", .minimum = 1, .maximum = 100000, .unit = "epochs",
        .help = "length of training (the original's default is 100)"),
    ROW(INT32, freeze_last_layer, .text = "1", .minimum = 0, .maximum = 100000, .unit = "epochs",
        .help = "epochs before the head's last layer moves"),
    ROW(INT64, seed, .text = "0", .minimum = 0, .maximum = 9e18,
        .help = "seed of initial weights, crops, masks and stochastic depth"),
    ROW(INT64, order_seed, .text = "0", .minimum = 0, .maximum = 9e18,
        .help = "seed of the order of images (always 0 in the original)"),

    ROW(STRING, data, .alias = "data_path", .flags = OPTION_OUTSIDE_DIGEST, .argument = "DIR",
        .group = "Data",
        .help = "images for local loaders: one folder per class, one folder of images or of tar "
                "archives, "
                "a tar archive, or a list of images"),
    ROW(STRING, index, .flags = OPTION_OUTSIDE_DIGEST, .argument = "FILE",
        .help = "index made by ibot-index, for local loaders"),
    ROW(INT32, loaders, .text = "0", .minimum = 0, .maximum = 64, .flags = OPTION_OUTSIDE_DIGEST,
        .help =
            "local loader processes of each rank; 0: one when --data is given without --listen"),
    PART(row_loader_threads, loader_threads),
    ROW(INT32, num_workers, .text = "0", .minimum = 0, .maximum = 1024,
        .flags = OPTION_OUTSIDE_DIGEST,
        .help = "the original's name: data threads of a rank, shared out over its local loaders; "
                "0: --loader_threads says how many"),
    ROW(STRING, listen, .flags = OPTION_OUTSIDE_DIGEST, .argument = "ENDPOINT",
        .help = "where loaders connect, such as tcp://127.0.0.1:5550; rank r takes the port r "
                "above it"),
    ROW(STRING, key, .flags = OPTION_OUTSIDE_DIGEST, .argument = "FILE",
        .help =
            "this trainer's secret key (ibot-stream keygen): --listen tcp://… is encrypted, and "
            "open to the loaders of --allow alone; local loaders need none"),
    ROW(STRING, allow, .flags = OPTION_OUTSIDE_DIGEST, .argument = "FILE",
        .help = "public keys of the loaders that may connect, one in each line: .public files put "
                "together; read again when it changes"),
    ROW(BOOL, insecure, .text = "off", .flags = OPTION_OUTSIDE_DIGEST,
        .help = "allow --listen on an address that others can reach, without encryption"),
    ROW(STRING, index_digest, .flags = OPTION_OUTSIDE_DIGEST, .argument = "HEX",
        .help = "the data set that loaders must have, by the digest that ibot-index prints; "
                "default: that of the first loader"),
    ROW(INT32, slice_size, .text = "16", .minimum = 1, .maximum = 256,
        .flags = OPTION_OUTSIDE_DIGEST, .unit = "images",
        .help = "images leased to a loader at a time"),
    ROW(INT32, prefetch, .text = "4", .minimum = 1, .maximum = 256, .flags = OPTION_OUTSIDE_DIGEST,
        .unit = "batches", .help = "batches in the making or ready beyond the current one"),
    ROW(BOOL, upright, .text = "off",
        .help = "turn images as their EXIF orientation says; the original ignores it"),
    ROW(CHOICE, photometric, .choices = photometric_places, .text = "loader",
        .flags = OPTION_OUTSIDE_DIGEST,
        .help = "who applies jitter, grayscale, blur and solarisation: loader, or trainer, which "
                "spares loaders a third of their work; the pixels are the same"),
    ROW(CHOICE, bad_images, .choices = policies, .text = "substitute",
        .help = "an image that can't be read: substitute the next one that can, or fail"),

    ROW(STRING, output_dir, .letter = 'o', .text = "runs/ibot", .flags = OPTION_OUTSIDE_DIGEST,
        .argument = "DIR", .group = "Run", .help = "the run folder"),
    ROW(CHOICE, resume, .choices = resume_modes, .text = "auto", .flags = OPTION_OUTSIDE_DIGEST,
        .help = "go on from the newest good checkpoint of the run folder, or refuse to when there "
                "is one"),
    ROW(STRING, load_from, .flags = OPTION_OUTSIDE_DIGEST, .argument = "PATH",
        .help = "when the run folder has no checkpoint yet: the run or the checkpoint to go on "
                "from, with other options if need be, or a whole checkpoint of the original "
                "(checkpoint.pth), which goes on with its next epoch (a relative path is one in "
                "the run folder, as in the original)"),
    ROW(STRING, init_from, .argument = "PATH",
        .help = "begin a new run with the backbone of these weights, student and teacher alike, "
                "and a new head: a run or checkpoint, a file of iBOT, DINO, DeiT or timm; "
                "positions of another crop size are interpolated"),
    ROW(INT32, saveckp_freq, .text = "40", .minimum = 0, .maximum = 100000,
        .flags = OPTION_OUTSIDE_DIGEST, .unit = "epochs",
        .help = "keep the checkpoint of every n-th epoch for good; 0: of none"),
    ROW(INT32, checkpoint_every_steps, .text = "0", .minimum = 0, .maximum = 100000000,
        .flags = OPTION_OUTSIDE_DIGEST, .unit = "steps",
        .help = "save within epochs too, every so many steps; each epoch's end is saved anyway"),
    ROW(DOUBLE, checkpoint_every_minutes, .text = "30", .minimum = 0, .maximum = 1e6, .unit = "min",
        .flags = OPTION_OUTSIDE_DIGEST,
        .help = "save within epochs too when the last checkpoint is older than this; 0: never"),
    ROW(INT32, keep_checkpoints, .text = "3", .minimum = 1, .maximum = 100000,
        .flags = OPTION_OUTSIDE_DIGEST,
        .help = "newest checkpoints to keep; the one of step 0 stays as well"),
    ROW(INT64, stop_at_step, .text = "0", .minimum = 0, .maximum = 9e18,
        .flags = OPTION_OUTSIDE_DIGEST,
        .help = "save and end after this many steps of the run; 0: at its end"),
    ROW(STRING, skip_steps, .argument = "FIRST-LAST,...",
        .help = "after a loss spike: steps whose batches are passed over, without a change to any "
                "weight; they are counted from 0, both ends included. May change from one start "
                "to the next for steps that are yet to come"),
    ROW(STRING, log_digests, .flags = OPTION_OUTSIDE_DIGEST, .argument = "FILE",
        .help = "add a line with number and hash of every batch (of rank r to FILE.r when there "
                "are several)"),
    ROW(STRING, record, .flags = OPTION_OUTSIDE_DIGEST, .argument = "DIR",
        .help =
            "record every batch that is consumed, for ibot-stream to replay, verify and inspect; "
            "empty: nothing, whatever the run file says"),
    ROW(CHOICE, record_kind, .choices = record_kinds, .text = "full",
        .flags = OPTION_OUTSIDE_DIGEST,
        .help = "what a recording has of each sample: all of it, or its index and hashes, which "
                "are enough to make it again from the data set and check it"),
    ROW(STRING, metrics, .flags = OPTION_OUTSIDE_DIGEST, .argument = "[ADDRESS]:PORT",
        .help = "serve /metrics (Prometheus), /healthz and /readyz over HTTP; without an address "
                "on 127.0.0.1 alone; rank r takes the port r above it; port 0: any free one, named "
                "in the log"),
    PART(rows_backend, backend),
    PART(rows_network, network),
    ROW(BOOL, use_fp16, .text = "on", .flags = OPTION_OUTSIDE_DIGEST,
        .help = "the original's name: off makes --precision auto f32 on an accelerator too"),
    ROW(CHOICE, residual_stream, .choices = streams, .text = "f32", .flags = OPTION_OUTSIDE_DIGEST,
        .help = "type in which the stream between blocks, and its gradient, lie in memory; with "
                "--precision bf16 it may be bf16, which moves and keeps less; sums and norms are "
                "computed in float32 either way, and checkpoints fit both"),
    PART(rows_backward, backward),
    ROW(BOOL, cuda_graph, .text = "on", .flags = OPTION_OUTSIDE_DIGEST,
        .help = "record steps on an accelerator and launch them whole; off: call by call, with the "
                "same bits"),
    ROW(BOOL, weight_gradient_branch, .text = "off", .flags = OPTION_OUTSIDE_DIGEST,
        .help = "make the gradients of the blocks' weights on a branch of the accelerator, beside "
                "the rest of the backward, with the same bits; takes a second set of a "
                "block's gradients as memory"),
    ROW(BOOL, check, .text = "off", .flags = OPTION_COMMAND_LINE_ONLY,
        .help = "check the options, print the effective run, end"),
    ROW(INT32, local_rank, .text = "0", .minimum = 0, .maximum = 65536,
        .flags = OPTION_COMMAND_LINE_ONLY,
        .help = "accepted for torch.distributed.launch; ranks come from the environment (torchrun, "
                "mpirun, Slurm)"),
    ROW(STRING, dist_url, .flags = OPTION_COMMAND_LINE_ONLY, .argument = "URL",
        .help = "accepted; the ranks' addresses come from the environment"),
};

const struct options_program run_program = {
    .name = "ibot-train",
    .summary = "Pre-train a vision transformer with iBOT.",
    .epilogue =
        "Recipes: vit_small_16, vit_base_16, vit_large_16, swin_tiny_w7, swin_tiny_w14 (as "
        "published), cifar10_vit, cifar10_small, cifar10_swin.\n\n"
        "  ibot-train --recipe vit_small_16 --data /data/imagenet/train --loaders 8 -o runs/small\n"
        "  ibot-train --recipe vit_small_16 --listen tcp://127.0.0.1:5550 -o runs/small\n"
        "  ibot-train --recipe vit_small_16 --listen tcp://0.0.0.0:5550 --key trainer.secret "
        "--allow allowed_keys --metrics :9100 -o runs/small\n"
        "  mpirun --bind-to none -np 4 ibot-train --recipe vit_small_16 --data "
        "/data/imagenet/train\n\n"
        "The same command again goes on where it stopped. Ctrl-C, SIGTERM and SIGUSR1 finish the "
        "step and save; a second Ctrl-C ends at once. Exit status: 0 done, 2 wrong options, 3 the "
        "run folder holds another run, 75 interrupted after a checkpoint, 1 anything else.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .run_file = true,
    .recipe_folders = IBOT_RECIPE_FOLDERS,
};
