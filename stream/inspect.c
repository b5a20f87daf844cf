/* ibot-stream inspect: what is in a recording. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/ranges.h"
#include "proto/wire/recording.h"
#include "stream/command.h"
#include "stream/origin.h"
#include "stream/sample.h"
#include "stream/sheet.h"
#include "stream/source.h"

struct options_of_inspect {
    const char *steps, *samples, *data, *index, *sheet;
    bool parameters, json;
    int32_t sheet_samples;
};

static struct options_of_inspect values;

#define AT(field) .offset = offsetof(struct options_of_inspect, field)

static const struct option_spec specs[] = {
    {.name = "steps",
     .type = OPTION_STRING,
     AT(steps),
     .argument = "FIRST-LAST,...",
     .group = "What to show",
     .help = "these steps alone"},
    {.name = "samples",
     .type = OPTION_STRING,
     AT(samples),
     .argument = "all|FIRST-LAST,...",
     .help = "samples by their number in the batch: position, image, label, hash"},
    {.name = "parameters",
     .type = OPTION_BOOL,
     AT(parameters),
     .text = "off",
     .help = "everything that was drawn for each view of them: crop, flip, jitter and its order, "
             "grey, blur, solarisation, mask"},
    {.name = "data",
     .alias = "data_path",
     .type = OPTION_STRING,
     AT(data),
     .argument = "DATA",
     .help = "the data set: adds paths of images, and where crops lie in them"},
    {.name = "index",
     .type = OPTION_STRING,
     AT(index),
     .argument = "FILE",
     .help = "index made by ibot-index"},
    {.name = "json",
     .type = OPTION_BOOL,
     AT(json),
     .text = "off",
     .group = "How to show it",
     .help = "an object in each line: what the recording is of, then each step"},
    {.name = "sheet",
     .type = OPTION_STRING,
     AT(sheet),
     .argument = "FILE.png",
     .help = "a contact sheet of the samples: crops and masks, with --data also the source images "
             "with the crops drawn in"},
    {.name = "sheet_samples",
     .type = OPTION_INT32,
     AT(sheet_samples),
     .text = "8",
     .minimum = 1,
     .maximum = 1000,
     .help = "samples in it at most"},
};

static const struct options_program program = {
    .name = "ibot-stream inspect",
    .summary = "Show what is in a recording; check every sum and hash of what is shown.",
    .epilogue =
        "One line per step: its number, rank, epoch, images and the digest of the batch, as "
        "--log_digests of ibot-train writes it.\n\n"
        "  ibot-stream inspect runs/small/recording\n"
        "  ibot-stream inspect runs/small/recording --steps 5000 --parameters --json\n"
        "  ibot-stream inspect runs/small/recording --steps 0 --samples 0-5 --data "
        "/data/imagenet/train --sheet first.png",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "RECORDING",
    .min_positional = 1,
    .max_positional = 1,
};

struct inspect {
    struct recording *recording;
    struct source source; /* of --data */
    struct sheet *sheet;
    struct ranges steps, samples;
    bool all_samples, sheet_full;
    uint8_t *record; /* of a sample that is made again for the sheet */
    json_t *out;     /* with --json: of the step in work */
};

/* ---- the head ---- */

static const char *state_of(const struct recorded_file *file)
{
    if (file->torn)
        return "ends inside a record: its writer died, or is at it";
    return file->finished ? "complete" : "ends without an end: its writer died, or is at it";
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

/* One line; takes the object. */
static enum status put_line(json_t *object)
{
    enum status status = STATUS_OK;

    if (object == NULL || json_dumpf(object, stdout, JSON_COMPACT) != 0 || putchar('\n') == EOF)
        status = status_set(STATUS_IO, "cannot write JSON to the standard output");
    json_decref(object);
    return status;
}

/* ---- a sample ---- */

/* The record as it was recorded, or made again. */
static enum status find_record(struct inspect *inspect, const struct sample *sample, int32_t image,
                               const uint8_t **out)
{
    const struct recording *recording = inspect->recording;
    struct batch_sample made;

    if (recording->info.pixels) {
        *out = recording->record.payload + (size_t)image * recording->record_bytes;
        return STATUS_OK;
    }
    if (!inspect->source.is_open)
        FAIL(STATUS_INVALID, "--sheet: a recording of ids has no pixels; --data tells from what to "
                             "make them again");
    if (inspect->record == NULL)
        TRY(memory_alloc(&inspect->record, recording->record_bytes, 1, "image record"));
    TRY(view_make(&inspect->source.maker, &recording->info.data_spec, sample->epoch,
                  sample->position, inspect->record, &made, NULL, NULL));
    *out = inspect->record;
    return STATUS_OK;
}

static enum status add_to_sheet(struct inspect *inspect, const struct sample *sample, int32_t image,
                                const struct image *source)
{
    const uint8_t *record = NULL;
    bool added;

    TRY(find_record(inspect, sample, image, &record));
    if (source != NULL && !inspect->recording->info.pixels) /* making took its place */
        TRY(source_image(&inspect->source, &inspect->recording->info.data_spec, sample->index,
                         &source));
    TRY(sheet_add(inspect->sheet, sample, source, record, &added));
    if (!added && !inspect->sheet_full)
        log_warning("the sheet has %d samples, more were chosen: see --sheet_samples",
                    values.sheet_samples);
    inspect->sheet_full = !added;
    return STATUS_OK;
}

static enum status show_sample(struct inspect *inspect, struct sample *sample, int32_t image)
{
    const struct data_spec *spec = &inspect->recording->info.data_spec;
    const struct image *source = NULL;
    char path[INDEX_MAX_PATH_BYTES];

    if (inspect->source.is_open)
        sample->path = source_path(&inspect->source, sample->index, path, sizeof(path));
    if (inspect->source.is_open && (values.parameters || values.sheet != NULL)) {
        TRY(source_image(&inspect->source, spec, sample->index, &source));
        sample->width = source->width;
        sample->height = source->height;
    }
    if (inspect->sheet != NULL && !inspect->sheet_full)
        TRY(add_to_sheet(inspect, sample, image, source));
    if (inspect->out != NULL)
        json_array_append_new(json_object_get(inspect->out, "samples"),
                              sample_json(spec, sample, values.parameters));
    else
        sample_print(stdout, spec, sample, values.parameters);
    return STATUS_OK;
}

/* ---- a step ---- */

static bool is_chosen(const struct ranges *ranges, int64_t number)
{
    return ranges->n == 0 || ranges_find(ranges, number) != NULL;
}

static enum status show_samples(struct inspect *inspect, size_t i)
{
    const struct recording *recording = inspect->recording;
    const struct recorded_slice *recorded = &recording->slices[i];
    uint64_t world = (uint64_t)recording->info.world, batch = (uint64_t)recording->info.batch_size;

    TRY(recording_read(inspect->recording, i));
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
            .hash = slice->hash[j],
        };
        sample.number = (int32_t)(sample.position / world % batch);
        if (is_chosen(&inspect->samples, sample.number))
            TRY(show_sample(inspect, &sample, j));
    }
    return STATUS_OK;
}

/* The step that begins with slice i; *next is the slice after it. */
static enum status show_step(struct inspect *inspect, size_t i, size_t *next)
{
    struct recording *recording = inspect->recording;
    const struct recorded_slice *first = &recording->slices[i];
    int32_t rank = recording->files[first->file].rank, n_images = 0;
    uint64_t digest;
    char text[20];

    for (*next = i; *next < recording->n_slices; ++*next) {
        const struct recorded_slice *slice = &recording->slices[*next];
        if (slice->step != first->step || recording->files[slice->file].rank != rank)
            break;
        n_images += slice->lease.n_samples;
    }
    if (!is_chosen(&inspect->steps, first->step))
        return STATUS_OK;
    TRY(recording_digest(recording, i, *next - i, &digest));
    snprintf(text, sizeof(text), "%016llx", (unsigned long long)digest);
    if (values.json)
        inspect->out =
            json_pack("{s:I, s:i, s:i, s:i, s:s}", "step", (json_int_t)first->step, "rank", rank,
                      "epoch", first->lease.epoch, "images", n_images, "digest", text);
    else
        printf("step %lld rank %d epoch %d images %d digest %s\n", (long long)first->step, rank,
               first->lease.epoch, n_images, text);
    bool samples = inspect->all_samples || inspect->samples.n > 0;
    if (samples && values.json)
        json_object_set_new(inspect->out, "samples", json_array());
    for (size_t j = i; j < *next && samples; j++)
        TRY(show_samples(inspect, j));
    json_t *line = inspect->out;
    inspect->out = NULL;
    return values.json ? put_line(line) : STATUS_OK;
}

/* ---- the command ---- */

static enum status open_inspect(struct inspect *inspect, const char *path)
{
    TRY(ranges_parse(&inspect->steps, "--steps", values.steps));
    inspect->all_samples = values.samples != NULL && strcmp(values.samples, "all") == 0;
    if (!inspect->all_samples)
        TRY(ranges_parse(&inspect->samples, "--samples", values.samples));
    if (values.samples == NULL)
        inspect->all_samples = values.parameters || values.sheet != NULL;
    TRY(recording_open(&inspect->recording, path));
    const struct message_recording *info = &inspect->recording->info;
    if (values.data != NULL)
        TRY(source_open(&inspect->source, values.data, values.index, info->index_digest,
                        info->n_samples));
    if (values.sheet == NULL)
        return STATUS_OK;
    return sheet_open(&inspect->sheet, &info->data_spec, values.sheet_samples, values.data != NULL);
}

static void close_inspect(struct inspect *inspect)
{
    json_decref(inspect->out);
    sheet_close(&inspect->sheet);
    source_close(&inspect->source);
    recording_close(&inspect->recording);
    memory_free(inspect->record);
}

static enum status run(const struct options *options, const atomic_int *stop)
{
    struct inspect inspect = {0};
    enum status status = open_inspect(&inspect, options->positional[0]);

    if (status != STATUS_OK)
        goto out;
    if (values.json)
        TRY_OUT(put_line(head_json(inspect.recording)));
    else
        print_head(inspect.recording);
    for (size_t i = 0; i < inspect.recording->n_slices;) {
        TRY_OUT(show_step(&inspect, i, &i));
        if (atomic_load(stop) != 0)
            FAIL_OUT(STATUS_INTERRUPTED, "stopped");
    }
    if (inspect.sheet != NULL)
        TRY_OUT(sheet_save(inspect.sheet, values.sheet));
out:
    close_inspect(&inspect);
    return status;
}

const struct stream_command stream_inspect = {&program, &values, run};
