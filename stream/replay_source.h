/* Fulfils leases out of a recording, as the threads of a loader do out of a data set. One thread
 * ("replay") looks samples up and decides what becomes of missing ones; others ("reader") read,
 * each with its own handle on the recording.
 *
 * A sample is looked up by epoch and position alone: a trainer with other batches, other ranks or a
 * later start gets the same samples. What the recording does not have is a failed slice. Of several
 * such slices of one trainer the lowest is told first and the others are kept back for a moment, so
 * that a trainer that looks ahead beyond the end of the recording is not told of an error at a step
 * that it may never come to. */
#ifndef IBOT_STREAM_REPLAY_SOURCE_H
#define IBOT_STREAM_REPLAY_SOURCE_H

#include "proto/wire/producer.h"
#include "proto/wire/recording.h"

struct replay_options {
    bool loop;     /* steps that are not recorded are served from those that are, round and round */
    double rate;   /* images per second at most; 0: no limit */
    int capacity;  /* slices under way at most */
    int n_threads; /* that read; at least 1 */
};

struct replay_source; /* opaque: threads */

/* `recording` (with pixels) is borrowed until close, for looking only. done(context, job) is called
 * in the source's threads. Errors: STATUS_UNSUPPORTED (no pixels), STATUS_INVALID (nothing
 * recorded), STATUS_NO_MEMORY. */
enum status replay_source_open(struct replay_source **out, const struct recording *recording,
                               const struct replay_options *options,
                               void (*done)(void *context, struct slice_job *job),
                               void *context) IBOT_WARN_UNUSED;

/* Queues a slice; never waits. */
void replay_source_submit(struct replay_source *source, struct slice_job *job);

/* Gives back every job, joins the threads. Takes the address and nulls it. */
void replay_source_close(struct replay_source **source);

#endif
