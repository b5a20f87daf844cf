/* Shows steps and samples of a stream as ibot-stream inspect was asked to: which ones, in text or
 * JSON, on a contact sheet, with the images of their data set or without. Where they come from, a
 * recording or a live stream, is the caller's.
 *
 *   viewer_open ─> { viewer_begin_step ─> viewer_sample … ─> viewer_end_step } … ─> viewer_finish
 */
#ifndef IBOT_STREAM_VIEWER_H
#define IBOT_STREAM_VIEWER_H

#include <jansson.h>

#include "proto/config/ranges.h"
#include "proto/wire/message.h"
#include "stream/sample.h"
#include "stream/source.h"

struct viewer_options {
    const char *steps, *samples; /* as ranges.h reads them; samples also "all" */
    const char *data, *index, *sheet;
    bool parameters, json;
    int32_t sheet_samples;
};

struct viewer {
    const struct viewer_options *options; /* borrowed, as the next */
    const struct message_recording *info;
    struct source source; /* of --data */
    struct sheet *sheet;
    struct ranges steps, samples;
    bool all_samples, sheet_full;
    uint8_t *record; /* of a sample that is made for the sheet */
    json_t *line;    /* with --json: of the step in work */
};

/* Errors: STATUS_INVALID (options), those of source_open and sheet_open. */
enum status viewer_open(struct viewer *out, const struct viewer_options *options,
                        const struct message_recording *info) IBOT_WARN_UNUSED;

bool viewer_wants_step(const struct viewer *viewer, int64_t step);
bool viewer_wants_samples(const struct viewer *viewer); /* any at all */

/* digest may be NULL. Errors: STATUS_IO. */
enum status viewer_begin_step(struct viewer *viewer, int64_t step, int32_t rank, int32_t epoch,
                              int32_t n_images, const uint64_t *digest) IBOT_WARN_UNUSED;

/* Shows it if it is one of those to show. `record`: its image record; NULL: it is made from --data
 * when the sheet needs it, which may find that another image takes its place. Errors: those of
 * view_make and sheet_add. */
enum status viewer_sample(struct viewer *viewer, struct sample *sample,
                          const uint8_t *record) IBOT_WARN_UNUSED;
enum status viewer_end_step(struct viewer *viewer) IBOT_WARN_UNUSED;

/* The sheet, if there is to be one. */
enum status viewer_finish(struct viewer *viewer) IBOT_WARN_UNUSED;
void viewer_close(struct viewer *viewer);

/* One line of JSON; takes the object. Errors: STATUS_IO. */
enum status viewer_put_line(json_t *object) IBOT_WARN_UNUSED;

#endif
