/* A small HTTP server that lets others watch a program (libmicrohttpd, one thread):
 *
 *   /metrics   numbers, in Prometheus' text format
 *   /healthz   200 while the program lives; 503 with the reason when it should be started again
 *   /readyz    200 while it does what it is there for; 503 with what it waits for
 *
 * It listens on a loopback address unless another one is given; it tells nobody anything but that.
 */
#ifndef IBOT_PROTO_MONITOR_MONITOR_H
#define IBOT_PROTO_MONITOR_MONITOR_H

#include <stddef.h>

#include "proto/base/status.h"
#include "proto/monitor/exposition.h"

enum { MONITOR_REASON_BYTES = 256 };

struct monitor_options {
    const char
        *listen; /* "[ADDRESS]:PORT" or "PORT"; no address: 127.0.0.1; port 0: any free one */
    int rank;    /* added to the port, for several processes of one run on one machine */
    /* All three are called in the server's thread, at any time until close. `reason` has room for
     * MONITOR_REASON_BYTES and is shown when they return false. */
    void (*collect)(void *context, struct exposition *out);
    bool (*healthy)(void *context, char *reason);
    bool (*ready)(void *context, char *reason);
    void *context;
};

struct monitor; /* opaque: a thread */

/* Whether `listen` can be understood; nothing is bound. Errors: STATUS_INVALID. */
enum status monitor_check(const char *listen) IBOT_WARN_UNUSED;

/* Errors: STATUS_INVALID, STATUS_IO (the address is in use, or not this machine's). */
enum status monitor_open(struct monitor **out,
                         const struct monitor_options *options) IBOT_WARN_UNUSED;

/* "127.0.0.1:9100": where it listens. Borrowed until close. */
const char *monitor_address(const struct monitor *monitor);

/* Ends the thread. Takes the address and nulls it. */
void monitor_close(struct monitor **monitor);

#endif
