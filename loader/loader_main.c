/* ibot-loader: makes the samples that trainers ask for. It keeps no state: kill it, start it, run
 * as many as you like. What is produced is decided by the consumer; a loader takes a data set,
 * endpoints and threads, nothing else. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "loader/image.h"
#include "loader/pool.h"
#include "loader/self_test.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/options.h"
#include "proto/wire/producer.h"

struct loader_options {
    const char *data, *index;
    const char *connect[PRODUCER_MAX_ENDPOINTS];
    int32_t n_connect, threads, credit;
    bool exit_when_done, die_with_parent;
};

#define AT(field) .offset = offsetof(struct loader_options, field)

static const struct option_spec specs[] = {
    {.name = "data",
     .alias = "data_path",
     .type = OPTION_STRING,
     AT(data),
     .flags = OPTION_REQUIRED,
     .argument = "DATA",
     .group = "Data",
     .help = "one folder per class, a folder of images or of tar archives, a tar archive, or a "
             "text file with an image's path in each line"},
    {.name = "index",
     .type = OPTION_STRING,
     AT(index),
     .argument = "FILE",
     .help =
         "index made by ibot-index; default: " INDEX_FILE_NAME " in the data folder or one in the "
         "user's cache, whichever is current, else the folders are read"},
    {.name = "connect",
     .type = OPTION_STRING_LIST,
     AT(connect),
     .count_offset = offsetof(struct loader_options, n_connect),
     .capacity = PRODUCER_MAX_ENDPOINTS,
     .flags = OPTION_REQUIRED,
     .argument = "ENDPOINT",
     .group = "Stream",
     .help = "consumers to serve: tcp://host:port, tcp://host:first-last for several ranks, or "
             "ipc://path; they may come and go"},
    {.name = "credit",
     .type = OPTION_INT32,
     AT(credit),
     .text = "0",
     .minimum = 0,
     .maximum = 1024,
     .unit = "slices",
     .help = "slices in hand for each consumer; 0: two per thread"},
    {.name = "exit_when_done",
     .type = OPTION_BOOL,
     AT(exit_when_done),
     .text = "off",
     .help = "end when every consumer it reached has all it wanted"},
    {.name = "threads",
     .type = OPTION_INT32,
     AT(threads),
     .text = "0",
     .minimum = 0,
     .maximum = 1024,
     .group = "Process",
     .help = "worker threads; 0: one per core"},
    {.name = "die_with_parent",
     .type = OPTION_BOOL,
     AT(die_with_parent),
     .text = "off",
     .flags = OPTION_UNDOCUMENTED,
     .help = "end when the process that started it ends"},
};

static const struct options_program program = {
    .name = "ibot-loader",
    .summary = "Make crops and masks of images and stream them to trainers.",
    .epilogue = "  ibot-loader --data /data/imagenet/train --connect tcp://trainer0:5550-5557",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

static atomic_int stopped;

static void stop(int signal_number)
{
    atomic_store(&stopped, 1);
    signal(signal_number, SIG_DFL); /* the second time ends it at once */
}

/* Ends the reading of folders. */
static int is_stopped(void *context, uint64_t n_found)
{
    (void)context;
    (void)n_found;
    return atomic_load(&stopped);
}

struct loader {
    struct index index;
    struct order *order;
    struct pool *pool;
    struct producer *producer;
    char endpoints[PRODUCER_MAX_ENDPOINTS][256], name[96];
};

static void start_slice(void *context, struct slice_job *job)
{
    struct loader *loader = context;
    pool_submit(loader->pool, job);
}

static void finish_slice(void *context, struct slice_job *job)
{
    struct loader *loader = context;
    producer_submit(loader->producer, job);
}

/* "tcp://host:5550-5557" becomes eight endpoints. */
static enum status expand(struct loader *loader, const struct loader_options *options,
                          struct producer_options *out)
{
    for (int32_t i = 0; i < options->n_connect; i++) {
        const char *text = options->connect[i], *colon = strrchr(text, ':');
        long first = 0, last = 0;
        char rest;
        bool range = strncmp(text, "tcp://", 6) == 0 && colon != NULL &&
                     sscanf(colon + 1, "%ld-%ld%c", &first, &last, &rest) == 2;
        if (range && (first < 1 || last < first || last > 65535))
            FAIL(STATUS_INVALID, "--connect %s: wanted ports FIRST-LAST within 1 to 65535", text);
        if (!range)
            first = last = 0;
        for (long port = first; port <= last; port++) {
            int n = out->n_endpoints;
            if (n == PRODUCER_MAX_ENDPOINTS)
                FAIL(STATUS_INVALID, "--connect: more than %d endpoints", PRODUCER_MAX_ENDPOINTS);
            int length =
                range ? snprintf(loader->endpoints[n], sizeof(loader->endpoints[n]), "%.*s:%ld",
                                 (int)(colon - text), text, port)
                      : snprintf(loader->endpoints[n], sizeof(loader->endpoints[n]), "%s", text);
            if (length >= (int)sizeof(loader->endpoints[n]))
                FAIL(STATUS_INVALID, "--connect: endpoint '%s' is too long", text);
            out->endpoints[n] = loader->endpoints[n];
            out->n_endpoints++;
        }
    }
    return STATUS_OK;
}

static enum status open_producer(struct loader *loader, const struct loader_options *options)
{
    char host[64] = "";
    struct producer_options producer = {
        .dataset = {loader->index.header->digest, loader->index.header->n_samples,
                    (int32_t)loader->index.header->n_classes},
        .credit = options->credit,
        .n_threads = options->threads,
        .name = loader->name,
    };

    gethostname(host, sizeof(host) - 1);
    snprintf(loader->name, sizeof(loader->name), "%s:%d", host, (int)getpid());
    TRY(self_test_pixels(&producer.self_test));
    TRY(expand(loader, options, &producer));
    int in_hand = producer.credit > 0 ? producer.credit : 2 * options->threads;
    TRY(pool_open(&loader->pool, &loader->index, loader->order, options->threads,
                  in_hand * producer.n_endpoints + 16, finish_slice, loader));
    return producer_open(&loader->producer, &producer, start_slice, loader);
}

static enum status run(struct loader *loader, struct loader_options *options)
{
    if (options->threads == 0)
        options->threads = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);
    if (options->die_with_parent && prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == 1)
        FAIL(STATUS_INTERRUPTED, "the process that started this loader is gone");
    TRY(image_library_start("ibot-loader"));
    TRY(index_load(&loader->index, options->data, options->index, is_stopped, NULL));
    if (loader->index.n_ignored > 0)
        log_warning("%llu images beside the class folders of '%s' are ignored",
                    (unsigned long long)loader->index.n_ignored, options->data);
    TRY(order_open(&loader->order, (uint32_t)loader->index.header->n_samples));
    TRY(open_producer(loader, options));
    log_info("%llu images in %u classes, %d threads",
             (unsigned long long)loader->index.header->n_samples, loader->index.header->n_classes,
             options->threads);
    return producer_run(loader->producer, &stopped, options->exit_when_done);
}

int main(int argc, char **argv)
{
    struct loader_options values;
    struct options options = {0};
    struct loader loader = {0};

    log_start("ibot-loader", LOG_INFO);
    signal(SIGINT, stop);
    signal(SIGTERM, stop);
    enum status status = options_parse(&options, &program, &values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = run(&loader, &values);
    if (status == STATUS_INTERRUPTED) {
        log_info("%s", status_message());
        status = STATUS_OK; /* asked to end: a loader has nothing to lose */
    }
    if (status != STATUS_OK)
        log_error("%s", status_message());
    pool_close(&loader.pool);
    producer_close(&loader.producer);
    order_close(&loader.order);
    index_close(&loader.index);
    options_release(&options);
    return status_exit_code(status);
}
