/* Numbers of the pool and of the producer under Prometheus' names. */
#include "loader/loader_metrics.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/clock.h"

static const int64_t loop_silence_ns = 30000000000;   /* the loop looks around 20 times a second */
static const int64_t slice_silence_ns = 300000000000; /* one image takes a second at most */

/* ---- numbers ---- */

static double seconds(int64_t ns)
{
    return (double)ns / 1e9;
}

static void collect_pool(struct exposition *e, struct pool *pool)
{
    struct pool_stats stats;

    pool_stats(pool, &stats);
    exposition_counter(e, "ibot_loader_images_total", "Images made.", (double)stats.n_images);
    exposition_counter(e, "ibot_loader_slices_total", "Slices made.", (double)stats.n_slices);
    exposition_family(
        e, "ibot_loader_bad_images_total", EXPOSITION_COUNTER,
        "Images that could not be read, by what was wrong; others took their places.");
    for (int i = 0; i < BAD_IMAGE_KINDS; i++)
        exposition_sample(e, "kind", bad_image_kind_names[i], (double)stats.n_bad[i]);
    exposition_counter(e, "ibot_loader_repaired_images_total",
                       "Images made from damaged JPEG files, whose decoder repaired them.",
                       (double)stats.n_repaired);
    exposition_family(e, "ibot_loader_stage_seconds_total", EXPOSITION_COUNTER,
                      "Time of worker threads, by what they spent it with.");
    for (int i = 0; i < VIEW_STAGES; i++)
        exposition_sample(e, "stage", view_stage_names[i], seconds(stats.stage_ns[i]));
    exposition_counter(e, "ibot_loader_busy_seconds_total",
                       "Time that worker threads spent on slices that are made, in all.",
                       seconds(stats.busy_ns));
    exposition_gauge(e, "ibot_loader_threads", "Worker threads.", stats.n_threads);
    exposition_gauge(e, "ibot_loader_threads_busy", "Worker threads that make a slice now.",
                     stats.n_busy);
}

static void collect_producer(struct exposition *e, struct producer *producer)
{
    struct producer_stats stats;

    producer_stats(producer, &stats);
    exposition_counter(e, "ibot_loader_sent_images_total", "Images sent.", (double)stats.n_images);
    exposition_counter(e, "ibot_loader_sent_slices_total", "Slices sent.", (double)stats.n_slices);
    exposition_counter(e, "ibot_loader_sent_bytes_total", "Pixels and masks sent.",
                       (double)stats.n_bytes);
    exposition_counter(e, "ibot_loader_failed_slices_total",
                       "Slices that could not be made, told to their consumers.",
                       (double)stats.n_failures);
    exposition_counter(e, "ibot_loader_hash_seconds_total", "Time spent hashing images.",
                       seconds(stats.hash_ns));
    exposition_counter(e, "ibot_loader_send_seconds_total",
                       "Time spent handing slices to the network.", seconds(stats.send_ns));
    exposition_counter(e, "ibot_loader_failed_handshakes_total",
                       "Connections that came to nothing: keys that do not fit, or no trainer.",
                       (double)stats.n_failed_handshakes);
    exposition_gauge(e, "ibot_loader_leases", "Slices in hand.", stats.n_leases);
    exposition_gauge(e, "ibot_loader_leases_unsent", "Slices made that wait to be sent.",
                     stats.n_waiting);
    exposition_family(e, "ibot_loader_consumer_up", EXPOSITION_GAUGE,
                      "1 for an endpoint whose consumer has taken this loader on, else 0.");
    for (int i = 0; i < stats.n_endpoints; i++)
        exposition_sample(e, "endpoint", producer_endpoint(producer, i), stats.serving[i]);
}

static void collect(void *context, struct exposition *e)
{
    struct loader_metrics *metrics = context;

    exposition_family(e, "ibot_build_info", EXPOSITION_GAUGE, "The program's version; always 1.");
    exposition_sample(e, "version", IBOT_VERSION, 1);
    pthread_mutex_lock(&metrics->lock);
    if (metrics->pool != NULL)
        collect_pool(e, metrics->pool);
    if (metrics->producer != NULL)
        collect_producer(e, metrics->producer);
    pthread_mutex_unlock(&metrics->lock);
}

/* ---- states ---- */

/* It lives while its loop looks around and no image takes for ever. */
static bool healthy(void *context, char *reason)
{
    struct loader_metrics *metrics = context;
    int64_t now_ns = clock_monotonic_ns();
    struct producer_stats producer;
    struct pool_stats pool;
    bool good = true;

    pthread_mutex_lock(&metrics->lock);
    if (metrics->producer != NULL) {
        pool_stats(metrics->pool, &pool);
        producer_stats(metrics->producer, &producer);
        if (now_ns - producer.alive_ns > loop_silence_ns) {
            snprintf(reason, MONITOR_REASON_BYTES, "the loop stands still since %.0f s",
                     seconds(now_ns - producer.alive_ns));
            good = false;
        } else if (pool.oldest_ns != 0 && now_ns - pool.oldest_ns > slice_silence_ns) {
            snprintf(reason, MONITOR_REASON_BYTES, "a slice is being made since %.0f s",
                     seconds(now_ns - pool.oldest_ns));
            good = false;
        }
    }
    pthread_mutex_unlock(&metrics->lock);
    return good;
}

/* It does what it is there for while a consumer has taken it on. */
static bool ready(void *context, char *reason)
{
    struct loader_metrics *metrics = context;
    struct producer_stats stats = {0};

    pthread_mutex_lock(&metrics->lock);
    bool open = metrics->producer != NULL;
    if (open)
        producer_stats(metrics->producer, &stats);
    pthread_mutex_unlock(&metrics->lock);
    snprintf(reason, MONITOR_REASON_BYTES, "%s",
             open ? "no consumer has taken this loader on" : "the data set is being read");
    return stats.n_consumers > 0;
}

/* ---- open and close ---- */

enum status loader_metrics_open(struct loader_metrics *metrics, const char *listen)
{
    struct monitor_options options = {
        .listen = listen,
        .collect = collect,
        .healthy = healthy,
        .ready = ready,
        .context = metrics,
    };

    pthread_mutex_init(&metrics->lock, NULL);
    enum status status = monitor_open(&metrics->monitor, &options);
    if (status != STATUS_OK)
        pthread_mutex_destroy(&metrics->lock);
    return status;
}

void loader_metrics_watch(struct loader_metrics *metrics, struct pool *pool,
                          struct producer *producer)
{
    if (metrics->monitor == NULL)
        return;
    pthread_mutex_lock(&metrics->lock);
    metrics->pool = pool;
    metrics->producer = producer;
    pthread_mutex_unlock(&metrics->lock);
}

void loader_metrics_close(struct loader_metrics *metrics)
{
    if (metrics->monitor == NULL)
        return;
    monitor_close(&metrics->monitor);
    pthread_mutex_destroy(&metrics->lock);
    metrics->pool = NULL;
    metrics->producer = NULL;
}
