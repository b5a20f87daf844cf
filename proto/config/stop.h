/* The wish that a program end, said by a signal.
 *
 *   SIGINT, SIGTERM, SIGUSR1   once: end in good order; twice (any of them): end at once
 *
 * SIGUSR1 is how Slurm announces the end of a job's time, SIGTERM how Kubernetes and systemd do. */
#ifndef IBOT_PROTO_CONFIG_STOP_H
#define IBOT_PROTO_CONFIG_STOP_H

#include <stdatomic.h>
#include <sys/types.h>

#include "proto/base/status.h"

/* Listens from now on; call it before threads are started. Returns what becomes non-zero when the
 * wish is said, valid for ever. */
const atomic_int *stop_on_signals(void);

/* For a process that another one of ours started and ends: those signals, which come to a whole
 * group of processes, are the parent's to answer. From now on only SIGHUP says the wish: sent by
 * the parent, or by the system when the parent has ended. Errors: STATUS_INTERRUPTED (it has ended
 * already), STATUS_IO. */
enum status stop_with_parent(pid_t parent) IBOT_WARN_UNUSED;

#endif
