/* Working memory of the CPU ops: one block per device, grown on first use and kept, so that a
 * second step of the same shapes allocates nothing. Valid until the next call. */
#ifndef IBOT_OPS_CPU_SCRATCH_H
#define IBOT_OPS_CPU_SCRATCH_H

#include <stddef.h>

#include "ops/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum status cpu_scratch(struct device *device, void *out, size_t bytes) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
