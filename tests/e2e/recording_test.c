/* What is recorded is what the trainer consumed, and recording changes nothing. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/hash.h"
#include "tests/e2e/scene.h"

/* Trains with a recording; the digests of all batches as the trainer saw them. */
static char *record(struct scene *scene, const char *run, const char *kind, const char *folder)
{
    const char *path = scene_path(scene, "%s.digests", run);
    struct command command = scene_train(scene, run, "1");
    struct process process;

    command_add(&command, "--log_digests", path, "--record", folder, "--record_kind", kind, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    return scene_read(path);
}

static uint64_t file_hash(const char *path)
{
    static uint8_t bytes[1 << 22];
    FILE *file = fopen(path, "rb");

    assert_non_null(file);
    size_t n = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    assert_in_range(n, 1, sizeof(bytes) - 1);
    return hash_bytes(bytes, n);
}

static void inspect(struct process *process, const char *folder, int exit_status)
{
    struct command command = command_of("ibot-stream", "inspect", folder, NULL);
    process_run(process, &command, exit_status, SCENE_SECONDS);
}

/* Every line "12 0123456789abcdef" of the trainer has its line in the recording. */
static void assert_holds(const char *inspected, char *digests)
{
    int n = 0;

    for (char *line = strtok(digests, "\n"); line != NULL; line = strtok(NULL, "\n"), n++) {
        char wanted_step[64], wanted_digest[64];
        char *digest = strchr(line, ' ');
        assert_non_null(digest);
        snprintf(wanted_step, sizeof(wanted_step), "\nstep %.*s ", (int)(digest - line), line);
        snprintf(wanted_digest, sizeof(wanted_digest), "digest%s", digest);
        const char *found = strstr(inspected, wanted_step);
        assert_non_null(found);
        const char *end = strchr(found + 1, '\n');
        const char *said = strstr(found, wanted_digest);
        assert_true(said != NULL && (end == NULL || said < end));
    }
    assert_int_equal(n, SCENE_STEPS);
}

static void a_recording_holds_what_was_consumed_and_changes_nothing(void **state)
{
    static const char *const kinds[] = {"full", "ids"};
    struct scene *scene = *state;
    struct command command = scene_train(scene, "plain", "1");
    struct process process;

    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    for (int i = 0; i < 2; i++) {
        const char *folder = scene_path(scene, "recording_%s", kinds[i]);
        char *digests = record(scene, kinds[i], kinds[i], folder);
        assert_true(scene_final_digest(scene, kinds[i]) == scene_final_digest(scene, "plain"));
        inspect(&process, folder, 0);
        assert_non_null(strstr(process.text, kinds[i]));
        assert_holds(process.text, digests);
        process_release(&process);
        free(digests);
    }
}

static void damage_in_a_recording_is_found_and_named(void **state)
{
    struct scene *scene = *state;
    const char *folder = scene_path(scene, "recording");
    const char *path = scene_path(scene, "recording/rank00000-step000000000000.tfrecord");
    char *digests = record(scene, "run", "full", folder);
    struct process process;
    FILE *file = fopen(path, "r+b");

    assert_non_null(file);
    assert_int_equal(fseek(file, 5000, SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, 5000, SEEK_SET), 0);
    assert_int_equal(fputc(byte ^ 1, file), byte ^ 1);
    fclose(file);
    inspect(&process, folder, 1);
    assert_non_null(strstr(process.text, path));
    assert_non_null(strstr(process.text, "does not match its sum"));
    process_release(&process);
    inspect(&process, scene_path(scene, "nowhere"), 1);
    assert_non_null(strstr(process.text, "nowhere"));
    process_release(&process);
    free(digests);
}

static void a_recording_is_not_overwritten_by_another_run_or_while_it_is_read(void **state)
{
    struct scene *scene = *state;
    const char *folder = scene_path(scene, "recording");
    const char *first = scene_path(scene, "recording/rank00000-step000000000000.tfrecord");
    struct command command = scene_train(scene, "run", "1");
    struct process process, player;

    command_add(&command, "--record", folder, "--stop_at_step", "7", NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    command = scene_train(scene, "another", "1");
    command_add(&command, "--record", folder, NULL);
    process_run(&process, &command, 3, SCENE_SECONDS);
    assert_non_null(strstr(process.text, first));
    assert_non_null(strstr(process.text, "choose another folder"));
    process_release(&process);

    /* The run goes on, is gone back to step 7, and must not take away what is being replayed. */
    command = scene_train(scene, "run", "1");
    command_add(&command, "--record", folder, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    command = command_of("rm", "-r", scene_path(scene, "run/checkpoints/step_00000012"),
                         scene_path(scene, "run/checkpoints/step_00000018"), NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    command = command_of("ibot-stream", "replay", folder, "--connect", "tcp://127.0.0.1:9", NULL);
    process_start(&player, &command);
    process_expect(&player, "files", 0, SCENE_SECONDS);
    command = scene_train(scene, "run", "1");
    command_add(&command, "--record", folder, NULL);
    process_run(&process, &command, 1, SCENE_SECONDS);
    assert_non_null(strstr(process.text, "another program reads it"));
    process_release(&process);
    process_release(&player);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    inspect(&process, folder, 0);
    assert_non_null(strstr(process.text, "\nstep 17 "));
    process_release(&process);
}

/* A run that records and is killed early on. False when it was faster than the signal. */
static bool kill_while_recording(const struct command *command, const char *folder, int steps)
{
    struct process process;

    process_start(&process, command);
    process_lines(&process, steps, 3, SCENE_SECONDS);
    process_signal(&process, SIGKILL);
    process_wait(&process, SCENE_SECONDS);
    process_release(&process);
    inspect(&process, folder, 0);
    bool torn = strstr(process.text, "ends without an end") != NULL;
    assert_true(torn || strstr(process.text, "complete") != NULL);
    process_release(&process);
    return torn;
}

/* Killed while it records: what is whole is there, and the run goes on recording after it. */
static void a_recording_goes_on_after_its_trainer_was_killed(void **state)
{
    enum { MOST_TRIES = 20 };
    struct scene *scene = *state;
    const char *folder = NULL;
    struct command command;
    struct process process;
    bool torn = false;

    for (int try = 0; try < MOST_TRIES && !torn; try++) {
        const char *fifo = scene_path(scene, "steps%d", try);
        int steps = scene_fifo(fifo);
        char run[16];
        snprintf(run, sizeof(run), "run%d", try);
        folder = scene_path(scene, "recording%d", try);
        command = scene_train(scene, run, "1");
        command_add(&command, "--record", folder, "--log_digests", fifo, "--checkpoint_every_steps",
                    "2", NULL);
        torn = kill_while_recording(&command, folder, steps);
    }
    assert_true(torn);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    char *digests = record(scene, "plain", "full", scene_path(scene, "whole"));
    inspect(&process, folder, 0);
    assert_holds(process.text, digests);
    process_release(&process);
    free(digests);
}

/* A full disk ends the recording, not the run. */
static void a_full_disk_ends_the_recording_and_leaves_the_run_alone(void **state)
{
    struct scene *scene = *state;
    const char *folder = scene_path(scene, "recording");
    char *digests = record(scene, "plain", "full", scene_path(scene, "whole"));
    struct command command = scene_train(scene, "full", "1");
    struct process process;

    command_add(&command, "--record", folder, NULL);
    command.max_file_bytes = 600 << 10; /* more than a checkpoint, less than all batches */
    process_run(&process, &command, 0, SCENE_SECONDS);
    assert_non_null(strstr(process.text, "the recording ends here"));
    assert_non_null(strstr(process.text, "training goes on without"));
    process_release(&process);
    assert_true(scene_final_digest(scene, "full") == scene_final_digest(scene, "plain"));
    inspect(&process, folder, 0); /* whole records alone */
    assert_non_null(strstr(process.text, "\nstep 5 "));
    assert_null(strstr(process.text, "\nstep 17 "));
    process_release(&process);

    /* With room again, what comes after the newest checkpoint is recorded; the gap is told. */
    command = command_of("rm", "-r", scene_path(scene, "full/checkpoints/step_00000018"), NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    command = scene_train(scene, "full", "1");
    command_add(&command, "--record", folder, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    inspect(&process, folder, 0);
    assert_non_null(strstr(process.text, "\nmissing: steps "));
    assert_non_null(strstr(process.text, " to 11 of rank 0\n"));
    assert_non_null(strstr(process.text, "\nstep 17 "));
    process_release(&process);
    free(digests);
}

/* The trainer changes colours in place; the recording has what came from the loaders all the same,
 * which its hashes prove. */
static void colours_on_the_trainer_are_recorded_as_they_came(void **state)
{
    static const char *const kinds[] = {"full", "ids"};
    struct scene *scene = *state;
    struct command command = scene_train(scene, "plain", "1");
    struct process process;

    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    for (int i = 0; i < 2; i++) {
        const char *folder = scene_path(scene, "recording_%s", kinds[i]);
        command = scene_train(scene, kinds[i], "1");
        command_add(&command, "--record", folder, "--record_kind", kinds[i], "--photometric",
                    "trainer", NULL);
        process_run(&process, &command, 0, SCENE_SECONDS);
        process_release(&process);
        assert_true(scene_final_digest(scene, kinds[i]) == scene_final_digest(scene, "plain"));
        inspect(&process, folder, 0);
        process_release(&process);
    }
    assert_true(file_hash(scene_path(scene, "full/contact_sheet.png")) ==
                file_hash(scene_path(scene, "plain/contact_sheet.png")));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_recording_holds_what_was_consumed_and_changes_nothing),
        TEST(damage_in_a_recording_is_found_and_named),
        TEST(a_recording_is_not_overwritten_by_another_run_or_while_it_is_read),
        TEST(a_recording_goes_on_after_its_trainer_was_killed),
        TEST(a_full_disk_ends_the_recording_and_leaves_the_run_alone),
        TEST(colours_on_the_trainer_are_recorded_as_they_came),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
