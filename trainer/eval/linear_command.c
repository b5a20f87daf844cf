/* ibot-eval linear. */
#include <stdio.h>

#include "proto/base/hash.h"
#include "proto/config/rows.h"
#include "trainer/backend_options.h"
#include "trainer/eval/class_folders.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/frozen_options.h"
#include "trainer/eval/linear_run.h"
#include "trainer/rank_agreement.h"

enum { MAX_RATES = 64, MAX_DECAYS = 4 };

enum optimizer_choice { CHOICE_SGD, CHOICE_LARS, CHOICE_BOTH };
static const char *const optimizers[] = {"sgd", "lars", "both", NULL};

struct linear_options {
    struct pretrained_options weights;
    struct frozen_feature_options features;
    struct frozen_data_options data;
    struct backend_options backend;
    struct network_options network;
    int32_t batch_size_per_gpu;
    float lr[MAX_RATES], weight_decay[MAX_DECAYS];
    int32_t n_lr, n_weight_decay, epochs, val_freq;
    int64_t seed;
    int optimizer;
    const char *output_dir;
    bool json;
};

#define AT(field) .offset = offsetof(struct linear_options, field)

static const struct option_spec specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.part = &rows_frozen_features, AT(features), .text = "4"},
    {.part = &rows_frozen_data, AT(data), .group = "Data", .flags = OPTION_OUTSIDE_DIGEST},
    {.name = "batch_size_per_gpu",
     .type = OPTION_INT32,
     AT(batch_size_per_gpu),
     .text = "128",
     .minimum = 1,
     .maximum = 4096,
     .unit = "images",
     .help = "images of a step, of each rank"},
    {.name = "lr",
     .type = OPTION_FLOAT_LIST,
     AT(lr),
     .count_offset = offsetof(struct linear_options, n_lr),
     .capacity = MAX_RATES,
     .minimum = 1e-9,
     .maximum = 1e6,
     .group = "Classifiers",
     .help =
         "learning rates for 256 images (the batch scales them), falling to 0 as a cosine over "
         "the epochs; a classifier for each. Without: the 45 of the original, 1 to 9 times 0.0001, "
         "0.001, 0.01, 0.1 and 1"},
    {.name = "weight_decay",
     .type = OPTION_FLOAT_LIST,
     AT(weight_decay),
     .count_offset = offsetof(struct linear_options, n_weight_decay),
     .capacity = MAX_DECAYS,
     .text = "0",
     .minimum = 0,
     .maximum = 100,
     .help = "and one for each of these (the widest search of the original: 0 1e-06)"},
    {.name = "optimizer",
     .type = OPTION_CHOICE,
     AT(optimizer),
     .choices = optimizers,
     .text = "sgd",
     .help = "with momentum 0.9; both: classifiers of either kind"},
    {.name = "epochs",
     .type = OPTION_INT32,
     AT(epochs),
     .text = "100",
     .minimum = 1,
     .maximum = 100000,
     .help = "passes over the training images, as random crops of 8 % of the area or more, "
             "mirrored half the time"},
    {.name = "val_freq",
     .type = OPTION_INT32,
     AT(val_freq),
     .text = "1",
     .minimum = 1,
     .maximum = 100000,
     .unit = "epochs",
     .help = "between two measurements on the test images, and checkpoints"},
    {.name = "seed",
     .type = OPTION_INT64,
     AT(seed),
     .text = "0",
     .minimum = 0,
     .maximum = 9e15,
     .help = "of crops and initial weights"},
    {.name = "output_dir",
     .letter = 'o',
     .type = OPTION_STRING,
     AT(output_dir),
     .argument = "DIR",
     .group = "Results",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "log.txt (accuracy and loss of every classifier), linear.safetensors (the best one), "
             "and classifiers.safetensors, from which the same command goes on"},
    {.part = &row_json, AT(json), .flags = OPTION_OUTSIDE_DIGEST},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program program = {
    .name = "ibot-eval linear",
    .summary = "Linear accuracy of a frozen backbone: linear classifiers of many learning rates, "
               "trained at once on augmented crops.",
    .epilogue =
        "  ibot-eval linear --checkpoint runs/small --train DIR/train --test DIR/val -o "
        "runs/small/linear\n\n"
        "The published figures are with --n_last_blocks 4 --avgpool_patchtokens 0 of ViT-S and "
        "Swin, 1 and 2 of ViT-B and ViT-L. The result is that of the classifier and epoch that are "
        "best on the test images, "
        "as it is published; beside it stands the best classifier of the last epoch. Under mpirun, "
        "torchrun or srun it is several ranks (GPUs), each with its share of the images.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

static void default_rates(struct linear_options *o)
{
    static const float powers[] = {1e-4f, 1e-3f, 1e-2f, 1e-1f, 1.0f};

    for (int p = 0; p < 5; p++)
        for (int i = 1; i <= 9; i++)
            o->lr[o->n_lr++] = (float)i * powers[p];
}

/* One classifier for each combination. Errors: STATUS_INVALID when there are too many. */
static enum status combine(const struct linear_options *o, struct linear_classifier *out,
                           int32_t *n)
{
    int kinds = o->optimizer == CHOICE_BOTH ? 2 : 1;

    *n = 0;
    if (o->n_lr * o->n_weight_decay * kinds > LINEAR_PROBE_MAX)
        FAIL(STATUS_INVALID,
             "%d learning rates, %d weight decays and %d optimizers make %d classifiers: %d are "
             "the most; give fewer",
             o->n_lr, o->n_weight_decay, kinds, o->n_lr * o->n_weight_decay * kinds,
             LINEAR_PROBE_MAX);
    for (int k = 0; k < kinds; k++)
        for (int32_t w = 0; w < o->n_weight_decay; w++)
            for (int32_t i = 0; i < o->n_lr; i++)
                out[(*n)++] = (struct linear_classifier){
                    .optimizer =
                        k == 1 || o->optimizer == CHOICE_LARS ? OPTIMIZER_LARS : OPTIMIZER_SGD,
                    .lr = (double)o->lr[i],
                    .weight_decay = (double)o->weight_decay[w],
                };
    return STATUS_OK;
}

/* What the folder of a run was begun with. Options, and so paths, are UTF-8. */
static void describe(const struct linear_options *o, const struct feature_model *model,
                     const struct linear_classifier *classifiers, int32_t n, char *out,
                     size_t n_bytes)
{
    double settings[2 * LINEAR_PROBE_MAX];
    int world = model->network.backend->collective.world;
    char top[48] = "", ranks[32] = "";

    for (int32_t i = 0; i < n; i++) {
        settings[2 * i] = classifiers[i].lr;
        settings[2 * i + 1] = classifiers[i].weight_decay;
    }
    if (o->features.topk > 0)
        snprintf(top, sizeof(top), ", %s %d patches", o->features.reverse_top ? "least" : "top",
                 o->features.topk);
    if (world > 1)
        snprintf(ranks, sizeof(ranks), " on each of %d ranks", world);
    snprintf(out, n_bytes,
             "weights %s, key %s, %d last blocks, avgpool %d%s, crop %d of %d px, train %s, test "
             "%s, batch %d%s, %d classifiers (optimizer %s, rates %016llx), %d epochs, seed %lld",
             model->network.weights, o->weights.key != NULL ? o->weights.key : "-",
             o->features.n_last_blocks, o->features.avgpool_patchtokens, top,
             model->network.size_px, frozen_resize_px(&o->data, model), o->data.train, o->data.test,
             o->batch_size_per_gpu, ranks, n, optimizers[o->optimizer],
             (unsigned long long)hash_bytes(settings, 2 * (size_t)n * sizeof(double)), o->epochs,
             (long long)o->seed);
}

static void print(const struct linear_options *o, const char *which,
                  const struct linear_result *result, const struct linear_classifier *classifiers)
{
    const struct linear_classifier *c = &classifiers[result->classifier];
    const char *optimizer = optimizers[c->optimizer == OPTIMIZER_LARS ? CHOICE_LARS : CHOICE_SGD];

    printf(o->json ? "{\"which\": \"%s\", \"top1\": %.4f, \"top5\": %.4f, \"loss\": %.6f, \"lr\": "
                     "%.6g, \"weight_decay\": %.6g, \"optimizer\": \"%s\", \"epoch\": %d}\n"
                   : "%s: Top1: %.4f, Top5: %.4f (loss %.6f, lr %.6g, weight decay %.6g, %s, epoch "
                     "%d)\n",
           which, result->top1, result->top5, result->loss, c->lr, c->weight_decay, optimizer,
           result->epoch);
}

static enum status run(const struct linear_options *o, struct feature_model *model,
                       const struct linear_classifier *classifiers, int32_t n,
                       const atomic_int *stop)
{
    struct collective *ranks = &model->network.backend->collective;
    struct linear_result best, last;
    char identity[4 * CHECKPOINT_MAX_PATH];

    describe(o, model, classifiers, n, identity, sizeof(identity));
    struct linear_run_options options = {
        .train = o->data.train,
        .test = o->data.test,
        .folder = o->output_dir,
        .identity = identity,
        .resize_px = frozen_resize_px(&o->data, model),
        .n_loaders = o->data.loaders,
        .loader_threads = o->data.loader_threads,
        .epochs = o->epochs,
        .val_freq = o->val_freq,
        .seed = (uint64_t)o->seed,
        .lr_scale = (double)o->batch_size_per_gpu * ranks->world / 256.0,
        .classifiers = classifiers,
        .n_classifiers = n,
    };
    TRY(rank_compare(ranks, "the weights", model->network.weights, "give all ranks the same file"));
    TRY(linear_run(&best, &last, model, &options, stop));
    if (ranks->rank == 0) {
        print(o, "best", &best, classifiers);
        print(o, "last", &last, classifiers);
    }
    return STATUS_OK;
}

static enum status linear(void *values, const struct options *parsed, struct backend *backend,
                          const atomic_int *stop)
{
    struct linear_options *o = values;
    struct linear_classifier classifiers[LINEAR_PROBE_MAX];
    struct feature_model model = {0};
    int32_t n;

    backend_options_settle(&o->backend, &o->network, parsed);
    TRY(backend_options_check(&o->backend, &o->network));
    if (o->weights.path == NULL || o->data.train == NULL || o->data.test == NULL)
        FAIL(STATUS_INVALID, "give --checkpoint, --train and --test");
    TRY(backend_meet(backend, (enum backend_kind)o->backend.kind, stop));
    TRY(class_folders_check(o->data.train, o->data.test));
    if (o->n_lr == 0)
        default_rates(o);
    TRY(combine(o, classifiers, &n));
    TRY(backend_options_open(backend, &o->backend, &o->network));
    TRY(rank_compare_options(&backend->collective, parsed));
    struct frozen_choice choice = {
        .weights = &o->weights,
        .data = &o->data,
        .network = &o->network,
        .kind = (enum backend_kind)o->backend.kind,
        .features = o->features,
        .batch_size = o->batch_size_per_gpu,
    };
    enum status status = frozen_model_open(&model, backend, &choice);
    if (status == STATUS_OK)
        status = run(o, &model, classifiers, n, stop);
    feature_model_close(&model);
    return status;
}

const struct program_command linear_command = {
    .program = &program,
    .values_bytes = sizeof(struct linear_options),
    .run_ranks = linear,
    .backend_at = offsetof(struct linear_options, backend),
};
