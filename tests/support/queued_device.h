/* An accelerator made of the host, for tests of whoever drives one: it does nothing until it must.
 *
 *   ops and copies   wait in a queue until the host waits for them, so that memory which is read or
 *                    written too early gives wrong values
 *   branch 1         runs as late as it may, at the join
 *   branch 2         runs as late as it may, when another branch waits for a place of it
 *   uploads          spoil their destination at upload_begin and fill it at upload_end
 *   graphs           hold the arguments of their calls, and run with those and no others
 *   memory           IBOT_QUEUED_MEMORY bytes, for who plans by it
 *   16-bit floats    every op takes them: they are widened for the CPU's op and rounded after it
 *
 * One thread. Errors of ops come with the next wait. */
#ifndef IBOT_TESTS_SUPPORT_QUEUED_DEVICE_H
#define IBOT_TESTS_SUPPORT_QUEUED_DEVICE_H

#include "ops/device.h"
#include "ops/op_table.h"

enum status queued_device_open(struct device *out, int n_threads) IBOT_WARN_UNUSED;

/* The ops for it, named "queued". */
extern const struct op_table op_table_queued;

enum { QUEUED_ALIGNMENT = 16 };

/* A call that waits: with the CPU that computes, and its arguments, which are aligned. */
typedef enum status queued_run(struct device *cpu, void *args);

/* Queues a call in the branch in use, with a copy of `bytes` of arguments. */
enum status queued_device_push(struct device *device, queued_run *run, const void *args,
                               size_t bytes) IBOT_WARN_UNUSED;

/* Calls of the host that ran what was queued, since the device was opened. */
int64_t queued_device_waits(const struct device *device);
/* Those of them after which nothing was left to do: an accelerator would have stood still. With
 * IBOT_QUEUED_REPORT=FILE both numbers are written there when the device is closed. */
int64_t queued_device_drains(const struct device *device);
/* Graphs that were launched. */
int64_t queued_device_launches(const struct device *device);

#endif
