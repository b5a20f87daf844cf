/* ibot-stream verify: makes every recorded sample again from the data set and names the first
 * difference. The threads that make them are a loader's. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "loader/pool.h"
#include "loader/self_test.h"
#include "proto/base/clock.h"
#include "proto/base/cpus.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/ranges.h"
#include "proto/config/rows.h"
#include "proto/wire/recording.h"
#include "stream/command.h"
#include "stream/source.h"

struct options_of_verify {
    const char *data, *index, *steps;
    int32_t threads;
};

static const int64_t tell_ns = 10000000000; /* between lines about the progress */

static struct options_of_verify values;

#define AT(field) .offset = offsetof(struct options_of_verify, field)

static const struct option_spec specs[] = {
    {.part = &row_data, AT(data), .flags = OPTION_REQUIRED, .group = "Data"},
    {.part = &row_index, AT(index)},
    {.name = "steps",
     .type = OPTION_STRING,
     AT(steps),
     .argument = "FIRST-LAST,...",
     .group = "What to check",
     .help = "these steps alone"},
    {.part = &row_sample_threads, AT(threads), .group = "Process"},
};

static const struct options_program program = {
    .name = "ibot-stream verify",
    .summary = "Make what was recorded again from its data set, and name the first difference.",
    .epilogue =
        "Of a full recording the first pixel that differs is named, of one that holds ids and "
        "hashes the view. Exit status: 0 all the same, 3 a difference, 1 anything else.\n\n"
        "  ibot-stream verify runs/small/recording --data /data/imagenet/train",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "RECORDING",
    .min_positional = 1,
    .max_positional = 1,
};

/* A slice that is made again. */
struct remade {
    struct slice_job job;
    bool done; /* guarded by verify.lock */
};

struct verify {
    struct recording *recording;
    struct source source;
    bool same; /* paths, sizes and labels of the data set */
    struct pool *pool;
    struct remade *slices; /* [window]: of the i-th slice to check at i mod window */
    size_t window;
    size_t *chosen, n_chosen; /* slices to check, by number */
    uint64_t n_images;
    int64_t told_ns;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

/* ---- making ---- */

static void finish_slice(void *context, struct slice_job *job)
{
    struct verify *verify = context;

    pthread_mutex_lock(&verify->lock);
    ((struct remade *)job)->done = true;
    pthread_cond_broadcast(&verify->changed);
    pthread_mutex_unlock(&verify->lock);
}

static void release_job(struct slice_job *job)
{
    memory_free(job->payload);
    memory_free(job->bad_images);
    job->payload = NULL;
    job->bad_images = NULL;
}

static void submit(struct verify *verify, size_t i)
{
    const struct recorded_slice *slice = &verify->recording->slices[verify->chosen[i]];
    struct remade *remade = &verify->slices[i % verify->window];

    release_job(&remade->job);
    *remade = (struct remade){
        .job = {.spec = &verify->recording->info.data_spec,
                .slice_id = slice->lease.slice_id,
                .epoch = slice->lease.epoch,
                .first_position = slice->lease.first_position,
                .stride = slice->lease.stride,
                .n_samples = slice->lease.n_samples},
    };
    pool_submit(verify->pool, &remade->job);
}

static const struct slice_job *wait_for(struct verify *verify, size_t i)
{
    struct remade *remade = &verify->slices[i % verify->window];

    pthread_mutex_lock(&verify->lock);
    while (!remade->done)
        pthread_cond_wait(&verify->changed, &verify->lock);
    pthread_mutex_unlock(&verify->lock);
    return &remade->job;
}

/* ---- comparing ---- */

/* Where a difference is. */
struct place {
    const struct verify *verify;
    const struct recorded_slice *slice;
    const struct slice_job *job;
    int32_t image; /* in the slice */
};

static const char *describe_sample(const struct place *place, char *out, size_t size)
{
    const struct message_recording *info = &place->verify->recording->info;
    uint64_t position =
        place->slice->lease.first_position + (uint64_t)place->image * place->slice->lease.stride;
    char path[INDEX_MAX_PATH_BYTES];
    uint32_t index = place->job->samples[place->image].index;

    snprintf(out, size, "step %lld, rank %d, sample %llu (epoch %d, position %llu, image %u '%s')",
             (long long)place->slice->step,
             place->verify->recording->files[place->slice->file].rank,
             (unsigned long long)(position / (uint64_t)info->world % (uint64_t)info->batch_size),
             place->slice->lease.epoch, (unsigned long long)position, index,
             source_path(&place->verify->source, index, path, sizeof(path)));
    return out;
}

static const char *describe_part(const struct data_spec *spec, struct recorded_part part, char *out,
                                 size_t size)
{
    static const char *const kinds[] = {[RECORDED_VIEW] = "",
                                        [RECORDED_MASK] = "mask of ",
                                        [RECORDED_COLOURS] = "parameters of the colours of "};
    bool global = part.view < spec->n_global;

    snprintf(out, size, "%s%s crop %d", kinds[part.kind], global ? "global" : "local",
             global ? part.view : part.view - spec->n_global);
    return out;
}

/* The first byte that differs, as what it means. Errors: STATUS_MISMATCH. */
static enum status tell_bytes(const struct place *place, int32_t number, const uint8_t *recorded,
                              const uint8_t *made, size_t n_bytes)
{
    const struct data_spec *spec = &place->verify->recording->info.data_spec;
    struct recorded_part part = recording_part_of(spec, number);
    char sample[5000], name[64];
    size_t first = 0, n = 0;

    for (size_t i = n_bytes; i-- > 0;)
        if (recorded[i] != made[i]) {
            first = i;
            n++;
        }
    describe_sample(place, sample, sizeof(sample));
    describe_part(spec, part, name, sizeof(name));
    if (part.kind == RECORDED_VIEW) {
        size_t side =
            (size_t)(part.view < spec->n_global ? spec->global_size_px : spec->local_size_px);
        FAIL(STATUS_MISMATCH,
             "%s: %s: pixel x %zu, y %zu, channel %c: %d is recorded, %d is made now; %zu of %zu "
             "bytes differ",
             sample, name, first / 3 % side, first / 3 / side, "RGB"[first % 3], recorded[first],
             made[first], n, n_bytes);
    }
    if (part.kind == RECORDED_MASK) {
        size_t grid = (size_t)data_spec_mask_grid(spec);
        size_t cell = 8 * first + (size_t)__builtin_ctz((unsigned)(recorded[first] ^ made[first]));
        FAIL(STATUS_MISMATCH, "%s: %s: cell column %zu, row %zu is %s in the recording, not now",
             sample, name, cell % grid, cell / grid,
             recorded[first] >> (cell % 8) & 1 ? "masked" : "not masked");
    }
    FAIL(STATUS_MISMATCH, "%s: %s: byte %zu: %d is recorded, %d is made now", sample, name, first,
         recorded[first], made[first]);
}

static enum status compare_parts(const struct place *place)
{
    const struct recording *recording = place->verify->recording;
    const struct data_spec *spec = &recording->info.data_spec;
    size_t image = (size_t)place->image, record = recording->record_bytes;
    const uint8_t *made = place->job->payload + image * record;

    for (int32_t i = 0; i < recording->parts; i++) {
        size_t offset, n_bytes;
        recording_part(spec, i, &offset, &n_bytes);
        if (recording->info.pixels) {
            const uint8_t *recorded = recording->record.payload + image * record;
            if (memcmp(recorded + offset, made + offset, n_bytes) != 0)
                return tell_bytes(place, i, recorded + offset, made + offset, n_bytes);
            continue;
        }
        uint64_t hash = hash_bytes(made + offset, n_bytes);
        uint64_t recorded =
            record_part_hash(&recording->record, image * (size_t)recording->parts + (size_t)i);
        if (hash != recorded) {
            char sample[5000], name[64];
            FAIL(STATUS_MISMATCH,
                 "%s: %s: hash %016llx is recorded, %016llx is made now (a full recording would "
                 "name the pixel)",
                 describe_sample(place, sample, sizeof(sample)),
                 describe_part(spec, recording_part_of(spec, i), name, sizeof(name)),
                 (unsigned long long)recorded, (unsigned long long)hash);
        }
    }
    return STATUS_OK;
}

static enum status compare_sample(const struct place *place)
{
    const struct message_slice *recorded = &place->verify->recording->message.slice;
    const struct batch_sample *made = &place->job->samples[place->image];
    int32_t i = place->image;
    char sample[5000];

    if (recorded->index[i] != made->index || recorded->label[i] != made->label ||
        recorded->n_substituted[i] != made->n_substituted)
        FAIL(STATUS_MISMATCH,
             "%s: image %u with label %d after %u bad images is recorded; image %u with label %d "
             "after %u is made now",
             describe_sample(place, sample, sizeof(sample)), recorded->index[i], recorded->label[i],
             recorded->n_substituted[i], made->index, made->label, made->n_substituted);
    return compare_parts(place);
}

/* The i-th of the chosen slices. */
static enum status check_slice(struct verify *verify, size_t i)
{
    struct place place = {.verify = verify,
                          .slice = &verify->recording->slices[verify->chosen[i]],
                          .job = wait_for(verify, i)};

    if (place.job->status != STATUS_OK)
        FAIL(place.job->status, "step %lld, slice %llu cannot be made: %s",
             (long long)place.slice->step, (unsigned long long)place.slice->lease.slice_id,
             place.job->reason);
    TRY(recording_read(verify->recording, verify->chosen[i]));
    for (; place.image < place.slice->lease.n_samples; place.image++) {
        TRY(compare_sample(&place));
        verify->n_images++;
    }
    return STATUS_OK;
}

/* ---- the command ---- */

static enum status check_build(const struct verify *verify)
{
    const struct message_recording *info = &verify->recording->info;
    uint64_t self_test;

    TRY(self_test_pixels(&self_test));
    if (self_test != info->self_test)
        log_warning("this build makes other pixels than the one that was recorded (self test "
                    "%016llx, recorded %016llx)",
                    (unsigned long long)self_test, (unsigned long long)info->self_test);
    return STATUS_OK;
}

static enum status choose_slices(struct verify *verify)
{
    const struct recording *recording = verify->recording;
    struct ranges steps;

    TRY(ranges_parse(&steps, "--steps", values.steps));
    TRY(memory_alloc(&verify->chosen, recording->n_slices, sizeof(size_t), "slices"));
    for (size_t i = 0; i < recording->n_slices; i++) {
        if (steps.n == 0 || ranges_find(&steps, recording->slices[i].step) != NULL)
            verify->chosen[verify->n_chosen++] = i;
    }
    if (verify->n_chosen == 0)
        FAIL(STATUS_INVALID, "the recording has no sample of these steps");
    return STATUS_OK;
}

static enum status open_verify(struct verify *verify, const char *path)
{
    TRY(recording_open(&verify->recording, path));
    const struct message_recording *info = &verify->recording->info;
    TRY(source_open(&verify->source, &verify->same, values.data, values.index, info->index_digest,
                    info->n_samples));
    if (!verify->same)
        log_warning("'%s': paths, sizes or labels of the images are not those that were recorded "
                    "(index digest %016llx, recorded %016llx)",
                    values.data, (unsigned long long)verify->source.index.header->digest,
                    (unsigned long long)info->index_digest);
    TRY(check_build(verify));
    TRY(choose_slices(verify));
    if (values.threads == 0)
        values.threads = cpus_usable();
    verify->window = 2 * (size_t)values.threads;
    TRY(memory_alloc(&verify->slices, verify->window, sizeof(struct remade), "slices"));
    struct pool_options pool = {
        .index = &verify->source.index,
        .order = verify->source.order,
        .n_threads = values.threads,
        .n_consumers = 1,
        .capacity = (int)verify->window,
        .done = finish_slice,
        .context = verify,
    };
    return pool_open(&verify->pool, &pool);
}

static void close_verify(struct verify *verify)
{
    pool_close(&verify->pool);
    for (size_t i = 0; verify->slices != NULL && i < verify->window; i++)
        release_job(&verify->slices[i].job);
    memory_free(verify->slices);
    memory_free(verify->chosen);
    source_close(&verify->source);
    recording_close(&verify->recording);
    pthread_cond_destroy(&verify->changed);
    pthread_mutex_destroy(&verify->lock);
}

static void tell_progress(struct verify *verify, size_t n)
{
    int64_t now_ns = clock_monotonic_ns();

    if (now_ns - verify->told_ns < tell_ns)
        return;
    verify->told_ns = now_ns;
    log_info("%llu samples so far, %.1f %%", (unsigned long long)verify->n_images,
             100.0 * (double)n / (double)verify->n_chosen);
}

static enum status check_all(struct verify *verify, const atomic_int *stop)
{
    size_t submitted = 0;

    for (size_t i = 0; i < verify->n_chosen; i++) {
        for (; submitted < verify->n_chosen && submitted < i + verify->window; submitted++)
            submit(verify, submitted);
        TRY(check_slice(verify, i));
        tell_progress(verify, i + 1);
        if (atomic_load(stop) != 0)
            FAIL(STATUS_INTERRUPTED, "stopped; %llu samples are made now as they were recorded",
                 (unsigned long long)verify->n_images);
    }
    return STATUS_OK;
}

static enum status run(const struct options *options, const atomic_int *stop)
{
    struct verify verify = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    enum status status = open_verify(&verify, options->positional[0]);
    int64_t begin_ns = clock_monotonic_ns();

    verify.told_ns = begin_ns;
    if (status == STATUS_OK)
        status = check_all(&verify, stop);
    if (status == STATUS_OK) {
        double seconds = 1e-9 * (double)(clock_monotonic_ns() - begin_ns);
        printf("%llu samples are made now as they were recorded\n",
               (unsigned long long)verify.n_images);
        log_info("%.0f images/s", (double)verify.n_images / seconds);
        if (!verify.same)
            status = status_set(STATUS_MISMATCH,
                                "'%s' is not the data set that was recorded: paths, sizes or "
                                "labels differ, though not the pixels of these samples",
                                values.data);
    }
    close_verify(&verify);
    return status;
}

const struct stream_command stream_verify = {&program, &values, run};
