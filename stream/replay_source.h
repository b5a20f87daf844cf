/* Fulfils leases out of a recording, as the threads of a loader do out of a data set. A thread of
 * its own ("replay") reads, so that the recording is one thread's.
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
    bool loop;    /* steps that are not recorded are served from those that are, round and round */
    double rate;  /* images per second at most; 0: no limit */
    int capacity; /* slices under way at most */
};

struct replay_source; /* opaque: a thread */

/* `recording` (with pixels) is the source's until close. done(context, job) is called in its
 * thread. Errors: STATUS_UNSUPPORTED (no pixels), STATUS_INVALID (nothing recorded),
 * STATUS_NO_MEMORY. */
enum status replay_source_open(struct replay_source **out, struct recording *recording,
                               const struct replay_options *options,
                               void (*done)(void *context, struct slice_job *job),
                               void *context) IBOT_WARN_UNUSED;

/* Queues a slice; never waits. */
void replay_source_submit(struct replay_source *source, struct slice_job *job);

/* Gives back every job, joins the thread. Takes the address and nulls it. */
void replay_source_close(struct replay_source **source);

#endif
