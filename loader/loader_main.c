/* ibot-loader: makes the samples that trainers ask for. It keeps no state: kill it, start it, run
 * as many as you like. What is produced is decided by the consumer; a loader takes a data set,
 * endpoints and threads, nothing else. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loader/image.h"
#include "loader/loader_metrics.h"
#include "loader/pool.h"
#include "loader/self_test.h"
#include "proto/base/clock.h"
#include "proto/base/cpus.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/notify.h"
#include "proto/config/rows.h"
#include "proto/config/stop.h"
#include "proto/wire/endpoint_list.h"
#include "proto/wire/producer.h"
#include "proto/wire/stream_rows.h"

struct loader_options {
    const char *data, *index, *metrics;
    struct serve_options serve;
    struct key_options keys;
    int32_t threads, nice, credit, parent;
};

#define AT(field) .offset = offsetof(struct loader_options, field)

static const struct option_spec specs[] = {
    {.part = &row_data, AT(data), .flags = OPTION_REQUIRED, .group = "Data"},
    {.part = &row_index, AT(index)},
    {.part = &rows_serve, AT(serve), .group = "Stream"},
    {.part = &rows_keys, AT(keys)},
    {.name = "credit",
     .type = OPTION_INT32,
     AT(credit),
     .text = "0",
     .minimum = 0,
     .maximum = 256,
     .unit = "slices",
     .help = "slices in hand for each consumer; 0: two per thread"},
    {.name = "metrics",
     .type = OPTION_STRING,
     AT(metrics),
     .argument = "[ADDRESS]:PORT",
     .group = "Process",
     .help = "serve /metrics (Prometheus), /healthz and /readyz over HTTP; without an address on "
             "127.0.0.1 alone; port 0: any free one, named in the log"},
    {.part = &row_sample_threads, AT(threads)},
    {.name = "nice",
     .type = OPTION_INT32,
     AT(nice),
     .text = "0",
     .minimum = 0,
     .maximum = 19,
     .help = "let other processes of this machine go first, as nice(1) does: 19 most"},
    {.name = "parent",
     .type = OPTION_INT32,
     AT(parent),
     .text = "0",
     .minimum = 0,
     .maximum = INT32_MAX,
     .flags = OPTION_UNDOCUMENTED,
     .help = "process that started it: the loader ends with it, or when it says so (SIGHUP)"},
};

static const struct options_program program = {
    .name = "ibot-loader",
    .summary = "Make crops and masks of images and stream them to trainers.",
    .epilogue = "  ibot-loader --data /data/imagenet/train --connect tcp://trainer0:5550-5557 "
                "--key loader.secret --server_key trainer.public --metrics :9101\n\n"
                "SIGTERM, SIGINT and SIGUSR1 hand back what is in hand and end it with 0; a second "
                "one ends it at once. Exit status: 0 done or asked to end, 2 wrong options, 3 "
                "refused by every trainer (another data set, build or key), 1 anything else.",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

struct loader {
    const atomic_int *stop;
    struct notify notify; /* the main thread's */
    struct index index;
    struct order *order;
    struct pool *pool;
    struct producer *producer;
    struct loader_metrics metrics;
    struct endpoint_list endpoints;
    char name[96];
    bool has_keys;
    struct key_pair keys;
    struct key server_key;
};

/* Ends the reading of folders. */
static int is_stopped(void *context, uint64_t n_found)
{
    const struct loader *loader = context;

    (void)n_found;
    return atomic_load(loader->stop);
}

/* Some times a second, while it serves. */
static void look(void *context)
{
    struct loader *loader = context;
    struct producer_stats stats;
    int64_t now_ns = clock_monotonic_ns();

    producer_stats(loader->producer, &stats);
    notify_alive(&loader->notify, now_ns);
    notify_status(&loader->notify, now_ns, "%d consumers, %d slices in hand, %llu images made",
                  stats.n_consumers, stats.n_leases, (unsigned long long)stats.n_images);
}

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

static void tell(void *context, bool good, const char *text)
{
    (void)context;
    log_write(good ? LOG_INFO : LOG_WARNING, "%s", text);
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
        .look = look,
        .keys = loader->has_keys ? &loader->keys : NULL,
        .server_key = loader->has_keys ? &loader->server_key : NULL,
        .notice = tell,
    };

    gethostname(host, sizeof(host) - 1);
    snprintf(loader->name, sizeof(loader->name), "%s:%d", host, (int)getpid());
    TRY(self_test_pixels(&producer.self_test));
    for (int32_t i = 0; i < options->serve.n_connect; i++)
        TRY(endpoint_list_add(&loader->endpoints, options->serve.connect[i]));
    endpoint_list_use(&loader->endpoints, &producer);
    struct pool_options pool = {
        .index = &loader->index,
        .order = loader->order,
        .n_threads = options->threads,
        .n_consumers = producer.n_endpoints,
        .capacity = options->credit > 0 ? options->credit : 2 * options->threads,
        .done = finish_slice,
        .context = loader,
    };
    TRY(pool_open(&loader->pool, &pool));
    TRY(producer_open(&loader->producer, &producer, start_slice, loader));
    loader_metrics_watch(&loader->metrics, loader->pool, loader->producer);
    return STATUS_OK;
}

/* A loader whose nice value is high already keeps it at 19. */
static void go_after_others(int more)
{
    errno = 0;
    if (nice(more) == -1 && errno != 0)
        log_warning("--nice %d: %s", more, strerror(errno));
}

static enum status run(struct loader *loader, struct loader_options *options)
{
    if (options->threads == 0)
        options->threads = cpus_usable();
    if (options->nice > 0)
        go_after_others(options->nice); /* before there are threads, which inherit it */
    if (options->parent > 0)
        TRY(stop_with_parent(options->parent));
    else if (notify_open(&loader->notify) != STATUS_OK)
        log_warning("%s", status_message());
    TRY(key_read_options(&loader->has_keys, &loader->keys, &loader->server_key, &options->keys));
    if (options->metrics != NULL && options->metrics[0] != '\0') {
        TRY(loader_metrics_open(&loader->metrics, options->metrics));
        log_info("metrics at http://%s/metrics", monitor_address(loader->metrics.monitor));
    }
    TRY(image_library_start("ibot-loader"));
    TRY(index_load(&loader->index, options->data, options->index, is_stopped, loader));
    if (loader->index.n_ignored > 0)
        log_warning("%llu images beside the class folders of '%s' are ignored",
                    (unsigned long long)loader->index.n_ignored, options->data);
    TRY(order_open(&loader->order, (uint32_t)loader->index.header->n_samples));
    TRY(open_producer(loader, options));
    log_info("%llu images in %u classes, %d threads",
             (unsigned long long)loader->index.header->n_samples, loader->index.header->n_classes,
             options->threads);
    notify_ready(&loader->notify);
    enum status status =
        producer_run(loader->producer, loader->stop, options->serve.exit_when_done);
    notify_stopping(&loader->notify);
    return status;
}

int main(int argc, char **argv)
{
    struct loader_options values;
    struct options options = {0};
    struct loader loader = {.stop = stop_on_signals()};

    log_start("ibot-loader", LOG_INFO);
    enum status status = options_parse(&options, &program, &values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = run(&loader, &values);
    if (status == STATUS_INTERRUPTED) {
        log_info("%s", status_message());
        status = STATUS_OK; /* asked to end: a loader has nothing to lose */
    }
    if (status != STATUS_OK)
        log_error("%s", status_message());
    loader_metrics_close(&loader.metrics);
    pool_close(&loader.pool);
    producer_close(&loader.producer);
    order_close(&loader.order);
    index_close(&loader.index);
    notify_close(&loader.notify);
    key_pair_wipe(&loader.keys);
    options_release(&options);
    return status_exit_code(status);
}
