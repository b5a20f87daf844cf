/* The recorder's thread: one record per slice, its pieces gathered from the slot. */
#include "proto/wire/recorder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/base/queue.h"
#include "proto/wire/recording.h"
#include "proto/wire/tfrecord.h"

enum {
    BEHIND_BATCHES = 2, /* that wait to be written: the disk does not keep up */
    BEHIND_TIMES = 20,  /* in a row, before it is told */
};

enum { QUEUE_LENGTH = 1024, FIELD_HEAD_BYTES = 12, PATH_BYTES = 4096 };

struct recorder {
    /* immutable after open */
    struct consumer *consumer; /* borrowed */
    struct message_recording info;
    int32_t parts, per_batch;
    size_t record_bytes;
    struct queue *queue;
    pthread_t thread;
    bool started;

    /* thread only; the caller's while nothing is queued */
    struct tfrecord_writer *writer;
    struct message message; /* the slice being written */
    uint64_t *hashes;       /* [slice_size * parts]: part hashes */
    uint8_t *masks;         /* [slice_size, n_global, mask bytes]: bits */
    struct iovec *pieces;
    int n_behind; /* batches in a row after which others waited */
    bool said_behind;

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t changed;
    uint64_t n_taken, n_written;
    enum status error;
    char error_text[512];
};

/* ---- one slice ---- */

static size_t put_field(uint8_t *out, uint8_t tag, uint64_t n_bytes)
{
    size_t n = 0;

    out[n++] = tag;
    for (; n_bytes >= 0x80; n_bytes >>= 7)
        out[n++] = (uint8_t)(n_bytes | 0x80);
    out[n++] = (uint8_t)n_bytes;
    return n;
}

static void pack_bits(uint8_t *out, const uint8_t *cells, size_t n)
{
    memset(out, 0, (n + 7) / 8);
    for (size_t i = 0; i < n; i++)
        out[i / 8] = (uint8_t)(out[i / 8] | (cells[i] & 1) << (i % 8));
}

/* The pieces of one image record, where they lie in the slot; returns their number. */
static int image_pieces(const struct recorder *recorder, const struct batch *batch, size_t image,
                        uint8_t *bits, struct iovec *out)
{
    const struct data_spec *spec = &recorder->info.data_spec;
    size_t grid = (size_t)data_spec_mask_grid(spec), n_cells = grid * grid;
    size_t n = (size_t)batch->n_samples, bytes = data_spec_view_bytes(spec, 0);
    int n_pieces = 0;

    for (size_t v = 0; v < (size_t)spec->n_global; v++)
        out[n_pieces++] = (struct iovec){batch->globals + (v * n + image) * bytes, bytes};
    for (size_t v = 0; v < (size_t)spec->n_local; v++) {
        bytes = data_spec_view_bytes(spec, spec->n_global);
        out[n_pieces++] = (struct iovec){batch->locals + (v * n + image) * bytes, bytes};
    }
    for (size_t v = 0; v < (size_t)spec->n_global && n_cells > 0; v++) {
        bytes = data_spec_mask_bytes(spec);
        pack_bits(bits, batch->masks + (v * n + image) * n_cells, n_cells);
        out[n_pieces++] = (struct iovec){bits, bytes};
        bits += bytes;
    }
    bytes = data_spec_photometric_bytes(spec);
    for (size_t v = 0; v < (size_t)(spec->n_global + spec->n_local) && bytes > 0; v++)
        out[n_pieces++] = (struct iovec){batch->photometric + (v * n + image) * bytes, bytes};
    return n_pieces;
}

static void fill_header(struct recorder *recorder, const struct batch *batch, int32_t number,
                        int32_t n)
{
    const struct message_recording *info = &recorder->info;
    struct message_slice *slice = &recorder->message.slice;
    const struct batch_sample *samples = batch->samples + number * info->slice_size;

    recorder->message.kind = MESSAGE_SLICE;
    slice->lease = (struct lease_item){
        .slice_id = (uint64_t)batch->step * (uint64_t)recorder->per_batch + (uint64_t)number,
        .epoch = batch->epoch,
        .first_position = samples[0].position,
        .stride = (uint32_t)info->world,
        .n_samples = n,
    };
    slice->spec_digest = info->spec_digest;
    slice->n_bad_images = 0;
    for (int32_t i = 0; i < batch->n_bad_images; i++) {
        int32_t sample = batch->bad_images[i].sample - number * info->slice_size;
        if (sample < 0 || sample >= n || slice->n_bad_images == MESSAGE_MAX_BAD_IMAGES)
            continue;
        slice->bad_images[slice->n_bad_images] = batch->bad_images[i];
        slice->bad_images[slice->n_bad_images++].sample = sample;
    }
    for (int32_t i = 0; i < n; i++) {
        slice->index[i] = samples[i].index;
        slice->label[i] = samples[i].label;
        slice->n_substituted[i] = samples[i].n_substituted;
        slice->n_repaired[i] = samples[i].n_repaired;
        slice->hash[i] = batch->hashes[number * info->slice_size + i];
    }
}

static enum status write_slice(struct recorder *recorder, const struct batch *batch, int32_t number,
                               int32_t n)
{
    uint8_t head[MESSAGE_MAX_BYTES + FIELD_HEAD_BYTES];
    const struct message_recording *info = &recorder->info;
    size_t n_masks = (size_t)info->data_spec.n_global * data_spec_mask_bytes(&info->data_spec);
    struct iovec *pieces = recorder->pieces;
    int n_pieces = 1;

    fill_header(recorder, batch, number, n);
    size_t n_head = message_pack(&recorder->message, head);
    for (int32_t i = 0; i < n; i++)
        n_pieces += image_pieces(recorder, batch, (size_t)(number * info->slice_size + i),
                                 recorder->masks + (size_t)i * n_masks, pieces + n_pieces);
    if (info->pixels) {
        n_head +=
            put_field(head + n_head, RECORDING_PAYLOAD_TAG, (uint64_t)n * recorder->record_bytes);
    } else {
        for (int i = 1; i < n_pieces; i++)
            recorder->hashes[i - 1] = hash_bytes(pieces[i].iov_base, pieces[i].iov_len);
        size_t n_bytes = (size_t)(n_pieces - 1) * sizeof(uint64_t);
        n_head += put_field(head + n_head, RECORDING_PART_HASH_TAG, n_bytes);
        pieces[1] = (struct iovec){recorder->hashes, n_bytes};
        n_pieces = 2;
    }
    pieces[0] = (struct iovec){head, n_head};
    return tfrecord_writer_put(recorder->writer, pieces, n_pieces);
}

static enum status write_batch(struct recorder *recorder, const struct batch *batch)
{
    int32_t size = recorder->info.slice_size;

    for (int32_t first = 0; first < batch->n_samples; first += size) {
        int32_t left = batch->n_samples - first;
        TRY(write_slice(recorder, batch, first / size, left < size ? left : size));
    }
    return STATUS_OK;
}

/* ---- the thread ---- */

static enum status error_of(struct recorder *recorder)
{
    pthread_mutex_lock(&recorder->lock);
    enum status status = recorder->error;
    if (status != STATUS_OK)
        status = status_set(status, "%s", recorder->error_text);
    pthread_mutex_unlock(&recorder->lock);
    return status;
}

static void fail(struct recorder *recorder, enum status status)
{
    log_error("the recording ends here: %s; training goes on without", status_message());
    pthread_mutex_lock(&recorder->lock);
    recorder->error = status;
    snprintf(recorder->error_text, sizeof(recorder->error_text), "%s", status_message());
    pthread_mutex_unlock(&recorder->lock);
}

/* Says once that the trainer will have to wait for the disk. */
static void watch_pace(struct recorder *recorder)
{
    bool behind = queue_length(recorder->queue) >= BEHIND_BATCHES;

    recorder->n_behind = behind ? recorder->n_behind + 1 : 0;
    if (recorder->n_behind == BEHIND_TIMES && !recorder->said_behind) {
        recorder->said_behind = true;
        log_warning("the recording is written more slowly than batches are consumed, and holds up "
                    "training: a faster disk or --record_kind ids would help");
    }
}

static void *recorder_thread(void *argument)
{
    struct recorder *recorder = argument;
    sigset_t signals;
    void *item;

    sigfillset(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    pthread_setname_np(pthread_self(), "recorder");
    while (queue_pop(recorder->queue, &item, INT64_MAX) == STATUS_OK) {
        struct batch *batch = item;
        if (error_of(recorder) == STATUS_OK) {
            enum status status = write_batch(recorder, batch);
            if (status != STATUS_OK)
                fail(recorder, status);
            tfrecord_writer_begin_sync(recorder->writer); /* checkpoints wait for the disk */
            watch_pace(recorder);
        }
        consumer_return(recorder->consumer, batch);
        pthread_mutex_lock(&recorder->lock);
        recorder->n_written++;
        pthread_cond_broadcast(&recorder->changed);
        pthread_mutex_unlock(&recorder->lock);
    }
    return NULL;
}

/* ---- open and close ---- */

/* Removes a file whose steps are to be recorded again, because the run went back to a checkpoint.
 * One that begins with the run and ends in good order is no such file: that run has finished. */
static enum status remove_file(const struct recorder *recorder, const char *path, int64_t step)
{
    bool whole = false;

    if (step == 0 && recorder->info.first_step == 0)
        TRY(recording_is_whole(path, &whole));
    if (whole)
        FAIL(STATUS_MISMATCH,
             "'%s' is the recording of a run that ended in good order, and this run begins again: "
             "choose another folder, or remove it",
             path);
    if (unlink(path) != 0)
        FAIL(STATUS_IO, "'%s': %s", path, strerror(errno));
    return STATUS_OK;
}

/* What the folder has already must be of this stream; what this rank has of the steps to come is
 * removed, unless somebody reads it. */
static enum status clear_folder(const struct recorder *recorder, const char *folder)
{
    struct message *head = NULL;
    char **paths = NULL;
    size_t n = 0;
    enum status status = STATUS_OK;
    int lock = -1;
    bool found;

    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", folder, strerror(errno));
    TRY(memory_alloc(&head, 1, sizeof(*head), "message"));
    TRY_OUT(recording_list(folder, &paths, &n));
    for (size_t i = 0; i < n; i++) {
        TRY_OUT(recording_head(paths[i], head, &found));
        if (!found)
            continue;
        if (recording_compare(&recorder->info, &head->recording) != STATUS_OK) {
            char reason[512];
            snprintf(reason, sizeof(reason), "%s", status_message());
            FAIL_OUT(STATUS_MISMATCH,
                     "'%s' holds a recording of another run (%s): choose another folder", folder,
                     reason);
        }
        if (head->recording.rank != recorder->info.rank ||
            head->recording.first_step < recorder->info.first_step)
            continue;
        if (lock < 0 && recording_lock(&lock, folder, false) != STATUS_OK)
            FAIL_OUT(STATUS_IO,
                     "'%s' would be recorded again, but another program reads it: end that, or "
                     "choose another folder",
                     paths[i]);
        TRY_OUT(remove_file(recorder, paths[i], head->recording.first_step));
    }
out:
    if (lock >= 0)
        close(lock);
    for (size_t i = 0; i < n; i++)
        memory_free(paths[i]);
    memory_free(paths);
    memory_free(head);
    return status;
}

/* A file's name is on disk when its folder is: whatever a checkpoint says of it, it is there after
 * a loss of power too. */
static enum status sync_folder(const char *folder)
{
    int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int error = descriptor < 0 || fsync(descriptor) != 0 ? errno : 0;

    if (descriptor >= 0)
        close(descriptor);
    if (error != 0 && error != EINVAL) /* EINVAL: a file system that has no such thing */
        FAIL(STATUS_IO, "folder '%s' can't be synced to disk: %s", folder, strerror(error));
    return STATUS_OK;
}

static enum status open_file(struct recorder *recorder, const char *folder)
{
    char path[PATH_BYTES];
    uint8_t bytes[MESSAGE_MAX_BYTES];

    if (!recording_path(path, sizeof(path), folder, recorder->info.rank, recorder->info.first_step))
        FAIL(STATUS_INVALID, "'%s': the path is too long", folder);
    TRY(tfrecord_writer_open(&recorder->writer, path, false));
    recorder->message.kind = MESSAGE_RECORDING;
    recorder->message.recording = recorder->info;
    struct iovec piece = {bytes, message_pack(&recorder->message, bytes)};
    TRY(tfrecord_writer_put(recorder->writer, &piece, 1));
    TRY(tfrecord_writer_sync(recorder->writer));
    return sync_folder(folder);
}

static void describe(struct recorder *recorder, const struct recorder_options *o)
{
    struct message_recording *info = &recorder->info;
    struct dataset_info dataset;
    char host[48] = "";

    recorder->parts = recording_parts(&o->spec);
    recorder->record_bytes = data_spec_record_bytes(&o->spec);
    int64_t slice = (int64_t)(RECORDING_SLICE_BYTES / recorder->record_bytes);
    if (slice > (TFRECORD_MAX_PARTS - 1) / recorder->parts)
        slice = (TFRECORD_MAX_PARTS - 1) / recorder->parts;
    slice = slice > RECORDING_MAX_SLICE ? RECORDING_MAX_SLICE : slice < 1 ? 1 : slice;
    consumer_known_dataset(recorder->consumer, &dataset, &info->self_test);
    info->version = RECORDING_VERSION;
    info->pixels = o->pixels;
    info->rank = o->rank;
    info->world = o->world;
    info->batch_size = o->batch_size;
    info->slice_size = (int32_t)(slice > o->batch_size ? o->batch_size : slice);
    info->steps_per_epoch = consumer_steps_per_epoch(recorder->consumer);
    info->first_step = o->first_step;
    info->index_digest = dataset.index_digest;
    info->n_samples = dataset.n_samples;
    info->n_classes = dataset.n_classes;
    info->data_spec = o->spec;
    info->spec_digest = data_spec_digest(&o->spec);
    info->started_s = (int64_t)clock_wall_seconds();
    gethostname(host, sizeof(host) - 1);
    snprintf(info->name, sizeof(info->name), "%s:%d", host, (int)getpid());
    recorder->per_batch = (info->batch_size + info->slice_size - 1) / info->slice_size;
}

enum status recorder_open(struct recorder **out, struct consumer *consumer,
                          const struct recorder_options *options)
{
    struct recorder *recorder = NULL;
    const struct data_spec *spec = &options->spec;
    enum status status = STATUS_OK;

    TRY(memory_alloc(&recorder, 1, sizeof(*recorder), "recorder"));
    pthread_mutex_init(&recorder->lock, NULL);
    pthread_cond_init(&recorder->changed, NULL);
    recorder->consumer = consumer;
    describe(recorder, options);
    size_t n = (size_t)recorder->info.slice_size, parts = (size_t)recorder->parts;
    TRY_OUT(memory_alloc(&recorder->hashes, n * parts, sizeof(uint64_t), "hashes"));
    TRY_OUT(memory_alloc(&recorder->pieces, n * parts + 1, sizeof(struct iovec), "pieces"));
    TRY_OUT(memory_alloc(&recorder->masks, n * (size_t)spec->n_global, data_spec_mask_bytes(spec),
                         "mask bits"));
    TRY_OUT(clear_folder(recorder, options->folder));
    TRY_OUT(open_file(recorder, options->folder));
    TRY_OUT(queue_open(&recorder->queue, QUEUE_LENGTH));
    int error = pthread_create(&recorder->thread, NULL, recorder_thread, recorder);
    if (error != 0)
        FAIL_OUT(STATUS_IO, "recorder: no thread: %s", strerror(error));
    recorder->started = true;
    *out = recorder;
    recorder = NULL;
out:
    if (recorder != NULL)
        (void)recorder_close(&recorder); /* the first failure is the one to tell */
    return status;
}

void recorder_take(struct recorder *recorder, struct batch *batch)
{
    pthread_mutex_lock(&recorder->lock);
    recorder->n_taken++;
    pthread_mutex_unlock(&recorder->lock);
    enum status status = queue_push(recorder->queue, batch, 0);
    CHECK(status == STATUS_OK, "a consumer has fewer slots than the queue has places");
}

enum status recorder_sync(struct recorder *recorder)
{
    pthread_mutex_lock(&recorder->lock);
    while (recorder->n_written < recorder->n_taken)
        pthread_cond_wait(&recorder->changed, &recorder->lock);
    pthread_mutex_unlock(&recorder->lock);
    TRY(error_of(recorder));
    enum status status = tfrecord_writer_sync(recorder->writer);
    if (status != STATUS_OK)
        fail(recorder, status);
    return status;
}

/* The record that says that the recording ends as it should. */
static enum status write_end(struct recorder *recorder)
{
    uint8_t bytes[MESSAGE_MAX_BYTES];

    TRY(error_of(recorder));
    recorder->message.kind = MESSAGE_FINISHED;
    struct iovec piece = {bytes, message_pack(&recorder->message, bytes)};
    TRY(tfrecord_writer_put(recorder->writer, &piece, 1));
    return tfrecord_writer_sync(recorder->writer);
}

enum status recorder_close(struct recorder **address)
{
    struct recorder *recorder = address != NULL ? *address : NULL;
    enum status status = STATUS_OK;

    if (recorder == NULL)
        return STATUS_OK;
    if (recorder->queue != NULL)
        queue_shut(recorder->queue);
    if (recorder->started) {
        pthread_join(recorder->thread, NULL);
        status = write_end(recorder);
    }
    enum status closed = tfrecord_writer_close(&recorder->writer);
    queue_close(&recorder->queue);
    memory_free(recorder->hashes);
    memory_free(recorder->pieces);
    memory_free(recorder->masks);
    pthread_cond_destroy(&recorder->changed);
    pthread_mutex_destroy(&recorder->lock);
    memory_free(recorder);
    *address = NULL;
    return status != STATUS_OK ? status : closed;
}
