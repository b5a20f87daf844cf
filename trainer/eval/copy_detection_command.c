/* ibot-eval copy_detection. */
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/copy_detection.h"
#include "trainer/eval/features.h"
#include "trainer/eval/frozen_options.h"
#include "trainer/eval/network_identity.h"
#include "trainer/eval/whitening.h"
#include "trainer/log_line.h"
#include "trainer/utf8_text.h"

struct copy_options {
    struct pretrained_options weights;
    const char *data, *distractors, *whitening;
    int32_t imsize, batch_size_per_gpu;
    bool json;
    const char *output_dir;
    struct backend_options backend;
    struct network_options network;
};

#define AT(field) .offset = offsetof(struct copy_options, field)

static const struct option_spec specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.name = "data",
     .alias = "data_path",
     .type = OPTION_STRING,
     AT(data),
     .argument = "DIR",
     .group = "Data",
     .help = "Copydays: DIR/original, and DIR/strong, DIR/jpegqual/3 5 8 10 15 20 30 50 75, "
             "DIR/crops/10 15 20 30 40 50 60 70 80, with *.jpg"},
    {.name = "distractors",
     .alias = "distractors_path",
     .type = OPTION_STRING,
     AT(distractors),
     .argument = "DATA",
     .help = "images among which the originals are to be found. Published results have 10000 of "
             "YFCC100M"},
    {.name = "whitening",
     .alias = "whitening_path",
     .type = OPTION_STRING,
     AT(whitening),
     .argument = "DATA",
     .help = "other images, from which whitening of features is learnt. Published results have "
             "20000 of YFCC100M"},
    {.name = "imsize",
     .type = OPTION_INT32,
     AT(imsize),
     .text = "224",
     .minimum = 16,
     .maximum = 4096,
     .unit = "px",
     .help = "both sides of an image are resized to this. DINO's published results have 320"},
    {.part = &row_frozen_batch, AT(batch_size_per_gpu)},
    {.part = &row_json, AT(json), .group = "Results"},
    {.name = "output_dir",
     .letter = 'o',
     .type = OPTION_STRING,
     AT(output_dir),
     .argument = "DIR",
     .help = "keeps features there, copydays.safetensors, distractors.safetensors and "
             "whitening.safetensors: the same command goes on with what is missing"},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program program = {
    .name = "ibot-eval copy_detection",
    .summary = "Copy detection on INRIA Copydays with frozen features: mean average precision of "
               "finding the original of each copy, for each kind of attack.",
    .epilogue =
        "  ibot-eval copy_detection --checkpoint vit_small.pth --data copydays \\\n"
        "      --distractors yfcc10k --whitening yfcc20k -o runs/small/copydays\n\n"
        "DATA is a folder, archives or a list, as loaders take them. A feature is the [CLS] token "
        "(of a Swin the mean token) and the generalised mean of the patch tokens.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

/* An evaluation under way. */
struct evaluation {
    const struct copy_options *options;
    struct inference network;
    const atomic_int *stop;
    struct copydays data;
    /* all copies and originals; distractors and images to learn from, both empty without any */
    struct feature_rows copies, distractors, whitening;
    char identities[3][NETWORK_IDENTITY_BYTES];
    float *database; /* [originals + distractors, dim] */
    int64_t n_database;
};

/* ------------------------------------------------------------------------------ features */

/* Features of `images`, which are closed; which of the rows, and of what: for the kept file. */
static enum status make_rows(struct evaluation *e, struct feature_rows *rows, int which,
                             const char *name, const char *what, struct images **images)
{
    const struct copy_options *o = e->options;
    enum status status;
    char text[6000];

    snprintf(text, sizeof(text), "%s, %d px, [CLS] and GeM", what, o->imsize);
    network_identity(e->identities[which], &e->network, o->weights.key, &o->network, text);
    status = feature_rows_open(rows, o->output_dir, name, e->identities[which], images_n(*images),
                               2 * e->network.width);
    if (status == STATUS_OK)
        status = copy_features(rows, *images, &e->network, e->stop);
    images_close(images);
    return status;
}

static enum status make_copies(struct evaluation *e)
{
    const struct image_paths *paths = &e->data.paths;
    char data[CHECKPOINT_MAX_PATH], what[5000];
    struct images *images = NULL;

    int n = snprintf(what, sizeof(what), "%s:",
                     utf8_text(data, sizeof(data), e->options->data)); /* fits, and so do blocks */
    for (int32_t b = 0; b < e->data.n_blocks; b++)
        n += snprintf(what + n, sizeof(what) - (size_t)n, " %s %lld", e->data.blocks[b].name,
                      (long long)e->data.blocks[b].n);
    TRY(images_open(&images, (const char *const *)paths->paths, (int)paths->n,
                    e->options->backend.threads));
    return make_rows(e, &e->copies, 0, "copydays", what, &images);
}

/* Of a data set that an option names, if it does. */
static enum status make_others(struct evaluation *e, struct feature_rows *rows, int which,
                               const char *name, const char *path)
{
    struct images *images = NULL;
    char text[CHECKPOINT_MAX_PATH];

    if (path == NULL)
        return STATUS_OK;
    TRY(images_open(&images, &path, 1, e->options->backend.threads));
    return make_rows(e, rows, which, name, utf8_text(text, sizeof(text), path), &images);
}

static enum status make_database(struct evaluation *e)
{
    size_t dim = (size_t)e->copies.dim, n = (size_t)e->data.blocks[0].n;

    e->n_database = e->data.blocks[0].n + e->distractors.n;
    TRY(memory_alloc(&e->database, (size_t)e->n_database * dim, sizeof(float), "originals"));
    memcpy(e->database, e->copies.values, n * dim * sizeof(float));
    if (e->distractors.n > 0)
        memcpy(e->database + n * dim, e->distractors.values,
               (size_t)e->distractors.n * dim * sizeof(float));
    return STATUS_OK;
}

static enum status whiten(struct evaluation *e)
{
    struct whitening whitening;
    enum status status;

    if (e->options->whitening == NULL)
        return STATUS_OK;
    if (e->whitening.n < e->whitening.dim)
        log_warning("whitening is learnt from %lld images, fewer than the %d numbers of a feature: "
                    "directions that none of them has are stretched most",
                    (long long)e->whitening.n, e->whitening.dim);
    TRY(whitening_learn(&whitening, e->whitening.values, e->whitening.n, e->whitening.dim));
    TRY_OUT(whitening_apply(&whitening, e->copies.values, e->copies.n));
    TRY_OUT(whitening_apply(&whitening, e->database, e->n_database));
out:
    whitening_release(&whitening);
    return status;
}

/* ------------------------------------------------------------------------------ results */

static void tell(const struct evaluation *e, const struct copydays_block *block, double map)
{
    struct log_line line = {.n = 0};

    if (!e->options->json) {
        printf("%s: mAP %.2f (%lld queries, %lld images)\n", block->name, 100.0 * map,
               (long long)block->n, (long long)e->n_database);
        return;
    }
    log_line_string(&line, "block", block->name);
    log_line_number(&line, "map", 100.0 * map);
    log_line_integer(&line, "queries", block->n);
    log_line_integer(&line, "images", e->n_database);
    printf("%s}\n", line.text);
}

static enum status evaluate(struct evaluation *e)
{
    double map[COPYDAYS_MAX_BLOCKS];
    int32_t dim = e->copies.dim;

    TRY(make_database(e));
    TRY(whiten(e));
    for (int64_t i = 0; i < e->copies.n; i++)
        features_unit_length(e->copies.values + i * dim, dim);
    for (int64_t i = 0; i < e->n_database; i++)
        features_unit_length(e->database + i * dim, dim);
    TRY(copy_evaluate(map, &e->network.backend->device, e->network.backend->ops, &e->data,
                      e->copies.values, e->database, e->n_database, dim));
    for (int32_t b = 0; b < e->data.n_blocks; b++)
        tell(e, &e->data.blocks[b], map[b]);
    return STATUS_OK;
}

static enum status open_data(struct evaluation *e)
{
    const struct copy_options *o = e->options;

    if (o->weights.path == NULL || o->data == NULL)
        FAIL(STATUS_INVALID, "give --checkpoint, and --data with original/, strong/, jpegqual/ and "
                             "crops/ below");
    TRY(copydays_open(&e->data, o->data));
    log_info("%s: %lld originals, %lld copies of %d kinds", o->data, (long long)e->data.blocks[0].n,
             (long long)((int64_t)e->data.paths.n - e->data.blocks[0].n), e->data.n_blocks - 1);
    if (e->data.missing[0] != '\0')
        log_warning("%s: there is no %s: left out", o->data, e->data.missing);
    if (e->data.odd >= 0)
        log_warning("%s: its name is not that of the original in its place: is it that one's copy?",
                    e->data.paths.paths[e->data.odd]);
    return STATUS_OK;
}

static enum status copy_detection(void *values, const struct options *parsed,
                                  const atomic_int *stop)
{
    struct copy_options *o = values;
    struct backend backend = {0};
    struct evaluation *e = NULL;
    enum status status;

    TRY(memory_alloc(&e, 1, sizeof(*e), "evaluation"));
    e->options = o;
    e->stop = stop;
    TRY_OUT(open_data(e));
    TRY_OUT(inference_backend_open(&backend, &o->weights, &o->backend, &o->network, parsed));
    struct inference_options network = inference_options(&o->weights, &o->backend, &o->network);
    network.batch_size = o->batch_size_per_gpu;
    network.size_px = o->imsize;
    network.whole_tokens = false; /* what does not fill a patch is cut off, as in the original */
    TRY_OUT(inference_open(&e->network, &backend, &network));
    TRY_OUT(feature_rows_folder(o->output_dir));
    TRY_OUT(make_copies(e));
    TRY_OUT(make_others(e, &e->distractors, 1, "distractors", o->distractors));
    TRY_OUT(make_others(e, &e->whitening, 2, "whitening", o->whitening));
    TRY_OUT(evaluate(e));
out:
    feature_rows_close(&e->copies);
    feature_rows_close(&e->distractors);
    feature_rows_close(&e->whitening);
    memory_free(e->database);
    copydays_close(&e->data);
    inference_close(&e->network);
    memory_free(e);
    backend_close(&backend);
    return status;
}

const struct program_command copy_detection_command = {
    .program = &program,
    .values_bytes = sizeof(struct copy_options),
    .run = copy_detection,
};
