/* Threads that take slices by turns. */
#include "loader/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "loader/turns.h"
#include "loader/view.h"
#include "proto/base/clock.h"
#include "proto/base/memory.h"

struct worker {
    struct pool *pool;
    pthread_t thread;
    struct view_maker maker; /* worker thread only */
    bool started;
    /* Written by the worker once in a slice, read by anybody. */
    atomic_int_least64_t n_slices, n_images, n_repaired, n_bad[BAD_IMAGE_KINDS];
    atomic_int_least64_t busy_ns, stage_ns[VIEW_STAGES];
    atomic_int_least64_t begin_ns; /* of the slice under way; 0: none is */
};

struct pool {
    struct turns *turns;
    struct worker *workers;
    struct pool_options options; /* immutable after open */
    atomic_bool stopping;
};

/* The sample that is being made. */
struct making {
    struct slice_job *job;
    int32_t number; /* in the slice */
};

static void note_bad_image(void *context, enum bad_image_kind kind, uint32_t index,
                           const char *path, const char *reason)
{
    const struct making *making = context;
    struct slice_job *job = making->job;

    if (memory_grow(&job->bad_images, &job->bad_capacity, job->n_bad_images + 1,
                    sizeof(*job->bad_images), "bad images") != STATUS_OK)
        return;
    struct bad_image *bad = &job->bad_images[job->n_bad_images++];
    bad->epoch = job->epoch;
    bad->index = index;
    bad->sample = making->number;
    bad->kind = kind;
    snprintf(bad->path, sizeof(bad->path), "%s", path);
    snprintf(bad->reason, sizeof(bad->reason), "%s", reason);
}

/* Sample i of the slice comes soon, if there is one. */
static void fetch(struct worker *worker, const struct slice_job *job, int32_t i)
{
    if (i < job->n_samples)
        view_fetch(&worker->maker, job->spec, job->epoch,
                   job->first_position + (uint64_t)i * job->stride);
}

static void make_slice(struct worker *worker, struct slice_job *job)
{
    size_t record = data_spec_record_bytes(job->spec);

    job->status = memory_alloc_unset(&job->payload, (size_t)job->n_samples, record, "slice");
    for (int32_t i = 0; i < VIEW_AHEAD && i < job->n_samples; i++)
        fetch(worker, job, i);
    for (int32_t i = 0; i < job->n_samples && job->status == STATUS_OK; i++) {
        if (atomic_load_explicit(&worker->pool->stopping, memory_order_relaxed)) {
            job->status = status_set(STATUS_CLOSED, "the loader is stopping");
            break;
        }
        struct making making = {job, i};
        job->status = view_make(
            &worker->maker, job->spec, job->epoch, job->first_position + (uint64_t)i * job->stride,
            job->payload + (size_t)i * record, &job->samples[i], note_bad_image, &making);
        fetch(worker, job, i + VIEW_AHEAD);
    }
    view_fetch_end(&worker->maker);
    if (job->status != STATUS_OK)
        snprintf(job->reason, sizeof(job->reason), "%s", status_message());
}

/* Only this worker writes: no need for more than plain stores. */
static void count(atomic_int_least64_t *counter, int64_t more)
{
    int64_t now = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, now + more, memory_order_relaxed);
}

static void publish(struct worker *worker, const struct slice_job *job, int64_t spent_ns)
{
    if (job->status == STATUS_OK) {
        count(&worker->n_slices, 1);
        count(&worker->n_images, job->n_samples);
        for (int32_t i = 0; i < job->n_samples; i++)
            count(&worker->n_repaired, job->samples[i].n_repaired > 0);
    }
    for (size_t i = 0; i < job->n_bad_images; i++)
        count(&worker->n_bad[job->bad_images[i].kind], 1);
    count(&worker->busy_ns, spent_ns);
    for (int i = 0; i < VIEW_STAGES; i++)
        atomic_store_explicit(&worker->stage_ns[i], worker->maker.stage_ns[i],
                              memory_order_relaxed);
    atomic_store_explicit(&worker->begin_ns, 0, memory_order_relaxed);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    struct turn turn;

    pthread_setname_np(pthread_self(), "worker");
    while (turns_pop(pool->turns, &turn) == STATUS_OK) {
        int64_t begin_ns = clock_monotonic_ns();
        atomic_store_explicit(&worker->begin_ns, begin_ns, memory_order_relaxed);
        make_slice(worker, turn.item);
        int64_t spent_ns = clock_monotonic_ns() - begin_ns;
        turns_spent(pool->turns, &turn, spent_ns);
        publish(worker, turn.item, spent_ns);
        pool->options.done(pool->options.context, turn.item);
    }
    return NULL;
}

enum status pool_open(struct pool **out, const struct pool_options *options)
{
    size_t n_threads = (size_t)options->n_threads;
    struct pool *pool = NULL;
    enum status status;

    TRY(memory_alloc(&pool, 1, sizeof(*pool), "worker pool"));
    pool->options = *options;
    TRY_OUT(turns_open(&pool->turns, options->n_consumers, (size_t)options->capacity));
    TRY_OUT(memory_alloc(&pool->workers, n_threads, sizeof(*pool->workers), "workers"));
    for (size_t i = 0; i < n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        TRY_OUT(view_maker_open(&worker->maker, options->index, options->order));
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
            FAIL_OUT(STATUS_NO_MEMORY, "cannot start worker thread %zu of %zu", i + 1, n_threads);
        worker->started = true;
    }
out:
    if (status == STATUS_OK)
        *out = pool;
    else
        pool_close(&pool);
    return status;
}

static void give_up(struct pool *pool, struct slice_job *job)
{
    job->status = STATUS_CLOSED;
    snprintf(job->reason, sizeof(job->reason), "the loader is stopping");
    pool->options.done(pool->options.context, job);
}

void pool_submit(struct pool *pool, struct slice_job *job)
{
    if (turns_push(pool->turns, job->consumer, job, job->n_samples) != STATUS_OK)
        give_up(pool, job);
}

void pool_stats(struct pool *pool, struct pool_stats *out)
{
    *out = (struct pool_stats){.n_threads = pool->options.n_threads};
    for (int i = 0; i < pool->options.n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        int64_t begin_ns = atomic_load_explicit(&worker->begin_ns, memory_order_relaxed);
        out->n_slices += (uint64_t)atomic_load_explicit(&worker->n_slices, memory_order_relaxed);
        out->n_images += (uint64_t)atomic_load_explicit(&worker->n_images, memory_order_relaxed);
        out->n_repaired +=
            (uint64_t)atomic_load_explicit(&worker->n_repaired, memory_order_relaxed);
        for (int j = 0; j < BAD_IMAGE_KINDS; j++)
            out->n_bad[j] +=
                (uint64_t)atomic_load_explicit(&worker->n_bad[j], memory_order_relaxed);
        out->busy_ns += atomic_load_explicit(&worker->busy_ns, memory_order_relaxed);
        for (int j = 0; j < VIEW_STAGES; j++)
            out->stage_ns[j] += atomic_load_explicit(&worker->stage_ns[j], memory_order_relaxed);
        out->n_busy += begin_ns != 0;
        if (begin_ns != 0 && (out->oldest_ns == 0 || begin_ns < out->oldest_ns))
            out->oldest_ns = begin_ns;
    }
}

void pool_close(struct pool **pointer)
{
    struct pool *pool = pointer != NULL ? *pointer : NULL;
    void *job;

    if (pool == NULL)
        return;
    atomic_store(&pool->stopping, true);
    if (pool->turns != NULL)
        turns_shut(pool->turns);
    for (int i = 0; pool->workers != NULL && i < pool->options.n_threads; i++) {
        if (pool->workers[i].started)
            pthread_join(pool->workers[i].thread, NULL);
        view_maker_close(&pool->workers[i].maker);
    }
    while (pool->turns != NULL && turns_left(pool->turns, &job))
        give_up(pool, job);
    memory_free(pool->workers);
    turns_close(&pool->turns);
    memory_free(pool);
    *pointer = NULL;
}
