/* step_bench: one training step on random data, timed on the device's clock without waiting for it,
 * for one or more batch sizes; then what the step is made of, op by op, beside what the hardware
 * can do at best in this run. scripts/bench_torch_step.py runs the same step in PyTorch.
 *
 *   host  │ queues step k │ queues step k+1 │ waits (a step ahead is as far as it goes) │ …
 *   device      │ begin k ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒ end k │ begin k+1 ▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒ …
 *                                                    └─gap─┘
 *
 * A step's time is that from the end of the one before to its own: gaps are part of it. The device
 * waited for the host if it had ended a step before the host had queued the whole of the next. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "ops/collective.h"
#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/base/rng.h"
#include "tests/bench/bench_backend.h"
#include "tests/bench/samples.h"
#include "tests/bench/step_bench_options.h"
#include "tests/bench/step_bench_report.h"
#include "tests/bench/step_profile.h"
#include "tests/bench/step_work.h"

static const double growth = 1.02; /* a larger batch must gain as much to be worth another try */

/* Crops of one batch on the host, and their places on the device: two with --upload, so that one
 * is filled while the other is read. On the CPU the host's memory is the place. */
struct input {
    uint8_t *globals, *locals, *masks;
    size_t global_bytes, local_bytes;
    uint8_t *on_device[2][2];
    struct ibot_input input;
};

struct bench {
    const struct step_bench_options *options;
    struct bench_backend *backend;
    const struct ceilings *ceilings;
    struct ibot_options model;
    struct device device; /* the backend's, whose waits are timed; serial for a profile */
    struct collective collective;
    struct ibot *ibot;
    struct input input;
    struct device_timer *timer;
};

/* ------------------------------------------------------------------------------ waits */

static struct {
    const struct device *device;
    int64_t ns; /* that the host waited */
} waits;

static enum status timed_wait_mark(struct device *device, int which)
{
    int64_t start = clock_monotonic_ns();
    enum status status = waits.device->wait_mark(device, which);
    waits.ns += clock_monotonic_ns() - start;
    return status;
}

static enum status timed_synchronize(struct device *device)
{
    int64_t start = clock_monotonic_ns();
    enum status status = waits.device->synchronize(device);
    waits.ns += clock_monotonic_ns() - start;
    return status;
}

static enum status no_fork(struct device *device)
{
    (void)device;
    return STATUS_OK;
}

static void stay_on_branch(struct device *device, int branch)
{
    (void)device;
    (void)branch;
}

/* ------------------------------------------------------------------------------ input */

/* The published mixture: half of the crops unmasked, the others between 0.1 and 0.5 of the cells.
 */
static void fill_masks(uint8_t *masks, int64_t n_images, int64_t cells)
{
    struct rng rng = rng_open((struct rng_key){.seed = 1, .purpose = RNG_TEST});

    for (int64_t i = 0; i < n_images; i++) {
        double ratio = rng_uniform(&rng) < 0.5 ? 0.0 : rng_range(&rng, 0.1, 0.5);
        for (int64_t j = 0; j < cells; j++)
            masks[i * cells + j] = rng_uniform(&rng) < ratio;
    }
}

/* A random block, and copies of it. */
static void fill_bytes(uint8_t *bytes, size_t n, uint32_t seed)
{
    struct rng rng = rng_open((struct rng_key){.seed = seed, .purpose = RNG_TEST});
    size_t filled = n < 1 << 20 ? n : 1 << 20;

    for (size_t i = 0; i < filled; i++)
        bytes[i] = (uint8_t)rng_u32(&rng);
    for (size_t more; filled < n; filled += more) {
        more = filled < n - filled ? filled : n - filled;
        memcpy(bytes + filled, bytes, more);
    }
}

static enum status make_input(struct bench *bench)
{
    const struct ibot_options *o = &bench->model;
    struct device *device = &bench->device;
    struct input *in = &bench->input;
    int64_t globals = (int64_t)o->n_global * o->batch_size;
    int64_t locals = (int64_t)o->n_local * o->batch_size;
    int64_t side = o->global_size_px, small = o->local_size_px;
    int64_t grid = backbone_grid(&o->backbone, o->global_size_px);

    in->global_bytes = (size_t)(globals * side * side * 3);
    in->local_bytes = (size_t)(locals * small * small * 3);
    TRY(device->alloc_host(device, (void **)&in->globals, in->global_bytes, "global crops"));
    TRY(device->alloc_host(device, (void **)&in->locals, in->local_bytes, "local crops"));
    TRY(memory_alloc(&in->masks, (size_t)(globals * grid * grid), 1, "masks"));
    fill_bytes(in->globals, in->global_bytes, 2);
    fill_bytes(in->locals, in->local_bytes, 3);
    fill_masks(in->masks, globals, grid * grid);
    in->input = (struct ibot_input){
        .globals = {in->globals, DTYPE_U8, 4, {globals, side, side, 3}},
        .masks = in->masks,
        .keep_seed = 3,
    };
    if (locals > 0)
        in->input.locals = (struct tensor){in->locals, DTYPE_U8, 4, {locals, small, small, 3}};
    if (device->kind == DEVICE_CPU)
        return STATUS_OK;
    for (int place = 0; place < (bench->options->upload ? 2 : 1); place++) {
        uint8_t **to = in->on_device[place];
        TRY(device->alloc(device, (void **)&to[0], in->global_bytes, "global crops"));
        TRY(device->alloc(device, (void **)&to[1], in->local_bytes, "local crops"));
        TRY(device->copy_in(device, to[0], in->globals, in->global_bytes));
        TRY(device->copy_in(device, to[1], in->locals, in->local_bytes));
    }
    in->input.globals.data = in->on_device[0][0];
    if (locals > 0)
        in->input.locals.data = in->on_device[0][1];
    return device->synchronize(device);
}

static void release_input(struct bench *bench)
{
    struct device *device = &bench->device;
    struct input *in = &bench->input;

    for (int i = 0; i < 4 && device->kind != DEVICE_CPU; i++)
        device->free(device, in->on_device[i / 2][i % 2]);
    device->free_host(device, in->globals);
    device->free_host(device, in->locals);
    memory_free(in->masks);
    memset(in, 0, sizeof(*in));
}

/* The crops of the next step into the place that this one does not read, beside it. */
static enum status begin_upload(struct bench *bench, int32_t step)
{
    struct device *device = &bench->device;
    struct input *in = &bench->input;
    uint8_t **to = in->on_device[(step + 1) % 2];

    TRY(device->upload_begin(device));
    TRY(device->upload(device, to[0], in->globals, in->global_bytes));
    return device->upload(device, to[1], in->locals, in->local_bytes);
}

/* ------------------------------------------------------------------------------ step */

static enum status queue_step(struct bench *bench, int32_t step)
{
    struct step_control control = {
        .lr = 1e-4f,
        .weight_decay = 0.04f,
        .teacher_momentum = 0.996f,
        .student_temp = 0.1f,
        .teacher_temp = 0.04f,
        .teacher_patch_temp = 0.04f,
        .centre_momentum = 0.9f,
        .centre_patch_momentum = 0.9f,
        .clip_grad = 3.0f,
        .step = step,
        .last_layer_step = step,
    };
    struct ibot_input *input = &bench->input.input;
    bool upload = bench->options->upload && bench->device.kind != DEVICE_CPU;

    input->step = step;
    if (upload) {
        input->globals.data = bench->input.on_device[step % 2][0];
        if (bench->model.n_local > 0)
            input->locals.data = bench->input.on_device[step % 2][1];
        TRY(begin_upload(bench, step));
    }
    TRY(ibot_zero_gradients(bench->ibot));
    TRY(ibot_accumulate(bench->ibot, input, &control));
    TRY(ibot_update(bench->ibot));
    return upload ? bench->device.upload_end(&bench->device) : STATUS_OK;
}

static enum status open_model(struct bench *bench, const struct op_table *ops, bool record)
{
    struct ibot_options options = bench->model;

    options.record_steps = options.record_steps && record;
    options.weights_apart = options.weights_apart && record;
    bench->device = bench->backend->device;
    waits.device = &bench->backend->device;
    bench->device.wait_mark = timed_wait_mark;
    bench->device.synchronize = timed_synchronize;
    if (!record) {
        bench->device.fork = bench->device.join = no_fork;
        bench->device.use_branch = stay_on_branch;
    }
    collective_open_alone(&bench->collective);
    TRY(ibot_open(&bench->ibot, &bench->device, ops, &bench->collective, &options));
    TRY(ibot_initialise(bench->ibot, 0));
    return make_input(bench);
}

static void close_model(struct bench *bench)
{
    ibot_close(&bench->ibot);
    if (bench->device.free_host != NULL)
        release_input(bench);
    device_timer_close(&bench->timer);
}

/* ------------------------------------------------------------------------------ timed steps */

/* Marks 2k and 2k+1: begin and end of timed step k. */
static enum status read_times(struct bench *bench, struct step_run *run, const double *host)
{
    int32_t n = bench->options->steps;
    enum status status = STATUS_OK;
    double *steps = NULL, *gaps = NULL, *asked = NULL, previous_gap = 0.0;

    TRY_OUT(memory_alloc(&steps, (size_t)n, sizeof(double), "times"));
    TRY_OUT(memory_alloc(&gaps, (size_t)n, sizeof(double), "times"));
    TRY_OUT(memory_alloc(&asked, (size_t)n, sizeof(double), "times"));
    for (int32_t k = 0; k < n; k++) {
        TRY_OUT(device_timer_seconds(bench->timer, 2 * k, 2 * k + 1, &steps[k]));
        if (k > 0)
            TRY_OUT(device_timer_seconds(bench->timer, 2 * k - 1, 2 * k, &previous_gap));
        steps[k] += previous_gap;
        gaps[k] = previous_gap;
        asked[k] = host[k];
    }
    run->step = samples_quartiles(steps, n);
    run->gap = samples_quartiles(gaps, n);
    run->host = samples_quartiles(asked, n);
out:
    memory_free(steps);
    memory_free(gaps);
    memory_free(asked);
    return status;
}

static enum status time_steps(struct bench *bench, struct step_run *run)
{
    const struct step_bench_options *o = bench->options;
    struct ibot_result result;
    enum status status = STATUS_OK;
    double *host;
    bool idle;

    TRY(memory_alloc(&host, (size_t)o->steps, sizeof(double), "times"));
    TRY_OUT(device_timer_open(&bench->timer, &bench->device, 2 * o->steps));
    for (int32_t step = 0; step < o->warmup; step++)
        TRY_OUT(queue_step(bench, step));
    TRY_OUT(bench->device.synchronize(&bench->device));
    for (int32_t k = 0; k < o->steps; k++) {
        int64_t start = clock_monotonic_ns();
        waits.ns = 0;
        TRY_OUT(device_timer_mark(bench->timer, 2 * k));
        TRY_OUT(queue_step(bench, o->warmup + k));
        TRY_OUT(device_timer_mark(bench->timer, 2 * k + 1));
        host[k] = 1e-9 * (double)(clock_monotonic_ns() - start - waits.ns);
        if (k == 0)
            continue;
        TRY_OUT(device_timer_passed(bench->timer, 2 * k - 1, &idle));
        run->n_late += idle;
    }
    TRY_OUT(ibot_result(bench->ibot, &result));
    run->loss = result.loss;
    run->n_masked = result.n_masked;
    TRY_OUT(read_times(bench, run, host));
    TRY_OUT(device_memory_used(&bench->device, &run->memory_bytes));
    run->planned_bytes = ibot_device_bytes(bench->ibot);
out:
    memory_free(host);
    return status;
}

/* ------------------------------------------------------------------------------ profile */

/* Steps call by call. The first shows how long the host takes to queue one; before each of the
 * others the device is kept busy for that long, so that no op waits for the host. */
static enum status profile_steps(struct bench *bench, struct step_run *run)
{
    struct hold hold = {0};
    double queueing = 0.0, seconds;
    enum status status = STATUS_OK;
    int last = 2 * STEP_PROFILE_CALLS; /* marks of the whole step */

    if (bench->backend->accelerator)
        TRY_OUT(hold_open(&hold, bench->backend, bench->ceilings));
    for (int32_t step = 0; step <= bench->options->profile_steps; step++) {
        if (step == 1)
            step_profile_reset();
        if (bench->backend->accelerator)
            TRY_OUT(hold_queue(&hold, bench->backend, 1.3 * queueing));
        int64_t start = clock_monotonic_ns();
        TRY_OUT(device_timer_mark(bench->timer, last));
        TRY_OUT(queue_step(bench, step));
        TRY_OUT(device_timer_mark(bench->timer, last + 1));
        queueing = fmax(queueing, 1e-9 * (double)(clock_monotonic_ns() - start));
        TRY_OUT(bench->device.synchronize(&bench->device));
        TRY_OUT(step_profile_collect());
        TRY_OUT(device_timer_seconds(bench->timer, last, last + 1, &seconds));
        run->profiled_seconds += step > 0 ? seconds : 0.0;
    }
    run->n_profiled = bench->options->profile_steps;
    run->rows = step_profile_rows();
out:
    hold_close(&hold, bench->backend);
    return status;
}

static enum status profile(struct bench *bench, struct step_run *run)
{
    enum status status = STATUS_OK;
    struct op_table table;

    TRY_OUT(device_timer_open(&bench->timer, &bench->backend->device, 2 * STEP_PROFILE_CALLS + 2));
    table = step_profile_open(bench->backend->ops, bench->timer);
    TRY_OUT(open_model(bench, &table, false));
    TRY_OUT(profile_steps(bench, run));
out:
    close_model(bench);
    return status;
}

/* ------------------------------------------------------------------------------ runs */

static enum status run_at(struct bench *bench, int32_t batch_size, struct step_run *run)
{
    enum status status = STATUS_OK;

    *run = (struct step_run){.batch_size = batch_size};
    bench->model = bench->options->model;
    bench->model.batch_size = batch_size;
    TRY_OUT(backbone_options_for(&bench->model.backbone, bench->options->arch));
    if (bench->model.backbone.n_stages == 0)
        bench->model.backbone.patch_size_px = bench->options->bench.patch_size_px;
    bench->model.backbone.window_size = bench->options->window_size;
    bench->model.backbone.drop_path = bench->options->drop_path;
    bench->model.backbone.image_size_px = bench->model.global_size_px;
    TRY_OUT(open_model(bench, bench->backend->ops, true));
    TRY_OUT(time_steps(bench, run));
    run->work = step_work_of(&bench->model, run->n_masked);
out:
    close_model(bench);
    if (status == STATUS_OK && bench->options->profile_steps > 0)
        status = profile(bench, run);
    if (status == STATUS_NO_MEMORY) { /* as a result */
        snprintf(run->error, sizeof(run->error), "%s", status_message());
        return STATUS_OK;
    }
    return status;
}

static double rate_of(const struct step_run *run)
{
    return run->error[0] != '\0' ? 0.0 : run->batch_size / run->step.median;
}

static enum status run_all(struct bench *bench)
{
    const struct step_bench_options *o = bench->options;
    struct step_report report;
    struct step_run run;
    double before = 0.0;
    int32_t next = 0;

    step_report_begin(&report, o, bench->backend, bench->ceilings);
    for (int32_t i = 0; i < o->n_batches; i++) {
        before = i > 0 ? rate_of(&run) : 0.0;
        TRY(run_at(bench, o->batches[i], &run));
        step_report_run(&report, &run);
        next = 2 * o->batches[i];
    }
    while (o->best_batch && rate_of(&run) > growth * before) {
        before = rate_of(&run);
        TRY(run_at(bench, next, &run));
        step_report_run(&report, &run);
        next *= 2;
    }
    step_report_end(&report);
    return report.n_good > 0 ? STATUS_OK : STATUS_NO_MEMORY;
}

int main(int argc, char **argv)
{
    struct step_bench_options options;
    struct bench_backend backend = {0};
    struct ceilings ceilings = {0};
    struct bench bench = {.options = &options, .backend = &backend, .ceilings = &ceilings};

    step_bench_options_parse(&options, argc, argv);
    enum dtype dtype = options.model.precision == PRECISION_BF16 ? DTYPE_BF16 : DTYPE_F32;
    enum status status = bench_backend_open(&backend, &options.bench.backend);
    if (status == STATUS_OK && !backend.accelerator && dtype != DTYPE_F32)
        status = status_set(STATUS_UNSUPPORTED, "--precision bf16: the CPU has f32 alone");
    if (status == STATUS_OK && (options.ceilings || backend.accelerator))
        status = ceilings_measure(&ceilings, &backend, dtype);
    if (status == STATUS_OK)
        status = run_all(&bench);
    if (status != STATUS_OK)
        fprintf(stderr, "step_bench: %s\n", status_message());
    bench_backend_close(&backend);
    return status_exit_code(status);
}
