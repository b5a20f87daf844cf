/* ibot-eval cluster. */
#include <stdio.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "trainer/backend_options.h"
#include "trainer/cluster_scores.h"
#include "trainer/eval/cluster_accuracy.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/frozen_options.h"
#include "trainer/eval/prototypes.h"

struct cluster_options {
    struct pretrained_options weights;
    struct frozen_data_options data;
    struct backend_options backend;
    struct network_options network;
    int32_t batch_size_per_gpu;
    bool json;
};

#define AT(field) .offset = offsetof(struct cluster_options, field)

static const struct option_spec specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.part = &rows_frozen_test, AT(data), .group = "Data"},
    {.part = &row_frozen_batch, AT(batch_size_per_gpu)},
    {.part = &row_json, AT(json), .group = "Results"},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program program = {
    .name = "ibot-eval cluster",
    .summary = "Unsupervised classification: the prototype that the projection head gives an image "
               "is its cluster, and clusters are compared with classes.",
    .epilogue =
        "Accuracy is that of the one-to-one assignment of clusters to classes that makes most "
        "images right; images of clusters beyond the number of classes are wrong. The published "
        "figures are of networks pre-trained with as many prototypes as there are classes "
        "(ibot-train --out_dim 1000); NMI, ARI and FMI ask for no such number.\n\n"
        "  ibot-eval cluster --checkpoint runs/small --test DIR/val",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

/* The head that belongs to the backbone. */
static enum status open_head(const struct cluster_options *o, struct backend *backend,
                             int32_t width, struct prototypes **out)
{
    struct pretrained pretrained;

    TRY(pretrained_open(&pretrained, &o->weights));
    enum status status = prototypes_open(out, backend, &pretrained, width);
    pretrained_close(&pretrained);
    return status;
}

static enum status compare(const struct cluster_options *o, const struct features *features,
                           const int32_t *cluster, int32_t n_prototypes)
{
    struct cluster_scores scores;
    int64_t right;

    TRY(cluster_scores_compute(&scores, features->labels, cluster, (size_t)features->n));
    TRY(cluster_accuracy(&right, features->labels, cluster, (size_t)features->n));
    double accuracy = 100.0 * (double)right / (double)features->n;
    if (o->json)
        printf("{\"nmi\": %.6f, \"ari\": %.6f, \"fmi\": %.6f, \"acc\": %.4f, \"images\": %lld, "
               "\"classes\": %lld, \"prototypes\": %d, \"clusters\": %lld}\n",
               scores.nmi, scores.ari, scores.fmi, accuracy, (long long)features->n,
               (long long)scores.n_classes, n_prototypes, (long long)scores.n_clusters);
    else
        printf("NMI: %.4f, ARI: %.4f, FMI: %.4f, ACC: %.4f (%lld images of %lld classes, %lld of "
               "%d prototypes in use)\n",
               100.0 * scores.nmi, 100.0 * scores.ari, 100.0 * scores.fmi, accuracy,
               (long long)features->n, (long long)scores.n_classes, (long long)scores.n_clusters,
               n_prototypes);
    return STATUS_OK;
}

static enum status cluster(void *values, const struct options *parsed, const atomic_int *stop)
{
    struct cluster_options *o = values;
    struct frozen_choice choice = {
        .weights = &o->weights,
        .data = &o->data,
        .network = &o->network,
        .kind = (enum backend_kind)o->backend.kind,
        .features = {.n_last_blocks = 1},
        .batch_size = o->batch_size_per_gpu,
    };
    struct feature_model model = {0};
    struct features features = {0};
    struct prototypes *head = NULL;
    int32_t *clusters = NULL;
    struct backend backend = {0};
    enum status status;

    backend_options_settle(&o->backend, &o->network, parsed);
    TRY(backend_options_check(&o->backend, &o->network));
    if (o->weights.path == NULL || o->data.test == NULL)
        FAIL(STATUS_INVALID, "give --checkpoint and --test");
    TRY_OUT(backend_options_open(&backend, &o->backend, &o->network));
    TRY_OUT(frozen_model_open(&model, &backend, &choice));
    TRY_OUT(open_head(o, &backend, model.dim, &head));
    struct feature_data_options data = {
        .data = o->data.test,
        .resize_px = frozen_resize_px(&o->data, &model),
        .n_loaders = o->data.loaders,
        .loader_threads = o->data.loader_threads,
    };
    TRY_OUT(features_compute(&features, &model, &data, stop));
    TRY_OUT(memory_alloc(&clusters, (size_t)features.n, sizeof(*clusters), "clusters"));
    TRY_OUT(prototypes_assign(head, features.values, features.n, clusters));
    TRY_OUT(compare(o, &features, clusters, prototypes_count(head)));
out:
    prototypes_close(&head);
    memory_free(clusters);
    features_release(&features);
    feature_model_close(&model);
    backend_close(&backend);
    return status;
}

const struct program_command cluster_command = {
    .program = &program,
    .values_bytes = sizeof(struct cluster_options),
    .run = cluster,
};
