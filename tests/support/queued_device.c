/* Queues of calls, and the calls themselves. */
#include "tests/support/queued_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/half_float.h"
#include "proto/base/memory.h"

enum { MAX_TENSORS = 16, MAX_PINNED = 256, MAX_UPLOADS = 64, ALIGNMENT = 16 };

struct queued;

/* Followed by `bytes` of arguments. */
struct command {
    enum status (*run)(struct queued *, void *args);
    size_t bytes;
    int64_t number; /* in the order of the queue */
};

struct queue {
    char *memory;
    size_t used, capacity;
};

struct device_graph {
    struct queue queue;
};

struct copy {
    void *to;
    const void *from;
    size_t bytes;
};

struct queued {
    struct device cpu;
    struct queue main, side, *open; /* open: where branch 0 writes, `main` or a graph's */
    struct queue late;              /* branch 2: as late as whoever waits for it allows */
    struct place {
        int branch;
        int64_t number;
    } places[DEVICE_PLACES];
    struct device_graph *recording;
    int branch;
    int64_t n_queued, marks[DEVICE_MARKS], n_waits, n_drains, n_launches;
    struct copy pinned[MAX_PINNED]; /* to, bytes */
    struct copy uploads[MAX_UPLOADS];
    int n_pinned, n_uploads;
    bool uploading;
};

static struct queued *of(const struct device *device)
{
    return device->state;
}

/* ------------------------------------------------------------------------------ queues */

static size_t padded(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static enum status append(struct queue *queue, const void *bytes, size_t n)
{
    TRY(memory_grow(&queue->memory, &queue->capacity, queue->used + padded(n), 1, "queue"));
    memcpy(queue->memory + queue->used, bytes, n);
    queue->used += padded(n);
    return STATUS_OK;
}

static enum status push(struct queued *q, enum status (*run)(struct queued *, void *),
                        const void *args, size_t bytes)
{
    struct command command = {run, bytes, ++q->n_queued};
    struct queue *queue = q->branch == 1 ? &q->side : q->branch == 2 ? &q->late : q->open;

    TRY(append(queue, &command, sizeof(command)));
    return append(queue, args, bytes);
}

/* Runs commands up to a number; those that were not run stay. */
static enum status run_queue(struct queued *q, struct queue *queue, int64_t last, bool keep)
{
    enum status status = STATUS_OK;
    size_t at = 0;

    while (at < queue->used && status == STATUS_OK) {
        struct command *command = (struct command *)(void *)(queue->memory + at);
        if (command->number > last)
            break;
        size_t args = at + padded(sizeof(*command));
        at = args + padded(command->bytes);
        status = command->run(q, queue->memory + args);
    }
    if (keep)
        return status;
    if (at > 0)
        memmove(queue->memory, queue->memory + at, queue->used - at);
    queue->used -= at;
    return status;
}

static enum status wait_for(struct queued *q, int64_t last)
{
    if (q->recording != NULL)
        FAIL(STATUS_DEVICE, "a wait in a step that is recorded");
    bool queued = q->main.used > 0;
    q->n_waits++;
    enum status status = run_queue(q, &q->main, last, false);
    q->n_drains += queued && q->main.used == 0;
    return status;
}

static enum status synchronize(struct device *device)
{
    struct queued *q = of(device);
    CHECK(q->side.used == 0, "a wait between fork and join");
    CHECK(q->late.used == 0, "a wait before branch 0 has waited for branch 2");
    return wait_for(q, q->n_queued);
}

int64_t queued_device_waits(const struct device *device)
{
    return of(device)->n_waits;
}

int64_t queued_device_drains(const struct device *device)
{
    return of(device)->n_drains;
}

int64_t queued_device_launches(const struct device *device)
{
    return of(device)->n_launches;
}

/* ------------------------------------------------------------------------------ memory */

/* Some, so that what is planned by it can be tested: IBOT_QUEUED_MEMORY bytes, or 64 MiB. */
static enum status memory(struct device *device, size_t *free_bytes, size_t *total_bytes)
{
    const char *given = getenv("IBOT_QUEUED_MEMORY");

    (void)device;
    *free_bytes = *total_bytes = given != NULL ? strtoull(given, NULL, 10) : (size_t)64 << 20;
    return STATUS_OK;
}

static enum status alloc(struct device *device, void **out, size_t bytes, const char *what)
{
    return of(device)->cpu.alloc(&of(device)->cpu, out, bytes, what);
}

static void free_memory(struct device *device, void *pointer)
{
    struct queued *q = of(device);

    if (q->recording == NULL)
        (void)!synchronize(device); /* who failed has said so, or will at the next wait */
    q->cpu.free(&q->cpu, pointer);
}

static enum status alloc_host(struct device *device, void **out, size_t bytes, const char *what)
{
    struct queued *q = of(device);

    CHECK(q->n_pinned < MAX_PINNED);
    TRY(alloc(device, out, bytes, what));
    q->pinned[q->n_pinned++] = (struct copy){.to = *out, .bytes = bytes};
    return STATUS_OK;
}

static void free_host(struct device *device, void *pointer)
{
    struct queued *q = of(device);

    for (int i = 0; i < q->n_pinned && pointer != NULL; i++)
        if (q->pinned[i].to == pointer)
            q->pinned[i--] = q->pinned[--q->n_pinned];
    free_memory(device, pointer);
}

static bool is_pinned(const struct queued *q, const void *pointer)
{
    const char *at = pointer;

    for (int i = 0; i < q->n_pinned; i++) {
        const char *base = q->pinned[i].to;
        if (at >= base && at < base + q->pinned[i].bytes)
            return true;
    }
    return false;
}

static enum status run_copy(struct queued *q, void *args)
{
    const struct copy *copy = args;

    (void)q;
    memcpy(copy->to, copy->from, copy->bytes);
    return STATUS_OK;
}

static enum status run_zero(struct queued *q, void *args)
{
    const struct copy *copy = args;

    (void)q;
    memset(copy->to, 0, copy->bytes);
    return STATUS_OK;
}

static enum status run_spoil(struct queued *q, void *args)
{
    const struct copy *copy = args;

    (void)q;
    memset(copy->to, 0xa5, copy->bytes);
    return STATUS_OK;
}

static enum status copy_on_device(struct device *device, void *to, const void *from, size_t bytes)
{
    struct copy copy = {to, from, bytes};
    return bytes > 0 ? push(of(device), run_copy, &copy, sizeof(copy)) : STATUS_OK;
}

/* From and to pinned memory later; else when all before it is done, at once. */
static enum status copy_host(struct device *device, void *to, const void *from, size_t bytes,
                             const void *host)
{
    struct queued *q = of(device);

    if (bytes == 0)
        return STATUS_OK;
    if (is_pinned(q, host))
        return copy_on_device(device, to, from, bytes);
    if (q->recording != NULL)
        FAIL(STATUS_DEVICE, "a copy of memory that is not pinned in a step that is recorded");
    TRY(synchronize(device));
    memcpy(to, from, bytes);
    return STATUS_OK;
}

static enum status copy_in(struct device *device, void *to, const void *from, size_t bytes)
{
    return copy_host(device, to, from, bytes, from);
}

static enum status copy_out(struct device *device, void *to, const void *from, size_t bytes)
{
    return copy_host(device, to, from, bytes, to);
}

static enum status zero(struct device *device, void *pointer, size_t bytes)
{
    struct copy copy = {.to = pointer, .bytes = bytes};
    return bytes > 0 ? push(of(device), run_zero, &copy, sizeof(copy)) : STATUS_OK;
}

/* ------------------------------------------------------------------------------ order */

static enum status upload_begin(struct device *device)
{
    struct queued *q = of(device);

    CHECK(!q->uploading && q->branch == 0 && q->recording == NULL);
    q->uploading = true;
    return STATUS_OK;
}

static enum status upload(struct device *device, void *to, const void *from, size_t bytes)
{
    struct queued *q = of(device);
    struct copy copy = {to, from, bytes};

    CHECK(q->uploading && q->n_uploads < MAX_UPLOADS);
    if (bytes == 0)
        return STATUS_OK;
    TRY(push(q, run_spoil, &copy, sizeof(copy)));
    q->uploads[q->n_uploads++] = copy;
    return STATUS_OK;
}

static enum status upload_end(struct device *device)
{
    struct queued *q = of(device);

    CHECK(q->uploading && q->branch == 0 && q->recording == NULL);
    for (int i = 0; i < q->n_uploads; i++)
        TRY(push(q, run_copy, &q->uploads[i], sizeof(q->uploads[i])));
    q->n_uploads = 0;
    q->uploading = false;
    return STATUS_OK;
}

static enum status fork_branch(struct device *device)
{
    CHECK(of(device)->branch == 0);
    return STATUS_OK;
}

static void use_branch(struct device *device, int branch)
{
    CHECK(branch >= 0 && branch < DEVICE_BRANCHES);
    of(device)->branch = branch;
}

/* What branch 1 was given runs now, after all of branch 0. */
static enum status join(struct device *device)
{
    struct queued *q = of(device);

    q->branch = 0;
    for (size_t at = 0; at < q->side.used;) {
        struct command *command = (struct command *)(void *)(q->side.memory + at);
        char *args = q->side.memory + at + padded(sizeof(*command));
        at += padded(sizeof(*command)) + padded(command->bytes);
        TRY(push(q, command->run, args, command->bytes));
    }
    q->side.used = 0;
    return STATUS_OK;
}

static enum status place(struct device *device, int which)
{
    struct queued *q = of(device);

    CHECK(which >= 0 && which < DEVICE_PLACES);
    q->places[which] = (struct place){q->branch, q->n_queued};
    return STATUS_OK;
}

/* Branch 2, up to the place, comes after all that branch 0 was given so far, whoever waits for it.
 * A place of another branch: what is there runs before anyway. */
static enum status after(struct device *device, int which)
{
    struct queued *q = of(device);
    int branch = q->branch;
    size_t at = 0;

    CHECK(which >= 0 && which < DEVICE_PLACES && q->places[which].branch != 1);
    if (q->places[which].branch != 2 || branch == 2)
        return STATUS_OK;
    q->branch = 0;
    while (at < q->late.used) {
        struct command *command = (struct command *)(void *)(q->late.memory + at);
        if (command->number > q->places[which].number)
            break;
        char *args = q->late.memory + at + padded(sizeof(*command));
        at += padded(sizeof(*command)) + padded(command->bytes);
        TRY(push(q, command->run, args, command->bytes));
    }
    if (at > 0)
        memmove(q->late.memory, q->late.memory + at, q->late.used - at);
    q->late.used -= at;
    q->branch = branch;
    return STATUS_OK;
}

static enum status mark(struct device *device, int which)
{
    struct queued *q = of(device);

    CHECK(which >= 0 && which < DEVICE_MARKS && q->recording == NULL && q->branch == 0);
    q->marks[which] = q->n_queued;
    return STATUS_OK;
}

static enum status wait_mark(struct device *device, int which)
{
    CHECK(which >= 0 && which < DEVICE_MARKS);
    return wait_for(of(device), of(device)->marks[which]);
}

/* ------------------------------------------------------------------------------ graphs */

static enum status capture_begin(struct device *device)
{
    struct queued *q = of(device);

    CHECK(q->recording == NULL && q->branch == 0);
    TRY(memory_alloc(&q->recording, 1, sizeof(*q->recording), "graph"));
    q->open = &q->recording->queue;
    return STATUS_OK;
}

static void release_graph(struct device_graph *graph)
{
    memory_free(graph->queue.memory);
    memory_free(graph);
}

static enum status capture_end(struct device *device, struct device_graph **out)
{
    struct queued *q = of(device);

    *out = q->recording;
    q->recording = NULL;
    q->open = &q->main;
    q->branch = 0;
    if (q->side.used > 0 || q->late.used > 0) {
        q->side.used = q->late.used = 0;
        release_graph(*out);
        FAIL(STATUS_DEVICE, "a step was recorded whose branch was never joined");
    }
    return STATUS_OK;
}

static enum status run_graph(struct queued *q, void *args)
{
    struct device_graph *graph = *(struct device_graph **)args;
    return run_queue(q, &graph->queue, INT64_MAX, true);
}

static enum status graph_launch(struct device *device, struct device_graph *graph)
{
    struct queued *q = of(device);

    q->n_launches++;
    return push(q, run_graph, &graph, sizeof(struct device_graph *));
}

static void graph_release(struct device *device, struct device_graph **graph)
{
    if (graph == NULL || *graph == NULL)
        return;
    (void)!synchronize(device);
    release_graph(*graph);
    *graph = NULL;
}

/* ------------------------------------------------------------------------------ life */

/* For tests of whole programs. */
static void report(const struct queued *q)
{
    const char *path = getenv("IBOT_QUEUED_REPORT");
    FILE *file = path != NULL ? fopen(path, "w") : NULL;

    if (file == NULL)
        return;
    fprintf(file, "%lld waits, %lld drains\n", (long long)q->n_waits, (long long)q->n_drains);
    fclose(file);
}

static void close_device(struct device *device)
{
    struct queued *q = of(device);

    if (q == NULL)
        return;
    report(q);
    (void)!synchronize(device);
    memory_free(q->main.memory);
    memory_free(q->side.memory);
    memory_free(q->late.memory);
    device_close(&q->cpu);
    memory_free(q);
}

enum status queued_device_open(struct device *out, int n_threads)
{
    struct queued *q;

    TRY(memory_alloc(&q, 1, sizeof(*q), "queued device"));
    q->open = &q->main;
    *out = (struct device){
        .kind = DEVICE_CUDA,
        .n_threads = n_threads,
        .state = q,
        .memory = memory,
        .alloc = alloc,
        .free = free_memory,
        .alloc_host = alloc_host,
        .free_host = free_host,
        .copy_in = copy_in,
        .copy_out = copy_out,
        .copy = copy_on_device,
        .zero = zero,
        .synchronize = synchronize,
        .upload_begin = upload_begin,
        .upload = upload,
        .upload_end = upload_end,
        .fork = fork_branch,
        .use_branch = use_branch,
        .join = join,
        .place = place,
        .after = after,
        .mark = mark,
        .wait_mark = wait_mark,
        .capture_begin = capture_begin,
        .capture_end = capture_end,
        .graph_launch = graph_launch,
        .graph_release = graph_release,
        .close = close_device,
    };
    enum status status = device_open_cpu(&q->cpu, n_threads);
    if (status != STATUS_OK)
        device_close(out);
    return status;
}

/* ------------------------------------------------------------------------------ ops */

/* A call of an op: where its arguments have tensors. Followed by the arguments. */
struct call {
    enum status (*run)(struct device *, const void *args);
    size_t first[2]; /* two runs of tensors, each from this byte on */
    int n[2];
    bool native; /* the CPU's op takes 16-bit floats itself */
};

struct widened {
    void *narrow;
    float *wide;
    enum dtype dtype;
    int64_t n;
};

static bool is_half(const struct tensor *t)
{
    return t->data != NULL && (t->dtype == DTYPE_BF16 || t->dtype == DTYPE_F16);
}

/* The tensor in float32; one copy for all tensors at one address. */
static enum status widen(struct tensor *t, struct widened *copies, int *n_copies)
{
    int64_t n = tensor_n_elements(t);
    uint16_t *bits = t->data;
    int i = 0;

    while (i < *n_copies && copies[i].narrow != t->data)
        i++;
    if (i == *n_copies) {
        struct widened *copy = &copies[(*n_copies)++];
        *copy = (struct widened){.narrow = t->data, .dtype = t->dtype, .n = n};
        TRY(memory_alloc(&copy->wide, (size_t)n + 1, sizeof(float), "widened values"));
        for (int64_t k = 0; k < n; k++)
            copy->wide[k] = t->dtype == DTYPE_BF16 ? half_float_from_bf16(bits[k])
                                                   : half_float_from_f16(bits[k]);
    }
    CHECK(copies[i].n == n && copies[i].dtype == t->dtype, "aliases of different shapes");
    t->data = copies[i].wide;
    t->dtype = DTYPE_F32;
    return STATUS_OK;
}

static void narrow(const struct widened *copy)
{
    uint16_t *bits = copy->narrow;

    for (int64_t k = 0; k < copy->n; k++)
        bits[k] = copy->dtype == DTYPE_BF16 ? half_float_to_bf16(copy->wide[k])
                                            : half_float_to_f16(copy->wide[k]);
}

static enum status run_call(struct queued *q, void *memory)
{
    struct call *call = memory;
    size_t args_bytes = 0;
    char *kept = (char *)memory + padded(sizeof(*call));
    struct widened copies[MAX_TENSORS];
    enum status status = STATUS_OK;
    int n_copies = 0;
    char args[2048];

    memcpy(&args_bytes, kept, sizeof(args_bytes));
    kept += ALIGNMENT;
    CHECK(args_bytes <= sizeof(args));
    memcpy(args, kept, args_bytes); /* a graph's arguments stay as they are */
    for (int r = 0; r < 2 && !call->native; r++)
        for (int i = 0; i < call->n[r]; i++) {
            struct tensor *t = (struct tensor *)(void *)(args + call->first[r]) + i;
            if (is_half(t))
                TRY_OUT(widen(t, copies, &n_copies));
        }
    TRY_OUT(call->run(&q->cpu, args));
    for (int i = 0; i < n_copies; i++)
        narrow(&copies[i]);
out:
    for (int i = 0; i < n_copies; i++)
        memory_free(copies[i].wide);
    return status;
}

static enum status push_call(struct device *device, const struct call *call, const void *args,
                             size_t bytes)
{
    char memory[4096] = {0};
    size_t at = padded(sizeof(*call));

    CHECK(at + ALIGNMENT + bytes <= sizeof(memory));
    memcpy(memory, call, sizeof(*call));
    memcpy(memory + at, &bytes, sizeof(bytes));
    memcpy(memory + at + ALIGNMENT, args, bytes);
    return push(of(device), run_call, memory, at + ALIGNMENT + bytes);
}

#define QUEUED(name, args_type, n_first, at_second, n_second, is_native)                           \
    QUEUED_AS(name, name, args_type, n_first, at_second, n_second, is_native)
#define QUEUED_AS(name, op, args_type, n_first, at_second, n_second, is_native)                    \
    static enum status run_##name(struct device *cpu, const void *args)                            \
    {                                                                                              \
        return op_table_cpu.op(cpu, args);                                                         \
    }                                                                                              \
    static enum status name##_queued(struct device *device, const struct args_type *args)          \
    {                                                                                              \
        struct call call = {run_##name, {0, at_second}, {n_first, n_second}, is_native};           \
        return push_call(device, &call, args, sizeof(*args));                                      \
    }
/* The arguments begin with n tensors. */
#define TENSORS(name, args_type, n) QUEUED(name, args_type, n, 0, 0, false)
#define NATIVE(name, args_type)     QUEUED(name, args_type, 0, 0, 0, true)

TENSORS(patchify, patchify_args, 2)
TENSORS(tokens_forward, tokens_args, 6)
TENSORS(tokens_backward, tokens_backward_args, 6)
TENSORS(position_interpolate, position_interpolate_args, 2)
TENSORS(position_interpolate_backward, position_interpolate_backward_args, 2)
NATIVE(rows_gather, rows_gather_args)
NATIVE(rows_scatter, rows_scatter_args)
NATIVE(rows_add, rows_add_args)
NATIVE(cast, cast_args)
TENSORS(linear_forward, linear_args, 5)
TENSORS(linear_backward, linear_backward_args, 7)
TENSORS(activation_forward, activation_args, 2)
TENSORS(activation_backward, activation_backward_args, 3)
QUEUED_AS(residual_layernorm_of, residual_layernorm_forward, residual_layernorm_args, 10, 0, 0,
          false)
TENSORS(residual_layernorm_backward, residual_layernorm_backward_args, 12)
TENSORS(batchnorm_moments, batchnorm_moments_args, 2)
TENSORS(batchnorm_apply, batchnorm_apply_args, 10)
TENSORS(batchnorm_backward_moments, batchnorm_backward_moments_args, 7)
TENSORS(batchnorm_backward_apply, batchnorm_backward_apply_args, 7)
TENSORS(attention_forward, attention_args, 3)
TENSORS(attention_backward, attention_backward_args, 5)
TENSORS(attention_map, attention_map_args, 2)
TENSORS(unit_norm_forward, unit_norm_args, 3)
TENSORS(unit_norm_backward, unit_norm_backward_args, 4)
TENSORS(weight_norm_forward, weight_norm_args, 4)
TENSORS(weight_norm_backward, weight_norm_backward_args, 6)
QUEUED(distill_loss, distill_loss_args, 5, offsetof(struct distill_loss_args, loss), 4, false)
NATIVE(centre_update, centre_update_args)
NATIVE(gradient_norms, gradient_norms_args)
NATIVE(optimizer_step, optimizer_step_args)
TENSORS(rows_mean, rows_mean_args, 2)
TENSORS(rows_argmax, rows_argmax_args, 2)
NATIVE(topk, topk_args)
TENSORS(cross_entropy, cross_entropy_args, 5)
NATIVE(photometric, photometric_args)
TENSORS(region_mask, region_mask_args, 3)
TENSORS(region_mask_backward, region_mask_backward_args, 3)
TENSORS(patch_merge, patch_merge_args, 2)
TENSORS(patch_merge_backward, patch_merge_backward_args, 2)
TENSORS(region_mean, region_mean_args, 2)
TENSORS(region_mean_backward, region_mean_backward_args, 2)
TENSORS(window_attention_forward, window_attention_args, 5)
TENSORS(window_attention_backward, window_attention_backward_args, 9)

/* A norm is of the sum as it is stored: of one of 16 bits, after it was rounded. */
static enum status residual_layernorm_forward_queued(struct device *device,
                                                     const struct residual_layernorm_args *args)
{
    struct residual_layernorm_args sum = *args, norm = *args;
    struct tensor none = {0};

    if (!is_half(&args->sum) || args->y.data == NULL)
        return residual_layernorm_of_queued(device, args);
    sum.gamma = sum.beta = sum.y = sum.mean = sum.rstd = none;
    norm.x = args->sum;
    norm.branch = norm.scale = norm.sample = norm.sum = none;
    TRY(residual_layernorm_of_queued(device, &sum));
    return residual_layernorm_of_queued(device, &norm);
}

#define SLOT(name) .name = name##_queued

const struct op_table op_table_queued = {
    .name = "queued",
    SLOT(patchify),
    SLOT(tokens_forward),
    SLOT(tokens_backward),
    SLOT(position_interpolate),
    SLOT(position_interpolate_backward),
    SLOT(rows_gather),
    SLOT(rows_scatter),
    SLOT(rows_add),
    SLOT(cast),
    SLOT(linear_forward),
    SLOT(linear_backward),
    SLOT(activation_forward),
    SLOT(activation_backward),
    SLOT(residual_layernorm_forward),
    SLOT(residual_layernorm_backward),
    SLOT(batchnorm_moments),
    SLOT(batchnorm_apply),
    SLOT(batchnorm_backward_moments),
    SLOT(batchnorm_backward_apply),
    SLOT(attention_forward),
    SLOT(attention_backward),
    SLOT(attention_map),
    SLOT(unit_norm_forward),
    SLOT(unit_norm_backward),
    SLOT(weight_norm_forward),
    SLOT(weight_norm_backward),
    SLOT(distill_loss),
    SLOT(centre_update),
    SLOT(gradient_norms),
    SLOT(optimizer_step),
    SLOT(rows_mean),
    SLOT(rows_argmax),
    SLOT(topk),
    SLOT(cross_entropy),
    SLOT(photometric),
    SLOT(region_mask),
    SLOT(region_mask_backward),
    SLOT(patch_merge),
    SLOT(patch_merge_backward),
    SLOT(region_mean),
    SLOT(region_mean_backward),
    SLOT(window_attention_forward),
    SLOT(window_attention_backward),
};
