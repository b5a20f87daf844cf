/* ibot-stream inspect: what is in a recording, or in a live stream. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "loader/draw.h"
#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/config/rows.h"
#include "proto/wire/observer.h"
#include "proto/wire/recording.h"
#include "proto/wire/stream_rows.h"
#include "stream/command.h"
#include "stream/origin.h"
#include "stream/viewer.h"

static const int64_t patience_ns = 10000000000; /* with a trainer that does not answer */

struct options_of_inspect {
    struct viewer_options view;
    struct key_options keys;
};

static struct options_of_inspect values;

#define AT(field) .offset = offsetof(struct options_of_inspect, field)

static const struct option_spec specs[] = {
    {.name = "steps",
     .type = OPTION_STRING,
     AT(view.steps),
     .argument = "FIRST-LAST,...",
     .group = "What to show",
     .help = "these steps alone"},
    {.name = "samples",
     .type = OPTION_STRING,
     AT(view.samples),
     .argument = "all|FIRST-LAST,...",
     .help = "samples by their number in the batch: position, image, label, hash; with --data its "
             "path"},
    {.name = "parameters",
     .type = OPTION_BOOL,
     AT(view.parameters),
     .text = "off",
     .help = "everything that was drawn for each view of them: crop (with --data: its place in the "
             "image), flip, jitter and its order, grey, blur, solarisation, mask"},
    {.part = &row_data, AT(view.data)},
    {.part = &row_index, AT(view.index)},
    {.part = &row_json, AT(view.json), .group = "How to show it"},
    {.name = "sheet",
     .type = OPTION_STRING,
     AT(view.sheet),
     .argument = "FILE.png",
     .help = "a contact sheet of the samples: crops and masks, with --data also the source images "
             "with the crops drawn in"},
    {.name = "sheet_samples",
     .type = OPTION_INT32,
     AT(view.sheet_samples),
     .text = "8",
     .minimum = 1,
     .maximum = 1000,
     .help = "samples in it at most"},
    {.part = &rows_keys, AT(keys), .group = "Live streams"},
};

static const struct options_program program = {
    .name = "ibot-stream inspect",
    .summary = "Show what is in a recording, or in the stream of a trainer.",
    .epilogue =
        "One line per step (with --json, first what the stream is of): its number, rank, epoch, "
        "images and the digest of the batch, as "
        "--log_digests of ibot-train writes it; sums and hashes of what is shown are checked. Of a "
        "live stream any step can be shown, since it follows from the specification; by default "
        "the next one.\n\n"
        "  ibot-stream inspect runs/small/recording\n"
        "  ibot-stream inspect runs/small/recording --steps 5000 --parameters --json\n"
        "  ibot-stream inspect runs/small/recording --steps 0 --samples 0-5 --data "
        "/data/imagenet/train --sheet first.png\n"
        "  ibot-stream inspect tcp://trainer:5550 --parameters",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "RECORDING|ENDPOINT",
    .min_positional = 1,
    .max_positional = 1,
};

/* ---- the head ---- */

static const char *state_of(const struct recorded_file *file)
{
    if (file->torn)
        return "ends inside a record: its writer died, or is at it";
    return file->finished ? "complete" : "ends without an end: its writer died, or is at it";
}

/* Steps that are missing between two recorded ones of a rank, which began with file `number`. */
static void print_gaps(const struct recording *recording, size_t number)
{
    int32_t rank = recording->files[number].rank;
    int64_t next = -1;

    for (size_t i = 0; i < recording->n_slices; i++) {
        const struct recorded_slice *slice = &recording->slices[i];
        if (recording->files[slice->file].rank != rank)
            continue;
        if (next >= 0 && slice->step > next)
            printf("missing: steps %lld to %lld of rank %d\n", (long long)next,
                   (long long)slice->step - 1, rank);
        next = slice->step + 1;
    }
}

static void print_head(const struct recording *recording)
{
    const struct message_recording *info = &recording->info;
    time_t started = (time_t)info->started_s;
    char when[64] = "?";
    struct tm parts;

    if (gmtime_r(&started, &parts) != NULL)
        strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S UTC", &parts);
    printf("recording: %s, by %s, begun %s\n",
           info->pixels ? "full" : "ids (hashes without pixels)", info->name, when);
    origin_print(stdout, info);
    for (size_t i = 0; i < recording->n_files; i++) {
        const struct recorded_file *file = &recording->files[i];
        printf("file: %s, rank %d from step %lld, %zu records, %s\n", file->path, file->rank,
               (long long)file->first_step, file->n_slices, state_of(file));
    }
    for (size_t i = 0; i < recording->n_files; i++)
        if (i == 0 || recording->files[i].rank != recording->files[i - 1].rank)
            print_gaps(recording, i);
}

static json_t *head_json(const struct recording *recording)
{
    const struct message_recording *info = &recording->info;
    json_t *files = json_array(), *out = origin_json(info);

    for (size_t i = 0; i < recording->n_files; i++) {
        const struct recorded_file *file = &recording->files[i];
        json_array_append_new(files, json_pack("{s:o, s:i, s:I, s:I, s:b, s:b}", "path",
                                               origin_text_json(file->path), "rank", file->rank,
                                               "first_step", (json_int_t)file->first_step,
                                               "records", (json_int_t)file->n_slices, "finished",
                                               file->finished, "torn", file->torn));
    }
    json_object_set_new(out, "pixels", json_boolean(info->pixels));
    json_object_set_new(out, "started_s", json_integer(info->started_s));
    json_object_set_new(out, "name", origin_text_json(info->name));
    json_object_set_new(out, "files", files);
    return out;
}

/* ---- a recording ---- */

static enum status show_slice(struct viewer *viewer, struct recording *recording, size_t i)
{
    const struct recorded_slice *recorded = &recording->slices[i];
    const struct message_recording *info = &recording->info;
    struct bad_image bad[MESSAGE_MAX_BAD_IMAGES];

    TRY(recording_read(recording, i));
    const struct message_slice *slice = &recording->message.slice;
    for (int32_t j = 0; j < slice->lease.n_samples; j++) {
        struct sample sample = {
            .step = recorded->step,
            .rank = recording->files[recorded->file].rank,
            .epoch = slice->lease.epoch,
            .position = slice->lease.first_position + (uint64_t)j * slice->lease.stride,
            .index = slice->index[j],
            .made = true,
            .label = slice->label[j],
            .n_substituted = slice->n_substituted[j],
            .n_repaired = slice->n_repaired[j],
            .hash = slice->hash[j],
            .bad_images = bad,
        };
        for (int32_t k = 0; k < slice->n_bad_images; k++)
            if (slice->bad_images[k].sample == j)
                bad[sample.n_bad_images++] = slice->bad_images[k];
        sample.number =
            (int32_t)(sample.position / (uint64_t)info->world % (uint64_t)info->batch_size);
        const uint8_t *payload = recording->record.payload;
        TRY(viewer_sample(viewer, &sample,
                          payload != NULL ? payload + (size_t)j * recording->record_bytes : NULL));
    }
    return STATUS_OK;
}

/* The step that begins with slice i; *next is the slice after it. */
static enum status show_step(struct viewer *viewer, struct recording *recording, size_t i,
                             size_t *next)
{
    const struct recorded_slice *first = &recording->slices[i];
    int32_t rank = recording->files[first->file].rank, n_images = 0;
    uint64_t digest;

    for (*next = i; *next < recording->n_slices; ++*next) {
        const struct recorded_slice *slice = &recording->slices[*next];
        if (slice->step != first->step || recording->files[slice->file].rank != rank)
            break;
        n_images += slice->lease.n_samples;
    }
    if (!viewer_wants_step(viewer, first->step))
        return STATUS_OK;
    TRY(recording_digest(recording, i, *next - i, &digest));
    TRY(viewer_begin_step(viewer, first->step, rank, first->lease.epoch, n_images, &digest));
    for (size_t j = i; j < *next && viewer_wants_samples(viewer); j++)
        TRY(show_slice(viewer, recording, j));
    return viewer_end_step(viewer);
}

static enum status show_recording(const char *path, const atomic_int *stop)
{
    struct recording *recording = NULL;
    struct viewer viewer = {0};
    enum status status;

    TRY_OUT(recording_open(&recording, path));
    TRY_OUT(viewer_open(&viewer, &values.view, &recording->info));
    if (values.view.json)
        TRY_OUT(viewer_put_line(head_json(recording)));
    else
        print_head(recording);
    for (size_t i = 0; i < recording->n_slices;) {
        TRY_OUT(show_step(&viewer, recording, i, &i));
        if (atomic_load(stop) != 0)
            FAIL_OUT(STATUS_INTERRUPTED, "stopped");
    }
    TRY_OUT(viewer_finish(&viewer));
out:
    viewer_close(&viewer);
    recording_close(&recording);
    return status;
}

/* ---- a live stream ---- */

static enum status ask(const char *endpoint, struct message *out, const atomic_int *stop)
{
    struct observer *observer = NULL;
    struct key_pair keys = {0};
    struct key server_key;
    bool has_keys = false;
    enum status status;

    TRY_OUT(key_read_options(&has_keys, &keys, &server_key, &values.keys));
    TRY_OUT(
        observer_open(&observer, endpoint, has_keys ? &keys : NULL, has_keys ? &server_key : NULL));
    TRY_OUT(observer_ask(observer, out, clock_monotonic_ns() + patience_ns, stop));
    if (!out->status.has_stream)
        FAIL_OUT(STATUS_NOT_FOUND, "the stream of %s has not begun: no loader has come yet",
                 endpoint);
out:
    observer_close(&observer);
    key_pair_wipe(&keys);
    return status;
}

/* Which image a position means follows from the order alone; whether it can be read does not. */
static enum status show_live_step(struct viewer *viewer, struct order *order, int64_t step)
{
    const struct message_recording *info = viewer->info;
    const struct data_spec *spec = &info->data_spec;
    int64_t number = step % info->steps_per_epoch, world = info->world;
    int64_t n_local =
        (int64_t)data_spec_epoch_positions(spec, info->n_samples, (uint32_t)info->world);
    int64_t first = number * info->batch_size, left = n_local - first;
    int32_t n = (int32_t)(left < info->batch_size ? left : info->batch_size);
    struct sample sample = {
        .step = step, .rank = info->rank, .epoch = (int32_t)(step / info->steps_per_epoch)};

    TRY(viewer_begin_step(viewer, step, info->rank, sample.epoch, n, NULL));
    for (int32_t i = 0; i < n && viewer_wants_samples(viewer); i++) {
        struct sample one = sample;
        one.number = i;
        one.position = (uint64_t)(info->rank + world * (first + i));
        TRY(order_sample(order, spec->shuffle, spec->order_seed, one.epoch,
                         draw_order_position(spec, one.position), &one.index));
        TRY(viewer_sample(viewer, &one, NULL));
    }
    return viewer_end_step(viewer);
}

static enum status show_live_steps(struct viewer *viewer, const struct message_status *now,
                                   const atomic_int *stop)
{
    struct order *order = NULL;
    struct ranges steps = viewer->steps;
    enum status status;

    if (steps.n == 0) {
        steps.n = 1;
        steps.ranges[0] = (struct range){now->stream.first_step, now->stream.first_step};
    }
    TRY(order_open(&order, (uint32_t)now->stream.n_samples));
    for (int32_t i = 0; i < steps.n; i++)
        for (int64_t step = steps.ranges[i].first; step <= steps.ranges[i].last; step++) {
            if (step >= now->end_step)
                break;
            TRY_OUT(show_live_step(viewer, order, step));
            if (atomic_load(stop) != 0)
                FAIL_OUT(STATUS_INTERRUPTED, "stopped");
        }
    status = STATUS_OK;
out:
    order_close(&order);
    return status;
}

static enum status show_live(const char *endpoint, const atomic_int *stop)
{
    struct message *message = NULL;
    struct viewer viewer = {0};
    enum status status;

    TRY(memory_alloc(&message, 1, sizeof(*message), "message"));
    TRY_OUT(ask(endpoint, message, stop));
    struct message_recording *info = &message->status.stream;
    info->pixels = false; /* they are on their way to somebody else */
    TRY_OUT(viewer_open(&viewer, &values.view, info));
    if (values.view.json) {
        json_t *head = origin_json(info);
        json_object_set_new(head, "endpoint", origin_text_json(endpoint));
        json_object_set_new(head, "step", json_integer(info->first_step));
        TRY_OUT(viewer_put_line(head));
    } else {
        printf("live: %s, of %s, next step %lld of %lld\n", endpoint, info->name,
               (long long)info->first_step, (long long)message->status.end_step);
        origin_print(stdout, info);
    }
    TRY_OUT(show_live_steps(&viewer, &message->status, stop));
    TRY_OUT(viewer_finish(&viewer));
out:
    viewer_close(&viewer);
    memory_free(message);
    return status;
}

static enum status run(const struct options *options, const atomic_int *stop)
{
    const char *what = options->positional[0];

    return strstr(what, "://") != NULL ? show_live(what, stop) : show_recording(what, stop);
}

const struct stream_command stream_inspect = {&program, &values, run};
