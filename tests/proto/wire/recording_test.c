/* What a recorder wrote is what the consumer handed on, and every position of it is found. */
#include "proto/wire/recording.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "proto/wire/consumer.h"
#include "proto/wire/recorder.h"
#include "tests/proto/wire/fleet.h"

static int n_folders_synced;

/* In place of the C library's: the same, and counts folders. */
int fsync(int file)
{
    struct stat info;

    n_folders_synced += fstat(file, &info) == 0 && S_ISDIR(info.st_mode);
    return (int)syscall(SYS_fsync, file);
}

enum { BATCH = 100, SLICE = 7, MAX_STEPS = 64, EPOCHS = 2 };

static const int64_t patience_ns = 60000000000;

static struct scene {
    char folder[64];
    uint64_t digests[MAX_STEPS];
    int64_t n_steps; /* of a whole run */
} scene;

static int open_scene(void **state)
{
    (void)state;
    strcpy(scene.folder, "/tmp/ibot-recording-XXXXXX");
    return mkdtemp(scene.folder) == NULL;
}

static int close_scene(void **state)
{
    char path[256];

    (void)state;
    for (int64_t step = 0; step < MAX_STEPS; step++)
        if (recording_path(path, sizeof(path), scene.folder, 0, step))
            unlink(path);
    return rmdir(scene.folder);
}

static struct recorder_options recorder_options(const struct data_spec *spec, bool pixels,
                                                int64_t step)
{
    return (struct recorder_options){.folder = scene.folder,
                                     .pixels = pixels,
                                     .spec = *spec,
                                     .world = 1,
                                     .batch_size = BATCH,
                                     .first_step = step};
}

/* Consumes steps [from, to) of two epochs with a short batch at the end of each; `to` 0: all. */
static void consume(const struct data_spec *spec, bool pixels, int64_t from, int64_t to)
{
    struct consumer_options options = {.endpoints = {"tcp://127.0.0.1:0"},
                                       .n_endpoints = 1,
                                       .spec = *spec,
                                       .batch_size = BATCH,
                                       .slice_size = SLICE,
                                       .prefetch = 3,
                                       .world = 1};
    struct recorder_options recorded = recorder_options(spec, pixels, from);
    struct consumer *consumer;
    struct recorder *recorder;
    struct dataset_info dataset;
    struct batch *batch;

    assert_int_equal(consumer_open(&consumer, &options), STATUS_OK);
    struct fleet_options one = fleet_options(consumer_endpoint(consumer, 0));
    one.n_threads = 2;
    one.reports_bad_images = true;
    struct fleet_loader *loader = fleet_loader_open(&one);
    assert_int_equal(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + patience_ns),
                     STATUS_OK);
    assert_int_equal(consumer_start(consumer, from, EPOCHS), STATUS_OK);
    scene.n_steps = EPOCHS * consumer_steps_per_epoch(consumer);
    if (recorder_open(&recorder, consumer, &recorded) != STATUS_OK)
        fail_msg("%s", status_message());
    for (int64_t step = from; step < (to > 0 ? to : scene.n_steps); step++) {
        assert_int_equal(consumer_next(consumer, &batch, clock_monotonic_ns() + patience_ns),
                         STATUS_OK);
        assert_int_equal(batch->step, step);
        scene.digests[step] = batch->digest;
        recorder_take(recorder, batch);
    }
    assert_int_equal(recorder_sync(recorder), STATUS_OK);
    assert_int_equal(recorder_close(&recorder), STATUS_OK);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static struct recording *open_recording(void)
{
    struct recording *recording = NULL;

    if (recording_open(&recording, scene.folder) != STATUS_OK)
        fail_msg("%s", status_message());
    return recording;
}

/* Digests of all steps from `from` on. */
static void check_digests(struct recording *recording, int64_t from)
{
    uint64_t digest;
    int64_t step = from;

    for (size_t i = 0, next; i < recording->n_slices; i = next, step++) {
        next = i;
        while (next < recording->n_slices &&
               recording->slices[next].step == recording->slices[i].step)
            next++;
        assert_int_equal(recording->slices[i].step, step);
        assert_int_equal(recording_digest(recording, i, next - i, &digest), STATUS_OK);
        assert_true(digest == scene.digests[step]);
    }
    assert_int_equal(step, scene.n_steps);
}

/* What was passed over on the way to an image is recorded with it. */
static void check_bad_image(const struct message_slice *slice, int32_t image,
                            const struct batch_sample *sample, int32_t epoch)
{
    uint32_t n = 0;

    for (int32_t i = 0; i < slice->n_bad_images; i++) {
        const struct bad_image *bad = &slice->bad_images[i];
        if (bad->sample != image)
            continue;
        assert_int_equal(bad->index, sample->index);
        assert_int_equal(bad->epoch, epoch);
        assert_int_equal(bad->kind, BAD_IMAGE_MISSING);
        assert_string_equal(bad->reason, "torn");
        n++;
    }
    assert_int_equal(n, sample->n_substituted);
}

/* Every position is found where it is, with its pixels or the hashes of its parts. */
static void check_positions(struct recording *recording, const struct data_spec *spec)
{
    size_t bytes = data_spec_record_bytes(spec), slice;
    uint8_t *wanted = malloc(bytes);
    int32_t image;

    for (int32_t epoch = 0; epoch < EPOCHS; epoch++)
        for (uint64_t position = 0; position < FLEET_SAMPLES; position++) {
            assert_true(recording_find(recording, epoch, position, &slice, &image));
            assert_int_equal(recording_read(recording, slice), STATUS_OK);
            struct batch_sample sample = fleet_sample(epoch, position);
            const struct message_slice *got = &recording->message.slice;
            assert_int_equal(got->index[image], sample.index);
            assert_int_equal(got->label[image], sample.label);
            assert_int_equal(got->n_repaired[image], sample.n_repaired);
            check_bad_image(got, image, &sample, epoch);
            fleet_record(spec, epoch, position, wanted);
            if (recording->info.pixels)
                assert_memory_equal(recording->record.payload + (size_t)image * bytes, wanted,
                                    bytes);
            for (int32_t p = 0; p < recording->parts && !recording->info.pixels; p++) {
                size_t offset, n;
                recording_part(spec, p, &offset, &n);
                assert_true(
                    record_part_hash(&recording->record, (size_t)(image * recording->parts + p)) ==
                    hash_bytes(wanted + offset, n));
            }
        }
    assert_false(recording_find(recording, 0, FLEET_SAMPLES, &slice, &image));
    assert_false(recording_find(recording, EPOCHS, 0, &slice, &image));
    free(wanted);
}

static void what_was_consumed_is_found_again_in_both_kinds(void **state)
{
    const struct data_spec spec = fleet_spec();
    int64_t first, end;

    (void)state;
    for (int pixels = 0; pixels < 2; pixels++) {
        consume(&spec, pixels, 0, 0);
        struct recording *recording = open_recording();
        assert_int_equal(recording->info.pixels, pixels);
        assert_true(recording->files[0].finished);
        check_digests(recording, 0);
        check_positions(recording, &spec);
        recording_steps(recording, 0, &first, &end);
        assert_int_equal(first, 0);
        assert_int_equal(end, scene.n_steps);
        recording_close(&recording);
        recording_close(&recording);
        assert_int_equal(close_scene(NULL), 0);
        assert_int_equal(open_scene(NULL), 0);
    }
}

struct half {
    struct recording *recording;
    size_t first;
    int n_wrong;
};

static void *read_half(void *argument)
{
    struct half *half = argument;

    for (size_t i = half->first; i < half->recording->n_slices; i += 2)
        half->n_wrong += recording_read(half->recording, i) != STATUS_OK ||
                         half->recording->message.slice.lease.slice_id !=
                             half->recording->slices[i].lease.slice_id;
    return NULL;
}

static void two_threads_read_with_a_handle_each(void **state)
{
    const struct data_spec spec = fleet_spec();
    struct half halves[2];
    pthread_t threads[2];

    (void)state;
    consume(&spec, true, 0, 0);
    struct recording *recording = open_recording();
    for (size_t i = 0; i < 2; i++) {
        halves[i] = (struct half){.first = i};
        assert_int_equal(recording_share(&halves[i].recording, recording), STATUS_OK);
        assert_int_equal(pthread_create(&threads[i], NULL, read_half, &halves[i]), 0);
    }
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(halves[i].n_wrong, 0);
        recording_close(&halves[i].recording);
    }
    check_digests(recording, 0); /* the first one is as it was */
    recording_close(&recording);
}

/* The name of a file, as what is in it, is on disk before anything relies on it. */
static void a_new_file_is_there_for_good(void **state)
{
    const struct data_spec spec = fleet_spec();

    (void)state;
    n_folders_synced = 0;
    consume(&spec, false, 0, 1);
    assert_int_equal(n_folders_synced, 1);
}

/* The parts of a record are all of it, in order. */
static void parts_cover_a_record(void **state)
{
    struct data_spec spec = fleet_spec();

    (void)state;
    for (int by_trainer = 0; by_trainer < 2; by_trainer++) {
        size_t at = 0, offset, n;
        spec.photometric = by_trainer ? PHOTOMETRIC_BY_TRAINER : PHOTOMETRIC_BY_LOADER;
        for (int32_t i = 0; i < recording_parts(&spec); i++, at += n) {
            recording_part(&spec, i, &offset, &n);
            assert_int_equal(offset, at);
            assert_true(n > 0);
        }
        assert_int_equal(at, data_spec_record_bytes(&spec));
    }
}

/* A run that goes back and on: of what was recorded twice the later one counts. */
static void a_later_file_takes_the_place_of_an_earlier_one(void **state)
{
    const struct data_spec spec = fleet_spec();
    int64_t first, end;

    (void)state;
    consume(&spec, true, 0, 9);
    consume(&spec, true, 5, 7); /* it stopped again, … */
    consume(&spec, true, 6, 0); /* … and went back one step */
    struct recording *recording = open_recording();
    assert_int_equal(recording->n_files, 3);
    check_digests(recording, 0);
    recording_steps(recording, 0, &first, &end);
    assert_int_equal(first, 0);
    assert_int_equal(end, scene.n_steps);
    for (size_t i = 0; i < recording->n_slices; i++) {
        int64_t step = recording->slices[i].step;
        assert_int_equal(recording->slices[i].file, step < 5 ? 0 : step < 6 ? 1 : 2);
    }
    recording_close(&recording);
    consume(&spec, true, 5, 0); /* files from here on go */
    recording = open_recording();
    assert_int_equal(recording->n_files, 2);
    check_digests(recording, 0);
    recording_close(&recording);
}

static void a_folder_with_something_else_is_not_recorded_into(void **state)
{
    struct data_spec spec = fleet_spec();
    struct recorder *recorder = NULL;
    struct consumer_options options = {
        .endpoints = {"tcp://127.0.0.1:0"}, .n_endpoints = 1, .batch_size = BATCH, .world = 1};
    struct consumer *consumer;
    struct dataset_info dataset;

    (void)state;
    consume(&spec, false, 0, 3);
    spec.seed++;
    options.spec = spec;
    assert_int_equal(consumer_open(&consumer, &options), STATUS_OK);
    struct fleet_options one = fleet_options(consumer_endpoint(consumer, 0));
    struct fleet_loader *loader = fleet_loader_open(&one);
    assert_int_equal(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + patience_ns),
                     STATUS_OK);
    assert_int_equal(consumer_start(consumer, 3, EPOCHS), STATUS_OK);
    struct recorder_options recorded = recorder_options(&spec, false, 3);
    assert_int_equal(recorder_open(&recorder, consumer, &recorded), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "data spec"));
    assert_null(recorder);
    recorded.folder = "/proc/nowhere";
    assert_int_equal(recorder_open(&recorder, consumer, &recorded), STATUS_IO);
    assert_null(recorder);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

/* Bits after the last cell of a mask would be lost in the slot, and the record's hash with them. */
static void a_slice_with_bits_beyond_its_masks_is_not_taken(void **state)
{
    struct consumer_options options = {.endpoints = {"tcp://127.0.0.1:0"},
                                       .n_endpoints = 1,
                                       .spec = fleet_spec(),
                                       .batch_size = SLICE,
                                       .slice_size = SLICE,
                                       .world = 1};
    size_t record = data_spec_record_bytes(&options.spec);
    uint8_t *payload = calloc(SLICE, record);
    struct consumer_stats stats;
    struct dataset_info dataset;
    struct consumer *consumer;
    struct raw_peer peer;

    (void)state;
    assert_int_equal(consumer_open(&consumer, &options), STATUS_OK);
    raw_peer_open(&peer, consumer_endpoint(consumer, 0));
    raw_peer_join(&peer, 1);
    assert_int_equal(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + patience_ns),
                     STATUS_OK);
    assert_int_equal(consumer_start(consumer, 0, 1), STATUS_OK);
    for (int i = 0; i < 2; i++) {
        assert_true(raw_peer_receive(&peer, MESSAGE_LEASE));
        struct lease_item lease = peer.in.lease.items[0];
        assert_int_equal(lease.slice_id, 0);
        raw_peer_make(&peer, &lease, payload);
        if (i == 0) {
            payload[SLICE * record - 1] |= 0x80;
            peer.out.slice.hash[SLICE - 1] = hash_bytes(payload + (SLICE - 1) * record, record);
        }
        const struct raw_frame frame = {payload, SLICE * record};
        raw_peer_send(&peer, &frame, 1);
    }
    struct batch *batch;
    assert_int_equal(consumer_next(consumer, &batch, clock_monotonic_ns() + patience_ns),
                     STATUS_OK);
    fleet_check_batch(&options.spec, batch, 0, 1, 0);
    consumer_return(consumer, batch);
    consumer_stats(consumer, &stats);
    assert_int_equal(stats.n_corrupt, 1);
    raw_peer_close(&peer);
    consumer_close(&consumer);
    free(payload);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_scene, close_scene)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_consumed_is_found_again_in_both_kinds),
        TEST(two_threads_read_with_a_handle_each),
        TEST(a_new_file_is_there_for_good),
        TEST(parts_cover_a_record),
        TEST(a_later_file_takes_the_place_of_an_earlier_one),
        TEST(a_slice_with_bits_beyond_its_masks_is_not_taken),
        TEST(a_folder_with_something_else_is_not_recorded_into),
    };
    log_start("recording_test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
