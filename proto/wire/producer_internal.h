/* The parts of a producer, for producer*.c alone.
 *
 *   producer.c       open, run, submit, close; jobs
 *   producer_link.c  one consumer: introduction, leases, sending */
#ifndef IBOT_PROTO_WIRE_PRODUCER_INTERNAL_H
#define IBOT_PROTO_WIRE_PRODUCER_INTERNAL_H

#include <pthread.h>
#include <stdint.h>
#include <zmq.h>

#include "proto/wire/message.h"
#include "proto/wire/producer.h"
#include "proto/wire/socket.h"
#include "proto/wire/socket_monitor.h"

struct link;

/* A spec lives as long as jobs point to it. Run thread only. */
struct shared_spec {
    int32_t n_users;
    uint64_t digest;
    size_t record_bytes;
    struct data_spec spec;
};

/* A slice in the making. Free ─> with the caller's threads ─> done ─> outbox ─> free. */
struct job {
    struct slice_job slice; /* first: what callers see is this address */
    struct link *link;
    struct shared_spec *spec;
    uint32_t attempt; /* of the link when it was leased: another one now makes it stale */
    bool in_use;
    struct job *next; /* in the list it is in */
    uint64_t hashes[SLICE_MAX_SAMPLES];
};

struct job_list {
    struct job *first, *last;
};

enum link_state {
    LINK_NEW,     /* the consumer does not know us, or no longer */
    LINK_SERVING, /* it sent a Spec */
    LINK_REFUSED  /* it wants nothing of us, or we of it */
};

/* One endpoint. Run thread only. */
struct link {
    struct producer *producer;
    void *socket;
    struct socket_monitor monitor;
    int64_t reopen_ns;                      /* when to open the socket anew; 0: no need */
    int64_t complained_ns[HANDSHAKE_KINDS]; /* 0: not since a consumer answered last */
    int32_t n_closed;                       /* handshakes that ended without a reason, since then */
    int64_t told_ns; /* when "serving" was told of, for the first time in a while */
    int32_t n_told;  /* since then */
    char endpoint[SOCKET_ENDPOINT_BYTES];
    enum link_state state;
    bool reached, finished;
    uint32_t attempt;
    uint64_t session;
    struct shared_spec *spec;
    int64_t hello_ns; /* when to say Hello next; INT64_MAX: it was said */
    int64_t said_ns;  /* when it was said */
    int64_t heard_ns, spoke_ns;
    int32_t n_making;  /* jobs with the caller's threads */
    int32_t n_waiting; /* jobs in the outbox */
    struct job_list outbox;
    char reason[MESSAGE_REASON_BYTES]; /* why it is refused */
};

/* The pixels of a slice on their way: the frames that carry them share one block. */
struct payload {
    uint8_t *bytes;
    size_t n_bytes;
    int32_t n_frames; /* not sent yet */
};

struct producer {
    /* immutable after open */
    struct producer_options options;
    char name[MESSAGE_NAME_BYTES];
    uint64_t instance;
    void (*make)(void *context, struct slice_job *job);
    void *make_context;
    void *context; /* of ZeroMQ */
    int wake;      /* eventfd: something is done */

    /* run thread only */
    struct link links[PRODUCER_MAX_ENDPOINTS];
    struct job **jobs; /* all of them */
    size_t n_jobs, job_capacity;
    struct message in, out;

    pthread_mutex_t lock;
    struct payload *payloads; /* guarded by lock; ZeroMQ's threads come here to release frames */
    size_t n_payloads, payload_capacity;
    struct job_list done;        /* guarded by lock */
    struct producer_stats stats; /* guarded by lock */
};

void job_list_push(struct job_list *list, struct job *job);
struct job *job_list_pop(struct job_list *list);

/* A job for this link that nobody uses. Errors: STATUS_NO_MEMORY. */
enum status producer_take_job(struct producer *producer, struct job **out,
                              struct link *link) IBOT_WARN_UNUSED;

/* Gives back the job and what it holds. */
void producer_free_job(struct job *job);

/* ---- producer_link.c ---- */

enum status link_open(struct link *link, struct producer *producer,
                      const char *endpoint) IBOT_WARN_UNUSED;
void link_close(struct link *link);

/* Takes every message that is there. */
void link_receive(struct link *link, int64_t now_ns);

/* A job came back from the caller's threads: it goes to the outbox, or away if it is stale. */
void link_take_back(struct link *link, struct job *job);

/* Says what is due and sends what can be sent. */
void link_step(struct link *link, int64_t now_ns);

void link_say_goodbye(struct link *link, const char *reason);

/* Whether keys are used on this link. */
bool link_has_keys(const struct link *link);

#endif
