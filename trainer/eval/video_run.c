#include "trainer/eval/video_run.h"

#include <errno.h>
#include <jansson.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/label_image.h"
#include "trainer/eval/label_map.h"
#include "trainer/eval/label_propagation.h"
#include "trainer/eval/video_picture.h"
#include "trainer/weights/atomic_file.h"

enum { MAX_BATCH = 1024, OFFICIAL_VOID = 255 };

struct video_run {
    struct backend *backend;
    const struct video_data *data;
    const struct video_run_options *options;
    const atomic_int *stop;
    struct pretrained pretrained;
    struct inference model; /* for frames of `size` */
    struct video_pictures *pictures;
    struct video_size size;
    bool signed_folder; /* it says what made its results */
};

/* One sequence under way. */
struct sequence {
    int32_t number;
    const char *name;
    char folder[VIDEO_MAX_PATH]; /* of its results, until it is finished */
    struct video_frames frames;
    struct video_size frame;
    int32_t rows, columns; /* patches */
    struct label_image first, found;
    struct label_propagation propagation;
    float *pixels, *tokens; /* of a batch */
    float *labels;          /* of a frame: [cells, n_labels] */
    uint8_t *grown;         /* [rows*patch, columns*patch] */
    int32_t n_labels;
};

/* ------------------------------------------------------------------------------ the folder */

static enum status make_folder(const char *path)
{
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", path, strerror(errno));
    return STATUS_OK;
}

bool video_run_has(const char *folder, const char *sequence)
{
    char path[VIDEO_MAX_PATH];
    struct stat info;

    snprintf(path, sizeof(path), "%.3500s/%s", folder, sequence);
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* What must be the same for results to stand side by side. Batches and threads change nothing. */
static json_t *identity_of(const struct video_run *run)
{
    const struct video_run_options *o = run->options;

    return json_pack(
        "{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:f, s:s, s:b}", "weights", run->pretrained.file.path,
        "key", o->network.weights.key != NULL ? o->network.weights.key : "", "resolution",
        run->data->resolution, "image_size", o->image_size, "n_last_frames", o->n_last_frames,
        "size_mask_neighborhood", o->size_mask_neighborhood, "topk", o->topk, "temperature",
        o->temperature, "precision", o->network.precision == PRECISION_BF16 ? "bf16" : "f32",
        "gelu_tanh", o->network.gelu_tanh);
}

/* Before the first result is there, and not before one is about to be. */
static enum status sign_folder(struct video_run *run)
{
    char path[VIDEO_MAX_PATH], *text;
    struct atomic_file file = {0};
    enum status status;

    if (run->signed_folder)
        return STATUS_OK;
    json_t *identity = identity_of(run);
    text = json_dumps(identity, JSON_INDENT(1));
    json_decref(identity);
    snprintf(path, sizeof(path), "%.3500s/video.json", run->options->folder);

    if (text == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for '%s'", path);
    TRY_OUT(atomic_file_open(&file, path));
    TRY_OUT(atomic_file_write(&file, text, strlen(text)));
    TRY_OUT(atomic_file_write(&file, "\n", 1));
    TRY_OUT(atomic_file_commit(&file));
    run->signed_folder = true;
out:
    atomic_file_close(&file);
    free(text);
    return status;
}

static enum status compare_identity(const struct video_run *run, const json_t *mine,
                                    const json_t *kept, const char *path)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)mine, key, value)
    {
        json_t *other = json_object_get(kept, key);
        if (json_equal(value, other))
            continue;
        char *here = json_dumps(value, JSON_ENCODE_ANY);
        char *there = other != NULL ? json_dumps(other, JSON_ENCODE_ANY) : NULL;
        enum status status = status_set(
            STATUS_MISMATCH,
            "%s: the results in '%s' were made with %s %s, this run has %s: give another "
            "--output_dir, or the same options",
            path, run->options->folder, key, there != NULL ? there : "nothing",
            here != NULL ? here : "another");
        free(here);
        free(there);
        return status;
    }
    return STATUS_OK;
}

static enum status open_folder(struct video_run *run)
{
    char path[VIDEO_MAX_PATH];
    json_error_t error;
    json_t *mine = identity_of(run), *kept = NULL;
    enum status status = STATUS_OK;
    struct stat info;

    if (mine == NULL)
        FAIL(STATUS_INVALID, "the path of the weights is no UTF-8");
    TRY_OUT(make_folder(run->options->folder));
    snprintf(path, sizeof(path), "%.3500s/video.json", run->options->folder);
    if (stat(path, &info) == 0) {
        kept = json_load_file(path, 0, &error);
        if (!json_is_object(kept))
            FAIL_OUT(STATUS_CORRUPT,
                     "%s is not what ibot-eval video writes (%s): remove it and the results beside "
                     "it, or give another --output_dir",
                     path, error.text);
        TRY_OUT(compare_identity(run, mine, kept, path));
        run->signed_folder = true;
        goto out;
    }
    for (int32_t i = 0; i < run->data->n_sequences; i++)
        if (video_run_has(run->options->folder, run->data->sequences[i]))
            FAIL_OUT(
                STATUS_MISMATCH,
                "'%s' has a '%s' that was not made here (there is no video.json): give another "
                "--output_dir; without --checkpoint what it has is scored",
                run->options->folder, run->data->sequences[i]);
out:
    json_decref(mine);
    json_decref(kept);
    return status;
}

/* ------------------------------------------------------------------------------ a sequence */

/* The network for frames of this size: positions depend on it. */
static enum status fit_network(struct video_run *run, struct video_size size)
{
    struct inference_options options = run->options->network;

    if (run->model.ibot != NULL && run->size.width == size.width && run->size.height == size.height)
        return STATUS_OK;
    inference_close(&run->model);
    options.size_px = size.height;
    options.width_px = size.width != size.height ? size.width : 0;
    options.whole_tokens = false;
    TRY(inference_open_pretrained(&run->model, run->backend, &run->pretrained, &options));
    run->size = size;
    return STATUS_OK;
}

/* The first frame's labels at the size of patches; how many labels there are follows from these. */
static enum status first_labels(struct sequence *s)
{
    int64_t n = (int64_t)s->first.width * s->first.height, cells = (int64_t)s->rows * s->columns;
    uint8_t *small = NULL, *all = NULL;
    enum status status;

    TRY_OUT(memory_alloc_unset(&all, (size_t)n, 1, "labels"));
    TRY_OUT(memory_alloc_unset(&small, (size_t)cells, 1, "labels"));
    for (int64_t i = 0; i < n; i++)
        all[i] = s->first.labels[i] == OFFICIAL_VOID ? 0 : s->first.labels[i];
    TRY_OUT(label_map_resize(small, s->columns, s->rows, all, s->first.width, s->first.height));
    s->n_labels = 1;
    for (int64_t i = 0; i < cells; i++)
        s->n_labels = small[i] >= s->n_labels ? small[i] + 1 : s->n_labels;
    TRY_OUT(memory_alloc(&s->labels, (size_t)cells, sizeof(float) * (size_t)s->n_labels, "labels"));
    label_map_one_hot(s->labels, small, cells, s->n_labels);
out:
    memory_free(small);
    memory_free(all);
    return status;
}

static enum status open_buffers(struct video_run *run, struct sequence *s)
{
    size_t batch = (size_t)run->options->network.batch_size, patch = (size_t)run->model.cell_px;
    size_t cells = (size_t)s->rows * (size_t)s->columns;
    size_t picture = 3 * (size_t)run->size.width * (size_t)run->size.height;
    struct label_propagation_options options = {
        .rows = s->rows,
        .columns = s->columns,
        .width = run->model.width,
        .n_labels = s->n_labels,
        .n_last_frames = run->options->n_last_frames,
        .size_mask_neighborhood = run->options->size_mask_neighborhood,
        .topk = run->options->topk,
        .temperature = (float)run->options->temperature,
    };

    TRY(memory_alloc_unset(&s->pixels, batch * picture, sizeof(float), "frames"));
    TRY(memory_alloc_unset(&s->tokens, batch * (cells + 1) * (size_t)run->model.width,
                           sizeof(float), "features of frames"));
    TRY(memory_alloc_unset(&s->grown, cells * patch * patch, 1, "labels"));
    TRY(label_image_open(&s->found, s->frame.width, s->frame.height));
    memcpy(s->found.palette, s->first.palette, sizeof(s->found.palette));
    return label_propagation_open(&s->propagation, &run->backend->device, run->backend->ops,
                                  &options);
}

static enum status open_sequence(struct video_run *run, struct sequence *s)
{
    char path[VIDEO_MAX_PATH];
    int32_t patch = run->pretrained.backbone.patch_size_px;

    TRY(video_frames_list(&s->frames, run->data, s->number));
    video_frame_path(path, run->data, s->number, s->frames.names[0]);
    TRY(video_picture_measure(run->pictures, &s->frame, path));
    video_labels_path(path, run->data, s->number, s->frames.names[0]);
    TRY(label_image_read(&s->first, path));
    if (s->first.width != s->frame.width || s->first.height != s->frame.height)
        FAIL(STATUS_MISMATCH, "'%s' is %d x %d px, its frame %d x %d", path, s->first.width,
             s->first.height, s->frame.width, s->frame.height);
    struct video_size size = video_picture_size(s->frame, run->options->image_size);
    s->rows = size.height / patch;
    s->columns = size.width / patch;
    if (s->rows < 1 || s->columns < 1)
        FAIL(STATUS_INVALID,
             "'%s': frames of %d x %d px become %d x %d, which a patch of %d px does not fit into: "
             "give a greater --image_size",
             s->name, s->frame.width, s->frame.height, size.width, size.height, patch);
    TRY(fit_network(run, size));
    TRY(first_labels(s));
    TRY(open_buffers(run, s));
    snprintf(s->folder, sizeof(s->folder), "%.3500s/.%s.part", run->options->folder, s->name);
    return make_folder(s->folder);
}

static void close_sequence(struct sequence *s)
{
    label_propagation_close(&s->propagation);
    label_image_release(&s->first);
    label_image_release(&s->found);
    video_frames_release(&s->frames);
    memory_free(s->pixels);
    memory_free(s->tokens);
    memory_free(s->labels);
    memory_free(s->grown);
}

static enum status save(const struct sequence *s, const struct label_image *image, int32_t frame)
{
    char path[VIDEO_MAX_PATH + VIDEO_MAX_NAME];

    snprintf(path, sizeof(path), "%s/%s.png", s->folder, s->frames.names[frame]);
    return label_image_write(image, path);
}

/* tokens [cells, width] of a frame. */
static enum status segment_frame(struct video_run *run, struct sequence *s, int32_t frame,
                                 const float *tokens)
{
    int32_t patch = run->model.cell_px;
    struct label_weights map = {s->labels, s->rows, s->columns, s->n_labels};

    if (frame == 0) {
        TRY(label_propagation_begin(&s->propagation, tokens, s->labels));
        return save(s, &s->first, 0);
    }
    TRY(label_propagation_next(&s->propagation, s->labels, tokens));
    label_map_grow(s->grown, &map, patch, omp_get_max_threads());
    TRY(label_map_resize(s->found.labels, s->frame.width, s->frame.height, s->grown,
                         s->columns * patch, s->rows * patch));
    return save(s, &s->found, frame);
}

/* Frames of a batch pass the network together, and then one after the other. */
static enum status segment_batch(struct video_run *run, struct sequence *s, int32_t first,
                                 int32_t n)
{
    size_t image = ((size_t)s->rows * (size_t)s->columns + 1) * (size_t)run->model.width;
    struct ibot_tokens out = {.tokens = s->tokens};
    char(*paths)[VIDEO_MAX_PATH] = NULL;
    const char *path[MAX_BATCH];
    enum status status;
    struct tensor pixels;

    CHECK(n <= MAX_BATCH);
    TRY_OUT(memory_alloc(&paths, (size_t)n, VIDEO_MAX_PATH, "paths"));
    for (int32_t i = 0; i < n; i++) {
        video_frame_path(paths[i], run->data, s->number, s->frames.names[first + i]);
        path[i] = paths[i];
    }
    TRY_OUT(video_pictures_read(run->pictures, s->pixels, path, n, s->frame, run->size));
    TRY_OUT(inference_upload(&run->model, s->pixels, DTYPE_F32, n, &pixels));
    TRY_OUT(ibot_tokens(run->model.ibot, pixels, &out));
    for (int32_t i = 0; i < n; i++)
        TRY_OUT(segment_frame(run, s, first + i,
                              s->tokens + (size_t)i * image + run->model.width)); /* not [CLS] */
out:
    memory_free(paths);
    return status;
}

static enum status finish(struct video_run *run, const struct sequence *s)
{
    char path[VIDEO_MAX_PATH];

    TRY(sign_folder(run));
    snprintf(path, sizeof(path), "%.3500s/%s", run->options->folder, s->name);
    if (rename(s->folder, path) != 0)
        FAIL(STATUS_IO, "cannot name '%s' '%s': %s", s->folder, path, strerror(errno));
    return STATUS_OK;
}

static enum status segment_sequence(struct video_run *run, int32_t number)
{
    struct sequence s = {.number = number, .name = run->data->sequences[number]};
    int32_t batch = run->options->network.batch_size;
    enum status status;

    TRY_OUT(open_sequence(run, &s));
    for (int32_t first = 0; first < s.frames.n; first += batch) {
        int32_t n = s.frames.n - first < batch ? s.frames.n - first : batch;
        if (run->stop != NULL && atomic_load(run->stop) != 0)
            FAIL_OUT(STATUS_INTERRUPTED,
                     "interrupted in sequence %d of %d; the same command goes on with it",
                     number + 1, run->data->n_sequences);
        TRY_OUT(segment_batch(run, &s, first, n));
        char line[2 * VIDEO_MAX_NAME];
        snprintf(line, sizeof(line), "%s (%d of %d): frame %d of %d", s.name, number + 1,
                 run->data->n_sequences, first + n, s.frames.n);
        log_status_line(line);
    }
    TRY_OUT(finish(run, &s));
    log_info("%s: %d frames of %d x %d px as %d x %d, %d objects", s.name, s.frames.n,
             s.frame.width, s.frame.height, run->size.width, run->size.height, s.n_labels - 1);
out:
    log_status_line(NULL);
    close_sequence(&s);
    return status;
}

enum status video_run(struct backend *backend, const struct video_data *data,
                      const struct video_run_options *options, const atomic_int *stop)
{
    struct video_run run = {.backend = backend, .data = data, .options = options, .stop = stop};
    enum status status;
    int32_t n_done = 0;

    CHECK(options->network.batch_size >= 1 && options->network.batch_size <= MAX_BATCH);
    TRY(pretrained_open(&run.pretrained, &options->network.weights));
    if (run.pretrained.backbone.n_stages > 0)
        FAIL_OUT(STATUS_UNSUPPORTED, "frames are rectangles, and a Swin takes squares: give the "
                                     "weights of a ViT");
    TRY_OUT(open_folder(&run));
    TRY_OUT(video_pictures_open(&run.pictures, options->n_threads));
    for (int32_t i = 0; i < data->n_sequences; i++) {
        if (video_run_has(options->folder, data->sequences[i]))
            n_done++;
        else
            TRY_OUT(segment_sequence(&run, i));
    }
    if (n_done > 0)
        log_info("%d of %d sequences were there", n_done, data->n_sequences);
out:
    inference_close(&run.model);
    video_pictures_close(&run.pictures);
    pretrained_close(&run.pretrained);
    return status;
}
