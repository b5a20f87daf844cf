/* ibot-analyze correspondence: which patches of two pictures are alike. */
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "trainer/analysis/attention_map.h"
#include "trainer/analysis/commands.h"
#include "trainer/analysis/correspondence.h"
#include "trainer/analysis/correspondence_picture.h"
#include "trainer/analysis/image_pairs.h"
#include "trainer/analysis/json_line.h"
#include "trainer/analysis/map_picture.h"
#include "trainer/inference.h"
#include "trainer/pretrained_rows.h"

enum { MAX_LINES = 256 };

enum sample_type { SAMPLE_INSTANCE, SAMPLE_CLASS };

struct correspondence_options {
    struct pretrained_options weights;
    struct backend_options backend;
    struct network_options network;
    const char *attention_checkpoint;
    int sample_type; /* enum sample_type */
    int32_t image_size, topk, show_nums, eval_radius;
    int64_t seed;
    const char *output_dir;
    bool json;
};

static const char *const sample_types[] = {"instance", "class", NULL};

#define AT(field) .offset = offsetof(struct correspondence_options, field)

static const struct option_spec correspondence_specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.name = "attention_checkpoint",
     .type = OPTION_STRING,
     AT(attention_checkpoint),
     .argument = "PATH",
     .help = "weights of another ViT, whose attention chooses the patches that lines start at (the "
             "original takes DINO's ViT-B/8); without, the network's own"},
    {.name = "sample_type",
     .type = OPTION_CHOICE,
     AT(sample_type),
     .choices = sample_types,
     .text = "instance",
     .group = "Images",
     .help = "instance: two random views of each image (crops of 0.4 to 1 of it, colour jitter, "
             "grey), with accuracy; class: images of a class, or without classes all, in pairs: "
             "the first and second, the third and fourth, …"},
    {.name = "image_size",
     .type = OPTION_INT32,
     AT(image_size),
     .text = "224",
     .minimum = 0,
     .maximum = 4096,
     .zero = "that of the run's global crops",
     .unit = "px",
     .help = "side of the pictures that the network sees: a multiple of its patch"},
    {.name = "seed",
     .type = OPTION_INT64,
     AT(seed),
     .text = "0",
     .minimum = 0,
     .maximum = 1e15,
     .help = "of the random views"},
    {.name = "eval_radius",
     .type = OPTION_INT32,
     AT(eval_radius),
     .text = "0",
     .minimum = 0,
     .maximum = 255,
     .unit = "patches",
     .help = "a match so many rows and columns beside the right patch is right too"},
    {.name = "topk",
     .type = OPTION_INT32,
     AT(topk),
     .text = "12",
     .minimum = 1,
     .maximum = MAX_LINES,
     .group = "Pictures",
     .help = "lines: from the patches with the highest mean attention over heads, of two views "
             "those that both show"},
    {.name = "show_nums",
     .type = OPTION_INT32,
     AT(show_nums),
     .text = "100",
     .minimum = 0,
     .maximum = 1000000,
     .help = "pictures, of the first pairs; accuracy is that of all pairs"},
    {.name = "output_dir",
     .type = OPTION_STRING,
     .letter = 'o',
     AT(output_dir),
     .argument = "DIR",
     .text = ".",
     .help = "where the pictures go"},
    {.part = &row_json, AT(json)},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program correspondence_program = {
    .name = "ibot-analyze correspondence",
    .summary = "Matches the patches of two views of an image, or of two images of a class.",
    .epilogue = "Finds for each patch of a picture the most similar one of the other "
                "picture, by the dot product of their tokens; of two views also the share "
                "of matches that are the same place. Draws lines, TYPE_correspN.png; a thin "
                "one is known to be wrong.\n\n"
                "PATH is an image, a folder of images, class folders, a tar archive or a list of "
                "paths, as for ibot-train --data.\n\n"
                "  ibot-analyze correspondence --checkpoint runs/small /data/val -o out\n"
                "  ibot-analyze correspondence --checkpoint vit.pth --sample_type class \\\n"
                "      a.jpg b.jpg",
    .specs = correspondence_specs,
    .n_specs = sizeof(correspondence_specs) / sizeof(correspondence_specs[0]),
    .positional = "PATH...",
    .min_positional = 1,
    .max_positional = 100000,
};

/* ------------------------------------------------------------------------------ a run */

struct correspondence_run {
    const struct correspondence_options *options;
    struct inference model, other; /* other: chooses the patches; zeroed: the model does */
    struct images *images;
    struct image_pairs pairs;
    struct data_spec spec;             /* of two views */
    uint8_t *rgb;                      /* [2, size, size, 3]: the whole record of two views */
    float *tokens, *attention;         /* [2, 1 + cells, width], [2, heads, 1 + cells of a map] */
    float *mean, *weight;              /* [cells of a map], [cells] */
    int32_t *match, *truth;            /* [cells] */
    struct correspondence_score score; /* of all pairs */
};

/* The original's views: no flip, so that places stay in order. */
static struct data_spec views_of(int32_t size_px, int64_t seed)
{
    struct data_spec spec = data_spec_default();

    spec.shuffle = false;
    spec.seed = (uint64_t)seed;
    spec.n_global = 2;
    spec.n_local = 0;
    spec.global_size_px = size_px;
    spec.global_scale[0] = 0.4f;
    spec.global_scale[1] = 1.0f;
    spec.n_pred_ratios = 0;
    spec.first = spec.other = (struct view_transform){.jitter = 0.8f, .grayscale = 0.2f};
    return spec;
}

static const struct inference *chooser(const struct correspondence_run *run)
{
    return run->other.ibot != NULL ? &run->other : &run->model;
}

static enum status open_models(struct correspondence_run *run, struct backend *backend)
{
    const struct correspondence_options *o = run->options;
    struct inference_options model = inference_options(&o->weights, &o->backend, &o->network);

    model.size_px = o->image_size;
    model.batch_size = 2;
    TRY(inference_open(&run->model, backend, &model));
    if (o->attention_checkpoint != NULL) {
        model.weights = (struct pretrained_options){.path = o->attention_checkpoint};
        model.size_px = run->model.size_px;
        TRY(inference_open(&run->other, backend, &model));
    }
    if (chooser(run)->n_heads == 0)
        FAIL(STATUS_UNSUPPORTED, "a Swin has no [CLS] token whose attention could choose patches: "
                                 "give --attention_checkpoint, weights of a ViT");
    return STATUS_OK;
}

static enum status open_run(struct correspondence_run *run, struct backend *backend,
                            const struct options *parsed)
{
    const struct correspondence_options *o = run->options;

    TRY(images_open(&run->images, parsed->positional, parsed->n_positional, o->backend.threads));
    TRY(open_models(run, backend));
    run->spec = views_of(run->model.size_px, o->seed);
    TRY(data_spec_check(&run->spec));
    size_t cells = (size_t)run->model.grid * (size_t)run->model.grid;
    size_t map = (size_t)chooser(run)->grid * (size_t)chooser(run)->grid;
    TRY(memory_alloc(&run->rgb, data_spec_record_bytes(&run->spec), 1, "pictures"));
    TRY(memory_alloc(&run->tokens, 2 * (cells + 1) * (size_t)run->model.width, sizeof(float),
                     "tokens"));
    TRY(memory_alloc(&run->attention, 2 * (size_t)chooser(run)->n_heads * (map + 1), sizeof(float),
                     "attention"));
    TRY(memory_alloc(&run->mean, map, sizeof(float), "attention"));
    TRY(memory_alloc(&run->weight, cells, sizeof(float), "attention"));
    TRY(memory_alloc(&run->match, cells, sizeof(int32_t), "matches"));
    return memory_alloc(&run->truth, cells, sizeof(int32_t), "matches");
}

static void close_run(struct correspondence_run *run)
{
    inference_close(&run->model);
    inference_close(&run->other);
    images_close(&run->images);
    image_pairs_release(&run->pairs);
    memory_free(run->rgb);
    memory_free(run->tokens);
    memory_free(run->attention);
    memory_free(run->mean);
    memory_free(run->weight);
    memory_free(run->match);
    memory_free(run->truth);
}

/* ------------------------------------------------------------------------------ one pair */

/* The places and numbers of what was found. */
struct found {
    struct correspondence_line lines[MAX_LINES];
    int32_t n_lines;
    struct correspondence_score score;
};

static enum status read_pair(struct correspondence_run *run, const struct image_pair *pair)
{
    struct image_form form = {IMAGE_SQUASH, run->model.size_px, run->model.size_px, true};
    struct image_box boxes[2];

    if (run->options->sample_type == SAMPLE_CLASS)
        return images_read(run->images, run->rgb, pair->image, 2, &form);
    TRY(images_views(run->images, run->rgb, boxes, pair->image[0], &run->spec));
    correspondence_truth(run->truth, &boxes[0], &boxes[1], run->model.grid);
    return STATUS_OK;
}

/* Tokens of both pictures, and the weight of each patch of the first. */
static enum status look(struct correspondence_run *run)
{
    struct inference *other = run->other.ibot != NULL ? &run->other : NULL;
    struct ibot_tokens tokens = {run->tokens, other == NULL ? run->attention : NULL};
    struct ibot_tokens attention = {.attention = run->attention};
    const struct inference *c = chooser(run);
    int32_t n = c->grid * c->grid;

    TRY(inference_tokens(&run->model, run->rgb, 2, &tokens));
    if (other != NULL)
        TRY(inference_tokens(other, run->rgb, 1, &attention));
    for (int32_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (int32_t h = 0; h < c->n_heads; h++)
            sum += (double)run->attention[(int64_t)h * (n + 1) + 1 + i];
        run->mean[i] = (float)(sum / c->n_heads);
    }
    correspondence_regrid(run->weight, run->model.grid, run->mean, c->grid);
    return STATUS_OK;
}

static void match(struct correspondence_run *run, struct found *found)
{
    const struct correspondence_options *o = run->options;
    int32_t grid = run->model.grid, n = grid * grid, width = run->model.width;
    const int32_t *truth = o->sample_type == SAMPLE_INSTANCE ? run->truth : NULL;
    int32_t chosen[MAX_LINES];

    correspondence_match(run->match, run->tokens + width, run->tokens + (int64_t)(n + 2) * width, n,
                         width);
    *found =
        (struct found){.n_lines = correspondence_choose(chosen, o->topk, run->weight, truth, n)};
    for (int32_t i = 0; i < found->n_lines; i++) {
        int32_t from = chosen[i], to = run->match[from];
        bool right = truth == NULL || correspondence_is_near(to, truth[from], grid, o->eval_radius);
        found->lines[i] = (struct correspondence_line){from, to, !right};
    }
    if (truth == NULL)
        return;
    correspondence_add(&found->score, run->match, truth, grid, o->eval_radius);
    run->score.n_overlapping += found->score.n_overlapping;
    run->score.n_correct += found->score.n_correct;
}

static enum status save_picture(const struct correspondence_run *run, const struct found *found,
                                int64_t number, char file[PICTURE_MAX_PATH])
{
    const struct correspondence_options *o = run->options;
    size_t picture = 3 * (size_t)run->model.size_px * (size_t)run->model.size_px;
    char caption[128] = "two images of a class";

    if (o->sample_type == SAMPLE_INSTANCE)
        snprintf(caption, sizeof(caption), "%lld of %lld overlapping patches matched",
                 (long long)found->score.n_correct, (long long)found->score.n_overlapping);
    struct correspondence_view view = {
        .left = run->rgb,
        .right = run->rgb + picture,
        .size_px = run->model.size_px,
        .grid = run->model.grid,
        .lines = found->lines,
        .n_lines = found->n_lines,
        .caption = caption,
    };
    snprintf(file, PICTURE_MAX_PATH, "%s/%s_corresp%lld.png", o->output_dir,
             sample_types[o->sample_type], (long long)number);
    return correspondence_picture_save(&view, file);
}

static enum status print_pair(struct correspondence_run *run, const struct found *found,
                              const struct image_pair *pair, const char *file)
{
    json_t *paths = json_array(), *lines = json_array();
    bool known = run->options->sample_type == SAMPLE_INSTANCE;
    struct image_info info;

    for (int i = 0; i < 2; i++) {
        TRY(images_info(run->images, pair->image[i], &info));
        json_array_append_new(paths, json_line_path(info.path));
    }
    for (int32_t i = 0; i < found->n_lines; i++) {
        const struct correspondence_line *line = &found->lines[i];
        json_t *correct = known ? json_boolean(!line->wrong) : NULL;
        json_array_append_new(lines, json_pack("{s:i, s:i, s:o*}", "from", line->from, "to",
                                               line->to, "correct", correct));
    }
    json_t *file_name = file != NULL ? json_string(file) : NULL;
    json_t *json = json_pack("{s:o, s:o*, s:i, s:o}", "paths", paths, "file", file_name, "grid",
                             run->model.grid, "matches", lines);
    if (json != NULL && known)
        json_object_update_new(json, json_pack("{s:I, s:I}", "overlapping",
                                               (json_int_t)found->score.n_overlapping, "correct",
                                               (json_int_t)found->score.n_correct));
    return json_line_print(json);
}

static enum status show_pair(struct correspondence_run *run, int64_t number)
{
    const struct image_pair *pair = &run->pairs.pairs[number];
    bool shown = number < run->options->show_nums;
    char file[PICTURE_MAX_PATH];
    struct found found;

    TRY(read_pair(run, pair));
    TRY(look(run));
    match(run, &found);
    if (shown)
        TRY(save_picture(run, &found, number, file));
    if (run->options->json)
        return print_pair(run, &found, pair, shown ? file : NULL);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ all pairs */

static enum status report(const struct correspondence_run *run)
{
    const struct correspondence_score *s = &run->score;
    double accuracy =
        s->n_overlapping > 0 ? 100.0 * (double)s->n_correct / (double)s->n_overlapping : 0.0;

    if (run->options->sample_type == SAMPLE_CLASS)
        return STATUS_OK;
    if (run->options->json)
        return json_line_print(
            json_pack("{s:f, s:I, s:I, s:i, s:I}", "accuracy", accuracy, "overlapping",
                      (json_int_t)s->n_overlapping, "correct", (json_int_t)s->n_correct, "radius",
                      run->options->eval_radius, "pairs", (json_int_t)run->pairs.n));
    printf("matching accuracy: %.2f %% of %lld overlapping patches, %lld pairs of views, radius "
           "%d\n",
           accuracy, (long long)s->n_overlapping, (long long)run->pairs.n,
           run->options->eval_radius);
    return STATUS_OK;
}

/* The original stops at its last picture, before it has an accuracy. */
static enum status show_all(struct correspondence_run *run, const atomic_int *stop)
{
    for (int64_t i = 0; i < run->pairs.n; i++) {
        if (atomic_load(stop) != 0)
            FAIL(STATUS_INTERRUPTED, "interrupted after %lld of %lld pairs", (long long)i,
                 (long long)run->pairs.n);
        TRY(show_pair(run, i));
        char line[80];
        snprintf(line, sizeof(line), "correspondence: %lld of %lld pairs", (long long)(i + 1),
                 (long long)run->pairs.n);
        log_status_line(line);
    }
    log_status_line(NULL);
    log_info("%lld pairs, pictures of the first %d in '%s'", (long long)run->pairs.n,
             run->options->show_nums, run->options->output_dir);
    return report(run);
}

static enum status correspondence(void *values, const struct options *parsed,
                                  const atomic_int *stop)
{
    struct correspondence_options *o = values;
    struct correspondence_run run = {.options = o};
    struct backend backend = {0};
    enum status status;

    TRY_OUT(inference_backend_open(&backend, &o->weights, &o->backend, &o->network, parsed));
    TRY_OUT(open_run(&run, &backend, parsed));
    TRY_OUT(o->sample_type == SAMPLE_CLASS ? image_pairs_of_classes(&run.pairs, run.images)
                                           : image_pairs_of_views(&run.pairs, run.images));
    TRY_OUT(picture_folder(o->output_dir));
    TRY_OUT(show_all(&run, stop));
out:
    close_run(&run);
    backend_close(&backend);
    return status;
}

const struct program_command correspondence_command = {
    .program = &correspondence_program,
    .values_bytes = sizeof(struct correspondence_options),
    .run = correspondence,
};
