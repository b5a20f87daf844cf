/* How long work takes on a device: what algorithms of products (matmul_tune.c) and ways of doing a
 * thing (tuned_way.h) are chosen by.
 *
 *   sweep ── start ── work ── end
 *
 * The level-2 cache is swept first (memory of twice its size is written), which also gives the host
 * the time to queue the work behind it; then it runs between two events. */
#ifndef IBOT_KERNELS_TUNING_CLOCK_H
#define IBOT_KERNELS_TUNING_CLOCK_H

#include "kernels/cuda_device.h"

enum { TUNING_ROUNDS = 7, TUNING_MOST = 16 };

/* Kinds of work to be told apart, numbered from 0. `run` queues one on the branch in use; *ran,
 * true before, says whether it can be done at all. */
struct tuning_work {
    enum status (*run)(void *context, int which, bool *ran);
    void *context;
};

/* Borrows the device until it is closed. */
struct tuning_clock {
    cudaStream_t stream;
    cudaEvent_t start, end;
    void *sweep;
    size_t sweep_bytes;
};

/* Waits for the device. Errors: STATUS_NO_MEMORY, STATUS_DEVICE; to be closed all the same. */
enum status tuning_clock_open(struct tuning_clock *clock, struct device *device) IBOT_WARN_UNUSED;
void tuning_clock_close(struct tuning_clock *clock);

/* Once. *ms is negative when the work can't be done. */
enum status tuning_clock_time(const struct tuning_clock *clock, const struct tuning_work *work,
                              int which, float *ms) IBOT_WARN_UNUSED;

/* Medians of TUNING_ROUNDS times, of work 0 to n - 1 (at most TUNING_MOST) in turns: whatever slows
 * the chip slows all. */
enum status tuning_clock_medians(const struct tuning_clock *clock, const struct tuning_work *work,
                                 int n, float *median_ms) IBOT_WARN_UNUSED;

#endif
