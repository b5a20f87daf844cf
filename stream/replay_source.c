#include "stream/replay_source.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/queue.h"
#include "proto/wire/data_spec_fields.h"

static const int64_t look_ns = 100000000;
static const int64_t patience_ns = 1000000000; /* of slices that are kept back */

/* What a rank has recorded in one piece. */
struct stretch {
    int32_t rank;
    int64_t first, end;
};

/* What a trainer was told of missing slices. */
struct trainer {
    uint64_t slice; /* the lowest that is missing */
    int64_t told_ns;
};

/* A thread that reads slices, with its own handle on the recording. */
struct reader {
    struct replay_source *source;
    struct recording *recording; /* the thread's */
    pthread_t thread;
    bool started;
};

struct replay_source {
    /* immutable after open */
    struct replay_options options;
    void (*done)(void *context, struct slice_job *job);
    void *done_context;
    const struct recording *recording;
    struct stretch *stretches; /* of the recorded ranks, in order */
    size_t n_stretches;
    struct queue *queue; /* slices that are asked for ─> the thread */
    struct queue *found; /* those that are in the recording ─> readers */
    pthread_t thread;
    bool started;
    struct reader *readers; /* [options.n_threads] */

    /* thread only */
    struct slice_job **held; /* [capacity]: missing slices that are kept back */
    int n_held;
    struct trainer trainers[PRODUCER_MAX_ENDPOINTS]; /* by number of the consumer */
    int64_t due_ns; /* when the next slice may go, at a limited rate */
    bool said_looping;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool closing; /* guarded by lock */
};

/* ---- finding a sample ---- */

static const struct stretch *stretch_of(const struct replay_source *source, int32_t rank)
{
    for (size_t i = 0; i < source->n_stretches; i++)
        if (source->stretches[i].rank == rank)
            return &source->stretches[i];
    return NULL;
}

/* The rank and step that a position of an epoch belongs to in the recording. */
static int64_t step_of(const struct replay_source *source, int32_t epoch, uint64_t position,
                       int32_t *rank)
{
    const struct message_recording *info = &source->recording->info;
    uint64_t world = (uint64_t)info->world;

    *rank = (int32_t)(position % world);
    return (int64_t)epoch * info->steps_per_epoch +
           (int64_t)(position / world / (uint64_t)info->batch_size);
}

static enum status not_recorded(const struct replay_source *source, int32_t epoch,
                                uint64_t position)
{
    int32_t rank;
    int64_t step = step_of(source, epoch, position, &rank);
    const struct stretch *stretch = stretch_of(source, rank);

    if (stretch == NULL)
        FAIL(STATUS_NOT_FOUND, "rank %d of %d is not in the recording", rank,
             source->recording->info.world);
    FAIL(STATUS_NOT_FOUND,
         "step %lld (epoch %d, position %llu) is not in the recording, which has steps %lld to "
         "%lld; start loaders for the rest, or use --loop for timings",
         (long long)step, epoch, (unsigned long long)position, (long long)stretch->first,
         (long long)stretch->end - 1);
}

/* Round and round: the recorded step that stands for one that is not. */
static bool find_again(const struct replay_source *source, int32_t epoch, uint64_t position,
                       size_t *slice, int32_t *image)
{
    const struct message_recording *info = &source->recording->info;
    int32_t rank;
    int64_t step = step_of(source, epoch, position, &rank);
    const struct stretch *stretch = stretch_of(source, rank);

    if (stretch == NULL || stretch->end <= stretch->first)
        return false;
    int64_t n = stretch->end - stretch->first;
    int64_t again = stretch->first + ((step - stretch->first) % n + n) % n;
    uint64_t batch = (uint64_t)info->batch_size, world = (uint64_t)info->world;
    uint64_t local = (uint64_t)(again % info->steps_per_epoch) * batch + position / world % batch;

    return recording_find(source->recording, (int32_t)(again / info->steps_per_epoch),
                          (uint64_t)rank + world * local, slice, image);
}

/* Where a sample is, or the one that stands for it; *again says which. */
static bool locate(const struct replay_source *source, int32_t epoch, uint64_t position,
                   size_t *slice, int32_t *image, bool *again)
{
    *again = false;
    if (recording_find(source->recording, epoch, position, slice, image))
        return true;
    *again = true;
    return source->options.loop && find_again(source, epoch, position, slice, image);
}

static void tell_looping(struct replay_source *source, int32_t epoch, uint64_t position)
{
    int32_t rank;
    int64_t step = step_of(source, epoch, position, &rank);
    const struct stretch *stretch = stretch_of(source, rank);

    if (!source->said_looping)
        log_warning("step %lld is not in the recording: steps %lld to %lld are served again in its "
                    "place, and so on; this is for timings, not for training",
                    (long long)step, (long long)stretch->first, (long long)stretch->end - 1);
    source->said_looping = true;
}

/* ---- one slice ---- */

static enum status check_spec(const struct replay_source *source, const struct slice_job *job)
{
    const struct message_recording *info = &source->recording->info;
    char difference[400];

    if (data_spec_digest(job->spec) == info->spec_digest)
        return STATUS_OK;
    data_spec_difference(&info->data_spec, job->spec, difference, sizeof(difference));
    FAIL(STATUS_MISMATCH, "the recording is of other samples than the trainer asks for: %s",
         difference);
}

/* What was passed over on the way to an image of the recorded slice. */
static enum status copy_bad_images(struct slice_job *job, int32_t sample,
                                   const struct message_slice *from, int32_t image)
{
    for (int32_t i = 0; i < from->n_bad_images; i++) {
        if (from->bad_images[i].sample != image)
            continue;
        TRY(memory_grow(&job->bad_images, &job->bad_capacity, job->n_bad_images + 1,
                        sizeof(*job->bad_images), "bad images"));
        struct bad_image *bad = &job->bad_images[job->n_bad_images++];
        *bad = from->bad_images[i];
        bad->epoch = job->epoch;
        bad->sample = sample;
    }
    return STATUS_OK;
}

/* Whether all of it can be served. */
static enum status look_up(struct replay_source *source, const struct slice_job *job)
{
    TRY(check_spec(source, job));
    for (int32_t i = 0; i < job->n_samples; i++) {
        uint64_t position = job->first_position + (uint64_t)i * job->stride;
        size_t slice;
        int32_t image;
        bool again;
        if (!locate(source, job->epoch, position, &slice, &image, &again))
            return not_recorded(source, job->epoch, position);
        if (again)
            tell_looping(source, job->epoch, position);
    }
    return STATUS_OK;
}

static enum status fill_slice(struct reader *reader, struct slice_job *job)
{
    struct recording *recording = reader->recording;
    size_t bytes = recording->record_bytes, slice;
    int32_t image;
    bool again;

    TRY(memory_alloc_unset(&job->payload, (size_t)job->n_samples, bytes, "slice"));
    for (int32_t i = 0; i < job->n_samples; i++) {
        uint64_t position = job->first_position + (uint64_t)i * job->stride;
        CHECK(locate(reader->source, job->epoch, position, &slice, &image, &again),
              "it was looked up");
        TRY(recording_read(recording, slice));
        const struct message_slice *from = &recording->message.slice;
        memcpy(job->payload + (size_t)i * bytes, recording->record.payload + (size_t)image * bytes,
               bytes);
        job->samples[i] = (struct batch_sample){.position = position,
                                                .index = from->index[image],
                                                .label = from->label[image],
                                                .n_substituted = from->n_substituted[image],
                                                .n_repaired = from->n_repaired[image]};
        TRY(copy_bad_images(job, i, from, image));
    }
    return STATUS_OK;
}

/* ---- slices that are not there ---- */

static void give_back(struct replay_source *source, struct slice_job *job)
{
    source->done(source->done_context, job);
}

static bool was_told_lately(const struct trainer *trainer, int64_t now_ns)
{
    return trainer->told_ns > 0 && now_ns - trainer->told_ns < patience_ns;
}

static void tell_or_hold(struct replay_source *source, struct slice_job *job)
{
    struct trainer *trainer = &source->trainers[job->consumer];
    int64_t now_ns = clock_monotonic_ns();

    if (was_told_lately(trainer, now_ns) && job->slice_id > trainer->slice) {
        source->held[source->n_held++] = job;
        return;
    }
    if (job->slice_id != trainer->slice || trainer->told_ns == 0)
        log_warning("%s", job->reason);
    *trainer = (struct trainer){job->slice_id, now_ns};
    give_back(source, job);
}

/* Gives back what was kept long enough: the trainer did not come for the lowest one again. */
static void let_go(struct replay_source *source, int64_t now_ns)
{
    int n = 0;

    for (int i = 0; i < source->n_held; i++) {
        struct slice_job *job = source->held[i];
        if (was_told_lately(&source->trainers[job->consumer], now_ns))
            source->held[n++] = job;
        else
            give_back(source, job);
    }
    source->n_held = n;
}

/* ---- the threads ---- */

/* Waits for the turn of n images; an end of the replay ends the wait. */
static void keep_pace(struct replay_source *source, int32_t n)
{
    int64_t now_ns = clock_monotonic_ns();

    if (source->options.rate <= 0)
        return;
    if (source->due_ns < now_ns - patience_ns) /* nobody asked for a while: no rush afterwards */
        source->due_ns = now_ns;
    struct timespec due = {.tv_sec = (time_t)(source->due_ns / 1000000000),
                           .tv_nsec = (long)(source->due_ns % 1000000000)};
    source->due_ns += (int64_t)(1e9 * n / source->options.rate);
    pthread_mutex_lock(&source->lock);
    while (!source->closing &&
           pthread_cond_timedwait(&source->changed, &source->lock, &due) != ETIMEDOUT)
        continue;
    pthread_mutex_unlock(&source->lock);
}

static void serve(struct replay_source *source, struct slice_job *job)
{
    job->status = look_up(source, job);
    if (job->status == STATUS_OK) {
        keep_pace(source, job->n_samples);
        enum status status = queue_push(source->found, job, 0);
        CHECK(status == STATUS_OK, "no more slices are under way than the credits allow");
        return;
    }
    snprintf(job->reason, sizeof(job->reason), "%s", status_message());
    if (job->status == STATUS_NOT_FOUND) {
        tell_or_hold(source, job);
        return;
    }
    log_error("%s", job->reason);
    give_back(source, job);
}

static void start_thread(const char *name)
{
    sigset_t signals;

    sigfillset(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    pthread_setname_np(pthread_self(), name);
}

static void *reader_thread(void *argument)
{
    struct reader *reader = argument;
    void *item;

    start_thread("reader");
    while (queue_pop(reader->source->found, &item, INT64_MAX) == STATUS_OK) {
        struct slice_job *job = item;
        job->status = fill_slice(reader, job);
        if (job->status != STATUS_OK) {
            snprintf(job->reason, sizeof(job->reason), "%s", status_message());
            log_error("%s", job->reason);
        }
        give_back(reader->source, job);
    }
    return NULL;
}

static void *replay_thread(void *argument)
{
    struct replay_source *source = argument;
    enum status status = STATUS_OK;
    void *item;

    start_thread("replay");
    while (status != STATUS_CLOSED) {
        int64_t now_ns = clock_monotonic_ns();
        let_go(source, now_ns);
        status = queue_pop(source->queue, &item, source->n_held > 0 ? now_ns + look_ns : INT64_MAX);
        if (status == STATUS_OK)
            serve(source, item);
    }
    while (source->n_held > 0)
        give_back(source, source->held[--source->n_held]);
    return NULL;
}

/* ---- open and close ---- */

static enum status find_stretches(struct replay_source *source)
{
    const struct recording *recording = source->recording;

    TRY(memory_alloc(&source->stretches, recording->n_files, sizeof(struct stretch), "ranks"));
    for (size_t i = 0; i < recording->n_files; i++) {
        int32_t rank = recording->files[i].rank;
        if (i > 0 && recording->files[i - 1].rank == rank)
            continue;
        struct stretch *stretch = &source->stretches[source->n_stretches++];
        stretch->rank = rank;
        recording_steps(recording, rank, &stretch->first, &stretch->end);
    }
    return STATUS_OK;
}

static enum status open_readers(struct replay_source *source)
{
    size_t n = (size_t)source->options.n_threads;

    TRY(memory_alloc(&source->readers, n, sizeof(struct reader), "readers"));
    for (size_t i = 0; i < n; i++) {
        struct reader *reader = &source->readers[i];
        reader->source = source;
        TRY(recording_share(&reader->recording, source->recording));
        int error = pthread_create(&reader->thread, NULL, reader_thread, reader);
        if (error != 0)
            FAIL(STATUS_IO, "replay: no thread: %s", strerror(error));
        reader->started = true;
    }
    return STATUS_OK;
}

static void close_readers(struct replay_source *source)
{
    for (int i = 0; source->readers != NULL && i < source->options.n_threads; i++) {
        if (source->readers[i].started)
            pthread_join(source->readers[i].thread, NULL);
        recording_close(&source->readers[i].recording);
    }
    memory_free(source->readers);
}

static void open_lock(struct replay_source *source)
{
    pthread_condattr_t attributes;

    pthread_mutex_init(&source->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&source->changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

enum status replay_source_open(struct replay_source **out, const struct recording *recording,
                               const struct replay_options *options,
                               void (*done)(void *context, struct slice_job *job), void *context)
{
    struct replay_source *source = NULL;
    enum status status = STATUS_OK;

    if (!recording->info.pixels)
        FAIL(STATUS_UNSUPPORTED,
             "a recording of ids has no pixels to replay: record with --record_kind full, or serve "
             "the same samples from their data set with ibot-loader");
    if (recording->n_slices == 0)
        FAIL(STATUS_INVALID, "the recording has not one whole slice");
    TRY(memory_alloc(&source, 1, sizeof(*source), "replay"));
    open_lock(source);
    source->options = *options;
    source->done = done;
    source->done_context = context;
    source->recording = recording;
    TRY_OUT(find_stretches(source));
    TRY_OUT(memory_alloc(&source->held, (size_t)options->capacity, sizeof(struct slice_job *),
                         "slices"));
    TRY_OUT(queue_open(&source->queue, (size_t)options->capacity));
    TRY_OUT(queue_open(&source->found, (size_t)options->capacity));
    TRY_OUT(open_readers(source));
    int error = pthread_create(&source->thread, NULL, replay_thread, source);
    if (error != 0)
        FAIL_OUT(STATUS_IO, "replay: no thread: %s", strerror(error));
    source->started = true;
    *out = source;
    source = NULL;
out:
    replay_source_close(&source);
    return status;
}

void replay_source_submit(struct replay_source *source, struct slice_job *job)
{
    enum status status = queue_push(source->queue, job, 0);
    CHECK(status == STATUS_OK, "no more slices are under way than the credits allow");
}

void replay_source_close(struct replay_source **address)
{
    struct replay_source *source = address != NULL ? *address : NULL;

    if (source == NULL)
        return;
    pthread_mutex_lock(&source->lock);
    source->closing = true;
    pthread_cond_broadcast(&source->changed);
    pthread_mutex_unlock(&source->lock);
    if (source->queue != NULL)
        queue_shut(source->queue);
    if (source->started)
        pthread_join(source->thread, NULL);
    if (source->found != NULL)
        queue_shut(source->found); /* readers serve what is left */
    close_readers(source);
    queue_close(&source->queue);
    queue_close(&source->found);
    memory_free(source->stretches);
    memory_free(source->held);
    pthread_cond_destroy(&source->changed);
    pthread_mutex_destroy(&source->lock);
    memory_free(source);
    *address = NULL;
}
