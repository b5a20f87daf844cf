/* Test pictures: windows of each through the network, their maps put together, scores and masks. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "ops/rank_monitor.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/segment_internal.h"
#include "trainer/eval/sliding_window.h"
#include "trainer/rank_agreement.h"
#include "trainer/rank_rows.h"

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

static void show(int64_t n, int64_t all)
{
    char line[80];

    snprintf(line, sizeof(line), "test: %lld of %lld pictures", (long long)n, (long long)all);
    log_status_line(line);
}

/* A few pictures of this rank's. */
static enum status some_scenes(struct segment_run *run, struct segment_counts *counts,
                               struct scene *scenes, int64_t first, int32_t n)
{
    if (n == 0)
        return STATUS_OK;
    segment_tell_progress(run, RANK_WAITS_FOR_DATA);
    TRY(scene_reader_scenes(run->test_reader, scenes, first, n, &run->sizes));
    segment_tell_progress(run, "measures");
    for (int32_t i = 0; i < n; i++) {
        if (run->stop != NULL && atomic_load(run->stop) != 0)
            FAIL(STATUS_INTERRUPTED, "interrupted at test picture %lld of %lld%s",
                 (long long)(first + i), (long long)run->test.n,
                 run->options->output_dir != NULL ? "; the same command goes on" : "");
        TRY(one_scene(run, counts, &scenes[i], first + i));
    }
    return STATUS_OK;
}

/* What the ranks have counted. */
static enum status add_counts(struct segment_run *run, struct segment_counts *counts)
{
    int64_t world = run->ranks->world, *sums = (int64_t *)counts, *all;
    size_t n = sizeof(*counts) / sizeof(*sums);

    TRY(memory_alloc(&all, (size_t)world, sizeof(*counts), "counts of ranks"));
    enum status status = run->ranks->all_gather(run->ranks, all, counts, sizeof(*counts));
    for (size_t i = 0; i < n && status == STATUS_OK; i++) {
        sums[i] = 0;
        for (int64_t r = 0; r < world; r++)
            sums[i] += all[(size_t)r * n + i];
    }
    memory_free(all);
    return status;
}

/* Ranks with fewer pictures go along to the end, so that all hear of one that fails or was asked to
 * stop. */
enum status segment_evaluate(struct segment_run *run, struct segment_counts *counts)
{
    struct scene scenes[SCENES_AT_A_TIME] = {{.whole = {.rgb = NULL}}};
    int64_t world = run->ranks->world, most = (run->test.n + world - 1) / world, first, end;
    enum status status = STATUS_OK;

    memset(counts, 0, sizeof(*counts));
    rank_share(run->ranks, run->test.n, &first, &end);
    for (int64_t done = 0; done < most; done += SCENES_AT_A_TIME) {
        struct rank_word word = {0};
        int64_t left = end - first - done;
        left = left < 0 ? 0 : left < SCENES_AT_A_TIME ? left : SCENES_AT_A_TIME;
        status = some_scenes(run, counts, scenes, first + done, (int32_t)left);
        TRY_OUT(rank_agree(run->ranks, status, &word));
        show(done + left, end - first);
    }
    TRY_OUT(add_counts(run, counts));
out:
    log_status_line(NULL);
    for (int32_t i = 0; i < SCENES_AT_A_TIME; i++)
        scene_release(&scenes[i]);
    return status;
}
