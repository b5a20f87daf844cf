/* Threads around a queue of slices. */
#include "loader/pool.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "loader/view.h"
#include "proto/base/memory.h"
#include "proto/base/queue.h"

struct worker {
    struct pool *pool;
    pthread_t thread;
    struct view_maker maker; /* worker thread only */
    bool started;
};

struct pool {
    struct queue *jobs;
    struct worker *workers;
    int n_threads; /* immutable after open, as the next two */
    void (*done)(void *context, struct slice_job *job);
    void *context;
};

static void note_bad_image(void *context, uint32_t sample, const char *path, const char *reason)
{
    struct slice_job *job = context;

    if (memory_grow(&job->bad_images, &job->bad_capacity, job->n_bad_images + 1,
                    sizeof(*job->bad_images), "bad images") != STATUS_OK)
        return;
    struct bad_image *bad = &job->bad_images[job->n_bad_images++];
    bad->epoch = job->epoch;
    bad->index = sample;
    snprintf(bad->path, sizeof(bad->path), "%s", path);
    snprintf(bad->reason, sizeof(bad->reason), "%s", reason);
}

static void make_slice(struct worker *worker, struct slice_job *job)
{
    size_t record = data_spec_record_bytes(job->spec);

    job->status = memory_alloc_unset(&job->payload, (size_t)job->n_samples, record, "slice");
    for (int32_t i = 0; i < job->n_samples && job->status == STATUS_OK; i++)
        job->status = view_make(
            &worker->maker, job->spec, job->epoch, job->first_position + (uint64_t)i * job->stride,
            job->payload + (size_t)i * record, &job->samples[i], note_bad_image, job);
    if (job->status != STATUS_OK)
        snprintf(job->reason, sizeof(job->reason), "%s", status_message());
    worker->pool->done(worker->pool->context, job);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    void *job;

    pthread_setname_np(pthread_self(), "worker");
    while (queue_pop(worker->pool->jobs, &job, INT64_MAX) == STATUS_OK)
        make_slice(worker, job);
    return NULL;
}

enum status pool_open(struct pool **out, const struct index *index, struct order *order,
                      int n_threads, int capacity, void (*done)(void *context, struct slice_job *),
                      void *context)
{
    struct pool *pool = NULL;
    enum status status;

    TRY(memory_alloc(&pool, 1, sizeof(*pool), "worker pool"));
    pool->done = done;
    pool->context = context;
    TRY_OUT(queue_open(&pool->jobs, (size_t)capacity));
    TRY_OUT(memory_alloc(&pool->workers, (size_t)n_threads, sizeof(*pool->workers), "workers"));
    pool->n_threads = n_threads;
    for (int i = 0; i < n_threads; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        TRY_OUT(view_maker_open(&worker->maker, index, order));
        if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
            FAIL_OUT(STATUS_NO_MEMORY, "cannot start worker thread %d of %d", i + 1, n_threads);
        worker->started = true;
    }
out:
    if (status == STATUS_OK)
        *out = pool;
    else
        pool_close(&pool);
    return status;
}

void pool_submit(struct pool *pool, struct slice_job *job)
{
    if (queue_push(pool->jobs, job, INT64_MAX) == STATUS_OK)
        return;
    job->status = STATUS_CLOSED;
    snprintf(job->reason, sizeof(job->reason), "the loader is stopping");
    pool->done(pool->context, job);
}

void pool_close(struct pool **pointer)
{
    struct pool *pool = pointer != NULL ? *pointer : NULL;

    if (pool == NULL)
        return;
    if (pool->jobs != NULL)
        queue_shut(pool->jobs);
    for (int i = 0; i < pool->n_threads; i++) {
        if (pool->workers[i].started)
            pthread_join(pool->workers[i].thread, NULL);
        view_maker_close(&pool->workers[i].maker);
    }
    memory_free(pool->workers);
    queue_close(&pool->jobs);
    memory_free(pool);
    *pointer = NULL;
}
