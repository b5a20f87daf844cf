/* ibot-eval knn. */
#include <math.h>
#include <stdio.h>

#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "trainer/backend_options.h"
#include "trainer/checkpoint.h"
#include "trainer/eval/class_folders.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/frozen_options.h"
#include "trainer/eval/knn.h"
#include "trainer/rank_agreement.h"
#include "trainer/rank_rows.h"

enum { MAX_K = 16 };

struct knn_options {
    struct pretrained_options weights;
    struct frozen_feature_options features;
    struct frozen_data_options data;
    const char *dump_features, *load_features;
    struct backend_options backend;
    struct network_options network;
    float nb_knn[MAX_K];
    int32_t n_nb_knn, batch_size_per_gpu;
    double temperature;
    bool json;
};

#define AT(field) .offset = offsetof(struct knn_options, field)

static const struct option_spec knn_specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.part = &rows_frozen_features, AT(features)},
    {.part = &rows_frozen_data, AT(data), .group = "Data", .flags = OPTION_OUTSIDE_DIGEST},
    {.part = &row_frozen_batch, AT(batch_size_per_gpu)},
    {.name = "dump_features",
     .type = OPTION_STRING,
     AT(dump_features),
     .argument = "DIR",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "keep the features: train.safetensors and test.safetensors"},
    {.name = "load_features",
     .type = OPTION_STRING,
     AT(load_features),
     .argument = "DIR",
     .flags = OPTION_OUTSIDE_DIGEST,
     .help = "classify kept features instead of images"},
    {.name = "nb_knn",
     .type = OPTION_FLOAT_LIST,
     AT(nb_knn),
     .count_offset = offsetof(struct knn_options, n_nb_knn),
     .capacity = MAX_K,
     .text = "10 20 100 200",
     .minimum = 1,
     .maximum = 100000,
     .group = "Classifier",
     .help = "numbers of neighbours; those beyond the number of training images are left out"},
    {.name = "temperature",
     .type = OPTION_DOUBLE,
     AT(temperature),
     .text = "0.07",
     .minimum = 1e-4,
     .maximum = 100,
     .help = "neighbours weigh exp(similarity / temperature)"},
    {.part = &row_json, AT(json), .flags = OPTION_OUTSIDE_DIGEST},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program knn_program = {
    .name = "ibot-eval knn",
    .summary = "Weighted k-NN classification on frozen features.",
    .epilogue = "  ibot-eval knn --checkpoint runs/small --train DIR/train --test DIR/val\n\n"
                "Under mpirun, torchrun or srun it is several ranks (GPUs), each with its share of "
                "the images.",
    .specs = knn_specs,
    .n_specs = sizeof(knn_specs) / sizeof(knn_specs[0]),
};

static enum status check(const struct knn_options *o)
{
    TRY(backend_options_check(&o->backend, &o->network));
    for (int32_t i = 0; i < o->n_nb_knn; i++)
        if (o->nb_knn[i] != floorf(o->nb_knn[i]))
            FAIL(STATUS_INVALID, "--nb_knn: got %g, wanted whole numbers", (double)o->nb_knn[i]);
    if (o->load_features != NULL) {
        if (o->weights.path != NULL || o->data.train != NULL || o->data.test != NULL ||
            o->dump_features != NULL)
            FAIL(STATUS_INVALID, "--load_features takes the place of --checkpoint, --train, --test "
                                 "and --dump_features: give it alone, or leave it out");
        return STATUS_OK;
    }
    if (o->weights.path == NULL || o->data.train == NULL || o->data.test == NULL)
        FAIL(STATUS_INVALID, "give --checkpoint, --train and --test (or --load_features with kept "
                             "features)");
    return class_folders_check(o->data.train, o->data.test);
}

static enum status both_splits(const struct knn_options *o, struct backend *backend,
                               struct features *train, struct features *test,
                               const atomic_int *stop)
{
    struct frozen_choice choice = {
        .weights = &o->weights,
        .data = &o->data,
        .network = &o->network,
        .kind = (enum backend_kind)o->backend.kind,
        .features = o->features,
        .batch_size = o->batch_size_per_gpu,
    };
    struct feature_model model;
    enum status status;

    TRY(frozen_model_open(&model, backend, &choice));
    TRY_OUT(rank_compare(&backend->collective, "the weights", model.network.weights,
                         "give all ranks the same file"));
    struct feature_data_options data = {
        .data = o->data.train,
        .resize_px = frozen_resize_px(&o->data, &model),
        .n_loaders = o->data.loaders,
        .loader_threads = o->data.loader_threads,
        .unit_length = true,
    };
    TRY_OUT(features_compute(train, &model, &data, stop));
    data.data = o->data.test;
    TRY_OUT(features_compute(test, &model, &data, stop));
out:
    feature_model_close(&model);
    return status;
}

/* Of the test rows of all ranks, in the place of those of this one. */
static enum status add_up(struct collective *ranks, enum status status, struct knn_args *args)
{
    for (int32_t i = 0; i < args->n_results; i++) {
        struct knn_result *result = &args->results[i];
        struct rank_word word = {.sums = {(double)result->top1, (double)result->top5}};
        TRY(rank_agree(ranks, status, &word));
        result->top1 = (int64_t)word.sums[0];
        result->top5 = (int64_t)word.sums[1];
    }
    return STATUS_OK;
}

static void print(const struct knn_options *o, const struct knn_args *args, int64_t n_test)
{
    double percent = 100.0 / (double)n_test;

    for (int32_t i = 0; i < args->n_results; i++)
        printf(o->json ? "{\"k\": %d, \"top1\": %.4f, \"top5\": %.4f}\n"
                       : "%d-NN classifier result: Top1: %.4f, Top5: %.4f\n",
               args->results[i].k, (double)args->results[i].top1 * percent,
               (double)args->results[i].top5 * percent);
}

/* Each rank has all features, and classifies a part of the test rows. */
static enum status classify(const struct knn_options *o, struct backend *backend,
                            const struct features *train, const struct features *test,
                            const atomic_int *stop)
{
    struct collective *ranks = &backend->collective;
    struct knn_result results[MAX_K];
    int64_t first, end;

    TRY(features_check_both(train, test));
    rank_share(ranks, test->n, &first, &end);
    struct knn_args args = {
        .train = train->values,
        .test = test->values + first * test->dim,
        .train_labels = train->labels,
        .test_labels = test->labels + first,
        .n_train = train->n,
        .n_test = end - first,
        .dim = train->dim,
        .n_classes = train->n_classes,
        .temperature = (float)o->temperature,
        .results = results,
        .stop = stop,
    };
    for (int32_t i = 0; i < o->n_nb_knn; i++) {
        if ((int64_t)o->nb_knn[i] <= train->n)
            results[args.n_results++].k = (int32_t)o->nb_knn[i];
        else if (ranks->rank == 0)
            log_warning("k = %g is left out: there are %lld training images", (double)o->nb_knn[i],
                        (long long)train->n);
    }
    if (args.n_results == 0)
        FAIL(STATUS_INVALID, "--nb_knn has no number within the %lld training images",
             (long long)train->n);
    ranks->progress(ranks, 0, "classifies");
    TRY(add_up(ranks, knn_classify(&backend->device, backend->ops, &args), &args));
    if (ranks->rank == 0)
        print(o, &args, test->n);
    return STATUS_OK;
}

/* Those that were kept, which all ranks read. */
static enum status read_features(const struct knn_options *o, struct collective *ranks,
                                 struct features *train, struct features *test)
{
    const struct features *both[] = {train, test};
    char text[64];
    int n = 0;

    TRY(features_read_both(train, test, o->load_features));
    for (int i = 0; i < 2; i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%016llx", i > 0 ? " and " : "",
                      (unsigned long long)hash_bytes(
                          both[i]->values, (size_t)(both[i]->n * both[i]->dim) * sizeof(float)));
    return rank_compare(ranks, "features", text, "give all ranks the same folder");
}

static enum status write_features(const struct knn_options *o, struct collective *ranks,
                                  const struct features *train, const struct features *test)
{
    struct rank_word word = {0};
    enum status status = STATUS_OK;

    if (ranks->rank == 0)
        status = features_write_both(train, test, o->dump_features);
    return rank_agree(ranks, status, &word);
}

static enum status knn(void *values, const struct options *parsed, struct backend *backend,
                       const atomic_int *stop)
{
    struct knn_options *o = values;
    struct features train = {0}, test = {0};
    struct collective *ranks = &backend->collective;
    enum status status;

    backend_options_settle(&o->backend, &o->network, parsed);
    TRY(backend_meet(backend, (enum backend_kind)o->backend.kind, stop));
    TRY(check(o));
    TRY(backend_options_open(backend, &o->backend, &o->network));
    TRY(rank_compare_options(ranks, parsed));
    if (o->load_features != NULL)
        TRY_OUT(read_features(o, ranks, &train, &test));
    else
        TRY_OUT(both_splits(o, backend, &train, &test, stop));
    if (o->dump_features != NULL)
        TRY_OUT(write_features(o, ranks, &train, &test));
    TRY_OUT(classify(o, backend, &train, &test, stop));
out:
    features_release(&train);
    features_release(&test);
    return status;
}

const struct program_command knn_command = {
    .program = &knn_program,
    .values_bytes = sizeof(struct knn_options),
    .run_ranks = knn,
    .backend_at = offsetof(struct knn_options, backend),
};
