/* Which hardware computes: device, op table and collective for a backend name. The only place that
 * chooses. */
#ifndef IBOT_TRAINER_BACKEND_H
#define IBOT_TRAINER_BACKEND_H

#include <stddef.h>

#include "ops/collective.h"
#include "ops/device.h"
#include "ops/op_table.h"

enum backend_kind { BACKEND_CPU, BACKEND_CUDA };

struct backend {
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

/* Rank and world come from the environment (torchrun, Open MPI, Slurm); one process alone needs
 * nothing. n_threads: of the CPU ops, 0: all cores. tuning: of an accelerator; NULL: off. Errors:
 * STATUS_UNSUPPORTED (not in this build), STATUS_INVALID (environment), STATUS_DEVICE. */
enum status backend_open(struct backend *out, enum backend_kind kind, int n_threads,
                         const struct device_tuning *tuning) IBOT_WARN_UNUSED;
/* Who computes attention in bf16 on an accelerator: 0 the faster, 1 own kernels, 2 cuDNN's. Errors:
 * STATUS_UNSUPPORTED (cuDNN is not in this build). */
enum status backend_attention_by(struct backend *backend, int maker) IBOT_WARN_UNUSED;
void backend_close(struct backend *backend);

#endif
