/* Numbers of a run and of its consumer under Prometheus' names. */
#include "trainer/train/run_monitor.h"

#include <stdio.h>

#include "proto/base/clock.h"

static const int64_t consumer_silence_ns = 30000000000; /* its thread looks 20 times a second */
static const int64_t least_silence_ns = 600000000000;   /* of the training thread */
static const int64_t slow_steps = 20;                   /* that it may be silent for, if longer */
static const int64_t wait_ns = 1000000;                 /* a step that waited for less did not */

static double seconds(int64_t ns)
{
    return (double)ns / 1e9;
}

/* ---- numbers ---- */

/* Guarded by lock. */
static void collect_run(struct exposition *e, const struct run_monitor *m)
{
    exposition_gauge(e, "ibot_train_step", "Steps of the run that are done.", (double)m->last.step);
    exposition_gauge(e, "ibot_train_steps_planned", "Steps that the run will have.",
                     (double)m->n_steps_planned);
    exposition_gauge(e, "ibot_train_epoch", "Epoch under way, from 0.", m->last.epoch);
    exposition_gauge(e, "ibot_train_loss", "Loss of the last step.", m->last.loss);
    exposition_counter(e, "ibot_train_steps_total", "Steps made by this process.",
                       (double)m->n_steps);
    exposition_counter(e, "ibot_train_waiting_steps_total",
                       "Steps that waited for data, for more than a millisecond.",
                       (double)m->n_waiting_steps);
    exposition_counter(e, "ibot_train_images_total", "Images that this rank trained on.",
                       (double)m->n_images);
    exposition_histogram(e, "ibot_train_step_seconds", "Time from step to step.", &m->steps);
    exposition_histogram(e, "ibot_train_wait_seconds", "Of it, spent waiting for data.", &m->waits);
    exposition_gauge(e, "ibot_train_checkpoint_step", "Step of the newest checkpoint.",
                     (double)m->checkpoint_step);
    exposition_gauge(e, "ibot_train_checkpoint_timestamp_seconds",
                     "When the newest checkpoint was written or read, since 1970: its age is "
                     "time() minus this.",
                     m->checkpoint_time);
    exposition_counter(e, "ibot_train_checkpoints_total", "Checkpoints written by this process.",
                       (double)m->n_checkpoints);
    exposition_counter(e, "ibot_train_checkpoint_seconds_total", "Time spent writing them.",
                       m->checkpoint_seconds);
}

static void collect_consumer(struct exposition *e, const struct consumer_stats *stats)
{
    const struct {
        const char *name, *help;
        double value;
    } counters[] = {
        {"ibot_consumer_batches_total", "Batches handed to training.", (double)stats->n_batches},
        {"ibot_consumer_slices_total", "Slices accepted.", (double)stats->n_slices},
        {"ibot_consumer_images_total", "Images accepted.", (double)stats->n_images},
        {"ibot_consumer_received_bytes_total", "Pixels and masks accepted.",
         (double)stats->n_bytes},
        {"ibot_consumer_leases_total", "Slices leased to loaders.", (double)stats->n_leased},
        {"ibot_consumer_reissued_leases_total",
         "Of them, slices leased again: their loader was late, or gone.",
         (double)stats->n_reissued},
        {"ibot_consumer_duplicate_slices_total",
         "Slices that came when another copy was there already; dropped.",
         (double)stats->n_duplicates},
        {"ibot_consumer_corrupt_slices_total",
         "Slices and messages that did not hold what they should; dropped.",
         (double)stats->n_corrupt},
        {"ibot_consumer_repaired_images_total",
         "Images accepted whose damaged JPEG files a decoder has repaired.",
         (double)stats->n_repaired},
        {"ibot_consumer_refused_loaders_total",
         "Loaders turned away: another data set, version, or bad behaviour.",
         (double)stats->n_rejected_loaders},
        {"ibot_consumer_refused_keys_total", "Connections with a key that is not in the list.",
         (double)stats->n_refused_keys},
        {"ibot_consumer_failed_handshakes_total", "Connections that ended before they were made.",
         (double)stats->n_failed_handshakes},
        {"ibot_consumer_unheard_messages_total",
         "Messages thrown away unread: of connections that are no loader's and send too many.",
         (double)stats->n_unheard},
    };

    for (size_t i = 0; i < sizeof(counters) / sizeof(counters[0]); i++)
        exposition_counter(e, counters[i].name, counters[i].help, counters[i].value);
    exposition_family(e, "ibot_consumer_bad_images_total", EXPOSITION_COUNTER,
                      "Images that loaders could not read, by what was wrong.");
    for (int i = 0; i < BAD_IMAGE_KINDS; i++)
        exposition_sample(e, "kind", bad_image_kind_names[i], (double)stats->n_bad_of[i]);
    exposition_gauge(e, "ibot_consumer_loaders", "Loaders connected.", stats->n_loaders);
    exposition_gauge(e, "ibot_consumer_leases", "Slices that loaders have in hand.",
                     stats->n_leases_out);
    exposition_gauge(e, "ibot_consumer_batches_ready", "Whole batches that wait to be trained on.",
                     stats->n_batches_ready);
    exposition_gauge(e, "ibot_consumer_batches_max", "Places for batches.", stats->n_batches_max);
}

static void collect(void *context, struct exposition *e)
{
    struct run_monitor *m = context;
    struct consumer_stats stats;

    exposition_family(e, "ibot_build_info", EXPOSITION_GAUGE, "The program's version; always 1.");
    exposition_sample(e, "version", IBOT_VERSION, 1);
    pthread_mutex_lock(&m->lock);
    if (m->n_steps_planned > 0)
        collect_run(e, m);
    if (m->consumer != NULL) {
        consumer_stats(m->consumer, &stats);
        collect_consumer(e, &stats);
    }
    pthread_mutex_unlock(&m->lock);
}

/* ---- states ---- */

/* It lives while the training thread makes steps or waits for data with its eyes open, and the
 * consumer's thread looks around. */
static bool healthy(void *context, char *reason)
{
    struct run_monitor *m = context;
    int64_t now_ns = clock_monotonic_ns();
    struct consumer_stats stats = {.alive_ns = now_ns};

    pthread_mutex_lock(&m->lock);
    int64_t most_ns = slow_steps * m->slowest_ns;
    if (m->consumer != NULL)
        consumer_stats(m->consumer, &stats);
    pthread_mutex_unlock(&m->lock);
    most_ns = most_ns > least_silence_ns ? most_ns : least_silence_ns;
    int64_t silent_ns = now_ns - atomic_load(&m->alive_ns);
    if (silent_ns > most_ns)
        snprintf(reason, MONITOR_REASON_BYTES, "training stands still since %.0f s",
                 seconds(silent_ns));
    else if (now_ns - stats.alive_ns > consumer_silence_ns)
        snprintf(reason, MONITOR_REASON_BYTES, "the stream stands still since %.0f s",
                 seconds(now_ns - stats.alive_ns));
    else
        return true;
    return false;
}

/* Ready for loaders, not by them: a fleet that waits for a ready trainer would wait for ever. */
static bool ready(void *context, char *reason)
{
    struct run_monitor *m = context;
    struct consumer_stats stats = {.finished = false};

    pthread_mutex_lock(&m->lock);
    bool open = m->consumer != NULL;
    if (open)
        consumer_stats(m->consumer, &stats);
    pthread_mutex_unlock(&m->lock);
    snprintf(reason, MONITOR_REASON_BYTES, "%s",
             open ? "every epoch is made: no more loaders are needed" : "the run is being opened");
    return open && !stats.finished;
}

/* ---- what the training thread says ---- */

enum status run_monitor_open(struct run_monitor *m, const char *listen, int rank)
{
    struct monitor_options options = {
        .listen = listen,
        .rank = rank,
        .collect = collect,
        .healthy = healthy,
        .ready = ready,
        .context = m,
    };

    pthread_mutex_init(&m->lock, NULL);
    atomic_store(&m->alive_ns, clock_monotonic_ns());
    enum status status = monitor_open(&m->monitor, &options);
    if (status != STATUS_OK)
        pthread_mutex_destroy(&m->lock);
    return status;
}

void run_monitor_listening(struct run_monitor *m, struct consumer *consumer)
{
    if (m->monitor == NULL)
        return;
    pthread_mutex_lock(&m->lock);
    m->consumer = consumer;
    pthread_mutex_unlock(&m->lock);
}

void run_monitor_start(struct run_monitor *m, int64_t n_steps_planned, int64_t step)
{
    if (m->monitor == NULL)
        return;
    atomic_store(&m->alive_ns, clock_monotonic_ns());
    pthread_mutex_lock(&m->lock);
    m->n_steps_planned = n_steps_planned;
    m->last.step = m->checkpoint_step = step;
    m->checkpoint_time = clock_wall_seconds();
    pthread_mutex_unlock(&m->lock);
}

void run_monitor_note_step(struct run_monitor *m, const struct run_monitor_step *step)
{
    if (m->monitor == NULL)
        return;
    atomic_store(&m->alive_ns, clock_monotonic_ns());
    pthread_mutex_lock(&m->lock);
    m->last = *step;
    m->n_steps++;
    m->n_waiting_steps += step->waited_ns > wait_ns;
    m->n_images += (uint64_t)step->n_images;
    m->slowest_ns = step->step_ns > m->slowest_ns ? step->step_ns : m->slowest_ns;
    histogram_add(&m->steps, seconds(step->step_ns));
    histogram_add(&m->waits, seconds(step->waited_ns));
    pthread_mutex_unlock(&m->lock);
}

void run_monitor_note_checkpoint(struct run_monitor *m, int64_t step, int64_t spent_ns)
{
    if (m->monitor == NULL)
        return;
    atomic_store(&m->alive_ns, clock_monotonic_ns());
    pthread_mutex_lock(&m->lock);
    m->checkpoint_step = step;
    m->checkpoint_time = clock_wall_seconds();
    m->checkpoint_seconds += seconds(spent_ns);
    m->n_checkpoints++;
    pthread_mutex_unlock(&m->lock);
}

void run_monitor_close(struct run_monitor *m)
{
    if (m->monitor == NULL)
        return;
    monitor_close(&m->monitor);
    pthread_mutex_destroy(&m->lock);
    m->consumer = NULL;
}
