/* Which hardware computes: device, op table and collective for a backend name. The only place that
 * chooses. */
#ifndef IBOT_TRAINER_BACKEND_H
#define IBOT_TRAINER_BACKEND_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "ops/collective.h"
#include "ops/device.h"
#include "ops/op_table.h"

enum backend_kind { BACKEND_CPU, BACKEND_CUDA };

struct rank_monitor;

struct backend {
    struct rank_monitor *ranks; /* several with an accelerator each; else NULL */
    struct device device;
    struct collective collective;
    const struct op_table *ops;
};

/* To be called first in main: unless the environment chooses, OpenMP's threads are told to sleep,
 * not to spin, while they wait. The run-time reads that only as it is loaded, so the program
 * replaces itself once. Beside loaders on the same cores spinning made training ten times slower.
 */
void backend_start_process(char **argv);

/* Where a device keeps what it has measured, unless told otherwise: a file in $XDG_CACHE_HOME/ibot
 * or
 * ~/.cache/ibot; "" where neither is to be had. The folder is made. */
void backend_tuning_file(char *out, size_t size);

/* Several ranks with an accelerator each begin to meet, so that all hear of one that fails or dies
 * before it has come as far as backend_open, which does it where this was not called. Rank and
 * world come from the environment. `stop` (borrowed; NULL: none) ends the wait for others. */
enum status backend_meet(struct backend *out, enum backend_kind kind,
                         const atomic_int *stop) IBOT_WARN_UNUSED;

/* This process ends, with the text as its reason: the other ranks are told, whether or not they
 * have met, and whether or not this one has begun to. Nothing for one process alone, nor for CPU
 * ranks, whom mpirun ends. The backend may be a zeroed one. */
void backend_fail(struct backend *backend, const char *text);

/* This process ends with `status` and nothing of it is left to do but closing: unless all ranks
 * know that (collective->ending), or it is well, it takes the others with it, which would wait for
 * it. May not return. `accelerated`: the ranks have one each, or nobody knows yet. */
void backend_leave(struct backend *backend, bool accelerated, enum status status);

/* The program's name in the log: of one rank among several "NAME rank 3", since their lines come
 * together. Valid for ever; once in a process. */
const char *backend_log_name(const char *program);

/* *out: zeroed, or after backend_meet; the caller's to close, on failure too. Rank and world come
 * from the environment (torchrun, Open MPI, Slurm); one process alone needs nothing. n_threads: of
 * the CPU ops, 0: all cores. tuning: of an accelerator; NULL: off. Errors: STATUS_UNSUPPORTED (not
 * in this build), STATUS_INVALID (environment), STATUS_DEVICE. */
enum status backend_open(struct backend *out, enum backend_kind kind, int n_threads,
                         const struct device_tuning *tuning) IBOT_WARN_UNUSED;
/* Who computes attention in bf16 on an accelerator: 0 the faster, 1 own kernels, 2 cuDNN's. Errors:
 * STATUS_UNSUPPORTED (cuDNN is not in this build). */
enum status backend_attention_by(struct backend *backend, int maker) IBOT_WARN_UNUSED;
void backend_close(struct backend *backend);

#endif
