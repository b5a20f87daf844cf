#include "stream/viewer.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "stream/sheet.h"

enum status viewer_put_line(json_t *object)
{
    enum status status = STATUS_OK;

    if (object == NULL || json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0 ||
        putchar('\n') == EOF)
        status = status_set(STATUS_IO, "cannot write JSON to the standard output");
    json_decref(object);
    return status;
}

/* ---- open and close ---- */

enum status viewer_open(struct viewer *out, const struct viewer_options *options,
                        const struct message_recording *info)
{
    *out = (struct viewer){.options = options, .info = info};
    TRY(ranges_parse(&out->steps, "--steps", options->steps));
    out->all_samples = options->samples != NULL && strcmp(options->samples, "all") == 0;
    if (!out->all_samples)
        TRY(ranges_parse(&out->samples, "--samples", options->samples));
    if (options->samples == NULL)
        out->all_samples = options->parameters || options->sheet != NULL;
    if (options->sheet != NULL && !info->pixels && options->data == NULL)
        FAIL(STATUS_INVALID, "--sheet: there are no pixels here; --data tells from what to make "
                             "them");
    if (options->data != NULL)
        TRY(source_open(&out->source, NULL, options->data, options->index, info->index_digest,
                        info->n_samples));
    if (options->sheet == NULL)
        return STATUS_OK;
    return sheet_open(&out->sheet, &info->data_spec, options->sheet_samples, options->data != NULL);
}

void viewer_close(struct viewer *viewer)
{
    json_decref(viewer->line);
    sheet_close(&viewer->sheet);
    source_close(&viewer->source);
    memory_free(viewer->record);
    *viewer = (struct viewer){0};
}

enum status viewer_finish(struct viewer *viewer)
{
    return viewer->sheet != NULL ? sheet_save(viewer->sheet, viewer->options->sheet) : STATUS_OK;
}

/* ---- a sample ---- */

/* Makes the sample: its record, and which image it really is. */
static enum status make(struct viewer *viewer, struct sample *sample, const uint8_t **record)
{
    const struct data_spec *spec = &viewer->info->data_spec;
    struct batch_sample made;

    if (viewer->record == NULL)
        TRY(memory_alloc(&viewer->record, data_spec_record_bytes(spec), 1, "image record"));
    TRY(view_make(&viewer->source.maker, spec, sample->epoch, sample->position, viewer->record,
                  &made, NULL, NULL));
    *record = viewer->record;
    if (sample->made)
        return STATUS_OK;
    sample->index = made.index;
    sample->label = made.label;
    sample->n_substituted = made.n_substituted;
    sample->n_repaired = made.n_repaired;
    return STATUS_OK;
}

static enum status add_to_sheet(struct viewer *viewer, struct sample *sample,
                                const struct image *image, const uint8_t *record)
{
    bool added;

    TRY(sheet_add(viewer->sheet, sample, image, record, &added));
    if (!added && !viewer->sheet_full)
        log_warning("the sheet has %d samples, more were chosen: see --sheet_samples",
                    viewer->options->sheet_samples);
    viewer->sheet_full = !added;
    return STATUS_OK;
}

enum status viewer_sample(struct viewer *viewer, struct sample *sample, const uint8_t *record)
{
    const struct viewer_options *options = viewer->options;
    const struct data_spec *spec = &viewer->info->data_spec;
    const struct image *image = NULL;
    char path[INDEX_MAX_PATH_BYTES];
    bool draws = viewer->sheet != NULL && !viewer->sheet_full;

    if (!viewer->all_samples && ranges_find(&viewer->samples, sample->number) == NULL)
        return STATUS_OK;
    if (draws && record == NULL)
        TRY(make(viewer, sample, &record));
    if (viewer->source.is_open) {
        sample->path = source_path(&viewer->source, sample->index, path, sizeof(path));
        if (draws || options->parameters) {
            TRY(source_image(&viewer->source, spec, sample->index, &image));
            sample->width = image->width;
            sample->height = image->height;
        }
    }
    if (draws)
        TRY(add_to_sheet(viewer, sample, image, record));
    if (viewer->line != NULL)
        json_array_append_new(json_object_get(viewer->line, "samples"),
                              sample_json(spec, sample, options->parameters));
    else
        sample_print(stdout, spec, sample, options->parameters);
    return STATUS_OK;
}

/* ---- a step ---- */

bool viewer_wants_step(const struct viewer *viewer, int64_t step)
{
    return viewer->steps.n == 0 || ranges_find(&viewer->steps, step) != NULL;
}

bool viewer_wants_samples(const struct viewer *viewer)
{
    return viewer->all_samples || viewer->samples.n > 0;
}

enum status viewer_begin_step(struct viewer *viewer, int64_t step, int32_t rank, int32_t epoch,
                              int32_t n_images, const uint64_t *digest)
{
    char text[20] = "";

    if (digest != NULL)
        snprintf(text, sizeof(text), "%016llx", (unsigned long long)*digest);
    if (!viewer->options->json) {
        printf("step %lld rank %d epoch %d images %d%s%s\n", (long long)step, rank, epoch, n_images,
               digest != NULL ? " digest " : "", text);
        return STATUS_OK;
    }
    viewer->line = json_pack("{s:I, s:i, s:i, s:i}", "step", (json_int_t)step, "rank", rank,
                             "epoch", epoch, "images", n_images);
    if (viewer->line == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for JSON");
    if (digest != NULL)
        json_object_set_new(viewer->line, "digest", json_string(text));
    if (viewer_wants_samples(viewer))
        json_object_set_new(viewer->line, "samples", json_array());
    return STATUS_OK;
}

enum status viewer_end_step(struct viewer *viewer)
{
    json_t *line = viewer->line;

    viewer->line = NULL;
    return line != NULL ? viewer_put_line(line) : STATUS_OK;
}
