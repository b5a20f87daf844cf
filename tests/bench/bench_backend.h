/* The backend that a benchmark runs on, and what its hardware can do at best. */
#ifndef IBOT_TESTS_BENCH_BENCH_BACKEND_H
#define IBOT_TESTS_BENCH_BENCH_BACKEND_H

#include "kernels/kernels.h"
#include "ops/device.h"
#include "ops/op_table.h"

struct json_out;

struct bench_backend {
    struct device device;
    const struct op_table *ops;
    bool accelerator, emulated;
    enum device_tuning_mode tuning;
};

/* name: cpu, cuda (accelerator 0), or cuda_emulated where the program is linked with the emulated
 * kernels. threads: of the CPU, 0: all cores. tuning: of an accelerator's products. attention:
 * whose kernels, on an accelerator in bf16. */
struct bench_backend_options {
    const char *name;
    int32_t threads;
    struct device_tuning tuning;
    enum attention_maker attention;
};

/* Errors: STATUS_INVALID (no such name), STATUS_UNSUPPORTED (not in this program),
 * STATUS_NOT_FOUND (no GPU). */
enum status bench_backend_open(struct bench_backend *out,
                               const struct bench_backend_options *options) IBOT_WARN_UNUSED;

extern const char *const bench_tuning_modes[]; /* by enum device_tuning_mode, ended by NULL */

void bench_backend_close(struct bench_backend *backend);

/* Measured by copies within the device, bytes read and bytes written both counted, and by one
 * square product of `dtype` through the linear op, random values, 2 n^3 operations: the best of
 * some repeats. `sustained` is the rate of that product over a second of nothing else, after a
 * second: what is left of the best one when the hardware is held to its power, as a step is; 0: not
 * an accelerator. The sizes are those that fill the hardware; in the emulator they mean nothing. */
struct ceilings {
    double copy_bytes_per_second, matrix_flop_per_second, sustained_flop_per_second;
    int64_t copy_bytes, matrix_side;
};
enum status ceilings_measure(struct ceilings *out, struct bench_backend *backend,
                             enum dtype dtype) IBOT_WARN_UNUSED;

/* Keeps an accelerator busy with copies for about so long, so that the host can queue what comes
 * after without a gap. Waits for nothing. */
struct hold {
    void *from, *to;
    size_t bytes;
    double copy_seconds;
};
enum status hold_open(struct hold *hold, struct bench_backend *backend,
                      const struct ceilings *ceilings) IBOT_WARN_UNUSED;
enum status hold_queue(const struct hold *hold, struct bench_backend *backend,
                       double seconds) IBOT_WARN_UNUSED;
void hold_close(struct hold *hold, struct bench_backend *backend);

/* "backend", "device", "threads" (CPU) or "matmul_tune" and, if measured, "ceilings". */
void bench_backend_report(const struct bench_backend *backend, const struct ceilings *ceilings,
                          struct json_out *json);

/* Random values in device memory: normal, times scale; of u8, all of its range. */
enum status fill_random(struct bench_backend *backend, struct tensor tensor, uint32_t seed,
                        float scale) IBOT_WARN_UNUSED;

#endif
