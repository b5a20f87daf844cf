/* ibot-stream replay against a consumer in this process: every byte of what was recorded, from
 * wherever the consumer begins, and more when it goes round. No training: what is tested are the
 * threads of the recorder and the replay, under the thread sanitizer too. */
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/wire/recorder.h"
#include "proto/wire/recording.h"
#include "tests/proto/wire/fleet.h"

extern char **environ;

enum { STEPS = FLEET_SAMPLES / FLEET_BATCH };

static struct scene {
    char folder[64], endpoint[96];
    struct consumer_options options;
    uint64_t n_bad_images, n_repaired; /* of the recorded run */
} scene;

/* One epoch. */
static void record(void)
{
    struct consumer *consumer = fleet_consumer_open(&scene.options);
    struct fleet_options one = fleet_options(consumer_endpoint(consumer, 0));
    struct consumer_stats stats;

    one.reports_bad_images = true;
    struct fleet_loader *loader = fleet_loader_open(&one);
    struct recorder_options options = {.folder = scene.folder,
                                       .pixels = true,
                                       .spec = scene.options.spec,
                                       .world = 1,
                                       .batch_size = FLEET_BATCH};
    struct recorder *recorder;

    fleet_consumer_start(consumer, 0, 1);
    if (recorder_open(&recorder, consumer, &options) != STATUS_OK)
        fail_msg("%s", status_message());
    for (int i = 0; i < STEPS; i++)
        recorder_take(recorder, fleet_next(consumer));
    assert_int_equal(recorder_close(&recorder), STATUS_OK);
    consumer_stats(consumer, &stats);
    scene.n_bad_images = stats.n_bad_images;
    scene.n_repaired = stats.n_repaired;
    assert_true(scene.n_bad_images > 0 && scene.n_repaired > 0);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static int open_scene(void **state)
{
    (void)state;
    strcpy(scene.folder, "/tmp/ibot-replay-XXXXXX");
    assert_non_null(mkdtemp(scene.folder));
    snprintf(scene.endpoint, sizeof(scene.endpoint), "ipc://%s/socket", scene.folder);
    scene.options = fleet_consumer_options(scene.endpoint);
    record();
    return 0;
}

static int close_scene(void **state)
{
    char path[256];

    (void)state;
    assert_true(recording_path(path, sizeof(path), scene.folder, 0, 0));
    unlink(path);
    snprintf(path, sizeof(path), "%s/.lock", scene.folder);
    unlink(path);
    return rmdir(scene.folder);
}

static pid_t start_replay(const char *option)
{
    const char *folder = getenv("IBOT_BIN");
    char path[512];
    pid_t pid;

    assert_non_null(folder);
    snprintf(path, sizeof(path), "%s/ibot-stream", folder);
    char *arguments[] = {
        path, "replay", scene.folder, "--connect", scene.endpoint, (char *)(uintptr_t)option, NULL};
    assert_int_equal(posix_spawn(&pid, path, NULL, NULL, arguments, environ), 0);
    return pid;
}

/* Asks it to end, as a user does. A sanitizer that found something makes its own exit status. */
static void end_replay(pid_t pid)
{
    int result;

    assert_int_equal(kill(pid, SIGTERM), 0);
    assert_int_equal(waitpid(pid, &result, 0), pid);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
}

static void a_consumer_gets_what_was_recorded_from_wherever_it_begins(void **state)
{
    static const int first[] = {0, 40, 13};
    pid_t pid = start_replay(NULL);

    (void)state;
    for (size_t i = 0; i < sizeof(first) / sizeof(first[0]); i++) { /* one after the other */
        struct consumer *consumer = fleet_consumer_open(&scene.options);
        fleet_consumer_start(consumer, first[i], 1);
        fleet_check_batches(consumer, &scene.options.spec, first[i], STEPS - first[i]);
        struct consumer_stats stats;
        consumer_stats(consumer, &stats);
        if (first[i] == 0) { /* bad images come again, too */
            assert_int_equal(stats.n_bad_images, scene.n_bad_images);
            assert_int_equal(stats.n_bad_of[BAD_IMAGE_MISSING], scene.n_bad_images);
            assert_int_equal(stats.n_repaired, scene.n_repaired);
        }
        consumer_close(&consumer);
    }
    end_replay(pid);
}

static void a_replay_goes_round(void **state)
{
    struct consumer *consumer = fleet_consumer_open(&scene.options);
    pid_t pid = start_replay("--loop");
    uint64_t digests[STEPS];

    (void)state;
    fleet_consumer_start(consumer, 0, 3);
    for (int64_t step = 0; step < 3 * STEPS; step++) {
        struct batch *batch = fleet_next(consumer);
        assert_int_equal(batch->step, step);
        /* The digest is of positions too, which are those that were asked for. */
        uint64_t pixels = 0;
        for (int32_t i = 0; i < batch->n_samples; i++)
            pixels = pixels * 31 + batch->hashes[i];
        if (step < STEPS)
            digests[step] = pixels;
        else
            assert_true(pixels == digests[step % STEPS]);
        consumer_return(consumer, batch);
    }
    end_replay(pid);
    consumer_close(&consumer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_consumer_gets_what_was_recorded_from_wherever_it_begins),
        cmocka_unit_test(a_replay_goes_round),
    };
    return cmocka_run_group_tests(tests, open_scene, close_scene);
}
