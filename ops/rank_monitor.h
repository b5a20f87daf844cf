/* How the ranks of a run find each other, and how they notice that one is late or gone. NCCL has
 * neither a meeting place without MPI nor a deadline: a peer that is dead or stuck would leave all
 * others in a reduction for ever.
 *
 * Rank 0 listens, the others connect (ops/rank_link.h), as soon as their processes have started:
 *
 *   open   here I am ─────────────┐  once a second        a rank that fails, or dies, before all
 *   …      options, data, device  │                       are ready is named to all others at once
 *   join   I am ready ────────────┤
 *          all are: rank 0's bytes go to everybody
 *
 * Then each tells once a second how far it is, and rank 0 compares:
 *
 *   gone   its connection has ended and it does not come back for cut_ns: killed, or crashed; or it
 *          was not heard of for silent_ns: stopped, or cut off
 *   late   has made fewer steps of progress than another, and none at all for late_ns
 *   stuck  no rank has made any for late_ns, and they do not wait for data
 *   broken its device says that it can't go on
 *
 * Where all stand alike, the devices tell who is behind: the one that has come to fewer of the
 * collectives than the others, which wait for it there.
 *
 * Then `fail` is called once on every rank that is left, with a text that names the rank. */
#ifndef IBOT_OPS_RANK_MONITOR_H
#define IBOT_OPS_RANK_MONITOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops/collective.h"
#include "ops/rank_link.h"
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
    unsigned char key[RANK_KEY_BYTES]; /* of the run: who has another one does not come in */
    int64_t join_ns;   /* all others must be ready within, from this rank's join; 10 minutes */
    int64_t told_ns;   /* a rank that fails before all have met tries to tell them; 30 s */
    int64_t say_ns;    /* who waits for others says so in the log, again and again; 15 s */
    int64_t silent_ns; /* 30 s, or half of late_ns when that is less */
    int64_t cut_ns;    /* 3 s, or silent_ns when that is less */
    int64_t late_ns;   /* 30 minutes */
    /* On the monitor's own thread, until all have met: whether this process was asked to stop, so
     * that join is to return; NULL: never. */
    bool (*stops)(void *context);
    /* On the monitor's own thread, unless this rank is in join, which returns it, or in fail;
     * `text` is valid during the call. It may end the process. */
    void (*fail)(void *context, const char *text);
    void *context;
};

struct rank_monitor; /* opaque; any thread may call progress and fail */

/* The waiting times above (IBOT_RANK_DEADLINE and IBOT_RANK_JOIN_DEADLINE, in seconds, set late_ns
 * and join_ns), rank and world, `fail` as below, and where rank 0 is, the first that is there:
 *   IBOT_RANKS_AT=host:port;  MASTER_ADDR and MASTER_PORT (the next port where torchrun's agent
 *   listens on that one);  Slurm's first node of the step, port 20000 + job mod 20000;  Open MPI
 *   with all ranks on this machine: loopback, a port made from the job's name.
 * The key is IBOT_RANKS_KEY, 64 hex digits, or made from the job that the launcher names.
 * Errors: STATUS_INVALID: what is missing, or not a number. */
enum status rank_monitor_options_read(struct rank_monitor_options *out,
                                      const struct collective_environment *ranks) IBOT_WARN_UNUSED;

/* `fail` of a program: says the text and ends the process with status 1. Whoever waits for a device
 * would wait for ever; what was computed since the newest checkpoint is lost. */
void rank_monitor_end_process(void *context, const char *text);

/* Begins to meet the others; does not wait. Errors: STATUS_IO (the address), STATUS_UNSUPPORTED (a
 * ZeroMQ without CURVE), STATUS_INVALID. */
enum status rank_monitor_open(struct rank_monitor **out,
                              const struct rank_monitor_options *options) IBOT_WARN_UNUSED;

/* Waits until all ranks are here too, and hands rank 0's `n_bytes` (at most 1024) bytes to the
 * others. Once. Errors: STATUS_TIMEOUT (who has not come), STATUS_MISMATCH (another world, or two
 * processes are the same rank), STATUS_DEVICE (one has failed: its text), STATUS_INTERRUPTED. */
enum status rank_monitor_join(struct rank_monitor *monitor, void *bytes,
                              size_t n_bytes) IBOT_WARN_UNUSED;

/* From now on, about once a second on the monitor's own thread, `look` tells how the device is;
 * NULL: there is none any more. It is not being called when this returns. */
void rank_monitor_look(struct rank_monitor *monitor,
                       void (*look)(void *context, struct rank_device *out), void *context);

/* One step of progress: `step` and what comes now, a constant string of at most 63 bytes. */
void rank_monitor_progress(struct rank_monitor *monitor, int64_t step, const char *doing);

/* This rank ends for a reason that the others can't see: they are told. Returns when the text has
 * gone out; when not all have met yet, rank 0 stays for those that come, and another waits for rank
 * 0, for told_ns. Does nothing when the run has failed already. */
void rank_monitor_fail(struct rank_monitor *monitor, const char *text);

/* Says goodbye: the others go on without watching this rank. */
void rank_monitor_close(struct rank_monitor **monitor);

#ifdef __cplusplus
}
#endif

#endif
