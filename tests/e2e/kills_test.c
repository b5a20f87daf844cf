/* A trainer killed at random moments, saves included, with disks that fill up and files that tear:
 * it goes on from the very step of the newest good checkpoint, and ends with the bits of a run that
 * nothing happened to.
 *
 *   IBOT_KILLS       how many; default 50
 *   IBOT_KILLS_SEED  which moments; default from the clock, always printed */
#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/rng.h"
#include "proto/wire/recording.h"
#include "tests/e2e/scene.h"
#include "tests/e2e/watch.h"

enum {
    STEPS_PER_EPOCH = SCENE_IMAGES / SCENE_BATCH,
    LIFE =
        12, /* steps that one life has at most: a kill that comes late costs no more of the run */
};

struct kills {
    struct scene *scene;
    struct rng rng;
    struct watch watch;
    const char *digests, *record;
    char epochs[16];
    int64_t n_steps;
    int n_kills, n_lives, n_torn, n_full, n_before_first_step, n_unfinished;
};

static int draw(struct kills *kills, int n)
{
    return (int)rng_below(&kills->rng, (uint32_t)n);
}

static struct command train(struct kills *kills, const char *run)
{
    struct command command = scene_train(kills->scene, run, "1");
    command_add(&command, "--epochs", kills->epochs, "--lr", "0.001", NULL);
    return command;
}

/* The run that is killed: it saves after every step, and records. */
static struct command train_saving(struct kills *kills)
{
    struct command command = train(kills, "killed");
    command_add(&command, "--log_digests", kills->digests, "--checkpoint_every_steps", "1",
                "--record", kills->record, "--record_kind", "ids", NULL);
    return command;
}

/* ---- damage ---- */

/* Step of the newest folder that has a checkpoint's name, -1 when there is none; counts those that
 * a kill left half written. */
static long newest_step(struct kills *kills)
{
    DIR *folder = opendir(scene_path(kills->scene, "killed/checkpoints"));
    struct dirent *item;
    long newest = -1;

    while (folder != NULL && (item = readdir(folder)) != NULL) {
        long step;
        char rest;
        if (strstr(item->d_name, ".tmp") != NULL)
            kills->n_unfinished++;
        else if (sscanf(item->d_name, "step_%ld%c", &step, &rest) == 1 && step > newest)
            newest = step;
    }
    if (folder != NULL)
        closedir(folder);
    return newest;
}

/* What a disk that lost its power may have left of the newest checkpoint. */
static void tear(struct kills *kills, long step)
{
    static const char *const names[] = {"model.safetensors", "state.json"};
    const char *path =
        scene_path(kills->scene, "killed/checkpoints/step_%08ld/%s", step, names[draw(kills, 2)]);
    struct stat info;

    if (stat(path, &info) != 0 || info.st_size == 0)
        return; /* torn before, and the life since then was too short to save that step again */
    long at = draw(kills, (int)info.st_size);
    int how = draw(kills, 3);
    if (how == 0) {
        assert_int_equal(unlink(path), 0);
    } else if (how == 1) {
        assert_int_equal(truncate(path, at), 0);
    } else {
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        fseek(file, at, SEEK_SET);
        int byte = fgetc(file);
        fseek(file, at, SEEK_SET);
        fputc(byte ^ (1 << draw(kills, 8)), file);
        assert_int_equal(fclose(file), 0);
    }
    kills->n_torn++;
}

/* ---- one life ---- */

/* Lives for some batches and a little longer, then is killed, unless it has made LIFE steps before.
 * False when the run came to its end. */
static bool live_and_die(struct kills *kills)
{
    struct command command = train_saving(kills);
    struct process trainer;
    long newest = newest_step(kills);
    bool torn = newest >= 3 && draw(kills, 6) == 0;
    char said[64], stop[16];

    if (torn)
        tear(kills, newest);
    /* The very step that it must go on from. A torn checkpoint stays until that step is saved
     * again, so it need not be this life's. */
    int64_t good = newest < 0 ? 0 : scene_final_step(kills->scene, "killed");
    assert_true(newest < 0 || (torn ? good < newest : good <= newest));
    if (draw(kills, 6) == 0) { /* no save succeeds in this life, and it goes on */
        command.max_file_bytes = 64 << 10;
        kills->n_full++;
    }
    snprintf(stop, sizeof(stop), "%d", (int)good + LIFE);
    command_add(&command, "--stop_at_step", stop, NULL);
    process_start(&trainer, &command);
    int wanted = draw(kills, 5), n = 0;
    if (wanted > 0) {
        n = watch_lines(&kills->watch, &trainer, 1, SCENE_SECONDS);
        if (n == 1)
            assert_int_equal(kills->watch.next_step - 1, good);
        n += watch_lines(&kills->watch, &trainer, wanted - n, SCENE_SECONDS);
    }
    /* A step with its save takes some ten milliseconds, a start more than a hundred. */
    struct timespec wait = {0, draw(kills, wanted > 0 ? 20000 : 300000) * 1000};
    if (!trainer.ended)
        ppoll(NULL, 0, &wait, NULL);
    process_signal(&trainer, SIGKILL);
    process_wait(&trainer, SCENE_SECONDS);
    bool killed = trainer.exit_status == 128 + SIGKILL;
    if (!killed && trainer.exit_status != 0 &&
        !(command.max_file_bytes > 0 && strstr(trainer.text, "not saved") != NULL))
        fail_msg("exit status %d:\n%s", trainer.exit_status, trainer.text);
    bool done = trainer.exit_status == 0 && good + LIFE >= kills->n_steps;
    snprintf(said, sizeof(said), "step_%08ld", newest);
    if (torn && strstr(trainer.text, "going on from") != NULL) { /* it said which it passed over */
        assert_non_null(strstr(trainer.text, "passed over"));
        assert_non_null(strstr(trainer.text, said));
    }
    int64_t before = kills->watch.n_lines;
    watch_restart(&kills->watch);
    kills->n_before_first_step += n == 0 && kills->watch.n_lines == before;
    kills->n_kills += killed;
    process_release(&trainer);
    return !done;
}

static void each_image_was_used_once_an_epoch(const char *folder, int n_epochs)
{
    struct recording *recording = NULL;
    uint8_t *n_uses = calloc((size_t)n_epochs * SCENE_IMAGES, 1);

    assert_non_null(n_uses);
    if (recording_open(&recording, folder) != STATUS_OK)
        fail_msg("%s", status_message());
    for (size_t i = 0; i < recording->n_slices; i++) {
        if (recording_read(recording, i) != STATUS_OK)
            fail_msg("%s", status_message());
        const struct message_slice *slice = &recording->message.slice;
        for (int32_t k = 0; k < slice->lease.n_samples; k++)
            n_uses[(size_t)slice->lease.epoch * SCENE_IMAGES + slice->index[k]]++;
    }
    for (size_t i = 0; i < (size_t)n_epochs * SCENE_IMAGES; i++)
        assert_int_equal(n_uses[i], 1);
    recording_close(&recording);
    free(n_uses);
}

static void a_run_killed_at_fifty_random_moments_ends_with_the_same_bits(void **state)
{
    struct scene *scene = *state;
    const char *seed = getenv("IBOT_KILLS_SEED"), *number = getenv("IBOT_KILLS");
    uint64_t drawn =
        seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)clock_monotonic_ns() / 1000 % 1000000;
    int n_kills = number != NULL ? (int)strtol(number, NULL, 10) : 50, n_epochs = n_kills / 2;
    struct kills kills = {.scene = scene};
    struct process process;

    print_message("IBOT_KILLS_SEED=%llu\n", (unsigned long long)drawn);
    kills.rng = rng_open((struct rng_key){.seed = drawn, .purpose = RNG_TEST});
    kills.digests = scene_path(scene, "killed.digests");
    kills.record = scene_path(scene, "recording");
    snprintf(kills.epochs, sizeof(kills.epochs), "%d", n_epochs);
    const char *path = scene_path(scene, "calm.digests");
    struct command command = train(&kills, "calm");
    command_add(&command, "--log_digests", path, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    char *calm = scene_read(path);
    watch_open(&kills.watch, kills.digests, calm);
    watch_restart(&kills.watch);

    kills.n_steps = n_epochs * STEPS_PER_EPOCH;
    for (bool alive = true; alive && kills.n_kills < n_kills && kills.n_lives < 2 * n_kills;
         kills.n_lives++)
        alive = live_and_die(&kills);
    command = train_saving(&kills); /* if it was done before, this finds nothing to do */
    process_start(&process, &command);
    while (watch_lines(&kills.watch, &process, 1000, SCENE_SECONDS) > 0)
        continue;
    process_finish(&process, 0, SCENE_SECONDS);
    process_release(&process);
    print_message("%d kills in %d lives, %d before the first step of their life, %d left a save "
                  "half written; %d torn checkpoints, %d lives without a save; %lld batches for "
                  "%lld steps\n",
                  kills.n_kills, kills.n_lives, kills.n_before_first_step, kills.n_unfinished,
                  kills.n_torn, kills.n_full, (long long)kills.watch.n_lines,
                  (long long)kills.watch.n_steps);

    assert_true(kills.n_kills >=
                n_kills / 8); /* most lives end by a kill, late ones by themselves */
    assert_int_equal(scene_final_step(scene, "killed"), kills.n_steps);
    assert_true(scene_final_digest(scene, "calm") == scene_final_digest(scene, "killed"));
    char *calm_log = scene_read(scene_path(scene, "calm/log.txt"));
    char *log = scene_read(scene_path(scene, "killed/log.txt"));
    assert_string_equal(calm_log, log);
    each_image_was_used_once_an_epoch(kills.record, n_epochs);
    watch_close(&kills.watch);
    free(calm_log);
    free(calm);
    free(log);
}

/* A real file system that is full until somebody makes room. */
static void a_run_goes_on_while_its_disk_is_full_and_saves_again_when_it_is_not(void **state)
{
    struct scene *scene = *state;
    /* longer than it can be ahead of this test: it saves when the disk is full, and when it is not
     */
    struct kills kills = {.scene = scene, .epochs = "60"};
    _Static_assert(60 * STEPS_PER_EPOCH > 40 + SCENE_AHEAD + 2 * STEPS_PER_EPOCH, "too short");
    const char *disk = scene_path(scene, "disk"), *file = scene_path(scene, "disk/filler");
    struct process process;
    char filler[4096] = "";

    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        print_message("no right to mount a file system\n");
        skip();
    }
    mkdir(disk, 0777);
    if (mount("tmpfs", disk, "tmpfs", 0, "size=4m") != 0) {
        print_message("no right to mount a tmpfs\n");
        skip();
    }
    kills.digests = scene_path(scene, "digests");
    struct command command = train(&kills, "calm");
    command_add(&command, "--log_digests", scene_path(scene, "calm.digests"), NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    char *calm = scene_read(scene_path(scene, "calm.digests"));
    watch_open(&kills.watch, kills.digests, calm);

    command = train(&kills, "disk/run");
    command_add(&command, "--log_digests", kills.digests, NULL);
    process_start(&process, &command);
    assert_int_equal(watch_lines(&kills.watch, &process, 20, SCENE_SECONDS), 20);
    FILE *hog = fopen(file, "wb");
    assert_non_null(hog);
    while (fwrite(filler, 1, sizeof(filler), hog) == sizeof(filler) && fflush(hog) == 0)
        continue;
    fclose(hog);
    assert_int_equal(watch_lines(&kills.watch, &process, 20, SCENE_SECONDS), 20);
    process_expect(&process, "not saved", 0, SCENE_SECONDS);
    process_expect(&process, "training goes on", 0, SCENE_SECONDS);
    assert_int_equal(unlink(file), 0);
    while (watch_lines(&kills.watch, &process, 1000, SCENE_SECONDS) > 0)
        continue;
    process_finish(&process, 0, SCENE_SECONDS);
    process_release(&process);
    assert_true(scene_final_digest(scene, "calm") == scene_final_digest(scene, "disk/run"));
    assert_int_equal(scene_final_step(scene, "disk/run"), kills.watch.n_steps);
    watch_close(&kills.watch);
    free(calm);
    umount2(disk, MNT_DETACH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(
            a_run_killed_at_fifty_random_moments_ends_with_the_same_bits, scene_open, scene_close),
        cmocka_unit_test_setup_teardown(
            a_run_goes_on_while_its_disk_is_full_and_saves_again_when_it_is_not, scene_open,
            scene_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
