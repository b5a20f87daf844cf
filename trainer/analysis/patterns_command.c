/* ibot-analyze patterns: what the head's prototypes stand for. */
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "trainer/analysis/commands.h"
#include "trainer/analysis/json_line.h"
#include "trainer/analysis/map_picture.h"
#include "trainer/analysis/pattern_picture.h"
#include "trainer/analysis/patterns.h"
#include "trainer/images.h"
#include "trainer/inference.h"
#include "trainer/pretrained_rows.h"

enum { READ_AT_ONCE = 32, MAX_TOPK = 1024, MAX_SHOWN = 65536 };

enum token_type { TOKEN_PATCH, TOKEN_CLS };

struct patterns_options {
    struct pretrained_options weights;
    struct backend_options backend;
    struct network_options network;
    int type; /* enum token_type */
    int32_t image_size, resize_size, batch_size, topk, patch_window, show_pics;
    double darkest;
    const char *output_dir, *memory;
    bool json;
};

static const char *const types[] = {"patch", "cls", NULL};

#define AT(field) .offset = offsetof(struct patterns_options, field)

static const struct option_spec patterns_specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.name = "type",
     .type = OPTION_CHOICE,
     AT(type),
     .choices = types,
     .text = "patch",
     .help = "which tokens: patch, with the head's layer for patches; or cls, one of each image"},
    {.name = "image_size",
     .alias = "img_size",
     .type = OPTION_INT32,
     AT(image_size),
     .text = "224",
     .minimum = 0,
     .maximum = 4096,
     .zero = "that of the run's global crops",
     .unit = "px",
     .group = "Images",
     .help = "central crop: a multiple of the patch"},
    {.name = "resize_size",
     .type = OPTION_INT32,
     AT(resize_size),
     .text = "0",
     .minimum = 0,
     .maximum = 16384,
     .unit = "px",
     .help = "shorter side before; 0: 8/7 of the crop, 256 for 224"},
    {.name = "batch_size",
     .type = OPTION_INT32,
     AT(batch_size),
     .text = "32",
     .minimum = 1,
     .maximum = 1024,
     .unit = "images",
     .help = "images at a time"},
    {.name = "topk",
     .type = OPTION_INT32,
     AT(topk),
     .text = "196",
     .minimum = 1,
     .maximum = MAX_TOPK,
     .group = "Pictures",
     .help = "tokens of a cluster that are shown, at most one of each image"},
    {.name = "show_pics",
     .type = OPTION_INT32,
     AT(show_pics),
     .text = "100",
     .minimum = 0,
     .maximum = MAX_SHOWN,
     .unit = "clusters",
     .help = "so many clusters, those with the most tokens"},
    {.name = "patch_window",
     .type = OPTION_INT32,
     AT(patch_window),
     .text = "5",
     .minimum = 1,
     .maximum = 63,
     .unit = "patches",
     .help = "odd: side of what is shown around a patch"},
    {.name = "darkest",
     .type = OPTION_DOUBLE,
     AT(darkest),
     .text = "40",
     .minimum = -1,
     .maximum = 255,
     .help = "patches whose surroundings have no mean HSV value above this, of 255, are not shown, "
             "in favour of the next ones (of twice topk in all); -1: all are"},
    {.name = "output_dir",
     .alias = "save_path",
     .type = OPTION_STRING,
     .letter = 'o',
     AT(output_dir),
     .argument = "DIR",
     .text = ".",
     .help = "where the pictures go"},
    {.name = "memory",
     .type = OPTION_STRING,
     AT(memory),
     .argument = "FILE",
     .help = "also keep the prototype and the logit of every token, and the sizes of all clusters, "
             "as safetensors: memory_bank.index, memory_bank.value, num_per_cluster"},
    {.part = &row_json, AT(json)},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program patterns_program = {
    .name = "ibot-analyze patterns",
    .summary = "Shows what the prototypes of the projection head stand for.",
    .epilogue = "Gives every token the prototype with the greatest logit, and shows of each "
                "of the largest clusters that this makes the tokens with the greatest "
                "logits: cTYPE_crankR_cidP_topK.png (rank R, prototype P).\n\n"
                "PATH is an image, a folder of images, class folders, a tar archive or a list of "
                "paths, as for ibot-train --data. The weights must have their head.\n\n"
                "  ibot-analyze patterns --checkpoint runs/small /data/imagenet/val -o out\n"
                "  ibot-analyze patterns --checkpoint checkpoint.pth --type cls --topk 36 \\\n"
                "      --show_pics 50 /data/imagenet/val -o out",
    .specs = patterns_specs,
    .n_specs = sizeof(patterns_specs) / sizeof(patterns_specs[0]),
    .positional = "PATH...",
    .min_positional = 1,
    .max_positional = 100000,
};

/* ------------------------------------------------------------------------------ a run */

struct patterns_run {
    const struct patterns_options *options;
    const atomic_int *stop;
    struct inference model;
    struct images *images;
    struct image_form form;
    struct pattern_bank bank;
    int64_t *counts;           /* [prototypes] */
    int32_t *ranked, n_ranked; /* clusters to show */
    uint8_t *rgb;              /* [batch or READ_AT_ONCE, size, size, 3] */
    uint8_t *tiles;            /* [topk, tile, tile, 3] */
    int32_t tile_px;
};

static enum status open_run(struct patterns_run *run, struct backend *backend,
                            const struct options *parsed)
{
    const struct patterns_options *o = run->options;
    struct inference_options model = inference_options(&o->weights, &o->backend, &o->network);

    TRY(images_open(&run->images, parsed->positional, parsed->n_positional, o->backend.threads));
    int64_t n = images_n(run->images);
    model.size_px = o->image_size;
    model.batch_size = n < o->batch_size ? (int32_t)n : o->batch_size;
    model.head = true;
    TRY(inference_open(&run->model, backend, &model));
    int32_t size = run->model.size_px, cells = run->model.grid * run->model.grid;
    run->form = (struct image_form){IMAGE_CROP, size,
                                    o->resize_size > 0 ? o->resize_size : size * 8 / 7, false};
    if (run->form.resize_px < size)
        FAIL(STATUS_INVALID, "--resize_size %d is smaller than the crop of %d px", o->resize_size,
             size);
    run->tile_px = o->type == TOKEN_PATCH ? o->patch_window * run->model.cell_px : size;
    TRY(pattern_bank_open(&run->bank, n, o->type == TOKEN_PATCH ? cells : 1,
                          run->model.n_prototypes[o->type == TOKEN_PATCH]));
    size_t picture = 3 * (size_t)size * (size_t)size;
    size_t tile = 3 * (size_t)run->tile_px * (size_t)run->tile_px;
    size_t batch = model.batch_size > READ_AT_ONCE ? (size_t)model.batch_size : READ_AT_ONCE;
    TRY(memory_alloc(&run->counts, (size_t)run->bank.n_prototypes, sizeof(int64_t), "clusters"));
    TRY(memory_alloc(&run->ranked, (size_t)o->show_pics + 1, sizeof(int32_t), "clusters"));
    TRY(memory_alloc(&run->rgb, batch, picture, "pictures"));
    return memory_alloc(&run->tiles, (size_t)o->topk, tile, "mosaic");
}

static void close_run(struct patterns_run *run)
{
    inference_close(&run->model);
    images_close(&run->images);
    pattern_bank_release(&run->bank);
    memory_free(run->counts);
    memory_free(run->ranked);
    memory_free(run->rgb);
    memory_free(run->tiles);
}

static enum status progress(const struct patterns_run *run, const char *what, int64_t done,
                            int64_t all)
{
    char line[80];

    snprintf(line, sizeof(line), "patterns: %lld of %lld %s", (long long)done, (long long)all,
             what);
    log_status_line(done < all ? line : NULL);
    if (atomic_load(run->stop) != 0)
        FAIL(STATUS_INTERRUPTED, "interrupted after %lld of %lld %s", (long long)done,
             (long long)all, what);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ all tokens */

static enum status fill_bank(struct patterns_run *run)
{
    struct pattern_bank *bank = &run->bank;
    int64_t which[1024];

    for (int64_t first = 0; first < bank->n_images; first += run->model.batch_size) {
        int64_t left = bank->n_images - first, at = first * bank->per_image;
        int32_t n = left < run->model.batch_size ? (int32_t)left : run->model.batch_size;
        struct ibot_prototypes out = {run->options->type == TOKEN_PATCH, bank->index + at,
                                      bank->value + at};
        for (int32_t i = 0; i < n; i++)
            which[i] = first + i;
        TRY(images_read(run->images, run->rgb, which, n, &run->form));
        TRY(inference_prototypes(&run->model, run->rgb, n, &out));
        TRY(progress(run, "images", first + n, bank->n_images));
    }
    pattern_counts(run->counts, bank);
    run->n_ranked =
        pattern_rank(run->ranked, run->options->show_pics, run->counts, bank->n_prototypes);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ a cluster */

/* The tiles of one cluster, and which places they are. */
struct mosaic {
    struct pattern_place shown[MAX_TOPK];
    int32_t n;
};

/* A picture that was read as tile n of the mosaic, unless it is too dark. */
static void add_tile(struct patterns_run *run, struct mosaic *mosaic,
                     const struct pattern_place *place, const uint8_t *rgb)
{
    size_t bytes = 3 * (size_t)run->tile_px * (size_t)run->tile_px;
    struct pattern_tile tile = {run->tiles + (size_t)mosaic->n * bytes, run->tile_px};

    if (run->options->type == TOKEN_CLS)
        memcpy(tile.rgb, rgb, bytes);
    else if (pattern_tile_of_patch(&tile, rgb, run->model.size_px, run->model.cell_px, place->token,
                                   run->options->patch_window) <= run->options->darkest)
        return;
    mosaic->shown[mosaic->n++] = *place;
}

static enum status fill_mosaic(struct patterns_run *run, struct mosaic *mosaic,
                               const struct pattern_place *places, int64_t n_places)
{
    int32_t topk = run->options->topk;
    int64_t n_tried = run->options->type == TOKEN_PATCH ? 2 * (int64_t)topk : topk;
    size_t picture = 3 * (size_t)run->model.size_px * (size_t)run->model.size_px;
    int64_t which[READ_AT_ONCE];

    mosaic->n = 0;
    n_tried = n_tried < n_places ? n_tried : n_places;
    for (int64_t first = 0; first < n_tried && mosaic->n < topk;) {
        int64_t wanted = topk - mosaic->n, n = n_tried - first;
        n = n < wanted ? n : wanted;
        n = n < READ_AT_ONCE ? n : READ_AT_ONCE;
        for (int64_t i = 0; i < n; i++)
            which[i] = places[first + i].image;
        TRY(images_read(run->images, run->rgb, which, (int32_t)n, &run->form));
        for (int64_t i = 0; i < n; i++)
            add_tile(run, mosaic, &places[first + i], run->rgb + (size_t)i * picture);
        first += n;
    }
    return STATUS_OK;
}

static enum status print_json(struct patterns_run *run, const struct mosaic *mosaic, int32_t rank,
                              const char *file)
{
    int32_t cluster = run->ranked[rank], grid = run->model.grid;
    json_t *tokens = json_array();
    struct image_info info;

    for (int32_t i = 0; i < mosaic->n; i++) {
        const struct pattern_place *place = &mosaic->shown[i];
        TRY(images_info(run->images, place->image, &info));
        json_t *token = json_pack("{s:I, s:o, s:f}", "index", (json_int_t)place->image, "path",
                                  json_line_path(info.path), "value", (double)place->value);
        if (token != NULL && run->options->type == TOKEN_PATCH)
            json_object_update_new(token, json_pack("{s:i, s:i}", "row", place->token / grid,
                                                    "column", place->token % grid));
        json_array_append_new(tokens, token);
    }
    json_t *json = json_pack("{s:i, s:i, s:I, s:o*, s:o}", "rank", rank, "cluster", cluster,
                             "tokens", (json_int_t)run->counts[cluster], "file",
                             file != NULL ? json_string(file) : NULL, "shown", tokens);
    return json_line_print(json);
}

static enum status show_cluster(struct patterns_run *run, struct mosaic *mosaic, int32_t rank)
{
    const struct patterns_options *o = run->options;
    int32_t cluster = run->ranked[rank];
    struct pattern_place *places = NULL;
    char file[PICTURE_MAX_PATH];
    int64_t n_places;
    enum status status;

    TRY_OUT(pattern_best(&places, &n_places, &run->bank, cluster));
    TRY_OUT(fill_mosaic(run, mosaic, places, n_places));
    snprintf(file, sizeof(file), "%s/c%s_crank%d_cid%d_top%d.png", o->output_dir, types[o->type],
             rank, cluster, o->topk);
    if (mosaic->n > 0)
        TRY_OUT(pattern_mosaic_save(file, run->tiles, mosaic->n, run->tile_px));
    if (o->json)
        TRY_OUT(print_json(run, mosaic, rank, mosaic->n > 0 ? file : NULL));
    else if (mosaic->n > 0)
        printf("%s  %lld tokens\n", file, (long long)run->counts[cluster]);
    else
        printf("prototype %d  %lld tokens, all of them too dark to be shown\n", cluster,
               (long long)run->counts[cluster]);
out:
    memory_free(places);
    return status;
}

static enum status show_all(struct patterns_run *run)
{
    const struct patterns_options *o = run->options;
    int32_t n_used = 0;
    struct mosaic mosaic;

    for (int32_t i = 0; i < run->bank.n_prototypes; i++)
        n_used += run->counts[i] > 0;
    if (o->memory != NULL)
        TRY(pattern_bank_write(&run->bank, run->counts, o->memory));
    for (int32_t rank = 0; rank < run->n_ranked; rank++) {
        TRY(show_cluster(run, &mosaic, rank));
        TRY(progress(run, "clusters", rank + 1, run->n_ranked));
    }
    log_info("%lld tokens of %lld images in %d of %d clusters; pictures of the %d largest in '%s'",
             (long long)(run->bank.n_images * run->bank.per_image), (long long)run->bank.n_images,
             n_used, run->bank.n_prototypes, run->n_ranked, o->output_dir);
    return STATUS_OK;
}

static enum status patterns(void *values, const struct options *parsed, const atomic_int *stop)
{
    struct patterns_options *o = values;
    struct patterns_run run = {.options = o, .stop = stop};
    struct backend backend = {0};
    enum status status;

    if (o->patch_window % 2 == 0)
        FAIL(STATUS_INVALID,
             "--patch_window %d: wanted an odd number, so that the patch is in the "
             "middle",
             o->patch_window);
    TRY_OUT(inference_backend_open(&backend, &o->weights, &o->backend, &o->network, parsed));
    TRY_OUT(open_run(&run, &backend, parsed));
    TRY_OUT(picture_folder(o->output_dir));
    TRY_OUT(fill_bank(&run));
    TRY_OUT(show_all(&run));
out:
    close_run(&run);
    backend_close(&backend);
    return status;
}

const struct program_command patterns_command = {
    .program = &patterns_program,
    .values_bytes = sizeof(struct patterns_options),
    .run = patterns,
};
