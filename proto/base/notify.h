/* What a service tells the manager that started it (systemd, Type=notify): that it is ready, what
 * it does, that it lives, that it ends. One datagram each to the socket that NOTIFY_SOCKET names,
 * as sd_notify(3) documents it; without that variable all of this does nothing.
 *
 * One thread's. Nothing here waits, and a manager that does not listen is no error. */
#ifndef IBOT_PROTO_BASE_NOTIFY_H
#define IBOT_PROTO_BASE_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct notify {
    bool opened;
    int socket;          /* connected; -1: nobody is told */
    int64_t watchdog_ns; /* how often a sign of life is due; 0: never */
    int64_t alive_ns;    /* when the last one went */
    int64_t status_ns;   /* when the last text went */
    char status[160];    /* it */
};

/* Reads the environment. An address that cannot be used is a warning's worth: STATUS_INVALID,
 * STATUS_IO, and nobody is told anything. */
enum status notify_open(struct notify *notify) IBOT_WARN_UNUSED;

/* Ready to serve: what was started after this one may come now. */
void notify_ready(struct notify *notify);

/* Lives. Cheap: call it wherever the work goes on; a datagram leaves twice in the time after which
 * the manager would take the service for hung. */
void notify_alive(struct notify *notify, int64_t now_ns);

/* What it does, in a few words: when they are new, and at most once a second. */
void notify_status(struct notify *notify, int64_t now_ns, const char *format, ...)
    IBOT_PRINTF(3, 4);

/* Begins to end: finishing a step and saving may take a while. */
void notify_stopping(struct notify *notify);

void notify_close(struct notify *notify);

#ifdef __cplusplus
}
#endif

#endif
