/* What one consumer takes in over the wire: loaders that only allocate, hash and send, in processes
 * of their own, slices of 16 images of 2 x 224 + 10 x 96 pixels.
 *
 *   wire_bench [loaders [seconds [endpoint [slice size]]]] */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/base/queue.h"
#include "proto/wire/consumer.h"
#include "proto/wire/producer.h"

enum { MAX_LOADERS = 64, BATCH = 64, CREDIT = 4 };

struct loader {
    struct producer *producer;
    struct queue *jobs;
};

static void stop_on(enum status status)
{
    if (status == STATUS_OK)
        return;
    fprintf(stderr, "wire_bench: %s\n", status_message());
    exit(1);
}

static void *work(void *argument)
{
    struct loader *loader = argument;
    void *item;

    while (queue_pop(loader->jobs, &item, INT64_MAX) == STATUS_OK) {
        struct slice_job *job = item;
        stop_on(memory_alloc(&job->payload, (size_t)job->n_samples,
                             data_spec_record_bytes(job->spec), "slice"));
        producer_submit(loader->producer, job);
    }
    return NULL;
}

static void take(void *context, struct slice_job *job)
{
    struct loader *loader = context;
    stop_on(queue_push(loader->jobs, job, 0));
}

static void run_loader(const char *endpoint)
{
    struct loader loader;
    pthread_t thread;
    atomic_int stop = 0;
    const struct producer_options options = {
        .endpoints = {endpoint},
        .n_endpoints = 1,
        .dataset = {.index_digest = 1, .n_samples = 1 << 20, .n_classes = 1},
        .credit = CREDIT,
        .n_threads = 1,
    };

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    stop_on(queue_open(&loader.jobs, CREDIT));
    stop_on(producer_open(&loader.producer, &options, take, &loader));
    if (pthread_create(&thread, NULL, work, &loader) != 0)
        exit(1);
    stop_on(producer_run(loader.producer, &stop, true));
    exit(0);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

int main(int argc, char **argv)
{
    int n_loaders = argc > 1 ? atoi(argv[1]) : 2;
    double seconds = argc > 2 ? atof(argv[2]) : 5;
    char folder[] = "/tmp/ibot-bench-XXXXXX", endpoint[128];
    pid_t children[MAX_LOADERS];
    struct dataset_info dataset;
    struct consumer *consumer;
    struct consumer_options options = {.n_endpoints = 1,
                                       .spec = data_spec_default(),
                                       .batch_size = BATCH,
                                       .slice_size = argc > 4 ? atoi(argv[4]) : 16,
                                       .world = 1,
                                       .drop_last = true};

    if (n_loaders < 1 || n_loaders > MAX_LOADERS || mkdtemp(folder) == NULL)
        return 2;
    /* Loaders first: they wait for the consumer, and a process with threads should not fork. */
    snprintf(endpoint, sizeof(endpoint), "ipc://%s/socket", folder);
    options.endpoints[0] = argc > 3 ? argv[3] : endpoint;
    for (int i = 0; i < n_loaders; i++) {
        children[i] = fork();
        if (children[i] == 0)
            run_loader(options.endpoints[0]);
    }
    stop_on(consumer_open(&consumer, &options));
    stop_on(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + 10000000000));
    stop_on(consumer_start(consumer, 0, 1000));
    int64_t begin_ns = 0, now_ns = 0, n_batches = 0;
    double begin_cpu = 0;
    while (n_batches < 30 || 1e-9 * (double)(now_ns - begin_ns) < seconds) {
        struct batch *batch;
        stop_on(consumer_next(consumer, &batch, clock_monotonic_ns() + 10000000000));
        consumer_return(consumer, batch);
        now_ns = clock_monotonic_ns();
        if (++n_batches == 20) { /* warm */
            begin_ns = now_ns;
            begin_cpu = cpu_seconds();
        }
    }
    double elapsed = 1e-9 * (double)(now_ns - begin_ns), images = (double)(n_batches - 20) * BATCH;
    double gigabytes = 1e-9 * images * (double)data_spec_record_bytes(&options.spec);
    struct consumer_stats stats;
    struct rusage usage;
    consumer_stats(consumer, &stats);
    getrusage(RUSAGE_SELF, &usage);
    printf("%d loaders, %s: %.2f GB/s, %.0f images/s, %.3f CPU s/GB in the consumer, %ld MB, "
           "%llu slices again\n",
           n_loaders, options.endpoints[0], gigabytes / elapsed, images / elapsed,
           (cpu_seconds() - begin_cpu) / gigabytes, usage.ru_maxrss / 1024,
           (unsigned long long)stats.n_reissued);
    for (int i = 0; i < n_loaders; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    consumer_close(&consumer);
    rmdir(folder);
    return 0;
}
