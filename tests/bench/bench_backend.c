#include "tests/bench/bench_backend.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"
#include "ops/half_float.h"
#include "proto/base/memory.h"
#include "proto/base/rng.h"
#include "tests/bench/device_probe.h"
#include "tests/bench/json_out.h"

enum { CEILING_REPEATS = 12, RANDOM_VALUES = 1 << 16 };

const char *const bench_tuning_modes[] = {"off", "kept", "on", NULL};

enum status bench_backend_open(struct bench_backend *out,
                               const struct bench_backend_options *options)
{
    const char *name = options->name;

    *out = (struct bench_backend){.tuning = options->tuning.mode};
    if (strcmp(name, "cpu") == 0) {
        out->ops = &op_table_cpu;
        return device_open_cpu(&out->device, options->threads);
    }
    if (strcmp(name, "cuda") != 0 && strcmp(name, "cuda_emulated") != 0)
        FAIL(STATUS_INVALID, "--backend: got '%s', wanted cpu, cuda or cuda_emulated", name);
    TRY(kernels_op_table(&out->ops));
    if (strcmp(out->ops->name, name) != 0)
        FAIL(STATUS_UNSUPPORTED,
             "--backend %s: this program has '%s'; the emulated kernels are in the program whose "
             "name ends in _emulated",
             name, out->ops->name);
    out->accelerator = true;
    out->emulated = strcmp(name, "cuda_emulated") == 0;
    TRY(kernels_device_open(&out->device, 0));
    if (options->attention != ATTENTION_BY_CHOICE)
        TRY(kernels_attention_by(&out->device, options->attention));
    return out->device.tune != NULL ? out->device.tune(&out->device, &options->tuning) : STATUS_OK;
}

void bench_backend_close(struct bench_backend *backend)
{
    device_close(&backend->device);
    memset(backend, 0, sizeof(*backend));
}

void bench_backend_report(const struct bench_backend *backend, const struct ceilings *ceilings,
                          struct json_out *json)
{
    json_text(json, "backend", backend->ops->name);
    json_text(json, "device", device_name(&backend->device));
    if (!backend->accelerator)
        json_integer(json, "threads", backend->device.n_threads);
    else
        json_text(json, "matmul_tune", bench_tuning_modes[backend->tuning]);
    if (ceilings == NULL || ceilings->copy_bytes == 0)
        return;
    json_object(json, "ceilings");
    json_number(json, "copy_bytes_per_second", ceilings->copy_bytes_per_second);
    json_integer(json, "copy_bytes", ceilings->copy_bytes);
    json_number(json, "matrix_flop_per_second", ceilings->matrix_flop_per_second);
    json_integer(json, "matrix_side", ceilings->matrix_side);
    if (ceilings->sustained_flop_per_second > 0.0)
        json_number(json, "sustained_flop_per_second", ceilings->sustained_flop_per_second);
    json_end(json);
}

/* ------------------------------------------------------------------------------ values */

static void put(void *values, enum dtype dtype, int i, float value)
{
    if (dtype == DTYPE_U8)
        ((uint8_t *)values)[i] = (uint8_t)(int)(value * 64.0f);
    else if (dtype == DTYPE_F32)
        ((float *)values)[i] = value;
    else if (dtype == DTYPE_BF16)
        ((uint16_t *)values)[i] = half_float_to_bf16(value);
    else
        ((uint16_t *)values)[i] = half_float_to_f16(value);
}

/* A block, then copies of what is there: what matters is that bits are random. */
enum status fill_random(struct bench_backend *backend, struct tensor tensor, uint32_t seed,
                        float scale)
{
    struct rng rng = rng_open((struct rng_key){.seed = seed, .purpose = RNG_TEST});
    struct device *device = &backend->device;
    size_t size = dtype_size_bytes(tensor.dtype), total = tensor_size_bytes(&tensor);
    size_t filled = RANDOM_VALUES * size < total ? RANDOM_VALUES * size : total;
    enum status status = STATUS_OK;
    char *block;

    CHECK(tensor.dtype == DTYPE_F32 || tensor.dtype == DTYPE_BF16 || tensor.dtype == DTYPE_F16 ||
          tensor.dtype == DTYPE_U8);
    TRY(memory_alloc(&block, RANDOM_VALUES, size, "random values"));
    for (int i = 0; i < RANDOM_VALUES; i++)
        put(block, tensor.dtype, i, scale * (float)rng_normal(&rng));
    TRY_OUT(device->copy_in(device, tensor.data, block, filled));
    while (filled < total) {
        size_t more = filled < total - filled ? filled : total - filled;
        TRY_OUT(device->copy(device, (char *)tensor.data + filled, tensor.data, more));
        filled += more;
    }
    TRY_OUT(device->synchronize(device));
out:
    memory_free(block);
    return status;
}

/* ------------------------------------------------------------------------------ ceilings */

static enum status best_copy(struct ceilings *c, struct bench_backend *backend,
                             struct device_timer *timer)
{
    struct device *device = &backend->device;
    size_t bytes = (size_t)c->copy_bytes;
    enum status status = STATUS_OK;
    void *from = NULL, *to = NULL;
    double best = INFINITY;

    TRY_OUT(device->alloc(device, &from, bytes, "copy ceiling"));
    TRY_OUT(device->alloc(device, &to, bytes, "copy ceiling"));
    TRY_OUT(fill_random(backend, tensor_1d(from, DTYPE_F32, c->copy_bytes / 4), 1, 1.0f));
    for (int i = 0; i < CEILING_REPEATS; i++) {
        double seconds;
        TRY_OUT(device_timer_mark(timer, 0));
        TRY_OUT(device->copy(device, to, from, bytes));
        TRY_OUT(device_timer_mark(timer, 1));
        TRY_OUT(device->synchronize(device));
        TRY_OUT(device_timer_seconds(timer, 0, 1, &seconds));
        best = fmin(best, seconds);
    }
    c->copy_bytes_per_second = 2.0 * (double)bytes / best;
out:
    device->free(device, from);
    device->free(device, to);
    return status;
}

/* Of products one after the other, `best` seconds each when nothing came before. */
static enum status sustained_product(struct ceilings *c, struct bench_backend *backend,
                                     const struct linear_args *args, double best,
                                     struct device_timer *timer)
{
    int n = backend->emulated ? 1 : (int)ceil(1.0 / best);
    double seconds = 0.0, flop = 2.0 * pow((double)c->matrix_side, 3.0);

    for (int turn = 0; turn < 2; turn++) {
        TRY(device_timer_mark(timer, 0));
        for (int i = 0; i < n; i++)
            TRY(backend->ops->linear_forward(&backend->device, args));
        TRY(device_timer_mark(timer, 1));
        TRY(backend->device.synchronize(&backend->device));
        TRY(device_timer_seconds(timer, 0, 1, &seconds));
    }
    c->sustained_flop_per_second = n * flop / seconds;
    return STATUS_OK;
}

static enum status best_product(struct ceilings *c, struct bench_backend *backend, enum dtype dtype,
                                struct device_timer *timer)
{
    struct device *device = &backend->device;
    int64_t n = c->matrix_side;
    size_t bytes = (size_t)(n * n) * dtype_size_bytes(dtype);
    struct linear_args args = {.x = tensor_2d(NULL, dtype, n, n),
                               .weight = tensor_2d(NULL, dtype, n, n),
                               .y = tensor_2d(NULL, dtype, n, n)};
    enum status status = STATUS_OK;
    double best = INFINITY;

    TRY_OUT(device->alloc(device, &args.x.data, bytes, "matrix ceiling"));
    TRY_OUT(device->alloc(device, &args.weight.data, bytes, "matrix ceiling"));
    TRY_OUT(device->alloc(device, &args.y.data, bytes, "matrix ceiling"));
    TRY_OUT(fill_random(backend, args.x, 2, 1.0f));
    TRY_OUT(fill_random(backend, args.weight, 3, 1.0f));
    for (int i = 0; i < CEILING_REPEATS; i++) {
        double seconds;
        TRY_OUT(device_timer_mark(timer, 0));
        TRY_OUT(backend->ops->linear_forward(device, &args));
        TRY_OUT(device_timer_mark(timer, 1));
        TRY_OUT(device->synchronize(device));
        TRY_OUT(device_timer_seconds(timer, 0, 1, &seconds));
        best = fmin(best, seconds);
    }
    c->matrix_flop_per_second = 2.0 * (double)n * (double)n * (double)n / best;
    if (backend->accelerator)
        TRY_OUT(sustained_product(c, backend, &args, best, timer));
out:
    device->free(device, args.x.data);
    device->free(device, args.weight.data);
    device->free(device, args.y.data);
    return status;
}

enum status ceilings_measure(struct ceilings *out, struct bench_backend *backend, enum dtype dtype)
{
    struct device_timer *timer = NULL;

    *out = (struct ceilings){
        .copy_bytes = backend->emulated      ? 1 << 16
                      : backend->accelerator ? 1 << 30
                                             : 1 << 28,
        .matrix_side = backend->emulated      ? 32
                       : backend->accelerator ? 8192
                                              : 2048,
    };
    TRY(device_timer_open(&timer, &backend->device, 2));
    enum status status = best_copy(out, backend, timer);
    if (status == STATUS_OK)
        status = best_product(out, backend, dtype, timer);
    device_timer_close(&timer);
    return status;
}

/* ------------------------------------------------------------------------------ holding */

enum status hold_open(struct hold *hold, struct bench_backend *backend,
                      const struct ceilings *ceilings)
{
    struct device *device = &backend->device;

    *hold = (struct hold){.bytes = backend->emulated ? 1 << 12 : 1 << 28};
    hold->copy_seconds = 2.0 * (double)hold->bytes / ceilings->copy_bytes_per_second;
    TRY(device->alloc(device, &hold->from, hold->bytes, "copies that hold the queue"));
    return device->alloc(device, &hold->to, hold->bytes, "copies that hold the queue");
}

enum status hold_queue(const struct hold *hold, struct bench_backend *backend, double seconds)
{
    struct device *device = &backend->device;

    for (double queued = 0.0; queued < seconds && !backend->emulated; queued += hold->copy_seconds)
        TRY(device->copy(device, hold->to, hold->from, hold->bytes));
    return STATUS_OK;
}

void hold_close(struct hold *hold, struct bench_backend *backend)
{
    struct device *device = &backend->device;

    if (device->free != NULL) {
        device->free(device, hold->from);
        device->free(device, hold->to);
    }
    *hold = (struct hold){0};
}
