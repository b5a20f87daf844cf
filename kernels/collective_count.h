/* How far a device is, for a host that must not wait for it: numbers in pinned memory that the
 * device itself counts up, in order with the work around them. */
#ifndef IBOT_KERNELS_COLLECTIVE_COUNT_H
#define IBOT_KERNELS_COLLECTIVE_COUNT_H

#include <stdint.h>

#include "ops/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* *count += 1, when the device comes there. `count`: pinned host memory, of which nobody else
 * writes. */
enum status collective_count(struct device *device, int64_t *count) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
