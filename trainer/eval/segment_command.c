/* ibot-eval segment. */
#include <math.h>
#include <stdio.h>

#include "proto/config/rows.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/segment_run.h"
#include "trainer/log_line.h"
#include "trainer/pretrained_rows.h"

/* In the order of the enum. */
static const char *const decoders[] = {"linear", "upernet", NULL};

#define AT(field) .offset = offsetof(struct segment_options, field)
#define NUMBER(NAME, TEXT, LEAST, MOST)                                                            \
    .name = #NAME, .type = OPTION_DOUBLE, AT(NAME), .text = TEXT, .minimum = LEAST, .maximum = MOST
#define WHOLE(NAME, TEXT, LEAST, MOST)                                                             \
    .name = #NAME, .type = OPTION_INT32, AT(NAME), .text = TEXT, .minimum = LEAST, .maximum = MOST
#define SWITCH(NAME, TEXT) .name = #NAME, .type = OPTION_BOOL, AT(NAME), .text = TEXT
#define FOLDER(NAME)       .name = #NAME, .type = OPTION_STRING, AT(NAME), .argument = "DIR"

static const struct option_spec specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.name = "taps",
     .type = OPTION_FLOAT_LIST,
     AT(taps),
     .count_offset = offsetof(struct segment_options, n_taps),
     .capacity = CLASSIFIER_MAX_TAPS,
     .minimum = 0,
     .maximum = 1000,
     .help = "blocks whose patches are classified, side by side, counted from 0, the last one "
             "among them. Without: 3 5 7 11 of 12, 7 11 15 23 of 24, as the original"},
    {.name = "decoder",
     .type = OPTION_CHOICE,
     AT(decoder),
     .choices = decoders,
     .text = "linear",
     .help =
         "what classifies the blocks: a linear layer on them side by side; or UPerNet on four of "
         "them, beside an auxiliary head, whose result is a map of four times the patches"},
    {NUMBER(dropout, "0.1", 0, 0.999),
     .help = "of UPerNet: share of the channels of what it classifies that are dropped in a step"},
    {SWITCH(out_with_norm, "on"), .help = "what blocks leave goes through the final norm"},
    {SWITCH(frozen, "on"), .help = "the backbone stays as it is; off: it is trained too"},
    {NUMBER(drop_path, "0.1", 0, 0.999),
     .help = "of a backbone that is trained: stochastic depth, the rate of the last block, rising "
             "from 0 at the first"},
    {.part = &rows_backward, AT(backward), .flags = OPTION_OUTSIDE_DIGEST},

    {FOLDER(data_path), .group = "Data", .flags = OPTION_OUTSIDE_DIGEST,
     .help = "a data set as ADE20K is laid out: images/training, annotations/training, "
             "images/validation, annotations/validation"},
    {FOLDER(train), .flags = OPTION_OUTSIDE_DIGEST,
     .help = "training pictures, .jpg or .png, in subfolders too; instead of those of --data_path"},
    {FOLDER(train_labels), .flags = OPTION_OUTSIDE_DIGEST,
     .help = "their labels: PNG files of the same names and sizes, whose palette's indices, or "
             "whose greys, are classes; 255 is no class"},
    {FOLDER(test), .flags = OPTION_OUTSIDE_DIGEST, .help = "test pictures"},
    {FOLDER(test_labels), .flags = OPTION_OUTSIDE_DIGEST, .help = "and their labels"},
    {WHOLE(num_classes, "150", 1, 255),
     .help = "classes of the labels; with --eval those of the weights count"},
    {SWITCH(reduce_zero_label, "on"),
     .help = "label 0 is no class either, and 1 the first, as in ADE20K; off: 0 is the first"},
    {WHOLE(crop_size, "auto", 1, 4096), .zero = "auto", .unit = "px",
     .help = "side of training crops and of the windows that slide over test pictures: a multiple "
             "of the patch; auto: 512, with --eval as in the training"},
    {WHOLE(resize_size, "crop", 1, 4096), .zero = "crop", .unit = "px",
     .help = "shorter side of pictures, unless the longer one would exceed four times that"},
    {.name = "ratio_range",
     .type = OPTION_FLOAT_LIST,
     AT(ratio_range),
     .count_offset = offsetof(struct segment_options, n_ratio_range),
     .capacity = 2,
     .text = "0.5 2",
     .minimum = 0.01,
     .maximum = 16,
     .help = "what that is multiplied with for a training crop: from, to"},
    {NUMBER(cat_max_ratio, "0.75", 0, 1),
     .help = "share of a training crop that one class may have, if one of ten crops has less"},
    {SWITCH(photometric, "on"),
     .help = "brightness, contrast, saturation and hue of training crops are changed"},
    {WHOLE(stride, "auto", 1, 4096), .zero = "auto", .unit = "px",
     .help = "between windows that slide over a test picture; auto: two thirds of a window, 341 of "
             "512"},
    {.name = "img_ratios",
     .type = OPTION_FLOAT_LIST,
     AT(img_ratios),
     .count_offset = offsetof(struct segment_options, n_img_ratios),
     .capacity = SEGMENT_MAX_RATIOS,
     .text = "1",
     .minimum = 0.01,
     .maximum = 16,
     .help = "sizes that a test picture is seen at, as parts of --resize_size: 0.5 0.75 1 1.25 1.5 "
             "1.75 as mmsegmentation has them; their softmaxes are added"},
    {SWITCH(flip, "off"), .help = "and mirrored too, at each"},

    {WHOLE(batch_size_per_gpu, "16", 1, 1024), .unit = "crops", .group = "Optimisation",
     .help = "at a time, of each rank; of windows at most so many"},
    {WHOLE(update_freq, "1", 1, 4096), .unit = "batches", .help = "whose gradients make one step"},
    {WHOLE(steps, "160000", 1, INT32_MAX), .help = "of the run"},
    {NUMBER(lr, "0.0008", 0, 1000), .help = "learning rate of AdamW, of what follows the backbone"},
    {NUMBER(power, "1", 0, 100),
     .help = "it falls as the share of the run that is left, to this power"},
    {NUMBER(min_lr, "0", 0, 1000), .help = "to this"},
    {WHOLE(warmup_steps, "1500", 0, INT32_MAX), .help = "of linear warm-up"},
    {NUMBER(warmup_ratio, "1e-6", 0, 1), .help = "share of it that the warm-up begins with"},
    {NUMBER(weight_decay, "0.05", 0, 100),
     .help = "of matrices; vectors, positions and [CLS] have none"},
    {NUMBER(layer_decay, "1", 0.001, 1),
     .help = "of a backbone that is trained: learning rates fall by this factor from each layer to "
             "the one before it"},
    {NUMBER(clip_grad, "0", 0, 1e6), .help = "norm that all gradients are clipped to; 0: not"},
    {.name = "seed",
     .type = OPTION_INT64,
     AT(seed),
     .text = "0",
     .minimum = 0,
     .maximum = 9e15,
     .help = "of the order of pictures, crops, stochastic depth and initial weights"},

    {.name = "output_dir",
     .letter = 'o',
     .type = OPTION_STRING,
     AT(output_dir),
     .argument = "DIR",
     .group = "Results",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "log.txt (an object for each measurement), best.safetensors (the network that was "
             "best, for --eval), run.yaml, and state.safetensors, from which the same command goes "
             "on"},
    {WHOLE(val_freq, "16000", 1, INT32_MAX), .unit = "steps",
     .help = "between two measurements on the test pictures"},
    {WHOLE(checkpoint_every_steps, "2000", 0, INT32_MAX), .flags = OPTION_OUTSIDE_DIGEST,
     .unit = "steps",
     .help = "between states that are kept besides those of measurements; 0: none"},
    {SWITCH(eval, "off"), .flags = OPTION_COMMAND_LINE_ONLY,
     .help = "train nothing: measure --checkpoint, what a training has written"},
    {FOLDER(masks), .flags = OPTION_COMMAND_LINE_ONLY,
     .help = "with --eval: where the labels that were found go, as PNG with a palette, of the "
             "names of the test pictures, which need no labels then"},
    {.name = "class_names",
     .type = OPTION_STRING,
     AT(class_names),
     .argument = "FILE",
     .flags = OPTION_COMMAND_LINE_ONLY,
     .help = "with --eval: a text file with the name of a class in each line, the first class "
             "first, for what is printed"},
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
    .name = "ibot-eval segment",
    .summary = "Semantic segmentation: a linear layer or UPerNet on the patches of a ViT, and its "
               "mean IoU.",
    .epilogue =
        "  ibot-eval segment --checkpoint runs/base --data_path ADEChallengeData2016 -o "
        "runs/base/ade20k\n"
        "  ibot-eval segment --recipe upernet_base --checkpoint runs/base --data_path "
        "ADEChallengeData2016 -o runs/base/upernet\n"
        "  ibot-eval segment --eval --checkpoint runs/base/ade20k/best.safetensors --data_path "
        "ADEChallengeData2016\n"
        "  ibot-eval segment --eval --checkpoint runs/base/ade20k/best.safetensors --test photos "
        "--masks found\n\n"
        "The defaults are the linear configuration of the original on ADE20K: 160000 steps of 16 "
        "crops of 512 px; recipes have its UPerNet. The result is that of the measurement which is "
        "best on the test "
        "pictures; "
        "beside it stands the last one. The same command again goes on where it stopped; Ctrl-C, "
        "SIGTERM and SIGUSR1 finish the step and save. Under mpirun, torchrun or srun it is "
        "several ranks "
        "(GPUs), each with crops and test pictures of its own.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .run_file = true,
    .recipe_folders = IBOT_SEGMENT_FOLDERS,
};

static void print_result(const struct segment_options *o, const char *which,
                         const struct segment_result *r)
{
    printf(o->json ? "{\"which\": \"%s\", \"miou\": %.4f, \"aacc\": %.4f, \"macc\": %.4f, "
                     "\"step\": %lld}\n"
                   : "%s: mIoU: %.4f, aAcc: %.4f, mAcc: %.4f (step %lld)\n",
           which, r->mean_iou, r->all_accuracy, r->mean_accuracy, (long long)r->step);
}

/* Percent, or what stands for no number. */
static const char *percent_or(char out[32], double share, const char *none)
{
    snprintf(out, 32, "%.4f", 100.0 * share);
    return isnan(share) ? none : out;
}

static void print_class(const struct segment_results *r, int32_t class, int32_t label)
{
    const char *name = class < r->names.n ? r->names.text[class] : "";
    char iou[32], accuracy[32];

    printf("label %d%s%s%s: IoU: %s, ", label, name[0] != '\0' ? " (" : "", name,
           name[0] != '\0' ? ")" : "", percent_or(iou, r->scores.iou[class], ""));
    if (isnan(r->scores.accuracy[class]))
        printf("not annotated\n");
    else
        printf("Acc: %s\n", percent_or(accuracy, r->scores.accuracy[class], ""));
}

static void print_class_json(const struct segment_results *r, int32_t class, int32_t label)
{
    char iou[32], accuracy[32];

    printf("{\"label\": %d, ", label);
    if (class < r->names.n) {
        struct log_line name = {.n = 0};
        log_line_string(&name, "name", r->names.text[class]);
        printf("%s, ", name.text + 1); /* without the brace */
    }
    printf("\"iou\": %s, \"acc\": %s}\n", percent_or(iou, r->scores.iou[class], "null"),
           percent_or(accuracy, r->scores.accuracy[class], "null"));
}

/* Of a class that is in no picture there is nothing to say. */
static void print_classes(const struct segment_options *o, const struct segment_results *r)
{
    for (int32_t i = 0; i < r->scores.n_classes; i++) {
        int32_t label = i + (o->reduce_zero_label ? 1 : 0);
        if (isnan(r->scores.iou[i]))
            continue;
        if (o->json)
            print_class_json(r, i, label);
        else
            print_class(r, i, label);
    }
}

static enum status check_data(const struct segment_options *o)
{
    bool train = o->data_path != NULL || (o->train != NULL && o->train_labels != NULL);
    bool test = o->data_path != NULL || (o->test != NULL && o->test_labels != NULL);

    if (o->weights.path == NULL)
        FAIL(STATUS_INVALID, "give --checkpoint");
    if ((o->masks != NULL || o->class_names != NULL) && !o->eval)
        FAIL(STATUS_INVALID, "--%s is for --eval", o->masks != NULL ? "masks" : "class_names");
    if (o->eval && o->masks != NULL && o->test != NULL)
        return STATUS_OK;
    if (!test || (!o->eval && !train))
        FAIL(STATUS_INVALID, "give --data_path, or --test and --test_labels%s",
             o->eval ? "; with --masks the labels may be missing"
                     : ", and --train and --train_labels");
    return STATUS_OK;
}

static enum status check(const struct segment_options *o)
{
    TRY(check_data(o));
    if (o->n_ratio_range != 2 || o->ratio_range[0] > o->ratio_range[1])
        FAIL(STATUS_INVALID, "--ratio_range: wanted two values, the lower one first");
    if (o->n_img_ratios < 1)
        FAIL(STATUS_INVALID, "--img_ratios: wanted at least one");
    if (o->reduce_zero_label && o->num_classes > SEGMENT_MAX_CLASSES - 1)
        FAIL(STATUS_INVALID, "--num_classes %d: with --reduce_zero_label wanted at most %d",
             o->num_classes, SEGMENT_MAX_CLASSES - 1);
    if (o->warmup_steps > o->steps && !o->eval)
        FAIL(STATUS_INVALID, "--warmup_steps %d exceeds --steps %d: lower it", o->warmup_steps,
             o->steps);
    if (o->crop_size > 0 && o->stride > o->crop_size)
        FAIL(STATUS_INVALID, "--stride %d exceeds --crop_size %d: windows would leave gaps",
             o->stride, o->crop_size);
    return STATUS_OK;
}

static void print_all(const struct segment_options *o, const struct segment_results *results)
{
    if (!o->eval) {
        print_result(o, "best", &results->best);
        print_result(o, "last", &results->last);
    } else if (!isnan(results->last.all_accuracy)) {
        print_classes(o, results);
        print_result(o, "test", &results->last);
    }
}

static enum status segment(void *values, const struct options *parsed, struct backend *backend,
                           const atomic_int *stop)
{
    struct segment_options *o = values;
    struct segment_results results;

    backend_options_settle(&o->backend, &o->network, parsed);
    TRY(backend_options_check(&o->backend, &o->network));
    TRY(check(o));
    if (o->check)
        return options_dump(parsed, stdout);
    TRY(backend_meet(backend, (enum backend_kind)o->backend.kind, stop));
    TRY(backend_options_open(backend, &o->backend, &o->network));
    TRY(segment_run(&results, o, parsed, backend, stop));
    if (backend->collective.rank == 0)
        print_all(o, &results);
    return STATUS_OK;
}

const struct program_command segment_command = {
    .program = &program,
    .values_bytes = sizeof(struct segment_options),
    .run_ranks = segment,
    .backend_at = offsetof(struct segment_options, backend),
};
