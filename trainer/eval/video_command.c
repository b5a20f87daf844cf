/* ibot-eval video. */
#include <stdio.h>

#include "proto/base/log.h"
#include "proto/config/rows.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/video_run.h"
#include "trainer/eval/video_scores.h"
#include "trainer/pretrained_rows.h"

struct video_options {
    struct pretrained_options weights;
    struct backend_options backend;
    struct network_options network;
    const char *data_path, *resolution, *image_set, *output_dir;
    int32_t image_size, batch_size, n_last_frames, size_mask_neighborhood, topk;
    double temperature;
    bool json;
};

#define AT(field) .offset = offsetof(struct video_options, field)

static const struct option_spec video_specs[] = {
    {.part = &rows_pretrained, AT(weights), .group = "Model"},
    {.name = "data_path",
     .type = OPTION_STRING,
     AT(data_path),
     .argument = "DIR",
     .group = "Data",
     .help = "a data set as DAVIS 2017 is laid out: JPEGImages, Annotations, ImageSets"},
    {.name = "resolution",
     .type = OPTION_STRING,
     AT(resolution),
     .argument = "NAME",
     .text = "480p",
     .help = "folder of JPEGImages and of Annotations that has the sequences"},
    {.name = "image_set",
     .type = OPTION_STRING,
     AT(image_set),
     .argument = "NAME",
     .text = "2017/val",
     .help = "which sequences: ImageSets/NAME.txt, a name a line"},
    {.name = "output_dir",
     .type = OPTION_STRING,
     .letter = 'o',
     AT(output_dir),
     .argument = "DIR",
     .help = "where labels go, SEQUENCE/FRAME.png; a run that was stopped goes on there"},
    {.name = "image_size",
     .type = OPTION_INT32,
     AT(image_size),
     .text = "480",
     .minimum = 16,
     .maximum = 4096,
     .unit = "px",
     .help =
         "shorter side of frames as the network sees them; the longer one is in proportion, down "
         "to a multiple of 64"},
    {.name = "batch_size",
     .type = OPTION_INT32,
     AT(batch_size),
     .text = "4",
     .minimum = 1,
     .maximum = 1024,
     .unit = "frames",
     .help = "frames that pass the network at a time; changes no result"},
    {.name = "n_last_frames",
     .type = OPTION_INT32,
     AT(n_last_frames),
     .text = "7",
     .minimum = 0,
     .maximum = 1000,
     .unit = "frames",
     .group = "Propagation",
     .help = "that labels come from, besides the first frame"},
    {.name = "size_mask_neighborhood",
     .type = OPTION_INT32,
     AT(size_mask_neighborhood),
     .text = "12",
     .minimum = 0,
     .maximum = 4096,
     .zero = "all of the frame",
     .unit = "patches",
     .help = "labels come from so far away at most, up, down, left and right"},
    {.name = "topk",
     .type = OPTION_INT32,
     AT(topk),
     .text = "5",
     .minimum = 1,
     .maximum = 4096,
     .unit = "patches",
     .help = "that a patch's labels come from: those most like it"},
    {.name = "temperature",
     .type = OPTION_DOUBLE,
     AT(temperature),
     .text = "0.1",
     .minimum = 1e-4,
     .maximum = 100,
     .help = "patches weigh exp(cosine / temperature)"},
    {.part = &row_json, AT(json)},
    {.part = &rows_backend, AT(backend), .group = "Process"},
    {.part = &rows_network, AT(network)},
};

static const struct options_program video_program = {
    .name = "ibot-eval video",
    .summary = "Video object segmentation by label propagation, and its J and F.",
    .epilogue =
        "Carries the annotated labels of each sequence's first frame through the sequence, by "
        "the features of patches and nothing else, and scores the result as the DAVIS 2017 "
        "challenge does: region similarity J and boundary accuracy F, each with mean, recall "
        "(share of frames above 0.5) and decay over time. Without --checkpoint it scores what "
        "--output_dir has, whoever made it.\n\n"
        "  ibot-eval video --checkpoint runs/small --data_path DAVIS -o out\n"
        "  ibot-eval video --data_path DAVIS -o out --json",
    .specs = video_specs,
    .n_specs = sizeof(video_specs) / sizeof(video_specs[0]),
};

static void print_one(const char *name, const struct mask_statistics *j,
                      const struct mask_statistics *f, bool json)
{
    printf(
        json
            ? "{\"name\": \"%s\", \"jf\": %.6f, \"j_mean\": %.6f, \"j_recall\": %.6f, \"j_decay\": "
              "%.6f, \"f_mean\": %.6f, \"f_recall\": %.6f, \"f_decay\": %.6f}\n"
            : "%s: J&F %.4f, J %.4f (recall %.4f, decay %.4f), F %.4f (recall %.4f, decay "
              "%.4f)\n",
        name, (j->mean + f->mean) / 2.0, j->mean, j->recall, j->decay, f->mean, f->recall,
        f->decay);
}

static enum status score(const struct video_options *o, const struct video_data *data)
{
    struct video_scores scores;
    char name[VIDEO_MAX_NAME + 16];

    TRY(video_scores_compute(&scores, data, o->output_dir));
    if (scores.n_unscored > 0)
        log_warning("%d of %d sequences have no score: frames are not annotated", scores.n_unscored,
                    data->n_sequences);
    for (int32_t i = 0; i < scores.n; i++) {
        const struct video_score *s = &scores.scores[i];
        snprintf(name, sizeof(name), "%s_%d", data->sequences[s->sequence], s->object);
        print_one(name, &s->j, &s->f, o->json);
    }
    if (scores.n > 0)
        print_one("global", &scores.j, &scores.f, o->json);
    video_scores_release(&scores);
    return STATUS_OK;
}

static enum status segment(struct video_options *o, const struct options *parsed,
                           const struct video_data *data, const atomic_int *stop)
{
    struct backend backend = {0};
    enum status status;

    TRY_OUT(inference_backend_open(&backend, &o->weights, &o->backend, &o->network, parsed));
    struct video_run_options options = {
        .network = inference_options(&o->weights, &o->backend, &o->network),
        .folder = o->output_dir,
        .image_size = o->image_size,
        .n_last_frames = o->n_last_frames,
        .size_mask_neighborhood = o->size_mask_neighborhood,
        .topk = o->topk,
        .temperature = o->temperature,
        .n_threads = o->backend.threads,
    };
    options.network.batch_size = o->batch_size;
    TRY_OUT(video_run(&backend, data, &options, stop));
out:
    backend_close(&backend);
    return status;
}

static enum status video(void *values, const struct options *parsed, const atomic_int *stop)
{
    struct video_options *o = values;
    struct video_data data;
    enum status status = STATUS_OK;

    if (o->data_path == NULL || o->output_dir == NULL)
        FAIL(STATUS_INVALID,
             "give --data_path and --output_dir, and --checkpoint unless what is in "
             "--output_dir is to be scored");
    TRY(video_data_open(&data, o->data_path, o->resolution, o->image_set));
    if (o->weights.path != NULL)
        TRY_OUT(segment(o, parsed, &data, stop));
    TRY_OUT(score(o, &data));
out:
    video_data_close(&data);
    return status;
}

const struct program_command video_command = {
    .program = &video_program,
    .values_bytes = sizeof(struct video_options),
    .run = video,
};
