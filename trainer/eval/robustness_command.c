/* ibot-eval robustness. */
#include <stdio.h>
#include <string.h>

#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/config/rows.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/frozen_options.h"
#include "trainer/eval/robustness.h"
#include "trainer/eval/robustness_scores.h"

enum { MAX_NAMES = 32, IDENTITY_BYTES = 16384 };

struct robustness_options {
    struct pretrained_options weights;
    const char *linear;
    int32_t n_last_blocks, avgpool_patchtokens;
    const char *backgrounds, *imagenet_a, *imagenet_c, *test;
    bool background_challenge;
    const char *corruptions[MAX_NAMES];
    int32_t n_corruptions;
    const char *drop[3], *drop_grid;
    int32_t n_drop, drop_offset, saliency_head, exp_count;
    float drop_ratios[MAX_RATIOS], drop_lambdas[MAX_RATIOS];
    int32_t n_drop_ratios, n_drop_lambdas;
    const char *saliency_checkpoint;
    const char *shuffle_grids[MAX_GRIDS];
    int32_t n_shuffle_grids;
    int32_t resize_size, crop_size, batch_size_per_gpu;
    bool bicubic_resize;
    int64_t seed;
    const char *output_dir;
    bool json;
    struct backend_options backend;
    struct network_options network;
};

#define AT(field) .offset = offsetof(struct robustness_options, field)
#define LIST(field, n, most)                                                                       \
    .offset = offsetof(struct robustness_options, field),                                          \
    .count_offset = offsetof(struct robustness_options, n), .capacity = most

static const struct option_spec specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.name = "linear",
     .alias = "checkpoint_linear",
     .type = OPTION_STRING,
     AT(linear),
     .argument = "PATH",
     .help =
         "the linear classifier: a folder that ibot-eval linear wrote, a file of it, or the "
         "original's checkpoint_teacher_linear.pth; without, the one in --checkpoint (ibot-convert "
         "--linear puts it there; DeiT has its own)"},
    {.name = "n_last_blocks",
     .type = OPTION_INT32,
     AT(n_last_blocks),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .help = "it takes [CLS] tokens of this many last blocks; 0: as its file says, or its width"},
    {.name = "avgpool_patchtokens",
     .type = OPTION_INT32,
     AT(avgpool_patchtokens),
     .text = "0",
     .minimum = 0,
     .maximum = 2,
     .help = "with --n_last_blocks: 0: [CLS] tokens; 1: mean of the last block's patch tokens; 2: "
             "both"},
    {.name = "backgrounds",
     .type = OPTION_STRING,
     AT(backgrounds),
     .argument = "DIR",
     .group = "Data: each is a test",
     .help = "ImageNet-9, as downloaded: original/val, mixed_rand/val, …; accuracy on each"},
    {.name = "background_challenge",
     .type = OPTION_BOOL,
     AT(background_challenge),
     .text = "off",
     .help =
         "and the share of its foregrounds (original/val, fg_mask/val) that are wrong on one or "
         "more of its backgrounds (only_bg_t/val): thousands of pictures for each"},
    {.name = "imagenet_a",
     .type = OPTION_STRING,
     AT(imagenet_a),
     .argument = "DIR",
     .help = "ImageNet-A: its 200 class folders; accuracy among these classes, calibration error, "
             "area under the response rate accuracy curve"},
    {.name = "imagenet_c",
     .type = OPTION_STRING,
     AT(imagenet_c),
     .argument = "DIR",
     .help = "ImageNet-C: CORRUPTION/SEVERITY/CLASS folders; errors, their mean, and the mean in "
             "AlexNet's errors (mCE)"},
    {.name = "corruptions",
     .type = OPTION_STRING_LIST,
     LIST(corruptions, n_corruptions, MAX_NAMES),
     .argument = "NAME",
     .help = "these of its corruptions alone"},
    {.name = "test",
     .type = OPTION_STRING,
     AT(test),
     .argument = "DIR",
     .help = "labelled photographs, such as ImageNet's val, for occlusion and shuffling"},
    {.name = "drop",
     .type = OPTION_STRING_LIST,
     LIST(drop, n_drop, 3),
     .argument = "KIND",
     .group = "Occlusion and shuffling",
     .help =
         "what is dropped of the photographs: random (cells of a grid), salient (the patches with "
         "a share of the attention's mass), non_salient (all but these), none; without: random"},
    {.name = "drop_grid",
     .type = OPTION_STRING,
     AT(drop_grid),
     .text = "14x14",
     .argument = "GRID",
     .help = "random: rows x columns"},
    {.name = "drop_offset",
     .type = OPTION_INT32,
     AT(drop_offset),
     .text = "0",
     .minimum = 0,
     .maximum = 4096,
     .unit = "px",
     .help = "random: cells lie this much further down and right, across the patches"},
    {.name = "drop_ratios",
     .type = OPTION_FLOAT_LIST,
     LIST(drop_ratios, n_drop_ratios, MAX_RATIOS),
     .text = "0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9",
     .minimum = 0,
     .maximum = 1,
     .help = "random: shares of the cells; of an image those of a greater share hold those of a "
             "smaller one"},
    {.name = "drop_lambdas",
     .type = OPTION_FLOAT_LIST,
     LIST(drop_lambdas, n_drop_lambdas, MAX_RATIOS),
     .text = "0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1",
     .minimum = 0,
     .maximum = 1,
     .help = "salient, non_salient: shares of the mass that are dropped, or kept alone"},
    {.name = "saliency_checkpoint",
     .type = OPTION_STRING,
     AT(saliency_checkpoint),
     .argument = "PATH",
     .help =
         "salient is where this ViT looks (the original's: DINO ViT-S/16, the same for all that "
         "are compared); without, the network itself"},
    {.name = "saliency_head",
     .type = OPTION_INT32,
     AT(saliency_head),
     .text = "1",
     .minimum = 0,
     .maximum = 255,
     .help = "with this head of its last block"},
    {.name = "shuffle_grids",
     .type = OPTION_STRING_LIST,
     LIST(shuffle_grids, n_shuffle_grids, MAX_GRIDS),
     .argument = "GRID",
     .help = "cells of these grids change places, each alone; none: nothing does; without: 2x2 2x4 "
             "4x4 4x8 8x8 14x14 16x16"},
    {.name = "exp_count",
     .type = OPTION_INT32,
     AT(exp_count),
     .text = "1",
     .minimum = 1,
     .maximum = 100,
     .help = "tries of what is random"},
    {.name = "resize_size",
     .type = OPTION_INT32,
     AT(resize_size),
     .text = "0",
     .minimum = 0,
     .maximum = 4096,
     .unit = "px",
     .group = "Pictures",
     .help =
         "shorter side of photographs (--test, --imagenet_a) after resizing; 0: 8/7 of the crop, "
         "256 for 224. The others have the network's size already"},
    {.name = "bicubic_resize",
     .type = OPTION_BOOL,
     AT(bicubic_resize),
     .text = "off",
     .help = "bicubic, not bilinear, for --test"},
    {.name = "crop_size",
     .type = OPTION_INT32,
     AT(crop_size),
     .text = "0",
     .minimum = 0,
     .maximum = 4096,
     .unit = "px",
     .help = "central crop; 0: that of the run's global crops, or what the positions are for"},
    {.name = "seed",
     .type = OPTION_INT64,
     AT(seed),
     .text = "0",
     .minimum = 0,
     .maximum = 9e15,
     .help = "of what is random"},
    {.part = &row_frozen_batch, AT(batch_size_per_gpu)},
    {.name = "output_dir",
     .letter = 'o',
     .type = OPTION_STRING,
     AT(output_dir),
     .argument = "DIR",
     .group = "Results",
     .help =
         "robustness.jsonl: a line for each result; the same command, or one with further tests, "
         "goes on with what is not there"},
    {.part = &row_json, AT(json)},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program program = {
    .name = "ibot-eval robustness",
    .summary =
        "Accuracy of a linear classifier on frozen features where pictures are not as those it "
        "learned from: other backgrounds, lost and displaced parts, natural adversarial "
        "examples, corruptions.",
    .epilogue =
        "  ibot-convert runs/small classifier.pth --linear runs/small/linear\n"
        "  ibot-eval robustness --checkpoint classifier.pth --backgrounds data/imnet_bg \\\n"
        "      --imagenet_a data/imnet_a --imagenet_c data/imnet_c -o runs/small/robustness\n"
        "  ibot-eval robustness --checkpoint classifier.pth --test data/imagenet/val \\\n"
        "      --drop random salient non_salient --saliency_checkpoint dino_small.pth\n\n"
        "What is dropped is 0 after normalisation. The benchmarks ask for a classifier of the 1000 "
        "classes of ImageNet in the order of their names.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

/* ------------------------------------------------------------------------------ options */

static bool has(const char *const *names, int32_t n, const char *name)
{
    for (int32_t i = 0; i < n; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static enum status check(const struct robustness_options *o)
{
    static const char *const kinds[] = {"random", "salient", "non_salient", "none"};

    if (o->weights.path == NULL)
        FAIL(STATUS_INVALID,
             "give --checkpoint: a backbone with its linear classifier, or without, "
             "and --linear");
    if (o->backgrounds == NULL && o->imagenet_a == NULL && o->imagenet_c == NULL && o->test == NULL)
        FAIL(STATUS_INVALID, "give data to test with: --backgrounds, --imagenet_a, --imagenet_c or "
                             "--test");
    if (o->background_challenge && o->backgrounds == NULL)
        FAIL(STATUS_INVALID, "--background_challenge: give --backgrounds too");
    if (o->n_last_blocks == 0 && o->avgpool_patchtokens > 0)
        FAIL(STATUS_INVALID, "--avgpool_patchtokens %d: give --n_last_blocks too",
             o->avgpool_patchtokens);
    for (int32_t i = 0; i < o->n_drop; i++)
        if (!has(kinds, 4, o->drop[i]))
            FAIL(STATUS_INVALID, "--drop: got '%s', wanted random, salient, non_salient or none",
                 o->drop[i]);
    if (has(o->drop, o->n_drop, "none") && o->n_drop > 1)
        FAIL(STATUS_INVALID, "--drop none: leave the others out");
    return STATUS_OK;
}

/* What the folder of a run was begun with. */
static void describe(const struct robustness_options *o, const struct robustness *r,
                     char out[IDENTITY_BYTES])
{
    const struct linear_head *head = &r->classifier->head;
    size_t n = (size_t)head->n_classes * (size_t)head->dim * sizeof(float);

    const char *saliency = o->saliency_checkpoint != NULL ? o->saliency_checkpoint : "its own";

    snprintf(out, IDENTITY_BYTES,
             "weights %s, key %s, classifier %016llx of %d classes, %d last blocks, avgpool %d, "
             "topk %d%s, crop "
             "%d of %d px %s, saliency %s head %d, seed %lld",
             r->classifier->network.weights, o->weights.key != NULL ? o->weights.key : "-",
             (unsigned long long)hash_bytes(head->weight, n), head->n_classes,
             head->features.n_last_blocks, head->features.avgpool, head->features.topk,
             head->features.reverse_top ? " reversed" : "", r->classifier->network.size_px,
             r->resize_px, r->bicubic ? "bicubic" : "bilinear", saliency, o->saliency_head,
             (long long)o->seed);
}

/* ------------------------------------------------------------------------------ tests */

static enum status open_saliency(struct inference *out, const struct robustness_options *o,
                                 struct backend *backend, const struct inference *network)
{
    struct pretrained_options weights = {.path = o->saliency_checkpoint};
    struct inference_options options = inference_options(
        o->saliency_checkpoint != NULL ? &weights : &o->weights, &o->backend, &o->network);

    options.batch_size = o->batch_size_per_gpu;
    options.size_px = network->size_px;
    TRY(inference_open(out, backend, &options));
    TRY(inference_wants_attention(out));
    if (o->saliency_head >= out->n_heads)
        FAIL(STATUS_INVALID,
             "--saliency_head %d: the network that says what is salient has heads 0 "
             "to %d",
             o->saliency_head, out->n_heads - 1);
    return STATUS_OK;
}

static enum status drop_parts(const struct robustness_options *o, const struct robustness *r,
                              struct backend *backend)
{
    struct occlusion_options options = {
        .random = o->n_drop == 0 || has(o->drop, o->n_drop, "random"),
        .salient = has(o->drop, o->n_drop, "salient"),
        .non_salient = has(o->drop, o->n_drop, "non_salient"),
        .offset_px = o->drop_offset,
        .n_tries = o->exp_count,
        .n_ratios = o->n_drop_ratios,
        .n_masses = o->n_drop_lambdas,
        .head = o->saliency_head,
    };
    struct inference saliency = {0};
    enum status status;

    if (has(o->drop, o->n_drop, "none"))
        return STATUS_OK;
    if (options.random)
        TRY(cell_grid_parse(&options.grid, o->drop_grid, r->classifier->network.size_px));
    memcpy(options.ratios, o->drop_ratios, sizeof(options.ratios));
    memcpy(options.masses, o->drop_lambdas, sizeof(options.masses));
    if (options.salient || options.non_salient) {
        TRY_OUT(open_saliency(&saliency, o, backend, &r->classifier->network));
        options.saliency = &saliency;
    }
    status = test_occlusion(r, o->test, &options);
out:
    inference_close(&saliency);
    return status;
}

static enum status shuffle_parts(const struct robustness_options *o, const struct robustness *r)
{
    static const char *const usual[] = {"2x2", "2x4", "4x4", "4x8", "8x8", "14x14", "16x16"};
    const char *const *texts = o->n_shuffle_grids > 0 ? o->shuffle_grids : usual;
    int32_t n = o->n_shuffle_grids > 0 ? o->n_shuffle_grids : 7;
    struct cell_grid grids[MAX_GRIDS];

    if (has(o->shuffle_grids, o->n_shuffle_grids, "none"))
        return STATUS_OK;
    for (int32_t i = 0; i < n; i++)
        TRY(cell_grid_parse(&grids[i], texts[i], r->classifier->network.size_px));
    return test_shuffling(r, o->test, grids, n, o->exp_count);
}

static enum status all_tests(const struct robustness_options *o, const struct robustness *r,
                             struct backend *backend)
{
    if (o->test != NULL) {
        TRY(drop_parts(o, r, backend));
        TRY(shuffle_parts(o, r));
    }
    if (o->backgrounds != NULL)
        TRY(test_backgrounds(r, o->backgrounds));
    if (o->background_challenge)
        TRY(test_background_challenge(r, o->backgrounds));
    if (o->imagenet_a != NULL)
        TRY(test_imagenet_a(r, o->imagenet_a));
    return o->imagenet_c != NULL
               ? test_imagenet_c(r, o->imagenet_c, o->corruptions, o->n_corruptions)
               : STATUS_OK;
}

static enum status robustness(void *values, const struct options *parsed, const atomic_int *stop)
{
    struct robustness_options *o = values;
    struct frozen_classifier classifier = {0};
    struct robustness_book book = {0};
    struct backend backend = {0};
    char identity[IDENTITY_BYTES];
    enum status status;

    backend_options_settle(&o->backend, &o->network, parsed);
    TRY(backend_options_check(&o->backend, &o->network));
    TRY(check(o));
    TRY_OUT(backend_options_open(&backend, &o->backend, &o->network));
    struct frozen_classifier_options options = {
        .network = inference_options(&o->weights, &o->backend, &o->network),
        .linear = o->linear,
        .features = {.n_last_blocks = o->n_last_blocks, .avgpool = o->avgpool_patchtokens},
    };
    options.network.batch_size = o->batch_size_per_gpu;
    options.network.size_px = o->crop_size;
    options.network.whole_tokens = false;
    TRY_OUT(frozen_classifier_open(&classifier, &backend, &options));
    int32_t size = classifier.network.size_px;
    struct robustness r = {
        .classifier = &classifier,
        .book = &book,
        .stop = stop,
        .resize_px = o->resize_size > 0 ? o->resize_size : size * 8 / 7,
        .bicubic = o->bicubic_resize,
        .n_threads = o->backend.threads,
        .seed = (uint64_t)o->seed,
    };
    if (r.resize_px < size)
        FAIL_OUT(STATUS_INVALID, "--resize_size %d is less than the crop of %d px", r.resize_px,
                 size);
    describe(o, &r, identity);
    TRY_OUT(book_open(&book, o->output_dir, identity, o->json));
    status = all_tests(o, &r, &backend);
out:
    book_close(&book);
    frozen_classifier_close(&classifier);
    backend_close(&backend);
    return status;
}

const struct program_command robustness_command = {
    .program = &program,
    .values_bytes = sizeof(struct robustness_options),
    .run = robustness,
};
