/* The device: memory, queues of calls, and when they run. */
#include "tests/support/queued_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

enum { MAX_PINNED = 256, MAX_UPLOADS = 64 };

/* Followed by `bytes` of arguments. */
struct command {
    queued_run *run;
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
    return (bytes + QUEUED_ALIGNMENT - 1) / QUEUED_ALIGNMENT * QUEUED_ALIGNMENT;
}

static enum status append(struct queue *queue, const void *bytes, size_t n)
{
    TRY(memory_grow(&queue->memory, &queue->capacity, queue->used + padded(n), 1, "queue"));
    memcpy(queue->memory + queue->used, bytes, n);
    queue->used += padded(n);
    return STATUS_OK;
}

static enum status push(struct queued *q, queued_run *run, const void *args, size_t bytes)
{
    struct command command = {run, bytes, ++q->n_queued};
    struct queue *queue = q->branch == 1 ? &q->side : q->branch == 2 ? &q->late : q->open;

    TRY(append(queue, &command, sizeof(command)));
    return append(queue, args, bytes);
}

/* Forgets the first bytes. */
static void drop(struct queue *queue, size_t bytes)
{
    if (bytes > 0)
        memmove(queue->memory, queue->memory + bytes, queue->used - bytes);
    queue->used -= bytes;
}

enum status queued_device_push(struct device *device, queued_run *run, const void *args,
                               size_t bytes)
{
    return push(of(device), run, args, bytes);
}

/* Runs commands up to a number; those that were not run stay. */
static enum status run_queue(struct device *cpu, struct queue *queue, int64_t last, bool keep)
{
    enum status status = STATUS_OK;
    size_t at = 0;

    while (at < queue->used && status == STATUS_OK) {
        struct command *command = (struct command *)(void *)(queue->memory + at);
        if (command->number > last)
            break;
        size_t args = at + padded(sizeof(*command));
        at = args + padded(command->bytes);
        status = command->run(cpu, queue->memory + args);
    }
    if (keep)
        return status;
    drop(queue, at);
    return status;
}

static enum status wait_for(struct queued *q, int64_t last)
{
    if (q->recording != NULL)
        FAIL(STATUS_DEVICE, "a wait in a step that is recorded");
    bool queued = q->main.used > 0;
    q->n_waits++;
    enum status status = run_queue(&q->cpu, &q->main, last, false);
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

static enum status run_copy(struct device *cpu, void *args)
{
    const struct copy *copy = args;

    (void)cpu;
    memcpy(copy->to, copy->from, copy->bytes);
    return STATUS_OK;
}

static enum status run_zero(struct device *cpu, void *args)
{
    const struct copy *copy = args;

    (void)cpu;
    memset(copy->to, 0, copy->bytes);
    return STATUS_OK;
}

static enum status run_spoil(struct device *cpu, void *args)
{
    const struct copy *copy = args;

    (void)cpu;
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

/* Gives branch 0 what waits in the queue of another branch, up to a number. */
static enum status hand_over(struct queued *q, struct queue *queue, int64_t last)
{
    size_t at = 0;

    q->branch = 0;
    while (at < queue->used) {
        struct command *command = (struct command *)(void *)(queue->memory + at);
        char *args = queue->memory + at + padded(sizeof(*command));
        if (command->number > last)
            break;
        at += padded(sizeof(*command)) + padded(command->bytes);
        TRY(push(q, command->run, args, command->bytes));
    }
    drop(queue, at);
    return STATUS_OK;
}

/* What branch 1 was given runs now, after all of branch 0. */
static enum status join(struct device *device)
{
    return hand_over(of(device), &of(device)->side, INT64_MAX);
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

    CHECK(which >= 0 && which < DEVICE_PLACES && q->places[which].branch != 1);
    if (q->places[which].branch != 2 || branch == 2)
        return STATUS_OK;
    TRY(hand_over(q, &q->late, q->places[which].number));
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

static enum status run_graph(struct device *cpu, void *args)
{
    struct device_graph *graph = *(struct device_graph **)args;
    return run_queue(cpu, &graph->queue, INT64_MAX, true);
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
