/* A recording takes the place of loaders, and the trainer cannot tell. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "tests/e2e/scene.h"

static char endpoint[128]; /* where trainer and replay of a test meet */

static int open_scene(void **state)
{
    int status = scene_open(state);
    struct scene *scene = *state;

    snprintf(endpoint, sizeof(endpoint), "ipc://%s/trainer.sock", scene->folder);
    return status;
}

/* The run as loaders feed it, recorded in `folder`; its digests are in RUN.digests. */
static struct command recorded(struct scene *scene, const char *run, const char *folder)
{
    struct command command = scene_train(scene, run, "1");

    command_add(&command, "--log_digests", scene_path(scene, "%s.digests", run), "--record", folder,
                NULL);
    return command;
}

static const char *record(struct scene *scene, const char *run)
{
    const char *folder = scene_path(scene, "recording");
    struct command command = recorded(scene, run, folder);
    struct process process;

    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    return folder;
}

/* The same run, fed by whoever connects. */
static struct command train(struct scene *scene, const char *run)
{
    return command_of("ibot-train", "--config", scene->recipe, "--listen", endpoint, "--output_dir",
                      scene_path(scene, "%s", run), "--log_digests",
                      scene_path(scene, "%s.digests", run), NULL);
}

static struct command replay(const char *folder)
{
    return command_of("ibot-stream", "replay", folder, "--connect", endpoint, NULL);
}

static void assert_same_run(struct scene *scene, const char *run, const char *wanted)
{
    char *a = scene_read(scene_path(scene, "%s.digests", run));
    char *b = scene_read(scene_path(scene, "%s.digests", wanted));

    assert_string_equal(a, b);
    assert_int_equal(scene_count_lines(a), SCENE_STEPS);
    assert_true(scene_final_digest(scene, run) == scene_final_digest(scene, wanted));
    free(a);
    free(b);
}

static void a_replayed_run_is_the_recorded_one_bit_by_bit(void **state)
{
    struct scene *scene = *state;
    struct command command = replay(record(scene, "run"));
    struct process player, trainer;

    command_add(&command, "--exit_when_done", NULL);
    process_start(&player, &command);
    command = train(scene, "again");
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_finish(&player, 0, SCENE_SECONDS);
    assert_same_run(scene, "again", "run");
    process_release(&player);
    process_release(&trainer);
}

/* With what the run folder has, where the data set is no more. */
static void a_run_file_and_a_recording_are_enough(void **state)
{
    struct scene *scene = *state;
    struct command command = replay(record(scene, "run"));
    struct process player, trainer;

    assert_int_equal(rename(scene->data, scene_path(scene, "elsewhere")), 0);
    command_add(&command, "--exit_when_done", NULL);
    process_start(&player, &command);
    command =
        command_of("ibot-train", "--config", scene_path(scene, "run/run.yaml"), "--loaders", "0",
                   "--record", "", "--listen", endpoint, "--output_dir", scene_path(scene, "again"),
                   "--log_digests", scene_path(scene, "again.digests"), NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_finish(&player, 0, SCENE_SECONDS);
    assert_same_run(scene, "again", "run");
    process_release(&player);
    process_release(&trainer);
}

/* The replay goes on while the trainer is killed and started again; the recording itself was made
 * in two pieces. */
static void a_replay_serves_a_trainer_that_was_killed_from_where_it_goes_on(void **state)
{
    struct scene *scene = *state;
    const char *folder = scene_path(scene, "recording");
    struct command command = recorded(scene, "run", folder);
    struct process player, trainer;

    command_add(&command, "--stop_at_step", "7", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = recorded(scene, "run", folder);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    assert_true(scene_exists(scene_path(scene, "recording/rank00000-step000000000000.tfrecord")));
    assert_true(scene_exists(scene_path(scene, "recording/rank00000-step000000000007.tfrecord")));

    command = replay(folder);
    process_start(&player, &command);
    command = train(scene, "again");
    command_add(&command, "--stop_at_step", "9", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    const char *fifo = scene_path(scene, "steps");
    int steps = scene_fifo(fifo);
    command = train(scene, "again");
    command_add(&command, "--log_digests", fifo, NULL);
    process_start(&trainer, &command);
    assert_int_equal(process_lines(&trainer, steps, 2, SCENE_SECONDS), 2);
    process_signal(&trainer, SIGKILL);
    process_wait(&trainer, SCENE_SECONDS);
    process_release(&trainer);
    command = train(scene, "again");
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_true(scene_final_digest(scene, "again") == scene_final_digest(scene, "run"));
    process_release(&trainer);
    process_stop(&player, SIGTERM, SCENE_SECONDS);
    process_finish(&player, 0, SCENE_SECONDS);
    process_release(&player);
}

static void the_end_of_a_recording_is_told_when_the_trainer_needs_more(void **state)
{
    struct scene *scene = *state;
    const char *folder = scene_path(scene, "recording");
    struct command command = recorded(scene, "run", folder);
    struct process player, trainer;

    command_add(&command, "--stop_at_step", "7", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = replay(folder);
    process_start(&player, &command);
    command = train(scene, "short"); /* looks ahead beyond the end, and does not need it */
    command_add(&command, "--stop_at_step", "7", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_true(scene_final_digest(scene, "short") == scene_final_digest(scene, "run"));
    process_release(&trainer);
    command = train(scene, "long");
    process_run(&trainer, &command, 1, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "step 7 (epoch 1, position 8) is not in the recording, "
                                         "which has steps 0 to 6"));
    process_release(&trainer);

    /* Loaders take over where it ends, though it offers itself too. Were it alone, for a moment
     * only, that would be the end of the run again: it comes when the loader is there. */
    struct process loader;
    command = train(scene, "both");
    command_add(&command, "--stop_at_step", "7", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    process_signal(&player, SIGSTOP);
    command = command_of("ibot-loader", "--data", scene->data, "--connect", endpoint, NULL);
    process_start(&loader, &command);
    command = train(scene, "both");
    process_start(&trainer, &command);
    process_expect(&loader, "serving", 0, SCENE_SECONDS);
    process_signal(&player, SIGCONT);
    process_finish(&trainer, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = scene_train(scene, "run", "1");
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_true(scene_final_digest(scene, "both") == scene_final_digest(scene, "run"));
    process_release(&trainer);
    process_release(&loader);
    process_release(&player);
}

static void a_replay_can_go_round_and_be_paced(void **state)
{
    struct scene *scene = *state;
    const char *folder = scene_path(scene, "recording");
    struct command command = recorded(scene, "run", folder);
    struct process player, trainer;

    command_add(&command, "--stop_at_step", "7", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = replay(folder);
    command_add(&command, "--loop", "--rate", "100", "--exit_when_done", NULL);
    int64_t begin_ns = clock_monotonic_ns();
    process_start(&player, &command);
    command = train(scene, "round");
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    /* all but the last slice waited for their turn */
    int64_t images = SCENE_STEPS * SCENE_BATCH - SCENE_BATCH;
    assert_true(clock_monotonic_ns() - begin_ns >= images * 1000000000 / 100);
    process_finish(&player, 0, SCENE_SECONDS);
    assert_non_null(strstr(player.text, "are served again"));
    assert_int_equal(scene_final_step(scene, "round"), SCENE_STEPS);
    process_release(&player);
    process_release(&trainer);
}

/* The value of a number in a line of JSON; the line ends at the end of the text. */
static long number_in(const char *line, const char *key)
{
    char wanted[64];

    snprintf(wanted, sizeof(wanted), "\"%s\":", key);
    const char *at = strstr(line, wanted);
    if (at == NULL)
        fail_msg("no %s in %s", key, line);
    return strtol(at + strlen(wanted), NULL, 10);
}

/* A trainer is watched while a very slow replay feeds it, and comes to its end with a fast one. */
static void a_stream_can_be_watched_and_looked_into_while_it_runs(void **state)
{
    struct scene *scene = *state;
    struct command command = replay(record(scene, "run"));
    struct process player, trainer, watcher;

    struct command fast = command;
    command_add(&command, "--rate", "2", NULL); /* more than a minute for all of it */
    process_start(&player, &command);
    command = train(scene, "again");
    process_start(&trainer, &command);
    process_expect(&trainer, "steps in each of", 0, SCENE_SECONDS);
    command = command_of("ibot-stream", "watch", endpoint, "--json", "--count", "3", "--interval",
                         "0.3", NULL);
    long images = -1;
    const char *last;
    for (;;) { /* until there were more images from one look to another */
        process_run(&watcher, &command, 0, SCENE_SECONDS);
        const char *first = strchr(watcher.text, '{');
        last = strrchr(watcher.text, '\n');
        while (last > first && last[-1] != '\n')
            last--;
        if (images < 0)
            images = number_in(first, "images");
        assert_true(number_in(last, "images") >= images);
        if (number_in(last, "images") > images)
            break;
        process_release(&watcher);
    }
    assert_int_equal(number_in(last, "connected"), 1);
    assert_int_equal(number_in(last, "end_step"), SCENE_STEPS);
    assert_non_null(strstr(last, "\"name\":\"replay-"));
    assert_true(number_in(last, "images_per_second") >= 0);
    process_release(&watcher);
    command = command_of("ibot-stream", "inspect", endpoint, "--samples", "0", NULL);
    process_run(&watcher, &command, 0, SCENE_SECONDS);
    assert_non_null(strstr(watcher.text, "n_local 2"));
    assert_non_null(strstr(watcher.text, "\n  sample 0: position "));
    process_release(&watcher);
    process_release(&player);
    command_add(&fast, "--exit_when_done", NULL);
    process_start(&player, &fast);
    process_finish(&trainer, 0, SCENE_SECONDS);
    process_finish(&player, 0, SCENE_SECONDS);
    assert_same_run(scene, "again", "run");
    process_release(&trainer);
    process_release(&player);
}

static void what_cannot_be_replayed_is_told(void **state)
{
    struct scene *scene = *state;
    const char *folder = scene_path(scene, "ids");
    struct command command = scene_train(scene, "run", "1");
    struct process player, trainer;

    command_add(&command, "--record", folder, "--record_kind", "ids", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = replay(folder);
    process_run(&player, &command, 1, SCENE_SECONDS);
    assert_non_null(strstr(player.text, "--record_kind full"));
    process_release(&player);

    command = replay(record(scene, "full"));
    process_start(&player, &command);
    command = train(scene, "other");
    command_add(&command, "--local_crops_number", "3", NULL);
    process_start(&trainer, &command);
    process_finish(&player, 3, SCENE_SECONDS); /* as any loader that is refused */
    assert_non_null(strstr(player.text, "n_local is 2 here and 3 there"));
    process_release(&trainer);
    process_release(&player);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_scene, scene_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_replayed_run_is_the_recorded_one_bit_by_bit),
        TEST(a_run_file_and_a_recording_are_enough),
        TEST(a_replay_serves_a_trainer_that_was_killed_from_where_it_goes_on),
        TEST(the_end_of_a_recording_is_told_when_the_trainer_needs_more),
        TEST(a_replay_can_go_round_and_be_paced),
        TEST(a_stream_can_be_watched_and_looked_into_while_it_runs),
        TEST(what_cannot_be_replayed_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
