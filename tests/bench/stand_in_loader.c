#include "tests/bench/stand_in_loader.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proto/base/memory.h"
#include "proto/base/queue.h"

void bench_stop_on(enum status status)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, status_message());
    exit(1);
}

double bench_cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

struct loader {
    struct producer *producer;
    struct queue *jobs;
};

static void *work(void *argument)
{
    struct loader *loader = argument;
    void *item;

    while (queue_pop(loader->jobs, &item, INT64_MAX) == STATUS_OK) {
        struct slice_job *job = item;
        bench_stop_on(memory_alloc_unset(&job->payload, (size_t)job->n_samples,
                                         data_spec_record_bytes(job->spec), "slice"));
        for (int32_t i = 0; i < job->n_samples; i++)
            memset(job->payload + (size_t)i * data_spec_record_bytes(job->spec) +
                       data_spec_mask_offset(job->spec, 0),
                   0, (size_t)job->spec->n_global * data_spec_mask_bytes(job->spec));
        producer_submit(loader->producer, job);
    }
    return NULL;
}

static void take(void *context, struct slice_job *job)
{
    struct loader *loader = context;
    bench_stop_on(queue_push(loader->jobs, job, 0));
}

pid_t stand_in_loader_start(const char *endpoint, int32_t credit, const struct key_pair *keys,
                            const struct key *server_key)
{
    struct loader loader;
    pthread_t thread;
    atomic_int stop = 0;
    const struct producer_options options = {
        .endpoints = {endpoint},
        .n_endpoints = 1,
        .dataset = {.index_digest = 1, .n_samples = 1 << 20, .n_classes = 1},
        .credit = credit,
        .n_threads = 1,
        .keys = keys,
        .server_key = server_key,
    };
    pid_t child = fork();

    if (child != 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bench_stop_on(queue_open(&loader.jobs, (size_t)credit));
    bench_stop_on(producer_open(&loader.producer, &options, take, &loader));
    if (pthread_create(&thread, NULL, work, &loader) != 0)
        exit(1);
    bench_stop_on(producer_run(loader.producer, &stop, true));
    exit(0);
}
