/* A run survives what happens to it: signals at any moment, a full disk, damage, a second trainer;
 * and says what it cannot survive. */
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

/* A run that cannot be over before what it is to be interrupted at, however late the interruption
 * comes: it is at most SCENE_AHEAD steps ahead of who reads its digests. */
static const char *const long_epochs = "45";
enum { LONG_STEPS = 45 * (SCENE_IMAGES / SCENE_BATCH) };
_Static_assert(LONG_STEPS > SCENE_AHEAD + 20, "too short");

/* The state that an undisturbed run ends with, and its log. */
static uint64_t undisturbed(struct scene *scene, const char *epochs, char **log)
{
    struct command command = scene_train(scene, "whole", "1");
    struct process process;

    if (epochs != NULL)
        command_add(&command, "--epochs", epochs, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    if (log != NULL)
        *log = scene_read(scene_path(scene, "whole/log.txt"));
    return scene_final_digest(scene, "whole");
}

static void a_run_killed_after_each_of_its_steps_ends_with_the_same_bits(void **state)
{
    struct scene *scene = *state;
    char *log = NULL;
    uint64_t wanted = undisturbed(scene, long_epochs, &log);
    const char *path = scene_path(scene, "digests");
    int fifo = scene_fifo(path), n_kills = 0;
    struct process trainer;
    /* saves at each step: every kill hits a save, or what follows one */
    struct command command = scene_train(scene, "killed", "1");

    command_add(&command, "--epochs", long_epochs, "--log_digests", path,
                "--checkpoint_every_steps", "1", NULL);
    for (bool done = false; !done && n_kills < 8; n_kills += !done) {
        process_start(&trainer, &command);
        process_lines(&trainer, fifo, 2 + n_kills % 3, SCENE_SECONDS);
        process_signal(&trainer, SIGKILL);
        while (process_lines(&trainer, fifo, 1000, SCENE_SECONDS) > 0)
            continue; /* what it wrote meanwhile */
        /* kills that were very late may have left no step to the last ones */
        done = process_wait(&trainer, SCENE_SECONDS) == 0;
        if (!done)
            assert_int_equal(trainer.exit_status, 128 + SIGKILL);
        process_release(&trainer);
    }
    print_message("%d kills\n", n_kills);
    assert_true(n_kills > 0);
    process_start(&trainer, &command);
    process_finish_lines(&trainer, fifo, 0, SCENE_SECONDS);
    process_release(&trainer);
    char *got = scene_read(scene_path(scene, "killed/log.txt"));
    assert_string_equal(got, log);
    assert_true(scene_final_digest(scene, "killed") == wanted);
    free(got);
    free(log);
    close(fifo);
}

static void signals_finish_the_step_save_and_end_with_75(void **state)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGUSR1};
    struct scene *scene = *state;
    uint64_t wanted = undisturbed(scene, long_epochs, NULL);
    const char *path = scene_path(scene, "digests");
    int fifo = scene_fifo(path);
    struct process trainer;
    char run[24];

    for (int i = 0; i < 3; i++) {
        snprintf(run, sizeof(run), "stopped%d", i);
        struct command command = scene_train(scene, run, "1");
        command_add(&command, "--epochs", long_epochs, "--log_digests", path, NULL);
        process_start(&trainer, &command);
        assert_int_equal(process_lines(&trainer, fifo, 4, SCENE_SECONDS), 4);
        process_signal(&trainer, signals[i]);
        process_finish_lines(&trainer, fifo, 75, SCENE_SECONDS);
        assert_non_null(strstr(trainer.text, "the same command goes on"));
        process_release(&trainer);
        assert_in_range(scene_final_step(scene, run), 3, LONG_STEPS - 1);
    }
    close(fifo);
    struct command command = scene_train(scene, run, "1");
    command_add(&command, "--epochs", long_epochs, NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    assert_true(scene_final_digest(scene, run) == wanted);
}

static void a_trainer_that_waits_for_loaders_can_be_stopped(void **state)
{
    struct scene *scene = *state;
    struct process trainer;
    struct command command =
        command_of("ibot-train", "--config", scene->recipe, "--listen", "tcp://127.0.0.1:0",
                   "--output_dir", scene_path(scene, "run"), NULL);

    process_start(&trainer, &command);
    process_expect(&trainer, "listening on", 0, SCENE_SECONDS);
    process_signal(&trainer, SIGTERM);
    process_finish(&trainer, 75, SCENE_SECONDS);
    process_release(&trainer);
}

static void a_second_trainer_in_the_same_run_folder_is_refused(void **state)
{
    struct scene *scene = *state;
    struct process first, second;
    struct command command =
        command_of("ibot-train", "--config", scene->recipe, "--listen", "tcp://127.0.0.1:0",
                   "--output_dir", scene_path(scene, "run"), NULL);

    process_start(&first, &command);
    process_expect(&first, "listening on", 0, SCENE_SECONDS);
    process_run(&second, &command, 1, SCENE_SECONDS);
    assert_non_null(strstr(second.text, "another ibot-train works in"));
    process_release(&second);
    process_release(&first);
}

static void a_full_disk_leaves_older_checkpoints_intact_and_training_goes_on(void **state)
{
    struct scene *scene = *state;
    uint64_t wanted = undisturbed(scene, NULL, NULL);
    struct process trainer;
    struct command command = scene_train(scene, "full", "1");

    command_add(&command, "--stop_at_step", "6", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "step 6 of 18, where --stop_at_step ends it"));
    process_release(&trainer);

    command = scene_train(scene, "full", "1");
    command.max_file_bytes = 64 << 10; /* less than a checkpoint, more than anything else */
    process_run(&trainer, &command, 1, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "checkpoint of step 12 not saved"));
    assert_non_null(strstr(trainer.text, "training goes on"));
    assert_non_null(strstr(trainer.text, "checkpoint of step 18 not saved"));
    process_release(&trainer);
    assert_int_equal(scene_final_step(scene, "full"), 6);
    assert_false(scene_exists(scene_path(scene, "full/checkpoints/step_00000012.tmp")));

    command = scene_train(scene, "full", "1");
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "done: 18 steps"));
    process_release(&trainer);
    assert_true(scene_final_digest(scene, "full") == wanted);
}

/* Steps that are left out consume their batches and leave the weights alone; a run that is
 * interrupted may be told of more of them, but not of steps that it has made. */
static void steps_can_be_left_out_also_after_an_interruption(void **state)
{
    struct scene *scene = *state;
    struct command command = scene_train(scene, "skipping", "1");
    const char *digests = scene_path(scene, "skipping.digests");
    struct process trainer;

    command_add(&command, "--skip_steps", "4-6,12", "--log_digests", digests, NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "steps 4 to 6 are left out"));
    assert_non_null(strstr(trainer.text, "steps 12 to 12 are left out"));
    process_release(&trainer);
    uint64_t wanted = scene_final_digest(scene, "skipping");
    assert_true(wanted != undisturbed(scene, NULL, NULL));
    char *lines = scene_read(digests);
    assert_int_equal(scene_count_lines(lines), SCENE_STEPS);
    free(lines);
    char *yaml = scene_read(scene_path(scene, "skipping/run.yaml"));
    assert_non_null(strstr(yaml, "skip_steps: "));
    assert_non_null(strstr(yaml, "4-6,12"));
    free(yaml);

    command = scene_train(scene, "parts", "1");
    command_add(&command, "--stop_at_step", "4", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = scene_train(scene, "parts", "1");
    command_add(&command, "--skip_steps", "2", NULL);
    process_run(&trainer, &command, 3, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "--skip_steps 2 "));
    process_release(&trainer);
    command = scene_train(scene, "parts", "1");
    command_add(&command, "--skip_steps", "4-6", "--stop_at_step", "6", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = scene_train(scene, "parts", "1");
    command_add(&command, "--skip_steps", "4-6,12", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    assert_true(scene_final_digest(scene, "parts") == wanted);
}

/* Changes one byte of a file. */
static void damage(const char *path, long offset)
{
    FILE *file = fopen(path, "r+b");

    assert_non_null(file);
    fseek(file, offset, SEEK_SET);
    int byte = fgetc(file);
    fseek(file, offset, SEEK_SET);
    fputc(byte ^ 0x40, file);
    assert_int_equal(fclose(file), 0);
}

static void a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(void **state)
{
    struct scene *scene = *state;
    uint64_t wanted = undisturbed(scene, NULL, NULL);
    struct process trainer;
    struct command command = scene_train(scene, "whole", "1");

    damage(scene_path(scene, "whole/checkpoints/step_00000018/model.safetensors"), 20000);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "passed over"));
    assert_non_null(strstr(trainer.text, "step_00000018/model.safetensors"));
    assert_non_null(strstr(trainer.text, "step 12,"));
    process_release(&trainer);
    assert_true(scene_final_digest(scene, "whole") == wanted);

    damage(scene_path(scene, "whole/checkpoints/step_00000018/state.json"), 1);
    assert_int_equal(truncate(scene_path(scene, "whole/checkpoints/step_00000012/"
                                                "model.safetensors"),
                              4000),
                     0);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "step 6,"));
    process_release(&trainer);
    assert_true(scene_final_digest(scene, "whole") == wanted);
}

static void a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(void **state)
{
    struct scene *scene = *state;
    struct process trainer;
    struct command command = scene_train(scene, "wild", "1");

    command_add(&command, "--lr", "100", "--weight_decay", "100", "--weight_decay_end", "100",
                "--clip_grad", "0", "--warmup_epochs", "0", "--epochs", "40", NULL);
    process_run(&trainer, &command, 1, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "not finite"));
    assert_non_null(strstr(trainer.text, "the batch of step"));
    process_release(&trainer);

    /* what was saved before is good, and can be gone on from with other options elsewhere */
    command = scene_train(scene, "tame", "1");
    command_add(&command, "--load_from", scene_path(scene, "wild/checkpoints/step_00000000"),
                "--epochs", "2", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "other options"));
    process_release(&trainer);
    assert_int_equal(scene_final_step(scene, "tame"), 12);
}

static void options_that_decide_results_must_be_the_same_on_resume(void **state)
{
    struct scene *scene = *state;
    struct process trainer;
    struct command command = scene_train(scene, "run", "1");

    command_add(&command, "--stop_at_step", "2", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = scene_train(scene, "run", "2");
    command_add(&command, "--lr", "0.02", "--embed_dim", "64", NULL);
    process_run(&trainer, &command, 3, SCENE_SECONDS);
    assert_non_null(strstr(trainer.text, "--lr 0.02 (the run has 0.01)"));
    assert_non_null(strstr(trainer.text, "--embed_dim 64 (the run has 32)"));
    process_release(&trainer);
    command = scene_train(scene, "run", "2");
    command_add(&command, "--saveckp_freq", "1", "--prefetch", "2", "--slice_size", "5", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
}

static void accumulated_micro_batches_end_where_one_batch_ends(void **state)
{
    struct scene *scene = *state;
    struct process trainer;
    struct command command = scene_train(scene, "one", "1");

    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    command = scene_train(scene, "two", "1");
    command_add(&command, "--batch_size_per_gpu", "4", "--accumulation_steps", "2", NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    process_release(&trainer);
    assert_true(scene_difference(scene, "one", "two") < 1e-5);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)
    const struct CMUnitTest tests[] = {
        TEST(a_run_killed_after_each_of_its_steps_ends_with_the_same_bits),
        TEST(signals_finish_the_step_save_and_end_with_75),
        TEST(a_trainer_that_waits_for_loaders_can_be_stopped),
        TEST(a_second_trainer_in_the_same_run_folder_is_refused),
        TEST(steps_can_be_left_out_also_after_an_interruption),
        TEST(a_full_disk_leaves_older_checkpoints_intact_and_training_goes_on),
        TEST(a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used),
        TEST(a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch),
        TEST(options_that_decide_results_must_be_the_same_on_resume),
        TEST(accumulated_micro_batches_end_where_one_batch_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
