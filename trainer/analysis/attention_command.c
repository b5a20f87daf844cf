/* ibot-analyze attention: where the heads of the last block look. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "trainer/analysis/attention_sheet.h"
#include "trainer/analysis/commands.h"
#include "trainer/analysis/json_line.h"
#include "trainer/analysis/map_picture.h"
#include "trainer/attention_mass.h"
#include "trainer/images.h"
#include "trainer/inference.h"
#include "trainer/pretrained_rows.h"

struct attention_options {
    struct pretrained_options weights;
    struct backend_options backend;
    struct network_options network;
    int fit; /* enum image_fit */
    int32_t image_size, batch_size, show_pics;
    double threshold, brightness;
    float heads[ATTENTION_COLOURS];
    int32_t n_heads;
    const char *output_dir;
    bool frames, maps, json;
};

static const char *const fits[] = {"squash", "crop", NULL};

#define AT(field) .offset = offsetof(struct attention_options, field)

static const struct option_spec attention_specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.name = "image_size",
     .type = OPTION_INT32,
     AT(image_size),
     .text = "480",
     .minimum = 0,
     .maximum = 4096,
     .zero = "that of the run's global crops",
     .unit = "px",
     .group = "Images",
     .help = "side of the square that the network sees: a multiple of its patch; positions are "
             "interpolated"},
    {.name = "fit",
     .type = OPTION_CHOICE,
     AT(fit),
     .choices = fits,
     .text = "squash",
     .help = "squash: all of the image, both sides resized, as the original does; crop: its "
             "shorter side resized, and the central square of that"},
    {.name = "show_pics",
     .type = OPTION_INT32,
     AT(show_pics),
     .text = "100",
     .minimum = 1,
     .maximum = 1000000,
     .unit = "images",
     .help = "of more images so many, at even distances; without effect on --frames"},
    {.name = "batch_size",
     .type = OPTION_INT32,
     AT(batch_size),
     .text = "4",
     .minimum = 1,
     .maximum = 1024,
     .unit = "images",
     .help = "images at a time"},
    {.name = "threshold",
     .type = OPTION_DOUBLE,
     AT(threshold),
     .text = "0.6",
     .minimum = 0.01,
     .maximum = 1,
     .group = "Pictures",
     .help = "share of a head's attention to patches that its mask keeps"},
    {.name = "heads",
     .type = OPTION_FLOAT_LIST,
     AT(heads),
     .count_offset = offsetof(struct attention_options, n_heads),
     .capacity = ATTENTION_COLOURS,
     .minimum = 0,
     .maximum = 255,
     .help = "heads of the coloured picture, at most six; without: the first six"},
    {.name = "brightness",
     .type = OPTION_DOUBLE,
     AT(brightness),
     .text = "0.1",
     .minimum = 0,
     .maximum = 1,
     .help = "of the grey image beneath the colours"},
    {.name = "output_dir",
     .type = OPTION_STRING,
     .letter = 'o',
     AT(output_dir),
     .argument = "DIR",
     .text = ".",
     .help = "where the pictures go"},
    {.name = "maps",
     .type = OPTION_BOOL,
     AT(maps),
     .text = "off",
     .help = "also each picture in a file of its own: idxN_image, _color, _mean (over heads), "
             "_headH, _maskH"},
    {.name = "frames",
     .type = OPTION_BOOL,
     AT(frames),
     .text = "off",
     .help = "the images are the frames of a video, in order of their names: instead of sheets "
             "make frames/frame-NNNN.png, attention/attn-NNNN.png (mean over heads) and "
             "color/color-NNNN.png, numbered from 0 on, for an encoder"},
    {.part = &row_json, AT(json)},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program attention_program = {
    .name = "ibot-analyze attention",
    .summary = "Shows where the heads of a ViT's last block look.",
    .epilogue = "Makes a sheet for each image, idxN_attn.png, of the attention of the [CLS] "
                "token: the image; over its grey copy the colour of the head that looks "
                "most at each place, within the masks that hold --threshold of each head's "
                "attention; and a map for each head.\n\n"
                "PATH is an image, a folder of images, class folders, a tar archive or a list of "
                "paths, as for ibot-train --data.\n\n"
                "  ibot-analyze attention --checkpoint runs/small cat.jpg dog.png -o out\n"
                "  ibot-analyze attention --checkpoint vit.pth /data/val --show_pics 50\n\n"
                "A video, with ffmpeg before and after:\n\n"
                "  ffmpeg -i in.mp4 -vf scale=480:480 frames_in/%05d.png\n"
                "  ibot-analyze attention --checkpoint vit.pth --frames frames_in -o out\n"
                "  ffmpeg -framerate 30 -i out/attention/attn-%04d.png -pix_fmt yuv420p out.mp4",
    .specs = attention_specs,
    .n_specs = sizeof(attention_specs) / sizeof(attention_specs[0]),
    .positional = "PATH...",
    .min_positional = 1,
    .max_positional = 100000,
};

/* ------------------------------------------------------------------------------ a run */

struct attention_run {
    const struct attention_options *options;
    struct inference model;
    struct images *images;
    int32_t heads[ATTENTION_COLOURS], n_heads; /* the chosen ones */
    uint8_t *rgb;                              /* [batch, size, size, 3] */
    float *attention;                          /* [batch, heads, 1 + grid * grid] */
    float *maps, *mean;                        /* of one image: [heads, cells], [cells] */
    uint8_t *keep;                             /* [heads, cells] */
    uint8_t *colours;                          /* [size, size, 3] */
};

static enum status choose_heads(struct attention_run *run)
{
    const struct attention_options *o = run->options;

    run->n_heads = run->model.n_heads < ATTENTION_COLOURS ? run->model.n_heads : ATTENTION_COLOURS;
    for (int32_t i = 0; i < run->n_heads; i++)
        run->heads[i] = i;
    for (int32_t i = 0; i < o->n_heads; i++) {
        run->heads[i] = (int32_t)o->heads[i];
        if (o->heads[i] != floorf(o->heads[i]) || run->heads[i] >= run->model.n_heads)
            FAIL(STATUS_INVALID, "--heads: got %g, wanted whole numbers from 0 to %d",
                 (double)o->heads[i], run->model.n_heads - 1);
    }
    if (o->n_heads > 0)
        run->n_heads = o->n_heads;
    return STATUS_OK;
}

static enum status open_run(struct attention_run *run, struct backend *backend,
                            const struct options *parsed)
{
    const struct attention_options *o = run->options;
    struct inference_options model = inference_options(&o->weights, &o->backend, &o->network);

    TRY(images_open(&run->images, parsed->positional, parsed->n_positional, o->backend.threads));
    model.size_px = o->image_size;
    model.batch_size =
        images_n(run->images) < o->batch_size ? (int32_t)images_n(run->images) : o->batch_size;
    TRY(inference_open(&run->model, backend, &model));
    TRY(inference_wants_attention(&run->model));
    TRY(choose_heads(run));
    size_t batch = (size_t)model.batch_size, heads = (size_t)run->model.n_heads;
    size_t cells = (size_t)run->model.grid * (size_t)run->model.grid;
    size_t pixels = (size_t)run->model.size_px * (size_t)run->model.size_px;
    TRY(memory_alloc(&run->rgb, batch * pixels, 3, "pictures"));
    TRY(memory_alloc(&run->colours, pixels, 3, "pictures"));
    TRY(memory_alloc(&run->attention, batch * heads * (cells + 1), sizeof(float), "attention"));
    TRY(memory_alloc(&run->maps, heads * cells, sizeof(float), "attention"));
    TRY(memory_alloc(&run->keep, heads * cells, 1, "attention"));
    return memory_alloc(&run->mean, cells, sizeof(float), "attention");
}

static void close_run(struct attention_run *run)
{
    inference_close(&run->model);
    images_close(&run->images);
    memory_free(run->rgb);
    memory_free(run->colours);
    memory_free(run->attention);
    memory_free(run->maps);
    memory_free(run->keep);
    memory_free(run->mean);
}

/* ------------------------------------------------------------------------------ results */

static void append_numbers(json_t *array, const float *values, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        json_array_append_new(array, json_real((double)values[i]));
}

/* cls: each head's attention to the [CLS] token itself, which the maps leave out. */
static enum status print_json(const struct attention_run *run, const struct image_info *info,
                              int64_t image, const float *attention, const char *file)
{
    int32_t cells = run->model.grid * run->model.grid;
    json_t *heads = json_array();

    for (int32_t h = 0; h < run->model.n_heads; h++) {
        json_t *map = json_array(), *mask = json_array();
        append_numbers(map, run->maps + (int64_t)h * cells, cells);
        for (int32_t i = 0; i < cells; i++)
            json_array_append_new(mask, json_integer(run->keep[(int64_t)h * cells + i]));
        json_array_append_new(heads, json_pack("{s:i, s:f, s:o, s:o}", "head", h, "cls",
                                               (double)attention[(int64_t)h * (cells + 1)],
                                               "attention", map, "mask", mask));
    }
    json_t *json = json_pack("{s:I, s:o, s:s, s:i, s:f, s:o}", "index", (json_int_t)image, "path",
                             json_line_path(info->path), "file", file, "grid", run->model.grid,
                             "threshold", run->options->threshold, "heads", heads);
    return json_line_print(json);
}

static enum status save_frame(const struct attention_run *run, const struct attention_view *view,
                              int64_t frame, char file[PICTURE_MAX_PATH])
{
    const char *folder = run->options->output_dir;
    int32_t size_px = run->model.size_px;

    snprintf(file, PICTURE_MAX_PATH, "%s/frames/frame-%04lld.png", folder, (long long)frame);
    TRY(picture_save_rgb(file, view->composite.rgb, size_px, size_px));
    snprintf(file, PICTURE_MAX_PATH, "%s/color/color-%04lld.png", folder, (long long)frame);
    TRY(picture_save_rgb(file, view->colours, size_px, size_px));
    snprintf(file, PICTURE_MAX_PATH, "%s/attention/attn-%04lld.png", folder, (long long)frame);
    return picture_save_map(file, view->mean, run->model.grid, size_px);
}

static enum status save_pictures(const struct attention_run *run, const struct attention_view *view,
                                 int64_t image, char file[PICTURE_MAX_PATH])
{
    char stem[PICTURE_MAX_PATH];

    snprintf(stem, sizeof(stem), "%s/idx%lld", run->options->output_dir, (long long)image);
    if (run->options->maps)
        TRY(attention_maps_save(view, stem));
    snprintf(file, PICTURE_MAX_PATH, "%s/idx%lld_attn.png", run->options->output_dir,
             (long long)image);
    return attention_sheet_save(view, file);
}

/* attention [heads, 1 + cells] of one image; rgb its pixels. */
static enum status show(struct attention_run *run, int64_t image, const float *attention,
                        const uint8_t *rgb)
{
    const struct attention_options *o = run->options;
    int32_t cells = run->model.grid * run->model.grid, n_heads = run->model.n_heads;
    char file[PICTURE_MAX_PATH], caption[256];
    struct image_info info;

    TRY(images_info(run->images, image, &info));
    const char *path = info.name[0] != '\0' ? info.name : info.path;
    const char *slash = strrchr(path, '/');
    snprintf(caption, sizeof(caption), "%s", slash != NULL ? slash + 1 : path);
    for (int32_t h = 0; h < n_heads; h++) {
        float *map = run->maps + (int64_t)h * cells;
        memcpy(map, attention + (int64_t)h * (cells + 1) + 1, (size_t)cells * sizeof(float));
        TRY(attention_threshold(run->keep + (int64_t)h * cells, map, cells, o->threshold));
    }
    attention_mean(run->mean, run->maps, n_heads, cells);
    struct attention_view view = {
        .composite = {.maps = run->maps,
                      .keep = run->keep,
                      .heads = run->heads,
                      .n = run->n_heads,
                      .grid = run->model.grid,
                      .rgb = rgb,
                      .size_px = run->model.size_px,
                      .brightness = o->brightness},
        .colours = run->colours,
        .mean = run->mean,
        .n_heads = n_heads,
        .caption = caption,
    };
    TRY(attention_compose(run->colours, &view.composite));
    TRY(o->frames ? save_frame(run, &view, image, file) : save_pictures(run, &view, image, file));
    if (o->json)
        return print_json(run, &info, image, attention, file);
    if (!o->frames)
        printf("%s  %s%s%s\n", file, info.path, info.name[0] != '\0' ? ":" : "", info.name);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ all images */

static enum status show_batch(struct attention_run *run, const int64_t *which, int32_t n)
{
    int32_t size = run->model.size_px;
    struct image_form form = {(enum image_fit)run->options->fit, size, size,
                              run->options->fit == IMAGE_SQUASH};
    struct ibot_tokens out = {.attention = run->attention};
    size_t row = (size_t)run->model.n_heads * (size_t)(run->model.grid * run->model.grid + 1);

    TRY(images_read(run->images, run->rgb, which, n, &form));
    TRY(inference_tokens(&run->model, run->rgb, n, &out));
    for (int32_t i = 0; i < n; i++)
        TRY(show(run, which[i], run->attention + (size_t)i * row,
                 run->rgb + (size_t)i * 3 * (size_t)size * (size_t)size));
    return STATUS_OK;
}

static enum status show_all(struct attention_run *run, const atomic_int *stop)
{
    const struct attention_options *o = run->options;
    int64_t n = images_n(run->images), n_shown = n, which[1024];
    int32_t batch = run->model.batch_size;

    if (!o->frames && n > o->show_pics)
        n_shown = o->show_pics;
    for (int64_t first = 0; first < n_shown; first += batch) {
        int32_t n_now = n_shown - first < batch ? (int32_t)(n_shown - first) : batch;
        if (atomic_load(stop) != 0)
            FAIL(STATUS_INTERRUPTED, "interrupted after %lld of %lld images", (long long)first,
                 (long long)n_shown);
        for (int32_t i = 0; i < n_now; i++)
            which[i] = (first + i) * n / n_shown;
        TRY(show_batch(run, which, n_now));
        char line[80];
        snprintf(line, sizeof(line), "attention: %lld of %lld images", (long long)(first + n_now),
                 (long long)n_shown);
        log_status_line(line);
    }
    log_status_line(NULL);
    log_info("%lld images, pictures in '%s'", (long long)n_shown, o->output_dir);
    return STATUS_OK;
}

static enum status make_folders(const struct attention_options *o)
{
    static const char *const parts[] = {"frames", "attention", "color"};
    char path[PICTURE_MAX_PATH];

    TRY(picture_folder(o->output_dir));
    for (size_t i = 0; o->frames && i < sizeof(parts) / sizeof(parts[0]); i++) {
        snprintf(path, sizeof(path), "%s/%s", o->output_dir, parts[i]);
        TRY(picture_folder(path));
    }
    return STATUS_OK;
}

static enum status attention(void *values, const struct options *parsed, const atomic_int *stop)
{
    struct attention_options *o = values;
    struct attention_run run = {.options = o};
    struct backend backend = {0};
    enum status status;

    if (o->frames && o->maps)
        FAIL(STATUS_INVALID, "--frames makes other files than --maps: give one of the two");
    TRY_OUT(inference_backend_open(&backend, &o->weights, &o->backend, &o->network, parsed));
    TRY_OUT(open_run(&run, &backend, parsed));
    TRY_OUT(make_folders(o));
    TRY_OUT(show_all(&run, stop));
out:
    close_run(&run);
    backend_close(&backend);
    return status;
}

const struct program_command attention_command = {
    .program = &attention_program,
    .values_bytes = sizeof(struct attention_options),
    .run = attention,
};
