/* A recording on a disk that is slower than the stream: training waits, and the log says so, once.
 *
 * The disk is as slow as the test likes: the recorder asks for what it has written to go to the
 * disk after every batch, and that call is answered here, when the test lets it. */
#include <fcntl.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/log.h"
#include "proto/wire/consumer.h"
#include "proto/wire/recorder.h"
#include "proto/wire/recording.h"
#include "tests/proto/wire/fleet.h"

enum { SLOTS = 4, IN_A_ROW = 20 /* as recorder.c has it */ };

static const char warning[] = "more slowly than batches are consumed";

static struct scene {
    char folder[64];
    struct consumer_options options;
    struct consumer *consumer;
    struct fleet_loader *loader;
    struct recorder *recorder;
    int64_t step;
    int log, former; /* stderr: where it goes, where it went */
    sem_t writes;    /* batches that the disk may take */
} scene;

/* In place of the C library's. */
int sync_file_range(int file, off64_t from, off64_t n_bytes, unsigned flags)
{
    (void)file, (void)from, (void)n_bytes, (void)flags;
    while (sem_wait(&scene.writes) != 0)
        continue;
    return 0;
}

/* How often the log has the warning. */
static int warnings(void)
{
    char text[65536];
    int n = 0;

    ssize_t n_bytes = pread(scene.log, text, sizeof(text) - 1, 0);
    assert_true(n_bytes >= 0 && n_bytes < (ssize_t)sizeof(text) - 1);
    text[n_bytes] = '\0';
    for (const char *at = text; (at = strstr(at, warning)) != NULL; at++)
        n++;
    return n;
}

static int open_scene(void **state)
{
    (void)state;
    memset(&scene, 0, sizeof(scene));
    strcpy(scene.folder, "/tmp/ibot-slow_disk-XXXXXX");
    assert_non_null(mkdtemp(scene.folder));
    assert_int_equal(sem_init(&scene.writes, 0, 0), 0);
    scene.log = memfd_create("log", MFD_CLOEXEC);
    scene.former = dup(STDERR_FILENO);
    assert_true(scene.log >= 0 && scene.former >= 0);
    fflush(stderr);
    assert_true(dup2(scene.log, STDERR_FILENO) >= 0);

    scene.options = fleet_consumer_options("tcp://127.0.0.1:0");
    scene.options.prefetch = SLOTS - 1;
    scene.consumer = fleet_consumer_open(&scene.options);
    scene.loader = fleet_loader_open_sound(scene.consumer);
    fleet_consumer_start(scene.consumer, 0, 10);
    struct recorder_options recorded = {
        .folder = scene.folder, .spec = scene.options.spec, .world = 1, .batch_size = FLEET_BATCH};
    if (recorder_open(&scene.recorder, scene.consumer, &recorded) != STATUS_OK)
        fail_msg("%s", status_message());
    return 0;
}

static int close_scene(void **state)
{
    char path[256];

    (void)state;
    for (int i = 0; i < SLOTS; i++)
        sem_post(&scene.writes);
    assert_int_equal(recorder_close(&scene.recorder), STATUS_OK);
    fleet_loader_close(&scene.loader);
    consumer_close(&scene.consumer);
    dup2(scene.former, STDERR_FILENO);
    close(scene.former);
    close(scene.log);
    assert_true(recording_path(path, sizeof(path), scene.folder, 0, 0));
    unlink(path);
    return rmdir(scene.folder);
}

/* Consumes a batch, as a trainer that records does. */
static void consume(void)
{
    int64_t per_epoch = consumer_steps_per_epoch(scene.consumer);
    struct batch *batch = fleet_next(scene.consumer);

    assert_int_equal(batch->step, scene.step);
    fleet_check_batch(&scene.options.spec, batch, 0, 1, scene.step % per_epoch * FLEET_BATCH);
    scene.step++;
    recorder_take(scene.recorder, batch);
}

/* Every slot is with the recorder, which has the first of them in hand. */
static void fill(void)
{
    for (int i = 0; i < SLOTS; i++)
        consume();
}

/* Each time one batch is written, and its slot comes round: what is consumed next waits for that,
 * and meanwhile all the other batches wait to be written. */
static void write_behind(int n)
{
    for (int i = 0; i < n; i++) {
        sem_post(&scene.writes);
        consume();
    }
}

static void a_disk_that_does_not_keep_up_is_told_of_once(void **state)
{
    (void)state;
    fill();
    write_behind(IN_A_ROW - 1);
    assert_int_equal(warnings(), 0);
    write_behind(1);
    assert_int_equal(warnings(), 1);
    write_behind(3 * IN_A_ROW);
    assert_int_equal(warnings(), 1);
}

/* Nineteen times behind, then not: all is well, however often. */
static void a_disk_that_catches_up_is_not_told_of(void **state)
{
    (void)state;
    for (int round = 0; round < 3; round++) {
        fill();
        /* Of those that are written without another one being consumed, two leave others waiting.
         */
        write_behind(IN_A_ROW - 1 - (SLOTS - 2));
        for (int i = 0; i < SLOTS; i++)
            sem_post(&scene.writes);
        assert_int_equal(recorder_sync(scene.recorder), STATUS_OK);
        assert_int_equal(warnings(), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_disk_that_does_not_keep_up_is_told_of_once, open_scene,
                                        close_scene),
        cmocka_unit_test_setup_teardown(a_disk_that_catches_up_is_not_told_of, open_scene,
                                        close_scene),
    };
    log_start("slow_disk_test", LOG_WARNING);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
