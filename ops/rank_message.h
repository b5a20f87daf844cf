/* What ranks tell each other over the network, as bytes: messages of a fixed size between the
 * monitors (ops/rank_monitor.h), frames of any size of the all-gathers (ops/rank_exchange.h).
 *
 * Only who has the run's key gets to send any (ops/rank_link.h); they are checked all the same:
 * what is accepted can be computed with, and its texts be logged. */
#ifndef IBOT_OPS_RANK_MESSAGE_H
#define IBOT_OPS_RANK_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    RANK_MESSAGE_TEXT = 1024,
    RANK_MESSAGE_DOING = 64,
    RANK_MESSAGE_HOST = 64,
    RANK_MESSAGE_MAX_RANKS = 65536,
};

enum rank_message_kind {
    RANK_HELLO = 1, /* a rank to rank 0, once a second until all have met: here I am */
    RANK_MISSING,   /* rank 0, while they meet: text says who is missing */
    RANK_WELCOME,   /* rank 0: all are here, and the bytes */
    RANK_STATE,     /* a rank to rank 0, once a second */
    RANK_ALIVE,     /* rank 0, once a second */
    RANK_FAILED,    /* either way: the run ends, text says why */
    RANK_GOODBYE,   /* either way: done, do not watch me */
    RANK_MESSAGE_KINDS,
};

struct rank_message {
    uint32_t magic, kind, rank, world; /* who sends */
    uint64_t instance;                 /* drawn by each process */
    uint64_t ready;                    /* HELLO: 1 when it waits for the others */
    int64_t count, step, begun, done;  /* STATE */
    char host[RANK_MESSAGE_HOST];      /* where it runs */
    char doing[RANK_MESSAGE_DOING];
    char text[RANK_MESSAGE_TEXT]; /* of FAILED and MISSING; the bytes of WELCOME */
};

/* An empty message of this kind. */
void rank_message_init(struct rank_message *out, enum rank_message_kind kind, int rank, int world);

/* True, and *out, when the bytes are a message. Texts end, without characters that a terminal would
 * obey. */
bool rank_message_read(struct rank_message *out, const void *bytes, size_t n_bytes);

enum { RANK_EXCHANGE_MOST_BYTES = 1 << 20 }; /* of all ranks together */

/* What stands before the bytes of an all-gather. */
struct rank_frame {
    uint32_t magic, rank; /* who sends */
    uint64_t number;      /* of the all-gather */
    uint64_t bytes_each;
};

struct rank_frame rank_frame_of(int rank, uint64_t number, size_t bytes_each);

/* True, and *out, when the bytes are a frame of one rank or of all `world`; what it carries follows
 * it. */
bool rank_frame_read(struct rank_frame *out, const void *bytes, size_t n_bytes, int world);

#ifdef __cplusplus
}
#endif

#endif
