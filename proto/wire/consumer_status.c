/* How the stream stands, for whoever asks. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/wire/consumer_internal.h"

static const int64_t least_interval_ns = 10000000; /* between answers: asking costs more */

/* The stream as a recording would say what it is. */
static void describe_stream(const struct consumer *consumer, struct message_recording *out)
{
    const struct consumer_options *options = &consumer->options;

    *out = (struct message_recording){
        .version = RECORDING_VERSION,
        .pixels = true,
        .rank = options->rank,
        .world = options->world,
        .batch_size = options->batch_size,
        .slice_size = options->slice_size,
        .steps_per_epoch = consumer->steps_per_epoch,
        .first_step = consumer->ready_step,
        .index_digest = consumer->thread_dataset.index_digest,
        .n_samples = consumer->thread_dataset.n_samples,
        .n_classes = consumer->thread_dataset.n_classes,
        .self_test = consumer->self_test,
        .spec_digest = consumer->spec_digest,
        .data_spec = options->spec,
        .started_s = (int64_t)clock_wall_seconds(),
    };
    char host[48] = "";
    gethostname(host, sizeof(host) - 1);
    snprintf(out->name, sizeof(out->name), "%s:%d", host, (int)getpid());
}

static void count(struct consumer *consumer, struct message_status *out)
{
    struct session_counts counts;

    session_count(consumer->session, &counts);
    out->n_leases = counts.n_leases;
    out->n_reissued = counts.n_reissued;
    out->n_slots = consumer->n_slots;
    pthread_mutex_lock(&consumer->lock);
    const struct consumer_stats *stats = &consumer->stats;
    out->n_batches = stats->n_batches;
    out->n_slices = stats->n_slices;
    out->n_bytes = stats->n_bytes;
    out->n_duplicates = stats->n_duplicates;
    out->n_corrupt = stats->n_corrupt;
    out->n_refused = stats->n_rejected_loaders;
    out->n_bad_images = stats->n_bad_images;
    out->n_repaired = stats->n_repaired;
    out->waited_ns = stats->waited_ns;
    out->n_ready = consumer->n_ready;
    pthread_mutex_unlock(&consumer->lock);
    out->n_images = out->n_bytes / consumer->record_bytes;
    if (consumer->auth != NULL)
        out->n_refused += auth_n_refused(consumer->auth);
}

static void list_loaders(const struct consumer *consumer, struct message_status *out,
                         int64_t now_ns)
{
    for (int32_t i = 0; i < consumer->n_peers; i++) {
        const struct peer *peer = &consumer->peers[i];
        if (!peer->used)
            continue;
        out->n_loaders++;
        if (out->n_listed == STATUS_MAX_LOADERS)
            continue;
        struct status_loader *loader = &out->loaders[out->n_listed++];
        *loader = (struct status_loader){
            .n_threads = peer->n_threads,
            .credit = peer->credit,
            .n_leases = session_leases(consumer->session, i),
            .n_strikes = peer->n_strikes,
            .n_slices = peer->n_slices,
            .n_images = peer->n_images,
            .silent_ms = (uint32_t)((now_ns - peer->heard_ns) / 1000000),
        };
        memcpy(loader->name, peer->name, sizeof(loader->name));
    }
}

bool consumer_describe(struct consumer *consumer, int64_t now_ns)
{
    struct message_status *out = &consumer->out.status;

    if (now_ns - consumer->described_ns < least_interval_ns)
        return false;
    consumer->described_ns = now_ns;
    memset(out, 0, sizeof(*out));
    out->time_ns = now_ns;
    out->has_stream = consumer->leasing;
    if (out->has_stream) {
        describe_stream(consumer, &out->stream);
        out->end_step = consumer->last_step;
    }
    count(consumer, out);
    list_loaders(consumer, out, now_ns);
    if (out->has_stream)
        out->stream.first_step -= out->n_ready;
    return true;
}
