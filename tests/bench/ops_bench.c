/* ops_bench: each op at the shapes that a step of a network has (2x224 + 10x96 px crops), on any
 * backend: time, operations and bytes a second, and the share of what this hardware can do at best,
 * measured in the same run (op_work.h, bench_backend.h).
 *
 * On an accelerator each call is timed by events, and comes after a copy of 256 MiB: the caches
 * hold nothing of its operands, and the host is ahead. In a step what one op leaves in the cache
 * may serve the next; events cost a microsecond or two, which is seen in the smallest ops alone.
 * On the CPU with one thread the time is that of the processor, so that other programs on the
 * machine matter little. */
#include "tests/bench/ops_bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "proto/base/memory.h"
#include "tests/bench/bench_backend.h"
#include "tests/bench/device_probe.h"
#include "tests/bench/json_out.h"
#include "tests/bench/ops_bench_options.h"
#include "tests/bench/samples.h"

enum { ROW_NAME = 96 };

struct ops_bench {
    struct ops_bench_options options;
    struct bench_backend backend;
    struct ceilings ceilings;
    struct hold hold;
    struct device_timer *timer;
    struct json_out json;
    void *taken[OPS_BENCH_TENSORS];
    int n_taken;
    uint32_t n_filled;
    char group[ROW_NAME];
};

static void stop_on(enum status status, const char *what)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "ops_bench: %s: %s\n", what, status_message());
    exit(status_exit_code(status));
}

/* ------------------------------------------------------------------------------ tensors */

static void *take(struct ops_bench *b, size_t bytes)
{
    struct device *device = &b->backend.device;

    CHECK(b->n_taken < OPS_BENCH_TENSORS, "more than %d tensors", OPS_BENCH_TENSORS);
    stop_on(device->alloc(device, &b->taken[b->n_taken], bytes, "operands"), b->group);
    return b->taken[b->n_taken++];
}

struct tensor ops_bench_take(struct ops_bench *b, enum dtype dtype, int64_t rows, int64_t columns)
{
    struct tensor tensor =
        columns == 0 ? tensor_1d(NULL, dtype, rows) : tensor_2d(NULL, dtype, rows, columns);

    tensor.data = take(b, tensor_size_bytes(&tensor));
    stop_on(fill_random(&b->backend, tensor, b->n_filled++, 1.0f), b->group);
    return tensor;
}

void *ops_bench_take_copy(struct ops_bench *b, const void *from, size_t bytes)
{
    struct device *device = &b->backend.device;
    void *to = take(b, bytes);

    stop_on(device->copy_in(device, to, from, bytes), b->group);
    stop_on(device->synchronize(device), b->group);
    return to;
}

struct tensor ops_bench_take_indices(struct ops_bench *b, int64_t rows, int64_t columns,
                                     int64_t step, int64_t below)
{
    struct tensor tensor =
        columns == 0 ? tensor_1d(NULL, DTYPE_I32, rows) : tensor_2d(NULL, DTYPE_I32, rows, columns);
    int64_t n = tensor_n_elements(&tensor);
    int32_t *values;

    stop_on(memory_alloc(&values, (size_t)n, sizeof(*values), "indices"), b->group);
    for (int64_t i = 0; i < n; i++)
        values[i] = (int32_t)(i * step % below);
    tensor.data = ops_bench_take_copy(b, values, tensor_size_bytes(&tensor));
    memory_free(values);
    return tensor;
}

struct tensor ops_bench_take_mask(struct ops_bench *b, int64_t n)
{
    struct tensor tensor = tensor_1d(NULL, DTYPE_U8, n);
    uint8_t *values;

    stop_on(memory_alloc(&values, (size_t)n, 1, "mask"), b->group);
    for (int64_t i = 0; i < n; i++)
        values[i] = i % 3 == 0;
    tensor.data = ops_bench_take_copy(b, values, (size_t)n);
    memory_free(values);
    return tensor;
}

void ops_bench_give_back(struct ops_bench *b)
{
    struct device *device = &b->backend.device;

    while (b->n_taken > 0)
        device->free(device, b->taken[--b->n_taken]);
}

/* ------------------------------------------------------------------------------ cases */

static const char *const slot_names[] = {
#define SLOT_NAME(slot, type) #slot,
    STEP_OPS(SLOT_NAME)};

static enum status call(struct ops_bench *b, enum bench_op op, const union op_args *args)
{
    const struct op_table *ops = b->backend.ops;

    switch (op) {
#define SLOT_CALL(slot, type)                                                                      \
    case BENCH_##slot:                                                                             \
        return ops->slot(&b->backend.device, &args->slot);
        STEP_OPS(SLOT_CALL)
    default:
        CHECK(false, "op %d", (int)op);
    }
}

static bool lacks(const struct ops_bench *b, enum bench_op op)
{
    switch (op) {
#define SLOT_MISSING(slot, type)                                                                   \
    case BENCH_##slot:                                                                             \
        return b->backend.ops->slot == NULL;
        STEP_OPS(SLOT_MISSING)
    default:
        return true;
    }
}

static struct op_work work_of(enum bench_op op, const union op_args *args)
{
    switch (op) {
#define SLOT_WORK(slot, type)                                                                      \
    case BENCH_##slot:                                                                             \
        return work_of_##slot(&args->slot);
        STEP_OPS(SLOT_WORK)
    default:
        CHECK(false, "op %d", (int)op);
    }
}

static double processor_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static enum status time_once(struct ops_bench *b, enum bench_op op, const union op_args *args,
                             double *seconds)
{
    struct device *device = &b->backend.device;
    bool one_thread = !b->backend.accelerator && device->n_threads == 1;
    double start = processor_seconds();

    if (b->backend.accelerator)
        TRY(hold_queue(&b->hold, &b->backend, b->hold.copy_seconds));
    TRY(device_timer_mark(b->timer, 0));
    TRY(call(b, op, args));
    TRY(device_timer_mark(b->timer, 1));
    TRY(device->synchronize(device));
    if (one_thread)
        *seconds = processor_seconds() - start;
    return one_thread ? STATUS_OK : device_timer_seconds(b->timer, 0, 1, seconds);
}

/* The first call, which may make plans and grow working memory, does not count. */
static enum status time_case(struct ops_bench *b, enum bench_op op, const union op_args *args,
                             struct quartiles *out)
{
    static double seconds[OPS_BENCH_REPEATS];

    TRY(time_once(b, op, args, &seconds[0]));
    for (int i = 0; i < b->options.repeats; i++)
        TRY(time_once(b, op, args, &seconds[i]));
    *out = samples_quartiles(seconds, b->options.repeats);
    return STATUS_OK;
}

static void put_row(struct ops_bench *b, enum bench_op op, const char *name,
                    const struct quartiles *time, const struct op_work *work)
{
    struct json_out *json = &b->json;

    json_object(json, NULL);
    json_text(json, "group", b->group);
    json_text(json, "op", slot_names[op]);
    json_text(json, "case", name);
    if (time == NULL) {
        json_text(json, "error", status_message());
        json_end(json);
        return;
    }
    double floor_s = fmax(work->flop / b->ceilings.matrix_flop_per_second,
                          work->bytes / b->ceilings.copy_bytes_per_second);
    json_number(json, "seconds", time->median);
    json_list(json, "seconds_quartiles");
    json_number(json, NULL, time->first);
    json_number(json, NULL, time->third);
    json_end(json);
    json_number(json, "seconds_least", time->least);
    json_number(json, "flop", work->flop);
    json_number(json, "bytes", work->bytes);
    json_number(json, "flop_per_second", work->flop / time->median);
    json_number(json, "bytes_per_second", work->bytes / time->median);
    json_number(json, "share_of_ceiling", floor_s / time->median);
    json_end(json);
}

static void print_row(const struct ops_bench *b, enum bench_op op, const char *name,
                      const struct quartiles *time, const struct op_work *work)
{
    printf("%-18s %-28s %-32s ", b->group, slot_names[op], name);
    if (time == NULL) {
        printf("%s\n", status_message());
        return;
    }
    double floor_s = fmax(work->flop / b->ceilings.matrix_flop_per_second,
                          work->bytes / b->ceilings.copy_bytes_per_second);
    printf("%10.4f ms %9.1f GFLOP/s %8.1f GB/s %6.1f %%\n", 1e3 * time->median,
           1e-9 * work->flop / time->median, 1e-9 * work->bytes / time->median,
           100.0 * floor_s / time->median);
    fflush(stdout);
}

void ops_bench_case(struct ops_bench *b, enum bench_op op, const union op_args *args,
                    const char *format, ...)
{
    char name[ROW_NAME], whole[3 * ROW_NAME];
    struct quartiles time;
    va_list words;

    va_start(words, format);
    vsnprintf(name, sizeof(name), format, words);
    va_end(words);
    snprintf(whole, sizeof(whole), "%s %s %s", b->group, slot_names[op], name);
    if (lacks(b, op) || (b->options.only != NULL && strstr(whole, b->options.only) == NULL))
        return;
    struct op_work work = work_of(op, args);
    enum status status = time_case(b, op, args, &time);
    if (status == STATUS_DEVICE) /* nothing goes on after that */
        stop_on(status, whole);
    const struct quartiles *measured = status == STATUS_OK ? &time : NULL;
    if (b->options.bench.json)
        put_row(b, op, name, measured, &work);
    else
        print_row(b, op, name, measured, &work);
}

bool ops_bench_attention_by(struct ops_bench *b, enum attention_maker maker)
{
    return kernels_attention_by(&b->backend.device, maker) == STATUS_OK;
}

void ops_bench_group(struct ops_bench *b, const char *format, ...)
{
    va_list words;

    va_start(words, format);
    vsnprintf(b->group, sizeof(b->group), format, words);
    va_end(words);
}

/* ------------------------------------------------------------------------------ all of it */

static void run_arch(struct ops_bench *b, const char *arch)
{
    struct shapes s = ops_bench_shapes(&b->options, arch);

    if (strncmp(arch, "swin", 4) == 0) {
        struct shapes last = ops_bench_last_stage(&s);
        ops_bench_swin(b, &s);
        ops_bench_group(b, "%s", arch);
        ops_bench_head(b, &last);
        return;
    }
    ops_bench_group(b, "%s", arch);
    ops_bench_blocks(b, &s);
    ops_bench_vit(b, &s);
    ops_bench_head(b, &s);
}

/* The names of --arch, one by one; of --width, one made up. */
static void run_archs(struct ops_bench *b)
{
    char names[256], *rest = names, *arch;

    if (b->options.width > 0) {
        snprintf(names, sizeof(names), "vit_width_%d", b->options.width);
        run_arch(b, names);
        return;
    }
    snprintf(names, sizeof(names), "%s", b->options.archs);
    while ((arch = strsep(&rest, ",")) != NULL)
        run_arch(b, arch);
}

static void put_head(struct ops_bench *b)
{
    const struct ops_bench_options *o = &b->options;
    struct json_out *json = &b->json;

    *json = (struct json_out){.file = stdout};
    json_object(json, NULL);
    json_text(json, "what", "ops_bench");
    bench_backend_report(&b->backend, &b->ceilings, json);
    json_text(json, "precision", bench_options_half(&o->bench) ? "bf16" : "f32");
    json_integer(json, "batch_size_per_gpu", o->batch);
    json_integer(json, "local_crops_number", o->bench.n_local);
    json_integer(json, "global_size", o->bench.global_size_px);
    json_integer(json, "local_size", o->bench.local_size_px);
    json_integer(json, "out_dim", o->bench.out_dim);
    json_integer(json, "repeats", o->repeats);
    json_list(json, "rows");
}

int main(int argc, char **argv)
{
    struct ops_bench b = {0};

    ops_bench_options_parse(&b.options, argc, argv);
    stop_on(bench_backend_open(&b.backend, &b.options.bench.backend), "backend");
    stop_on(ceilings_measure(&b.ceilings, &b.backend,
                             bench_options_half(&b.options.bench) ? DTYPE_BF16 : DTYPE_F32),
            "ceilings");
    stop_on(device_timer_open(&b.timer, &b.backend.device, 2), "timer");
    if (b.backend.accelerator)
        stop_on(hold_open(&b.hold, &b.backend, &b.ceilings), "hold");
    if (b.options.bench.json)
        put_head(&b);
    else
        printf("%s; ceilings: copy %.1f GB/s, product %.1f GFLOP/s\n",
               device_name(&b.backend.device), 1e-9 * b.ceilings.copy_bytes_per_second,
               1e-9 * b.ceilings.matrix_flop_per_second);
    run_archs(&b);
    if (b.options.bench.json) {
        json_end(&b.json);
        json_end(&b.json);
    }
    hold_close(&b.hold, &b.backend);
    device_timer_close(&b.timer);
    bench_backend_close(&b.backend);
    return 0;
}
