/* Worker threads of a loader: each takes one slice at a time and makes its images one by one. */
#ifndef IBOT_LOADER_POOL_H
#define IBOT_LOADER_POOL_H

#include "loader/index.h"
#include "loader/order.h"
#include "loader/view.h"
#include "proto/wire/producer.h"

struct pool; /* opaque */

struct pool_options {
    const struct index *index;
    struct order *order;
    int n_threads;
    int n_consumers; /* that jobs may be for; each gets its share of the threads (turns.h) */
    int capacity;    /* jobs of each that may be under way */
    /* Called in a worker thread when a slice is made, or failed. */
    void (*done)(void *context, struct slice_job *job);
    void *context;
};

/* Errors: STATUS_NO_MEMORY. */
enum status pool_open(struct pool **out, const struct pool_options *options) IBOT_WARN_UNUSED;

/* Queues a slice for the consumer that it names; never blocks. */
void pool_submit(struct pool *pool, struct slice_job *job);

struct pool_stats {
    uint64_t n_slices, n_images;            /* made */
    uint64_t n_repaired;                    /* of them, images that were damaged */
    uint64_t n_bad[BAD_IMAGE_KINDS];        /* images passed over, by kind */
    int64_t stage_ns[VIEW_STAGES], busy_ns; /* spent in slices that are made, of all threads */
    int32_t n_threads, n_busy;
    int64_t oldest_ns; /* when the slice under way for longest was begun; 0: none is */
};

/* Any thread. */
void pool_stats(struct pool *pool, struct pool_stats *out);

/* Stops after the images under way, joins the threads. Every job is done by then: those that were
 * not made, with STATUS_CLOSED. Takes the address and nulls it. */
void pool_close(struct pool **pool);

#endif
