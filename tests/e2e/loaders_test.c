/* The stream that a trainer sees does not depend on who makes it: on when loaders come, and how
 * they end. Steps are watched through a FIFO of digests, so that nothing waits by the clock. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/e2e/scene.h"

/* Trains to the end; the digests of all batches. */
static char *digests_of(struct scene *scene, const char *run, const char *loaders)
{
    const char *path = scene_path(scene, "%s.digests", run);
    struct command command = scene_train(scene, run, loaders);
    struct process process;

    command_add(&command, "--log_digests", path, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    return scene_read(path);
}

static void the_stream_is_the_same_from_one_two_and_five_loaders(void **state)
{
    struct scene *scene = *state;
    char *one = digests_of(scene, "one", "1");
    char *two = digests_of(scene, "two", "2");
    char *five = digests_of(scene, "five", "5");

    assert_int_equal(scene_count_lines(one), SCENE_STEPS);
    assert_string_equal(one, two);
    assert_string_equal(one, five);
    assert_true(scene_final_digest(scene, "one") == scene_final_digest(scene, "two"));
    assert_true(scene_final_digest(scene, "one") == scene_final_digest(scene, "five"));
    free(one);
    free(two);
    free(five);
}

/* A trainer that waits for loaders; its address, from its log. */
static void start_listening(struct scene *scene, struct process *process, const char *run,
                            const char *digests, char *endpoint, size_t size)
{
    struct command command =
        command_of("ibot-train", "--config", scene->recipe, "--listen", "tcp://127.0.0.1:0",
                   "--output_dir", scene_path(scene, "%s", run), "--log_digests", digests, NULL);

    process_start(process, &command);
    size_t at = process_expect(process, "listening on ", 0, SCENE_SECONDS);
    process_expect(process, "\n", at, SCENE_SECONDS);
    snprintf(endpoint, size, "%.*s", (int)strcspn(process->text + at, " \n"), process->text + at);
}

static void start_loader(struct scene *scene, struct process *process, const char *endpoint)
{
    struct command command = command_of("ibot-loader", "--data", scene->data, "--connect", endpoint,
                                        "--threads", "1", NULL);
    process_start(process, &command);
}

static void the_stream_is_the_same_when_loaders_are_killed_and_others_take_over(void **state)
{
    struct scene *scene = *state;
    char *wanted = digests_of(scene, "undisturbed", "1");
    const char *path = scene_path(scene, "killed.digests");
    int fifo = scene_fifo(path);
    struct process trainer, loaders[2];
    char endpoint[128];

    start_listening(scene, &trainer, "killed", path, endpoint, sizeof(endpoint));
    start_loader(scene, &loaders[0], endpoint);
    start_loader(scene, &loaders[1], endpoint);
    for (int i = 0;; i++) { /* every second step a loader dies, and a fresh one comes */
        if (process_lines(&trainer, fifo, 2, SCENE_SECONDS) < 2)
            break;
        process_signal(&loaders[i % 2], SIGKILL);
        process_finish(&loaders[i % 2], 128 + SIGKILL, SCENE_SECONDS);
        process_release(&loaders[i % 2]);
        start_loader(scene, &loaders[i % 2], endpoint);
    }
    process_finish(&trainer, 0, SCENE_SECONDS);
    assert_true(scene_final_digest(scene, "undisturbed") == scene_final_digest(scene, "killed"));
    process_release(&trainer);
    process_release(&loaders[0]);
    process_release(&loaders[1]);
    close(fifo);
    free(wanted);
}

static void local_loaders_that_are_killed_are_started_again(void **state)
{
    /* Longer than the trainer can be ahead: the first kill comes before it has all it needs. */
    enum { EPOCHS = 45, STEPS = EPOCHS * (SCENE_IMAGES / SCENE_BATCH) };
    _Static_assert(STEPS > SCENE_AHEAD + 20, "too short");
    static const char *const epochs = "45";
    struct scene *scene = *state;
    struct command command = scene_train(scene, "undisturbed", "1");
    struct process trainer;

    command_add(&command, "--epochs", epochs, NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    const char *path = scene_path(scene, "killed.digests");
    int fifo = scene_fifo(path);
    command = scene_train(scene, "killed", "2");
    command_add(&command, "--epochs", epochs, "--log_digests", path, NULL);
    process_start(&trainer, &command);
    for (int k = 0; k < 3; k++) {
        pid_t children[8];
        assert_int_equal(process_lines(&trainer, fifo, 5, SCENE_SECONDS), 5);
        int n = process_children(&trainer, children, 8);
        for (int i = 0; i < n; i++)
            kill(children[i], SIGKILL);
    }
    process_finish_lines(&trainer, fifo, 0, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "killed by signal 9"));
    assert_true(scene_final_digest(scene, "undisturbed") == scene_final_digest(scene, "killed"));
    process_release(&trainer);
    close(fifo);
}

static void loaders_may_be_started_before_and_after_the_trainer(void **state)
{
    struct scene *scene = *state;
    struct process trainer, early, late;
    char *wanted = digests_of(scene, "undisturbed", "1");
    const char *path = scene_path(scene, "apart.digests");
    const char *endpoint = scene_path(scene, "stream");
    char address[300];

    snprintf(address, sizeof(address), "ipc://%s", endpoint);
    start_loader(scene, &early, address);
    process_expect(&early, "images in", 0, SCENE_SECONDS);
    struct command command =
        command_of("ibot-train", "--config", scene->recipe, "--listen", address, "--output_dir",
                   scene_path(scene, "apart"), "--log_digests", path, NULL);
    process_start(&trainer, &command);
    start_loader(scene, &late, address);
    process_finish(&trainer, 0, SCENE_SECONDS);
    char *got = scene_read(path);
    assert_string_equal(wanted, got);

    /* loaders outlive a trainer, and serve the next one */
    process_release(&trainer);
    command = command_of("ibot-train", "--config", scene->recipe, "--listen", address,
                         "--output_dir", scene_path(scene, "next"), NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_true(scene_final_digest(scene, "apart") == scene_final_digest(scene, "next"));
    process_stop(&early, SIGTERM, SCENE_SECONDS);
    process_finish(&early, 0, SCENE_SECONDS);
    process_release(&early);
    process_release(&late);
    process_release(&trainer);
    free(wanted);
    free(got);
}

static void a_loader_with_other_images_is_refused_with_the_reason(void **state)
{
    struct scene *scene = *state;
    const char *other = scene_path(scene, "other");
    struct process trainer, loader;
    char endpoint[128];

    scene_images(other, SCENE_IMAGES, 99);
    start_listening(scene, &trainer, "run", "/dev/null", endpoint, sizeof(endpoint));
    start_loader(scene, &loader, endpoint);
    process_finish(&trainer, 0, SCENE_SECONDS);
    process_release(&trainer);
    process_stop(&loader, SIGTERM, SCENE_SECONDS);
    process_wait(&loader, SCENE_SECONDS);
    process_release(&loader);

    /* the run goes on with its own images alone */
    struct command command =
        command_of("ibot-train", "--config", scene->recipe, "--listen", endpoint, "--output_dir",
                   scene_path(scene, "run2"), "--stop_at_step", "7", NULL);
    process_start(&trainer, &command);
    start_loader(scene, &loader, endpoint);
    process_finish(&trainer, 0, SCENE_SECONDS);
    process_release(&trainer);
    process_release(&loader);
    command = command_of("ibot-train", "--config", scene->recipe, "--listen", endpoint,
                         "--output_dir", scene_path(scene, "run2"), NULL);
    process_start(&trainer, &command);
    process_expect(&trainer, "listening on ", 0, SCENE_SECONDS);
    command =
        command_of("ibot-loader", "--data", other, "--connect", endpoint, "--threads", "1", NULL);
    process_run(&loader, &command, 3, SCENE_SECONDS);
    assert_non_null(strstr(loader.text, "index"));
    process_release(&loader);
    process_release(&trainer);
}

/* Trains with one loader and one more option. */
static uint64_t digest_with(struct scene *scene, const char *run, const char *option,
                            const char *value)
{
    struct command command = scene_train(scene, run, "1");
    struct process process;

    command_add(&command, option, value, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    return scene_final_digest(scene, run);
}

static void an_archive_or_colours_on_the_trainer_change_no_bit_of_the_weights(void **state)
{
    struct scene *scene = *state;
    const char *archive = scene_path(scene, "data.tar");
    struct command command = command_of("tar", "-c", "-f", archive, "-C", scene->data, ".", NULL);
    struct process process;

    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    uint64_t wanted = digest_with(scene, "folders", "--photometric", "loader");
    assert_true(digest_with(scene, "archive", "--data", archive) == wanted);
    assert_true(digest_with(scene, "trainer", "--photometric", "trainer") == wanted);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_stream_is_the_same_from_one_two_and_five_loaders,
                                        scene_open, scene_close),
        cmocka_unit_test_setup_teardown(
            the_stream_is_the_same_when_loaders_are_killed_and_others_take_over, scene_open,
            scene_close),
        cmocka_unit_test_setup_teardown(local_loaders_that_are_killed_are_started_again, scene_open,
                                        scene_close),
        cmocka_unit_test_setup_teardown(loaders_may_be_started_before_and_after_the_trainer,
                                        scene_open, scene_close),
        cmocka_unit_test_setup_teardown(
            an_archive_or_colours_on_the_trainer_change_no_bit_of_the_weights, scene_open,
            scene_close),
        cmocka_unit_test_setup_teardown(a_loader_with_other_images_is_refused_with_the_reason,
                                        scene_open, scene_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
