/* What this folder offers to trainer/backend.c: an accelerator as a device, a column of the op
 * table and a collective. kernels/load.c answers for builds that have no accelerator column: each
 * call then fails with STATUS_UNSUPPORTED and says so. */
#ifndef IBOT_KERNELS_KERNELS_H
#define IBOT_KERNELS_KERNELS_H

#include "ops/collective.h"
#include "ops/device.h"
#include "ops/op_table.h"
#include "ops/rank_monitor.h"
#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Opens accelerator `ordinal`; where CUDA_VISIBLE_DEVICES leaves a single one, as some launchers do
 * for each rank, that one. Errors: STATUS_UNSUPPORTED (none in this build, or one too old),
 * STATUS_NOT_FOUND (no such accelerator here), STATUS_DEVICE. */
enum status kernels_device_open(struct device *out, int ordinal) IBOT_WARN_UNUSED;

/* The ops for it; a constant table. Errors: STATUS_UNSUPPORTED. */
enum status kernels_op_table(const struct op_table **out) IBOT_WARN_UNUSED;

/* The collective of ranks that each hold an accelerator, which meet through `ranks` (borrowed until
 * it is closed) and are told when this fails. Errors: STATUS_UNSUPPORTED, STATUS_DEVICE, those of
 * rank_monitor_join. */
enum status kernels_collective_open(struct collective *out, struct device *device,
                                    struct rank_monitor *ranks) IBOT_WARN_UNUSED;

/* Whose kernels compute attention in bf16: the fastest, the own, or cuDNN's wherever it has some;
 * or the former own ones wherever there are newer, for tests and benchmarks. */
enum attention_maker {
    ATTENTION_BY_CHOICE,
    ATTENTION_BY_OWN,
    ATTENTION_BY_CUDNN,
    ATTENTION_BY_FORMER,
};

/* Says it for an open accelerator, before its first op; the choice is the default. Errors:
 * STATUS_UNSUPPORTED (cuDNN, or a choice at all, is not in this build). */
enum status kernels_attention_by(struct device *device,
                                 enum attention_maker maker) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
