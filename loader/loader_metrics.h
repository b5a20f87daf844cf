/* What a loader tells about itself: its numbers, whether it lives, whether it serves. The server
 * runs from the start, so that reading a large data set is no death. */
#ifndef IBOT_LOADER_LOADER_METRICS_H
#define IBOT_LOADER_LOADER_METRICS_H

#include <pthread.h>

#include "loader/pool.h"
#include "proto/monitor/monitor.h"
#include "proto/wire/producer.h"

struct loader_metrics {
    struct monitor *monitor;
    pthread_mutex_t lock;
    struct pool *pool;         /* borrowed; guarded by lock, as the next; NULL: not yet */
    struct producer *producer; /* borrowed */
};

/* Starts the server. Errors: those of monitor_open. */
enum status loader_metrics_open(struct loader_metrics *metrics,
                                const char *listen) IBOT_WARN_UNUSED;

/* There is something to count now; both are borrowed until close. Fine when it is not open. */
void loader_metrics_watch(struct loader_metrics *metrics, struct pool *pool,
                          struct producer *producer);

/* Before what it watches. */
void loader_metrics_close(struct loader_metrics *metrics);

#endif
