/* Worker threads of a loader: each takes one slice at a time and makes its images one by one. */
#ifndef IBOT_LOADER_POOL_H
#define IBOT_LOADER_POOL_H

#include "loader/index.h"
#include "loader/order.h"
#include "proto/wire/producer.h"

struct pool; /* opaque */

/* done(context, job) is called in a worker thread when a slice is made (or failed). */
enum status pool_open(struct pool **out, const struct index *index, struct order *order,
                      int n_threads, int capacity, void (*done)(void *context, struct slice_job *),
                      void *context) IBOT_WARN_UNUSED;

/* Queues a slice; never blocks while at most `capacity` are under way. */
void pool_submit(struct pool *pool, struct slice_job *job);

/* Finishes what is queued, joins the threads. Takes the address and nulls it. */
void pool_close(struct pool **pool);

#endif
