/* A bounded queue of pointers between threads. Closing it is how a stage stops: pushes are then
 * refused, pops hand out what is left and then report STATUS_CLOSED. Every wait has a deadline. */
#ifndef IBOT_PROTO_BASE_QUEUE_H
#define IBOT_PROTO_BASE_QUEUE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

struct queue; /* opaque: its invariant spans threads */

enum status queue_open(struct queue **out, size_t capacity) IBOT_WARN_UNUSED;

/* Waits for room until deadline_ns (clock_monotonic_ns; INT64_MAX: for ever, 0: not at all).
 * Errors: STATUS_TIMEOUT, STATUS_CLOSED; the item stays the caller's then. */
enum status queue_push(struct queue *queue, void *item, int64_t deadline_ns) IBOT_WARN_UNUSED;

/* Waits for an item until deadline_ns. Errors: STATUS_TIMEOUT, STATUS_CLOSED (closed and empty). */
enum status queue_pop(struct queue *queue, void **item, int64_t deadline_ns) IBOT_WARN_UNUSED;

/* No more pushes; wakes every waiter. */
void queue_shut(struct queue *queue);

/* Items waiting now. */
size_t queue_length(struct queue *queue);

/* Frees the queue (not its items); no thread may be in it. Takes the address and nulls it. */
void queue_close(struct queue **queue);

#endif
