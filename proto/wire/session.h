/* Who makes which slice: the book-keeping of leases, without sockets, clocks or threads.
 *
 * Slice ids grow with the order of the stream. Those in [base, allowed) have a place in memory; the
 * lowest one that nobody is making is leased next, to the loader with the smallest share of its
 * credit in use. A lease is late when it is older than the timeout, or, while loaders have nothing
 * else to do, much older than leases usually get; the slice is then leased to another loader too,
 * and whichever copy comes first is taken. A loader never holds the same slice twice.
 *
 * Loaders are judged by what they did, so that a bad one costs a moment and not the stream. One
 * that was late rests while others are there: two seconds, twice as long each time, until it
 * delivers on time. A slice that came to nothing once is not for the loader it came from, one that
 * did twice is for loaders that have delivered before, if there are any.
 *
 *    allowed ─> free ──lease──> out ──done──> done ──advance──> over
 *                 ^              │ late, dropped, or its loader left
 *                 └──────────────┘
 *
 * One thread's. Time is the caller's (nanoseconds). */
#ifndef IBOT_PROTO_WIRE_SESSION_H
#define IBOT_PROTO_WIRE_SESSION_H

#include <stdint.h>

#include "proto/base/status.h"

enum {
    SESSION_MAX_LOADERS = 1024,
    SESSION_MAX_CREDIT = 256, /* leases of one loader */
};

/* What a slice that a loader sends is worth. */
enum session_verdict {
    SESSION_WANTED,    /* leased to it and still missing */
    SESSION_DUPLICATE, /* leased to it, but another copy came first */
    SESSION_UNKNOWN    /* never leased to it, or sent before */
};

struct session_counts {
    uint64_t n_issued, n_reissued; /* leases, and those of them for slices leased before */
    int32_t n_loaders, n_leases;
};

struct session; /* opaque */

/* window: how many slices may have a place at once. Errors: STATUS_NO_MEMORY. */
enum status session_open(struct session **out, int32_t window,
                         int64_t lease_timeout_ns) IBOT_WARN_UNUSED;
void session_close(struct session **session);

/* The stream begins at this slice; once, before session_allow. Loaders may have joined already. */
void session_start(struct session *session, uint64_t first_slice);

/* A loader that takes `credit` (1..SESSION_MAX_CREDIT) slices in hand. Returns its number, below
 * SESSION_MAX_LOADERS, or -1 when there are too many. */
int32_t session_join(struct session *session, int32_t credit);

/* It is gone: what it held is free at once. */
void session_leave(struct session *session, int32_t loader);

/* Slices below `limit` have a place: limit <= base + window. */
void session_allow(struct session *session, uint64_t limit);

/* Nobody is to make this one (the batch is short). */
void session_skip(struct session *session, uint64_t slice);

/* Slices below `base`, all done, are over. */
void session_advance(struct session *session, uint64_t base);

/* Finds a slice to lease now and the loader for it, and enters the lease; false when there is none.
 */
bool session_lease(struct session *session, int32_t *loader, uint64_t *slice, int64_t now_ns);

enum session_verdict session_verdict(const struct session *session, int32_t loader, uint64_t slice);

/* The slice is in; WANTED slices only. */
void session_done(struct session *session, int32_t loader, uint64_t slice, int64_t now_ns);

/* This loader's copy came to nothing (duplicate, corrupt, failed, lease not sent). The slice is
 * free if nobody else is making it; another loader is preferred for it. */
void session_drop(struct session *session, int32_t loader, uint64_t slice);

/* Leases in a loader's hands. */
int32_t session_leases(const struct session *session, int32_t loader);

void session_count(const struct session *session, struct session_counts *out);

#endif
