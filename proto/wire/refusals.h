/* Who was turned away and why, for a log that an attacker must not fill: each text is given out
 * once a minute at most, with how often it came; a few texts at a stretch, then one every few
 * seconds; what finds no place is only counted. Time is the caller's, and so is the lock. */
#ifndef IBOT_PROTO_WIRE_REFUSALS_H
#define IBOT_PROTO_WIRE_REFUSALS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { REFUSALS_KEPT = 32, REFUSAL_TEXT_BYTES = 704, REFUSALS_BURST = 8 };

struct refusals {
    struct refusal {
        char text[REFUSAL_TEXT_BYTES]; /* "": none */
        uint64_t n_new;                /* since it was given out last */
        int64_t told_ns, noted_ns;     /* told_ns 0: never */
    } kept[REFUSALS_KEPT];
    uint64_t n_unnamed;            /* that found no place, not given out yet */
    int64_t credit_ns, unnamed_ns; /* when the allowance runs full; when the count was told */
};

void refusals_note(struct refusals *refusals, const char *text, int64_t now_ns);

/* The next text to log, oldest first; false when there is none now. */
bool refusals_take(struct refusals *refusals, char *out, size_t out_bytes, int64_t now_ns);

#endif
