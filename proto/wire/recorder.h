/* Writes a recording while a trainer consumes: batches that the trainer is done with go through the
 * recorder back to the consumer. A thread of its own ("recorder") writes them straight out of their
 * slots, so the trainer neither copies nor waits, unless the disk is slower than the stream for
 * longer than the prefetched batches last, which is told in the log.
 *
 *   consumer_next ─> the trainer ─> recorder_take ─> [file] ─> consumer_return
 *
 * When a write fails (disk full), the recorder says so in the log and only hands batches on from
 * then; the files hold the steps before. */
#ifndef IBOT_PROTO_WIRE_RECORDER_H
#define IBOT_PROTO_WIRE_RECORDER_H

#include "proto/wire/consumer.h"

struct recorder_options {
    const char *folder; /* made if need be; borrowed until open returns */
    bool pixels;        /* else hashes alone */
    struct data_spec spec;
    int rank, world;
    int32_t batch_size;
    int64_t first_step; /* of the consumer: what the folder has of this rank from there on goes */
};

struct recorder; /* opaque: a thread */

/* After consumer_start. Errors: STATUS_IO (also: what would be recorded again is being read),
 * STATUS_MISMATCH (the folder holds a recording of another run, or of one that has ended while this
 * one begins), STATUS_NO_MEMORY. */
enum status recorder_open(struct recorder **out, struct consumer *consumer,
                          const struct recorder_options *options) IBOT_WARN_UNUSED;

/* Takes a batch instead of consumer_return; never waits. Batches come in the order of the stream.
 */
void recorder_take(struct recorder *recorder, struct batch *batch);

/* Waits until all batches taken are on disk: a checkpoint may rely on them. Errors: STATUS_IO, why
 * nothing is written any more; the run can go on. */
enum status recorder_sync(struct recorder *recorder) IBOT_WARN_UNUSED;

/* Writes what was taken, and the end. Before consumer_close. Takes the address and nulls it.
 * Errors: as recorder_sync; closed all the same. */
enum status recorder_close(struct recorder **recorder);

#endif
