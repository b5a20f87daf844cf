/* Test pictures: windows of each through the network, their maps put together, scores and masks. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/segment_internal.h"
#include "trainer/eval/sliding_window.h"

enum { SCENES_AT_A_TIME = 8 }; /* that are read side by side */

/* ------------------------------------------------------------------------------ a picture */

/* How a picture is cut. */
struct grid {
    struct windows down, across;
    int32_t rows, columns; /* cells of a window */
    int64_t map;           /* numbers of a window's map */
};

static enum status plan(const struct segment_run *run, struct grid *out, const struct picture *of)
{
    int32_t window = run->crop.crop_px, patch = run->model.backbone.patch_size_px;
    int32_t scale = classifier_map_scale(&run->model);

    TRY(windows_plan(&out->down, of->height, window, run->stride));
    TRY(windows_plan(&out->across, of->width, window, run->stride));
    out->rows = scale * (out->down.window / patch);
    out->columns = scale * (out->across.window / patch);
    out->map = (int64_t)out->rows * out->columns * run->model.n_classes;
    return STATUS_OK;
}

static void cut_window(uint8_t *to, const struct picture *from, const struct grid *grid, int32_t i,
                       bool mirrored)
{
    int32_t top = grid->down.first[i / grid->across.n], width = grid->across.window;
    int32_t left = grid->across.first[i % grid->across.n];

    for (int32_t y = 0; y < grid->down.window; y++) {
        const uint8_t *row = from->rgb + 3 * (size_t)(top + y) * (size_t)from->width;
        for (int32_t x = 0; x < width && mirrored; x++)
            memcpy(to + 3 * x, row + 3 * (from->width - 1 - left - x), 3);
        if (!mirrored)
            memcpy(to, row + 3 * left, 3 * (size_t)width);
        to += 3 * width;
    }
}

/* logits: the maps of all windows. */
static enum status map_windows(struct segment_run *run, float *logits,
                               const struct picture *picture, const struct grid *grid,
                               bool mirrored)
{
    struct device *device = &run->backend->device;
    int32_t all = grid->down.n * grid->across.n, most = run->model.batch_size;
    int32_t height = grid->down.window, width = grid->across.window;
    size_t window = 3 * (size_t)height * (size_t)width;
    uint8_t *bytes = (uint8_t *)run->crops[0];

    for (int32_t first = 0; first < all; first += most) {
        int32_t n = all - first < most ? all - first : most;
        struct tensor pixels = {run->pixels, DTYPE_U8, 4, {n, height, width, 3}};
        for (int32_t i = 0; i < n; i++)
            cut_window(bytes + (size_t)i * window, picture, grid, first + i, mirrored);
        TRY(device->copy_in(device, run->pixels, bytes, (size_t)n * window));
        TRY(classifier_map(run->classifier, pixels, logits + first * grid->map));
    }
    return STATUS_OK;
}

/* Room for the maps of a picture at all sizes. */
static enum status plan_all(struct segment_run *run, struct grid *grids, const struct scene *scene)
{
    int64_t n = 0;

    for (int32_t i = 0; i < run->sizes.n; i++) {
        TRY(plan(run, &grids[i], &scene->resized[i]));
        n += grids[i].down.n * grids[i].across.n * grids[i].map * (run->options->flip ? 2 : 1);
    }
    return memory_grow(&run->logits, &run->logits_capacity, (size_t)n, sizeof(float),
                       "logits of windows");
}

/* found [whole]: classes. */
static enum status classify(struct segment_run *run, uint8_t *found, const struct scene *scene)
{
    struct window_maps maps[WINDOWS_MAX_MAPS];
    struct grid grids[SCENE_MAX_SIZES];
    int32_t n_maps = 0;

    TRY(plan_all(run, grids, scene));
    float *logits = run->logits;
    for (int32_t i = 0; i < run->sizes.n; i++) {
        const struct picture *picture = &scene->resized[i];
        const struct grid *grid = &grids[i];
        for (int mirrored = 0; mirrored < (run->options->flip ? 2 : 1); mirrored++) {
            TRY(map_windows(run, logits, picture, grid, mirrored == 1));
            maps[n_maps++] = (struct window_maps){
                .logits = logits,
                .down = &grid->down,
                .across = &grid->across,
                .rows = grid->rows,
                .columns = grid->columns,
                .n_classes = run->model.n_classes,
                .height = picture->height,
                .width = picture->width,
                .mirrored = mirrored == 1,
            };
            logits += grid->down.n * grid->across.n * grid->map;
        }
    }
    return window_maps_classify(found, NULL, scene->whole.width, scene->whole.height, maps, n_maps);
}

/* ------------------------------------------------------------------------------ masks */

static enum status make_folders(const char *path)
{
    char below[SCENE_MAX_PATH];

    for (const char *slash = strchr(path + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        snprintf(below, sizeof(below), "%.*s", (int)(slash - path), path);
        if (mkdir(below, 0777) != 0 && errno != EEXIST)
            FAIL(STATUS_IO, "cannot make folder '%s': %s", below, strerror(errno));
    }
    return STATUS_OK;
}

/* Classes become labels as the files have them. */
static enum status write_mask(const struct segment_run *run, struct label_image *found,
                              int64_t number)
{
    char path[SCENE_MAX_PATH];

    for (int64_t i = 0; i < (int64_t)found->width * found->height; i++)
        found->labels[i] = scene_label_of_class(&run->labels, found->labels[i]);
    scene_path_in(path, run->options->masks, &run->test, number);
    TRY(make_folders(path));
    return label_image_write(found, path);
}

/* ------------------------------------------------------------------------------ all */

static enum status one_scene(struct segment_run *run, struct segment_counts *counts,
                             const struct scene *scene, int64_t number)
{
    struct label_image found = {0};
    enum status status;

    TRY_OUT(label_image_open(&found, scene->whole.width, scene->whole.height));
    TRY_OUT(classify(run, found.labels, scene));
    if (scene->truth.labels != NULL)
        segment_counts_add(counts, found.labels, scene->truth.labels,
                           (int64_t)found.width * found.height);
    if (run->options->masks != NULL)
        TRY_OUT(write_mask(run, &found, number));
out:
    label_image_release(&found);
    return status;
}

static void show(const struct segment_run *run, int64_t n)
{
    char line[80];

    snprintf(line, sizeof(line), "test: %lld of %lld pictures", (long long)n,
             (long long)run->test.n);
    log_status_line(line);
}

enum status segment_evaluate(struct segment_run *run, struct segment_counts *counts)
{
    struct scene scenes[SCENES_AT_A_TIME] = {{.whole = {.rgb = NULL}}};
    enum status status = STATUS_OK;

    memset(counts, 0, sizeof(*counts));
    for (int64_t first = 0; first < run->test.n; first += SCENES_AT_A_TIME) {
        int32_t n = run->test.n - first < SCENES_AT_A_TIME ? (int32_t)(run->test.n - first)
                                                           : SCENES_AT_A_TIME;
        TRY_OUT(scene_reader_scenes(run->test_reader, scenes, first, n, &run->sizes));
        for (int32_t i = 0; i < n; i++) {
            if (run->stop != NULL && atomic_load(run->stop) != 0)
                FAIL_OUT(STATUS_INTERRUPTED, "interrupted at test picture %lld of %lld%s",
                         (long long)(first + i), (long long)run->test.n,
                         run->options->output_dir != NULL ? "; the same command goes on" : "");
            TRY_OUT(one_scene(run, counts, &scenes[i], first + i));
            show(run, first + i + 1);
        }
    }
out:
    log_status_line(NULL);
    for (int32_t i = 0; i < SCENES_AT_A_TIME; i++)
        scene_release(&scenes[i]);
    return status;
}
