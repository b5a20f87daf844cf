/* How the ranks of a run find each other, and how they notice that one is late or gone. NCCL has
 * neither a meeting place without MPI nor a deadline: a peer that is dead or stuck would leave all
 * others in a reduction for ever.
 *
 * Rank 0 listens (ZeroMQ ROUTER over tcp), the others connect. At the start rank 0's bytes go to
 * everybody; then each rank tells once a second how far it is, and rank 0 compares:
 *
 *   gone   not heard of for silent_ns: killed, stopped, or cut off
 *   late   has made fewer steps of progress than another, and none at all for late_ns
 *   stuck  no rank has made any for late_ns, and they do not wait for data
 *
 *   broken its device says that it can't go on
 *
 * Where all stand alike, the devices tell who is behind: the one that has come to fewer of the
 * collectives than the others, which wait for it there.
 *
 * Then `fail` is called once on every rank that is left, with a text that names the rank. */
#ifndef IBOT_OPS_RANK_MONITOR_H
#define IBOT_OPS_RANK_MONITOR_H

#include <stddef.h>
#include <stdint.h>

#include "ops/collective.h"
#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How far a rank's device is in what the ranks do together; a device may be stuck where its host is
 * not. */
struct rank_device {
    int64_t begun, done; /* collectives that it has come to, and has finished */
    char error[256];     /* "", or why it can't go on */
};

/* What a rank says that it is doing while it waits for loaders: no reason to call it stuck. */
#define RANK_WAITS_FOR_DATA "waits for data"

struct rank_monitor_options {
    int rank, world;
    char host[256]; /* of rank 0 */
    int port;
    int64_t join_ns;   /* all ranks must have come within; 10 minutes */
    int64_t silent_ns; /* 30 s, or half of late_ns when that is less */
    int64_t late_ns;   /* 30 minutes */
    /* On the monitor's own thread, about once a second; NULL: there is no device. */
    void (*look)(void *context, struct rank_device *out);
    /* On the monitor's own thread; `text` is valid during the call. It may end the process. */
    void (*fail)(void *context, const char *text);
    void *context;
};

struct rank_monitor; /* opaque; any thread may call progress and fail */

/* The waiting times above (IBOT_RANK_DEADLINE, in seconds, sets late_ns), rank and world, and
 * where rank 0 is, the first that is there:
 *   IBOT_RANKS_AT=host:port;  MASTER_ADDR and MASTER_PORT (the next port where torchrun's agent
 *   listens on that one);  Slurm's first node of the step, port 20000 + job mod 20000;  Open MPI
 *   with all ranks on this machine: loopback, a port made from the job's name.
 * Errors: STATUS_INVALID: what is missing, or not a number. */
enum status rank_monitor_options_read(struct rank_monitor_options *out,
                                      const struct collective_environment *ranks) IBOT_WARN_UNUSED;

/* Waits for all ranks and hands rank 0's `n_bytes` (at most 1024) bytes to the others. Errors:
 * STATUS_TIMEOUT (who has not come), STATUS_IO (the address), STATUS_MISMATCH (another world). */
enum status rank_monitor_open(struct rank_monitor **out, const struct rank_monitor_options *options,
                              void *bytes, size_t n_bytes) IBOT_WARN_UNUSED;

/* One step of progress: `step` and what comes now, a constant string of at most 63 bytes. */
void rank_monitor_progress(struct rank_monitor *monitor, int64_t step, const char *doing);

/* This rank ends for a reason that the others can't see: they are told. Returns when the text has
 * gone out, or after a second. */
void rank_monitor_fail(struct rank_monitor *monitor, const char *text);

/* Says goodbye: the others go on without watching this rank. */
void rank_monitor_close(struct rank_monitor **monitor);

#ifdef __cplusplus
}
#endif

#endif
