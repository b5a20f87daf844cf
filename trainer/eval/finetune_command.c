/* ibot-eval finetune. */
#include <stdio.h>

#include "proto/config/rows.h"
#include "trainer/backend_options.h"
#include "trainer/eval/class_folders.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/finetune_run.h"

/* In the order of the enums. */
static const char *const poolings[] = {"cls", "mean", NULL};
static const char *const interpolations[] = {"bicubic", "bilinear", NULL};
static const char *const crop_interpolations[] = {"bicubic", "bilinear", "random", NULL};
static const char *const schedules[] = {"step", "epoch", NULL};

#define AT(field) .offset = offsetof(struct finetune_options, field)
#define NUMBER(NAME, TEXT, LEAST, MOST)                                                            \
    .name = #NAME, .type = OPTION_DOUBLE, AT(NAME), .text = TEXT, .minimum = LEAST, .maximum = MOST
#define WHOLE(NAME, TEXT, LEAST, MOST)                                                             \
    .name = #NAME, .type = OPTION_INT32, AT(NAME), .text = TEXT, .minimum = LEAST, .maximum = MOST

static const struct option_spec specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.name = "pooling",
     .type = OPTION_CHOICE,
     AT(pooling),
     .choices = poolings,
     .text = "cls",
     .help = "what is classified: the [CLS] token after the final norm; or the mean of the patch "
             "tokens before it, through a norm of its own. Of a Swin both are its mean token"},
    {WHOLE(finetune_head_layer, "0", 0, 3),
     .help = "begin behind so many layers of the pre-trained projection head, of which the third "
             "has its bottleneck and last layer; 1 is what few labels want. 0: at the backbone"},
    {NUMBER(init_scale, "0.001", 0, 1000), .help = "of the new linear layer's first weights"},
    {NUMBER(drop_path, "0.1", 0, 0.999),
     .help = "stochastic depth: rate of the last block, rising from 0 at the first"},
    {.part = &rows_backward, AT(backward), .flags = OPTION_OUTSIDE_DIGEST},

    {.part = &rows_frozen_data, AT(data), .group = "Data", .flags = OPTION_OUTSIDE_DIGEST},
    {.name = "crop_scale",
     .type = OPTION_FLOAT_LIST,
     AT(crop_scale),
     .count_offset = offsetof(struct finetune_options, n_crop_scale),
     .capacity = 2,
     .text = "0.08 1",
     .minimum = 0.001,
     .maximum = 1,
     .help = "area of a training crop, of the image: from, to"},
    {.name = "train_interpolation",
     .type = OPTION_CHOICE,
     AT(train_interpolation),
     .choices = crop_interpolations,
     .text = "bicubic",
     .help = "how training crops are resampled; random: one of the two for each"},
    {.name = "test_interpolation",
     .type = OPTION_CHOICE,
     AT(test_interpolation),
     .choices = interpolations,
     .text = "bicubic",
     .help = "how images to be classified are"},
    {.name = "aa",
     .type = OPTION_STRING,
     AT(aa),
     .text = "rand-m9-mstd0.5-inc1",
     .argument = "POLICY",
     .help = "RandAugment of the training crops, as timm writes it: magnitude m, its standard "
             "deviation mstd, number of operations n, probability p, inc1 for those that all grow "
             "stronger with the magnitude; or none"},
    {NUMBER(color_jitter, "0.4", 0, 0.99),
     .help = "with --aa none: brightness, contrast and saturation of training crops within 1 +- so "
             "much"},
    {.name = "repeated_aug",
     .type = OPTION_BOOL,
     AT(repeated_aug),
     .text = "off",
     .help = "repeated augmentation: each image three times in a row, as different crops; an epoch "
             "is no longer for it and has a third of the images"},
    {NUMBER(reprob, "0.25", 0, 1),
     .help = "random erasing: share of the training crops in which a box of 2 % to a third of the "
             "area becomes noise"},
    {NUMBER(mixup, "0.8", 0, 100),
     .help = "alpha of mixup: images of a batch in pairs, Beta(alpha, alpha) of one; 0: none"},
    {NUMBER(cutmix, "1", 0, 100),
     .help = "alpha of CutMix: a box of one image in the other instead; 0: none"},
    {NUMBER(mixup_prob, "1", 0, 1), .help = "share of the batches that are mixed in either way"},
    {NUMBER(mixup_switch_prob, "0.5", 0, 1), .help = "and of these by CutMix, where both are on"},
    {NUMBER(smoothing, "0.1", 0, 0.999),
     .help = "of targets: so much of them to all classes alike"},

    {WHOLE(batch_size_per_gpu, "128", 1, 4096), .unit = "images", .group = "Optimisation",
     .help = "images at a time, of each rank"},
    {WHOLE(update_freq, "1", 1, 4096), .unit = "batches",
     .help = "whose gradients make one step; what is left of an epoch after its last step is "
             "passed over"},
    {WHOLE(epochs, "100", 1, 100000), .help = "passes over the training images"},
    {NUMBER(lr, "0.004", 0, 1000),
     .help = "learning rate of the last layer after the warm-up, of AdamW"},
    {WHOLE(lr_batch, "0", 0, 1 << 20), .unit = "images",
     .help = "that --lr is for: it is scaled to the images of a step, of all ranks. 0: it is what "
             "it is"},
    {NUMBER(min_lr, "1e-6", 0, 1000), .help = "what it falls to, as a cosine"},
    {NUMBER(warmup_lr, "0", 0, 1000), .help = "what the warm-up begins with"},
    {WHOLE(warmup_epochs, "20", 0, 100000), .help = "of linear warm-up"},
    {.name = "lr_schedule",
     .type = OPTION_CHOICE,
     AT(lr_schedule),
     .choices = schedules,
     .text = "step",
     .help = "step: a new learning rate in each step; epoch: in each epoch but the second, the "
             "cosine beginning with the warm-up, as timm has it"},
    {NUMBER(layer_decay, "0.65", 0.001, 1),
     .help = "learning rates fall by this factor from each layer to the one before it"},
    {NUMBER(weight_decay, "0.05", 0, 100),
     .help = "of matrices; vectors, positions and [CLS] have none"},
    {NUMBER(clip_grad, "0", 0, 1e6), .help = "norm that all gradients are clipped to; 0: not"},
    {.name = "model_ema",
     .type = OPTION_BOOL,
     AT(model_ema),
     .text = "off",
     .help = "keep a moving average of the weights, and measure it too"},
    {NUMBER(model_ema_decay, "0.9999", 0, 1), .help = "what stays of it in each step"},
    {.name = "seed",
     .type = OPTION_INT64,
     AT(seed),
     .text = "0",
     .minimum = 0,
     .maximum = 9e15,
     .help = "of crops, mixing, stochastic depth and initial weights"},

    {.name = "output_dir",
     .letter = 'o',
     .type = OPTION_STRING,
     AT(output_dir),
     .argument = "DIR",
     .group = "Results",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "log.txt (an object an epoch), best.safetensors (the network that was best, for "
             "--eval and other tools), with --model_ema average.safetensors, run.yaml, and "
             "state.safetensors, from which the same command goes on"},
    {WHOLE(val_freq, "1", 1, 100000), .unit = "epochs",
     .help = "between two measurements on the test images"},
    {WHOLE(checkpoint_every_steps, "0", 0, INT32_MAX), .flags = OPTION_OUTSIDE_DIGEST,
     .unit = "steps",
     .help = "between states that are kept besides those of each epoch's end; 0: none"},
    {.name = "eval",
     .type = OPTION_BOOL,
     AT(eval),
     .text = "off",
     .flags = OPTION_COMMAND_LINE_ONLY,
     .help = "train nothing: measure --checkpoint, a network that was fine-tuned, on --test"},
    {.name = "check",
     .type = OPTION_BOOL,
     AT(check),
     .text = "off",
     .flags = OPTION_COMMAND_LINE_ONLY,
     .help = "check the options, print the effective run, end"},
    {.part = &row_json, AT(json), .flags = OPTION_OUTSIDE_DIGEST},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program program = {
    .name = "ibot-eval finetune",
    .summary = "Fine-tune a backbone, and a linear classifier upon it, on labelled images.",
    .epilogue =
        "  ibot-eval finetune --recipe vit_small --checkpoint runs/small --train DIR/train --test "
        "DIR/val -o runs/small/finetune\n"
        "  ibot-eval finetune --eval --checkpoint runs/small/finetune/best.safetensors --test "
        "DIR/val\n\n"
        "Recipes: vit_small, vit_base, vit_large, swin_tiny (ImageNet, as published), cifar, cars, "
        "inat (transfer to small data sets), semi (1 % or 10 % of the labels). The result is that "
        "of the epoch which is best on the test images, as it is published; beside it stands the "
        "last one. The same command again goes on where it stopped; Ctrl-C, SIGTERM and SIGUSR1 "
        "finish the step and save. Under mpirun, torchrun or srun it is several ranks (GPUs), each "
        "with its share of the images.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .run_file = true,
    .recipe_folders = IBOT_FINETUNE_FOLDERS,
};

static void print(const struct finetune_options *o, const char *which,
                  const struct finetune_result *r)
{
    printf(o->json
               ? "{\"which\": \"%s\", \"top1\": %.4f, \"top5\": %.4f, \"loss\": %.6f, \"epoch\": "
                 "%d}\n"
               : "%s: Top1: %.4f, Top5: %.4f (loss %.6f, epoch %d)\n",
           which, r->top1, r->top5, r->loss, r->epoch);
}

static enum status check(const struct finetune_options *o)
{
    if (o->weights.path == NULL || o->data.test == NULL || (!o->eval && o->data.train == NULL))
        FAIL(STATUS_INVALID, "give --checkpoint, --train and --test; with --eval the first and the "
                             "last");
    if (o->eval)
        return STATUS_OK;
    if (o->n_crop_scale != 2 || o->crop_scale[0] > o->crop_scale[1])
        FAIL(STATUS_INVALID, "--crop_scale: wanted two values, the lower one first");
    if (o->warmup_epochs > o->epochs)
        FAIL(STATUS_INVALID, "--warmup_epochs %d exceeds --epochs %d: lower it", o->warmup_epochs,
             o->epochs);
    if ((o->mixup > 0.0 || o->cutmix > 0.0) && o->batch_size_per_gpu % 2 != 0)
        FAIL(
            STATUS_INVALID,
            "--batch_size_per_gpu %d: images are mixed in pairs: give an even number, or --mixup 0 "
            "--cutmix 0",
            o->batch_size_per_gpu);
    return STATUS_OK;
}

static enum status check_data(const struct finetune_options *o)
{
    return o->eval ? STATUS_OK : class_folders_check(o->data.train, o->data.test);
}

static void print_all(const struct finetune_options *o, const struct finetune_results *results)
{
    if (o->eval) {
        print(o, "test", &results->last);
        return;
    }
    print(o, "best", &results->best);
    print(o, "last", &results->last);
    if (o->model_ema) {
        print(o, "best average", &results->best_average);
        print(o, "last average", &results->last_average);
    }
}

static enum status finetune(void *values, const struct options *parsed, struct backend *backend,
                            const atomic_int *stop)
{
    struct finetune_options *o = values;
    struct finetune_results results;

    backend_options_settle(&o->backend, &o->network, parsed);
    TRY(backend_options_check(&o->backend, &o->network));
    TRY(check(o));
    if (o->check)
        return options_dump(parsed, stdout);
    TRY(backend_meet(backend, (enum backend_kind)o->backend.kind, stop));
    TRY(check_data(o));
    if (o->eval)
        o->drop_path = 0.0;
    TRY(backend_options_open(backend, &o->backend, &o->network));
    TRY(finetune_run(&results, o, parsed, backend, stop));
    if (backend->collective.rank == 0)
        print_all(o, &results);
    return STATUS_OK;
}

const struct program_command finetune_command = {
    .program = &program,
    .values_bytes = sizeof(struct finetune_options),
    .run_ranks = finetune,
    .backend_at = offsetof(struct finetune_options, backend),
};
