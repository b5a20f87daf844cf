/* ibot-stream replay: a recording takes the place of loaders. It speaks their side of the protocol,
 * so that a trainer cannot tell it from a fleet. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/cpus.h"
#include "proto/base/log.h"
#include "proto/wire/endpoint_list.h"
#include "proto/wire/stream_rows.h"
#include "stream/command.h"
#include "stream/replay_source.h"

struct options_of_replay {
    struct serve_options serve;
    struct key_options keys;
    int32_t credit, threads;
    bool loop;
    double rate;
};

enum { MOST_THREADS = 4 }; /* unless more are asked for */

static struct options_of_replay values;

#define AT(field) .offset = offsetof(struct options_of_replay, field)

static const struct option_spec specs[] = {
    {.part = &rows_serve, AT(serve), .group = "Stream"},
    {.part = &rows_keys, AT(keys)},
    {.name = "credit",
     .type = OPTION_INT32,
     AT(credit),
     .text = "8",
     .minimum = 1,
     .maximum = 256,
     .unit = "slices",
     .help = "slices in hand for each trainer"},
    {.name = "threads",
     .type = OPTION_INT32,
     AT(threads),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .help = "threads that read; 0: one for two cores, four at most"},
    {.name = "rate",
     .type = OPTION_DOUBLE,
     AT(rate),
     .text = "0",
     .minimum = 0,
     .maximum = 1e9,
     .unit = "images/s",
     .group = "Timings",
     .help = "send no more than this; 0: as fast as they are asked for"},
    {.name = "loop",
     .type = OPTION_BOOL,
     AT(loop),
     .text = "off",
     .help = "serve the recorded steps again, round and round, in place of those that are not in "
             "the recording"},
};

static const struct options_program program = {
    .name = "ibot-stream replay",
    .summary = "Serve what was recorded, again, to a trainer in place of loaders.",
    .epilogue =
        "The trainer needs nothing but --listen; with the options of the recorded run it makes the "
        "same run again, bit by bit, from any step that is in the recording.\n\n"
        "  ibot-stream replay runs/small/recording --connect tcp://127.0.0.1:5550\n"
        "  ibot-train --config runs/small/run.yaml --loaders 0 --record '' "
        "--listen tcp://127.0.0.1:5550 -o runs/again",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "RECORDING",
    .min_positional = 1,
    .max_positional = 1,
};

struct replay {
    struct recording *recording;
    struct replay_source *source;
    struct producer *producer;
    struct endpoint_list endpoints;
    bool has_keys;
    struct key_pair keys;
    struct key server_key;
    char name[MESSAGE_NAME_BYTES];
};

static void start_slice(void *context, struct slice_job *job)
{
    struct replay *replay = context;
    replay_source_submit(replay->source, job);
}

static void finish_slice(void *context, struct slice_job *job)
{
    struct replay *replay = context;
    producer_submit(replay->producer, job);
}

static void tell(void *context, bool good, const char *text)
{
    (void)context;
    log_write(good ? LOG_INFO : LOG_WARNING, "%s", text);
}

static enum status open_replay(struct replay *replay, const char *path)
{
    char host[40] = "";

    if (values.threads == 0) { /* the trainer may be on this machine too */
        int half = cpus_usable() / 2;
        values.threads = half < 1 ? 1 : half > MOST_THREADS ? MOST_THREADS : half;
    }
    TRY(key_read_options(&replay->has_keys, &replay->keys, &replay->server_key, &values.keys));
    TRY(recording_open(&replay->recording, path));
    const struct message_recording *info = &replay->recording->info;
    struct producer_options producer = {
        .dataset = {info->index_digest, info->n_samples, info->n_classes},
        .self_test = info->self_test,
        .credit = values.credit,
        .n_threads = values.threads,
        .name = replay->name,
        .keys = replay->has_keys ? &replay->keys : NULL,
        .server_key = replay->has_keys ? &replay->server_key : NULL,
        .notice = tell,
    };
    for (int32_t i = 0; i < values.serve.n_connect; i++)
        TRY(endpoint_list_add(&replay->endpoints, values.serve.connect[i]));
    endpoint_list_use(&replay->endpoints, &producer);
    struct replay_options options = {
        .loop = values.loop,
        .rate = values.rate,
        .capacity = values.credit * producer.n_endpoints,
        .n_threads = values.threads,
    };
    TRY(replay_source_open(&replay->source, replay->recording, &options, finish_slice, replay));
    gethostname(host, sizeof(host) - 1);
    snprintf(replay->name, sizeof(replay->name), "replay-%s:%d", host, (int)getpid());
    return producer_open(&replay->producer, &producer, start_slice, replay);
}

static enum status run(const struct options *options, const atomic_int *stop)
{
    struct replay replay = {0};
    struct producer_stats stats;
    int64_t begin_ns = clock_monotonic_ns();
    enum status status = open_replay(&replay, options->positional[0]);

    if (status == STATUS_OK) {
        log_info("%zu file%s, %zu slices of %llu images in %d classes", replay.recording->n_files,
                 replay.recording->n_files == 1 ? "" : "s", replay.recording->n_slices,
                 (unsigned long long)replay.recording->info.n_samples,
                 replay.recording->info.n_classes);
        status = producer_run(replay.producer, stop, values.serve.exit_when_done);
        producer_stats(replay.producer, &stats);
        log_info("%llu images sent in %.1f s", (unsigned long long)stats.n_images,
                 1e-9 * (double)(clock_monotonic_ns() - begin_ns));
    }
    if (status == STATUS_INTERRUPTED) /* asked to end: it has nothing to lose */
        status = STATUS_OK;
    replay_source_close(&replay.source);
    producer_close(&replay.producer);
    recording_close(&replay.recording);
    key_pair_wipe(&replay.keys);
    return status;
}

const struct stream_command stream_replay = {&program, &values, run};
