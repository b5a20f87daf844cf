/* What one consumer takes in over the wire: from stand-ins that only allocate, hash and send (the
 * limit of wire and receiver), or with --data from real loaders, end to end. Slices of images of 2
 * x 224 + 10 x 96 pixels, each loader a process. */
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <zmq.h>

#include "proto/base/clock.h"
#include "proto/config/options.h"
#include "proto/wire/consumer.h"
#include "proto/wire/producer.h"
#include "tests/bench/stand_in_loader.h"

enum { MAX_LOADERS = 64, BATCH = 64, CREDIT = 4 };

struct bench_options {
    const char *data, *replay, *endpoint;
    int32_t loaders, threads, seconds, slice_size;
    bool raw, keys;
};

#define AT(field) .offset = offsetof(struct bench_options, field)

static const struct option_spec specs[] = {
    {.name = "data",
     .type = OPTION_STRING,
     AT(data),
     .argument = "DATA",
     .group = "Options",
     .help = "a data set for real loaders; without it, stand-ins"},
    {.name = "replay",
     .type = OPTION_STRING,
     AT(replay),
     .argument = "RECORDING",
     .help = "a full recording of these crops, served round and round by ibot-stream replay"},
    {.name = "loaders",
     .type = OPTION_INT32,
     AT(loaders),
     .text = "2",
     .minimum = 1,
     .maximum = MAX_LOADERS,
     .argument = "N",
     .help = "processes"},
    {.name = "threads",
     .type = OPTION_INT32,
     AT(threads),
     .text = "1",
     .minimum = 1,
     .maximum = 1024,
     .argument = "N",
     .help = "threads of each real loader"},
    {.name = "seconds",
     .type = OPTION_INT32,
     AT(seconds),
     .text = "5",
     .minimum = 1,
     .maximum = 3600,
     .argument = "S",
     .help = "how long"},
    {.name = "slice_size",
     .type = OPTION_INT32,
     AT(slice_size),
     .text = "16",
     .minimum = 1,
     .maximum = BATCH,
     .argument = "N",
     .help = "images leased at a time"},
    {.name = "raw",
     .type = OPTION_BOOL,
     AT(raw),
     .text = "off",
     .help = "bare ZeroMQ from one process to another instead: the machine's best"},
    {.name = "keys",
     .type = OPTION_BOOL,
     AT(keys),
     .text = "off",
     .help = "encrypted; stand-ins alone, and --endpoint tcp://127.0.0.1:PORT"},
    {.name = "endpoint",
     .type = OPTION_STRING,
     AT(endpoint),
     .argument = "ENDPOINT",
     .help = "where they meet; default: a socket in /tmp"},
};

static const struct options_program program = {
    .name = "wire_bench",
    .summary = "Time what one consumer takes in from local loaders.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

static struct key_pair trainer_keys, loader_keys; /* made before processes part */

/* A real one, from beside this program. */
static void exec_loader(const char *endpoint, const struct bench_options *bench)
{
    char path[4096], threads[16], parent[16];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 32);

    if (n < 0)
        exit(1);
    path[n] = '\0';
    snprintf(strrchr(path, '/') + 1, 32, "ibot-loader");
    snprintf(threads, sizeof(threads), "%d", bench->threads);
    snprintf(parent, sizeof(parent), "%d", (int)getppid());
    setenv("IBOT_LOG_LEVEL", "warning", 1);
    execl(path, path, "--data", bench->data, "--connect", endpoint, "--threads", threads,
          "--parent", parent, (char *)NULL);
    fprintf(stderr, "wire_bench: %s can't be started\n", path);
    exit(1);
}

static void exec_replay(const char *endpoint, const struct bench_options *bench)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 32);

    if (n < 0)
        exit(1);
    path[n] = '\0';
    snprintf(strrchr(path, '/') + 1, 32, "ibot-stream");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setenv("IBOT_LOG_LEVEL", "error", 1);
    execl(path, path, "replay", bench->replay, "--connect", endpoint, "--loop", (char *)NULL);
    fprintf(stderr, "wire_bench: %s can't be started\n", path);
    exit(1);
}

static void start_loaders(const struct bench_options *bench, const char *endpoint, pid_t *children)
{
    for (int32_t i = 0; i < bench->loaders; i++) {
        if (bench->replay == NULL && bench->data == NULL) {
            children[i] = stand_in_loader_start(endpoint, CREDIT, bench->keys ? &loader_keys : NULL,
                                                bench->keys ? &trainer_keys.public_half : NULL);
            continue;
        }
        children[i] = fork();
        if (children[i] == 0 && bench->replay != NULL)
            exec_replay(endpoint, bench);
        if (children[i] == 0)
            exec_loader(endpoint, bench);
    }
}

/* Batches until the time is over; the first 20 do not count. */
static void take_batches(struct consumer *consumer, const struct bench_options *bench,
                         const struct data_spec *spec)
{
    int64_t begin_ns = 0, now_ns = 0, n_batches = 0;
    double begin_cpu = 0;
    struct consumer_stats stats;
    struct rusage usage;

    while (n_batches < 30 || 1e-9 * (double)(now_ns - begin_ns) < (double)bench->seconds) {
        struct batch *batch;
        bench_stop_on(consumer_next(consumer, &batch, clock_monotonic_ns() + 60000000000));
        consumer_return(consumer, batch);
        now_ns = clock_monotonic_ns();
        if (++n_batches == 20) { /* warm */
            begin_ns = now_ns;
            begin_cpu = bench_cpu_seconds();
        }
    }
    double elapsed = 1e-9 * (double)(now_ns - begin_ns), images = (double)(n_batches - 20) * BATCH;
    double gigabytes = 1e-9 * images * (double)data_spec_record_bytes(spec);
    consumer_stats(consumer, &stats);
    getrusage(RUSAGE_SELF, &usage);
    printf("%d loaders: %.2f GB/s, %.0f images/s, %.3f CPU s/GB in the consumer, %ld MB, "
           "%llu slices again\n",
           bench->loaders, gigabytes / elapsed, images / elapsed,
           (bench_cpu_seconds() - begin_cpu) / gigabytes, usage.ru_maxrss / 1024,
           (unsigned long long)stats.n_reissued);
}

/* Keys of both sides, and the list that the consumer reads. */
static void make_keys(const char *path, struct consumer_options *options)
{
    char hex[KEY_TEXT_BYTES];
    FILE *file = fopen(path, "w");

    bench_stop_on(key_pair_generate(&trainer_keys));
    bench_stop_on(key_pair_generate(&loader_keys));
    if (file == NULL || fprintf(file, "%s\n", key_format(&loader_keys.public_half, hex)) < 0 ||
        fclose(file) != 0)
        exit(1);
    options->keys = &trainer_keys;
    options->allow = path;
}

/* What the machine can do at best: frames of 1 MiB, sent without a copy, received and dropped. */
static void time_raw(const char *endpoint, int32_t seconds)
{
    enum { FRAME_BYTES = 1 << 20, WATER_MARK = 4 };
    void *context, *socket;
    int water_mark = WATER_MARK;
    pid_t sender = fork();
    int64_t n = 0, begin_ns = 0, now_ns = 0;
    double begin_cpu = 0;
    zmq_msg_t frame;

    context = zmq_ctx_new();
    if (sender == 0) {
        static char bytes[FRAME_BYTES];
        memset(bytes, 1, sizeof(bytes));
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        socket = zmq_socket(context, ZMQ_PUSH);
        zmq_setsockopt(socket, ZMQ_SNDHWM, &water_mark, sizeof(water_mark));
        zmq_connect(socket, endpoint);
        for (;;) {
            zmq_msg_init_data(&frame, bytes, sizeof(bytes), NULL, NULL);
            if (zmq_msg_send(&frame, socket, 0) < 0)
                exit(1);
        }
    }
    socket = zmq_socket(context, ZMQ_PULL);
    zmq_setsockopt(socket, ZMQ_RCVHWM, &water_mark, sizeof(water_mark));
    if (zmq_bind(socket, endpoint) != 0)
        exit(1);
    zmq_msg_init(&frame);
    while (n < 2000 || 1e-9 * (double)(now_ns - begin_ns) < (double)seconds) {
        if (zmq_msg_recv(&frame, socket, 0) < 0)
            exit(1);
        now_ns = clock_monotonic_ns();
        if (++n == 1000) { /* warm */
            begin_ns = now_ns;
            begin_cpu = bench_cpu_seconds();
        }
    }
    double gigabytes = 1e-9 * (double)(n - 1000) * FRAME_BYTES;
    printf("bare ZeroMQ, frames of 1 MiB: %.2f GB/s, %.3f CPU s/GB in the receiver\n",
           gigabytes / (1e-9 * (double)(now_ns - begin_ns)),
           (bench_cpu_seconds() - begin_cpu) / gigabytes);
    zmq_msg_close(&frame);
    kill(sender, SIGKILL);
    waitpid(sender, NULL, 0);
    zmq_close(socket);
    zmq_ctx_term(context);
}

int main(int argc, char **argv)
{
    struct bench_options bench;
    struct options parsed = {0};
    char folder[] = "/tmp/ibot-bench-XXXXXX", endpoint[128], allowed[128];
    pid_t children[MAX_LOADERS];
    struct dataset_info dataset;
    struct consumer *consumer;

    bench_stop_on(options_parse(&parsed, &program, &bench, argc, argv));
    if (parsed.finished)
        return 0;
    struct consumer_options options = {.n_endpoints = 1,
                                       .spec = data_spec_default(),
                                       .batch_size = BATCH,
                                       .slice_size = bench.slice_size,
                                       .world = 1,
                                       .drop_last = bench.data == NULL};
    if (mkdtemp(folder) == NULL)
        return 1;
    snprintf(endpoint, sizeof(endpoint), "ipc://%s/socket", folder);
    options.endpoints[0] = bench.endpoint != NULL ? bench.endpoint : endpoint;
    snprintf(allowed, sizeof(allowed), "%s/allowed", folder);
    if (bench.keys)
        make_keys(allowed, &options);
    if (bench.raw) {
        time_raw(options.endpoints[0], bench.seconds);
        return 0;
    }
    /* Loaders first: they wait for the consumer, and a process with threads should not fork. */
    start_loaders(&bench, options.endpoints[0], children);
    bench_stop_on(consumer_open(&consumer, &options));
    bench_stop_on(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + 10000000000));
    bench_stop_on(consumer_start(consumer, 0, 100000));
    take_batches(consumer, &bench, &options.spec);
    for (int32_t i = 0; i < bench.loaders; i++) {
        kill(children[i], SIGKILL);
        waitpid(children[i], NULL, 0);
    }
    consumer_close(&consumer);
    unlink(allowed);
    rmdir(folder);
    options_release(&parsed);
    return 0;
}
