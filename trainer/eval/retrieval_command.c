/* ibot-eval retrieval. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/frozen_options.h"
#include "trainer/eval/network_identity.h"
#include "trainer/eval/retrieval.h"
#include "trainer/log_line.h"
#include "trainer/utf8_text.h"

enum { MAX_DATASETS = 8 };

struct retrieval_options {
    struct pretrained_options weights;
    struct frozen_feature_options features;
    const char *data, *datasets[MAX_DATASETS];
    int32_t n_datasets, imsize;
    bool multiscale, crop_queries, json;
    float ks[RANKING_MAX_K];
    int32_t n_ks;
    const char *output_dir;
    struct backend_options backend;
    struct network_options network;
};

#define AT(field) .offset = offsetof(struct retrieval_options, field)

static const struct option_spec specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.part = &rows_frozen_features, AT(features)},
    {.name = "data",
     .alias = "data_path",
     .type = OPTION_STRING,
     AT(data),
     .argument = "DIR",
     .group = "Data",
     .help = "DIR/NAME/gnd_NAME.pkl and DIR/NAME/jpg/*.jpg of each data set"},
    {.name = "dataset",
     .type = OPTION_STRING_LIST,
     AT(datasets),
     .count_offset = offsetof(struct retrieval_options, n_datasets),
     .capacity = MAX_DATASETS,
     .text = "roxford5k",
     .argument = "NAME",
     .help = "roxford5k, rparis6k, or any that is laid out so"},
    {.name = "imsize",
     .type = OPTION_INT32,
     AT(imsize),
     .text = "224",
     .minimum = 16,
     .maximum = 4096,
     .unit = "px",
     .help = "most that either side of an image has; larger ones are shrunk, their shape kept. "
             "Published results have 512"},
    {.name = "multiscale",
     .type = OPTION_BOOL,
     AT(multiscale),
     .text = "off",
     .help = "mean features of three sizes: all of that, 1/sqrt(2), and 1/2. Published results "
             "have it"},
    {.name = "crop_queries",
     .type = OPTION_BOOL,
     AT(crop_queries),
     .text = "off",
     .help = "queries are their boxes ('bbx') alone, as the benchmark has it; the original takes "
             "whole images"},
    {.name = "ks",
     .type = OPTION_FLOAT_LIST,
     AT(ks),
     .count_offset = offsetof(struct retrieval_options, n_ks),
     .capacity = RANKING_MAX_K,
     .text = "1 5 10",
     .minimum = 1,
     .maximum = 1000000,
     .group = "Results",
     .help = "precision at these ranks"},
    {.name = "output_dir",
     .letter = 'o',
     .type = OPTION_STRING,
     AT(output_dir),
     .argument = "DIR",
     .help = "keeps features there, NAME-images.safetensors and NAME-queries.safetensors: the same "
             "command goes on with what is missing"},
    {.part = &row_json, AT(json)},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program program = {
    .name = "ibot-eval retrieval",
    .summary = "Image retrieval on revisited Oxford and Paris with frozen features: mean average "
               "precision, and precision at k, of the easy, medium and hard protocol.",
    .epilogue =
        "  ibot-eval retrieval --checkpoint vit_small.pth --data revisited --dataset roxford5k \\\n"
        "      --dataset rparis6k --imsize 512 --multiscale -o runs/small/retrieval\n\n"
        "The ground truth is a pickle; it is read by a reader of its own, which executes nothing. "
        "Images keep their shape, which takes a ViT.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

/* One data set under way. */
struct dataset {
    const struct retrieval_options *options;
    const char *name;
    struct retrieval_truth truth;
    struct image_paths images, queries;
    struct image_box *boxes; /* of the queries; NULL: all of them */
    struct feature_rows image_rows, query_rows;
    char image_name[256], query_name[256], identity[NETWORK_IDENTITY_BYTES];
};

static enum status check(const struct retrieval_options *o)
{
    if (o->weights.path == NULL || o->data == NULL)
        FAIL(STATUS_INVALID, "give --checkpoint, and --data with %s/gnd_%s.pkl below",
             o->datasets[0], o->datasets[0]);
    for (int32_t i = 0; i < o->n_ks; i++)
        if (o->ks[i] != floorf(o->ks[i]))
            FAIL(STATUS_INVALID, "--ks: got %g, wanted whole numbers", (double)o->ks[i]);
    for (int32_t i = 0; i < o->n_datasets; i++)
        if (o->datasets[i][0] == '\0' || strchr(o->datasets[i], '/') != NULL ||
            strlen(o->datasets[i]) > 200)
            FAIL(STATUS_INVALID, "--dataset '%s': wanted the name of a folder in --data",
                 o->datasets[i]);
    return STATUS_OK;
}

static enum status take_paths(struct dataset *d)
{
    char folder[CHECKPOINT_MAX_PATH];

    snprintf(folder, sizeof(folder), "%s/%s/jpg", d->options->data, d->name);
    for (int32_t i = 0; i < d->truth.n_images; i++)
        TRY(image_paths_add(&d->images, folder, d->truth.names[i], ".jpg"));
    for (int32_t i = 0; i < d->truth.n_queries; i++)
        TRY(image_paths_add(&d->queries, folder, d->truth.query_names[i], ".jpg"));
    if (!d->options->crop_queries)
        return STATUS_OK;
    TRY(memory_alloc(&d->boxes, d->queries.n, sizeof(*d->boxes), "boxes"));
    for (size_t i = 0; i < d->queries.n; i++) {
        d->boxes[i] = d->truth.queries[i].box;
        if (d->boxes[i].width == 0)
            FAIL(STATUS_INVALID,
                 "--crop_queries: gnd_%s.pkl has no 'bbx' of query %zu: leave it out", d->name, i);
    }
    return STATUS_OK;
}

static enum status make_features(struct dataset *d, struct feature_model *model,
                                 const atomic_int *stop)
{
    const struct retrieval_options *o = d->options;
    struct retrieval_features how = {
        .model = model,
        .most_px = o->imsize,
        .multiscale = o->multiscale,
        .n_threads = o->backend.threads,
        .stop = stop,
    };
    char data[CHECKPOINT_MAX_PATH], what[CHECKPOINT_MAX_PATH + 512];

    snprintf(what, sizeof(what), "%s of %s, %d px, %s, %d last blocks, avgpool %d, queries %s",
             d->name, utf8_text(data, sizeof(data), o->data), o->imsize,
             o->multiscale ? "3 sizes" : "1 size", o->features.n_last_blocks,
             o->features.avgpool_patchtokens, o->crop_queries ? "cropped" : "whole");
    network_identity(d->identity, &model->network, o->weights.key, &o->network, what);
    snprintf(d->image_name, sizeof(d->image_name), "%s-images", d->name);
    snprintf(d->query_name, sizeof(d->query_name), "%s-queries", d->name);
    TRY(feature_rows_open(&d->image_rows, o->output_dir, d->image_name, d->identity,
                          d->truth.n_images, model->dim));
    TRY(feature_rows_open(&d->query_rows, o->output_dir, d->query_name, d->identity,
                          d->truth.n_queries, model->dim));
    TRY(retrieval_features(&d->image_rows, &d->images, &how));
    how.boxes = d->boxes;
    return retrieval_features(&d->query_rows, &d->queries, &how);
}

static void tell(const struct dataset *d, enum retrieval_protocol protocol,
                 const struct retrieval_score *score)
{
    const struct retrieval_options *o = d->options;
    struct log_line line = {.n = 0};
    char text[64];

    if (!o->json) {
        printf("%s %s: mAP %.2f", d->name, retrieval_protocol_names[protocol], 100.0 * score->map);
        for (int32_t k = 0; k < o->n_ks; k++)
            printf(", mP@%g %.2f", (double)o->ks[k], 100.0 * score->precision[k]);
        printf(" (%d queries)\n", score->n_queries);
        return;
    }
    log_line_string(&line, "dataset", utf8_text(text, sizeof(text), d->name));
    log_line_string(&line, "protocol", retrieval_protocol_names[protocol]);
    log_line_number(&line, "map", 100.0 * score->map);
    for (int32_t k = 0; k < o->n_ks; k++) {
        snprintf(text, sizeof(text), "mp@%g", (double)o->ks[k]);
        log_line_number(&line, text, 100.0 * score->precision[k]);
    }
    log_line_integer(&line, "queries", score->n_queries);
    printf("%s}\n", line.text);
}

static enum status evaluate(struct dataset *d, struct feature_model *model, const atomic_int *stop)
{
    const struct retrieval_options *o = d->options;
    struct retrieval_score scores[PROTOCOLS];
    int32_t ks[RANKING_MAX_K];
    char path[CHECKPOINT_MAX_PATH];

    snprintf(path, sizeof(path), "%s/%s/gnd_%s.pkl", o->data, d->name, d->name);
    TRY(retrieval_truth_open(&d->truth, path));
    TRY(take_paths(d));
    log_info("%s: %d images, %d queries", d->name, d->truth.n_images, d->truth.n_queries);
    TRY(make_features(d, model, stop));
    for (int32_t i = 0; i < o->n_ks; i++)
        ks[i] = (int32_t)o->ks[i];
    TRY(retrieval_evaluate(scores, &d->truth, d->image_rows.values, d->query_rows.values,
                           model->dim, ks, o->n_ks));
    for (int p = 0; p < PROTOCOLS; p++)
        tell(d, (enum retrieval_protocol)p, &scores[p]);
    fflush(stdout);
    return STATUS_OK;
}

static void dataset_release(struct dataset *d)
{
    retrieval_truth_close(&d->truth);
    image_paths_release(&d->images);
    image_paths_release(&d->queries);
    memory_free(d->boxes);
    feature_rows_close(&d->image_rows);
    feature_rows_close(&d->query_rows);
}

static enum status retrieval(void *values, const struct options *parsed, const atomic_int *stop)
{
    struct retrieval_options *o = values;
    struct feature_model model = {0};
    struct backend backend = {0};
    enum status status;

    TRY(check(o));
    TRY_OUT(inference_backend_open(&backend, &o->weights, &o->backend, &o->network, parsed));
    struct inference_options network = inference_options(&o->weights, &o->backend, &o->network);
    struct feature_model_options options = {
        .weights = o->weights,
        .features = {.n_last_blocks = o->features.n_last_blocks,
                     .avgpool = o->features.avgpool_patchtokens},
        .batch_size = 1,
        .crop_size_px = o->imsize,
        .precision = network.precision,
        .gelu_tanh = network.gelu_tanh,
    };
    TRY_OUT(feature_model_open(&model, &backend, &options));
    if (model.network.n_heads == 0)
        FAIL_OUT(STATUS_UNSUPPORTED,
                 "images keep their shape here, and a Swin takes squares alone: "
                 "give the weights of a ViT");
    TRY_OUT(feature_rows_folder(o->output_dir));
    for (int32_t i = 0; i < o->n_datasets && status == STATUS_OK; i++) {
        struct dataset d = {.options = o, .name = o->datasets[i]};
        status = evaluate(&d, &model, stop);
        dataset_release(&d);
    }
out:
    feature_model_close(&model);
    backend_close(&backend);
    return status;
}

const struct program_command retrieval_command = {
    .program = &program,
    .values_bytes = sizeof(struct retrieval_options),
    .run = retrieval,
};
