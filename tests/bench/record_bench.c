/* What recording costs a trainer: the same stream taken in by a stand-in for one (each step is a
 * wait, as for an accelerator) without a recording, with ids and with everything, by turns. Loaders
 * are stand-ins that allocate, hash and send. */
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/config/options.h"
#include "proto/wire/consumer.h"
#include "proto/wire/recorder.h"
#include "tests/bench/stand_in_loader.h"

enum { BATCH = 64, CREDIT = 8, WARM = 5, MAX_ROUNDS = 100 };

enum mode { PLAIN, IDS, FULL, N_MODES };
static const char *const mode_names[] = {"nothing", "ids", "full"};

struct bench_options {
    double step_ms;
    int32_t steps, rounds;
    const char *folder;
};

#define AT(field) .offset = offsetof(struct bench_options, field)

static const struct option_spec specs[] = {
    {.name = "step_ms",
     .type = OPTION_DOUBLE,
     AT(step_ms),
     .text = "100",
     .minimum = 0,
     .maximum = 100000,
     .unit = "ms",
     .group = "Options",
     .help = "how long a step of 64 images takes"},
    {.name = "steps",
     .type = OPTION_INT32,
     AT(steps),
     .text = "40",
     .minimum = 1,
     .maximum = 100000,
     .help = "steps of each measurement"},
    {.name = "rounds",
     .type = OPTION_INT32,
     AT(rounds),
     .text = "5",
     .minimum = 1,
     .maximum = MAX_ROUNDS,
     .help = "measurements of each kind"},
    {.name = "folder",
     .type = OPTION_STRING,
     AT(folder),
     .text = "/tmp",
     .argument = "DIR",
     .help = "where to record"},
};

static const struct options_program program = {
    .name = "record_bench",
    .summary = "Time a stand-in for a trainer without and with a recording.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

/* Mean of a step; share of the time; processor time of a step; what a checkpoint would wait for. */
struct result {
    double step_s, waited, cpu_s, sync_s;
};

/* ---- one measurement ---- */

static void pass_time(double milliseconds)
{
    struct timespec pause = {.tv_sec = (time_t)(milliseconds / 1000)};

    pause.tv_nsec = (long)(1e6 * (milliseconds - 1000.0 * (double)pause.tv_sec));
    nanosleep(&pause, NULL);
}

static struct result train(struct consumer *consumer, struct recorder *recorder,
                           const struct bench_options *bench)
{
    int64_t begin_ns = 0, waited_ns = 0;
    double begin_cpu = 0;

    for (int32_t step = 0; step < WARM + bench->steps; step++) {
        struct batch *batch;
        int64_t before_ns = clock_monotonic_ns();
        if (step == WARM) {
            begin_ns = before_ns;
            begin_cpu = bench_cpu_seconds();
            waited_ns = 0;
        }
        bench_stop_on(consumer_next(consumer, &batch, before_ns + 60000000000));
        waited_ns += clock_monotonic_ns() - before_ns;
        pass_time(bench->step_ms);
        if (recorder != NULL)
            recorder_take(recorder, batch);
        else
            consumer_return(consumer, batch);
    }
    double seconds = 1e-9 * (double)(clock_monotonic_ns() - begin_ns);
    return (struct result){.step_s = seconds / bench->steps,
                           .waited = 1e-9 * (double)waited_ns / seconds,
                           .cpu_s = (bench_cpu_seconds() - begin_cpu) / bench->steps};
}

static struct result measure(const struct bench_options *bench, enum mode mode, const char *folder)
{
    char endpoint[320], recording[320];
    struct recorder *recorder = NULL;
    struct consumer *consumer;
    struct dataset_info dataset;
    struct result result;

    snprintf(endpoint, sizeof(endpoint), "ipc://%s/socket", folder);
    snprintf(recording, sizeof(recording), "%s/recording", folder);
    struct consumer_options options = {.endpoints = {endpoint},
                                       .n_endpoints = 1,
                                       .spec = data_spec_default(),
                                       .batch_size = BATCH,
                                       .world = 1,
                                       .drop_last = true};
    pid_t loader =
        stand_in_loader_start(endpoint, CREDIT, NULL, NULL); /* before there are threads */
    bench_stop_on(consumer_open(&consumer, &options));
    bench_stop_on(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + 10000000000));
    bench_stop_on(consumer_start(consumer, 0, 1000));
    struct recorder_options recorded = {.folder = recording,
                                        .pixels = mode == FULL,
                                        .spec = options.spec,
                                        .world = 1,
                                        .batch_size = BATCH};
    if (mode != PLAIN)
        bench_stop_on(recorder_open(&recorder, consumer, &recorded));
    result = train(consumer, recorder, bench);
    int64_t sync_ns = clock_monotonic_ns();
    if (recorder != NULL)
        bench_stop_on(recorder_sync(recorder));
    result.sync_s = 1e-9 * (double)(clock_monotonic_ns() - sync_ns);
    bench_stop_on(recorder_close(&recorder));
    consumer_close(&consumer);
    kill(loader, SIGKILL);
    waitpid(loader, NULL, 0);
    return result;
}

/* In a process of its own, so that nothing is left of the one before; its files are removed. */
static struct result measure_apart(const struct bench_options *bench, enum mode mode)
{
    char folder[256], path[768];
    struct result *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int status = 1;

    snprintf(folder, sizeof(folder), "%s/ibot-record-XXXXXX", bench->folder);
    if (shared == MAP_FAILED || mkdtemp(folder) == NULL)
        exit(1);
    pid_t child = fork();
    if (child == 0) {
        *shared = measure(bench, mode, folder);
        _exit(0);
    }
    waitpid(child, &status, 0);
    snprintf(path, sizeof(path), "%s/recording/rank00000-step000000000000.tfrecord", folder);
    unlink(path);
    snprintf(path, sizeof(path), "%s/recording", folder);
    rmdir(path);
    snprintf(path, sizeof(path), "%s/socket", folder);
    unlink(path);
    rmdir(folder);
    if (status != 0)
        exit(1);
    struct result result = *shared;
    munmap(shared, sizeof(*shared));
    return result;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int32_t n)
{
    qsort(values, (size_t)n, sizeof(double), by_size);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

int main(int argc, char **argv)
{
    static double steps[N_MODES][MAX_ROUNDS], ratios[N_MODES][MAX_ROUNDS];
    static double waited[N_MODES][MAX_ROUNDS], cpu[N_MODES][MAX_ROUNDS], sync[N_MODES][MAX_ROUNDS];
    struct bench_options bench;
    struct options parsed = {0};
    const struct data_spec spec = data_spec_default();

    log_start("record_bench", LOG_WARNING);
    bench_stop_on(options_parse(&parsed, &program, &bench, argc, argv));
    if (parsed.finished)
        return 0;
    for (int32_t round = 0; round < bench.rounds; round++)
        for (int m = 0; m < N_MODES; m++) {
            struct result result = measure_apart(&bench, (enum mode)m);
            steps[m][round] = result.step_s;
            ratios[m][round] = result.step_s / steps[PLAIN][round];
            waited[m][round] = result.waited;
            cpu[m][round] = result.cpu_s;
            sync[m][round] = result.sync_s;
        }
    double megabytes = 1e-6 * BATCH * (double)data_spec_record_bytes(&spec);
    printf("%d rounds of %d steps of %d images (%.1f MB), each %g ms; medians\n", bench.rounds,
           bench.steps, BATCH, megabytes, bench.step_ms);
    for (int m = 0; m < N_MODES; m++) {
        double step = median(steps[m], bench.rounds), ratio = median(ratios[m], bench.rounds);
        printf("%-8s %8.2f ms a step, %.4f of the one without (%.4f to %.4f), %.2f %% of it "
               "waiting, %.2f ms of processor time, %.0f MB/s, sync %.0f ms\n",
               mode_names[m], 1e3 * step, ratio, ratios[m][0], ratios[m][bench.rounds - 1],
               100 * median(waited[m], bench.rounds), 1e3 * median(cpu[m], bench.rounds),
               megabytes / step, 1e3 * median(sync[m], bench.rounds));
    }
    options_release(&parsed);
    return 0;
}
