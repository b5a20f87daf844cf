/* What benchmarks ask of a device beside its interface: times on its own clock, memory, its name.
 * On an accelerator the clock is events in its queue, so that nobody waits while it is timed. The
 * CPU's work is done when a call returns: its clock is the host's. */
#ifndef IBOT_TESTS_BENCH_DEVICE_PROBE_H
#define IBOT_TESTS_BENCH_DEVICE_PROBE_H

#include <stdbool.h>

#include "ops/device.h"

struct device_timer; /* opaque */

/* Room for marks 0 … n-1. */
enum status device_timer_open(struct device_timer **out, struct device *device,
                              int n) IBOT_WARN_UNUSED;
void device_timer_close(struct device_timer **timer);

/* Notes the time at which the device has done what was queued before, on the branch in use. */
enum status device_timer_mark(struct device_timer *timer, int which) IBOT_WARN_UNUSED;

/* Seconds between two marks that the device has passed (after its synchronize). */
enum status device_timer_seconds(const struct device_timer *timer, int from, int to,
                                 double *out) IBOT_WARN_UNUSED;

/* Whether the device has passed a mark; does not wait. */
enum status device_timer_passed(const struct device_timer *timer, int which,
                                bool *out) IBOT_WARN_UNUSED;

/* Bytes in use on the device, by whomever; of the CPU: this process at its peak. */
enum status device_memory_used(struct device *device, size_t *out) IBOT_WARN_UNUSED;

/* Of the hardware; valid while the device is open. */
const char *device_name(const struct device *device);

/* ---- the accelerator's part: device_probe_cuda.c, or device_probe_none.c ---- */

enum status accelerator_events_open(void **out, int n) IBOT_WARN_UNUSED;
void accelerator_events_close(void *events, int n);
enum status accelerator_event_record(void *events, int which,
                                     struct device *device) IBOT_WARN_UNUSED;
enum status accelerator_event_seconds(void *events, int from, int to, double *out) IBOT_WARN_UNUSED;
enum status accelerator_event_passed(void *events, int which, bool *out) IBOT_WARN_UNUSED;
enum status accelerator_memory_used(struct device *device, size_t *out) IBOT_WARN_UNUSED;
const char *accelerator_name(const struct device *device);

#endif
