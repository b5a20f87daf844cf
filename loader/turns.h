/* Whose slice is made next. A loader may serve several consumers at once: training ranks, an
 * evaluation. Each one that has slices waiting gets an equal share of the worker threads' time,
 * whatever its slices cost and however many it leases: the waiting consumer whose slices have
 * taken the least time so far is next (start-time fair queueing). One that was idle is not owed
 * what it did not ask for.
 *
 * Closing is how the workers stop: pushes are refused, pops report STATUS_CLOSED at once. */
#ifndef IBOT_LOADER_TURNS_H
#define IBOT_LOADER_TURNS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

struct turns; /* opaque: its invariant spans threads */

/* At most `capacity` items of each consumer may wait. Errors: STATUS_NO_MEMORY. */
enum status turns_open(struct turns **out, int n_consumers, size_t capacity) IBOT_WARN_UNUSED;

/* An item of a consumer (0..n_consumers-1); `weight`: images, what its cost is taken to be
 * proportional to. Errors: STATUS_CLOSED; the item stays the caller's then. More than the capacity
 * is a broken promise. */
enum status turns_push(struct turns *turns, int consumer, void *item,
                       int64_t weight) IBOT_WARN_UNUSED;

struct turn {
    void *item;
    int consumer;
    int64_t weight, expected_ns;
};

/* Waits for an item. Errors: STATUS_CLOSED. */
enum status turns_pop(struct turns *turns, struct turn *out) IBOT_WARN_UNUSED;

/* The turn is over; it took so long. */
void turns_spent(struct turns *turns, const struct turn *turn, int64_t ns);

/* No more pushes or pops; wakes every waiter. */
void turns_shut(struct turns *turns);

/* After turns_shut: hands out what was waiting; false when there is nothing. */
bool turns_left(struct turns *turns, void **item);

/* Frees it (not its items); no thread may be in it. Takes the address and nulls it. */
void turns_close(struct turns **turns);

#endif
