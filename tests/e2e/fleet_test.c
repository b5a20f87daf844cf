/* Restarts and changes of either side, one at a time: the stories that data services are tested
 * with, held to ordered, byte-equal batches. Random ones are in chaos_test.c. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/e2e/scene.h"
#include "tests/e2e/watch.h"

enum { STEPS_PER_EPOCH = SCENE_IMAGES / SCENE_BATCH };

/* A trainer that is watched, at an address that it keeps. */
struct story {
    struct scene *scene;
    struct process trainer;
    struct watch watch;
    char endpoint[128], run[32];
    const char *digests;
    bool done;              /* the run is at its end: what was to interrupt it came too late */
    const char *options[8]; /* for calm run and story alike; NULL ends them */
};

/* Some ports in a row that are free now, below those that the system hands out by itself and apart
 * from those of tests/ops/launchers_test.sh. */
static int free_ports(int n)
{
    for (int base = 20000 + getpid() % 5000;; base += n) {
        int n_free = 0;
        assert_true(base < 26000 - n);
        for (; n_free < n; n_free++) {
            struct sockaddr_in address = {.sin_family = AF_INET,
                                          .sin_addr = {htonl(INADDR_LOOPBACK)},
                                          .sin_port = htons((uint16_t)(base + n_free))};
            int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
            int failed = bind(probe, (struct sockaddr *)&address, sizeof(address));
            close(probe);
            if (failed != 0)
                break;
        }
        if (n_free == n)
            return base;
    }
}

static void add_options(const struct story *story, struct command *command)
{
    for (int i = 0; story->options[i] != NULL; i++)
        command_add(command, story->options[i], NULL);
}

/* Makes the calm run that the story is held to. `run` also names the story's own. */
static void story_open(struct story *story, struct scene *scene, const char *run)
{
    const char *path = scene_path(scene, "%s_calm.digests", run);
    char calm[64];
    struct process process;

    snprintf(story->run, sizeof(story->run), "%s", run);
    snprintf(calm, sizeof(calm), "%s_calm", run);
    story->scene = scene;
    story->digests = scene_path(scene, "%s.digests", run);
    if (story->endpoint[0] == '\0')
        snprintf(story->endpoint, sizeof(story->endpoint), "tcp://127.0.0.1:%d", free_ports(1));
    struct command command = scene_train(scene, calm, "1");
    command_add(&command, "--log_digests", path, NULL);
    add_options(story, &command);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    char *text = scene_read(path);
    watch_open(&story->watch, story->digests, text);
    free(text);
}

static void start_trainer(struct story *story)
{
    struct command command = command_of(
        "ibot-train", "--config", story->scene->recipe, "--listen", story->endpoint, "--output_dir",
        scene_path(story->scene, "%s", story->run), "--log_digests", story->digests, NULL);
    add_options(story, &command);
    process_start(&story->trainer, &command);
}

static void take(struct story *story, int n)
{
    int got = watch_lines(&story->watch, &story->trainer, n, SCENE_SECONDS);
    if (!story->done && story->watch.next_step < story->watch.n_steps)
        assert_int_equal(got, n);
}

static void end_trainer(struct story *story, int signal_number, int exit_status)
{
    process_signal(&story->trainer, signal_number);
    while (watch_lines(&story->watch, &story->trainer, 1000, SCENE_SECONDS) > 0)
        continue; /* it may finish steps, and writes them down */
    story->done |= story->watch.next_step == story->watch.n_steps;
    if (process_wait(&story->trainer, SCENE_SECONDS) != 0 || !story->done)
        process_finish(&story->trainer, exit_status, SCENE_SECONDS);
    process_release(&story->trainer);
    watch_restart(&story->watch);
}

/* To its end: every batch was there, and all state is that of the calm run. */
static void story_close(struct story *story)
{
    char calm[64];

    while (watch_lines(&story->watch, &story->trainer, 1000, SCENE_SECONDS) > 0)
        continue;
    process_finish(&story->trainer, 0, SCENE_SECONDS);
    process_release(&story->trainer);
    if (!story->done)
        assert_int_equal(story->watch.next_step, story->watch.n_steps);
    snprintf(calm, sizeof(calm), "%s_calm", story->run);
    assert_true(scene_final_digest(story->scene, calm) ==
                scene_final_digest(story->scene, story->run));
    watch_close(&story->watch);
}

static void start_loader(struct scene *scene, struct process *loader, const char *endpoint,
                         const char *credit)
{
    struct command command = command_of("ibot-loader", "--data", scene->data, "--connect", endpoint,
                                        "--threads", "1", "--credit", credit, NULL);
    process_start(loader, &command);
}

static void kill_and_release(struct process *process)
{
    process_signal(process, SIGKILL);
    process_finish(process, 128 + SIGKILL, SCENE_SECONDS);
    process_release(process);
}

static void a_trainer_is_restarted_before_within_and_between_epochs(void **state)
{
    /* Batches it takes before each end; with a checkpoint at each step. */
    static const int lengths[] = {1, 2, STEPS_PER_EPOCH - 3, STEPS_PER_EPOCH, 4};
    struct scene *scene = *state;
    struct story story = {.options = {"--checkpoint_every_steps", "1", "--epochs", "10"}};
    struct process loaders[2];

    story_open(&story, scene, "restarted");
    start_loader(scene, &loaders[0], story.endpoint, "0"); /* before there is a trainer */
    start_trainer(&story);
    end_trainer(&story, SIGKILL, 128 + SIGKILL); /* as soon as it is there */
    start_loader(scene, &loaders[1], story.endpoint, "0");
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        start_trainer(&story);
        take(&story, lengths[i]);
        if (i % 2 == 0)
            end_trainer(&story, SIGKILL, 128 + SIGKILL);
        else
            end_trainer(&story, SIGTERM, 75);
    }
    start_trainer(&story);
    story_close(&story);
    for (int i = 0; i < 2; i++) { /* the same ones served all of them */
        process_stop(&loaders[i], SIGTERM, SCENE_SECONDS);
        process_finish(&loaders[i], 0, SCENE_SECONDS);
        process_release(&loaders[i]);
    }
}

static void trainer_and_loaders_are_all_restarted(void **state)
{
    struct scene *scene = *state;
    struct story story = {.options = {"--checkpoint_every_steps", "2", "--epochs", "6"}};
    struct process loaders[2];

    story_open(&story, scene, "all");
    for (int round = 0; round < 3; round++) {
        start_trainer(&story);
        for (int i = 0; i < 2; i++)
            start_loader(scene, &loaders[i], story.endpoint, "0");
        take(&story, 4);
        for (int i = 0; i < 2; i++)
            kill_and_release(&loaders[i]);
        end_trainer(&story, SIGKILL, 128 + SIGKILL);
    }
    start_loader(scene, &loaders[0], story.endpoint, "0");
    start_trainer(&story);
    story_close(&story);
    kill_and_release(&loaders[0]);
}

static void a_loader_added_in_the_middle_takes_over(void **state)
{
    struct scene *scene = *state;
    struct story story = {.options = {"--epochs", "10"}};
    struct process first, second;

    story_open(&story, scene, "added");
    start_trainer(&story);
    start_loader(scene, &first, story.endpoint, "0");
    take(&story, 7);
    start_loader(scene, &second, story.endpoint, "0");
    take(&story, 7);
    process_stop(&first, SIGTERM, SCENE_SECONDS);
    process_finish(&first, 0, SCENE_SECONDS);
    story_close(&story);
    process_release(&first);
    kill_and_release(&second);
}

static void four_of_five_loaders_leave_and_a_thousand_batches_follow(void **state)
{
    struct scene *scene = *state;
    struct story story = {.options = {"--epochs", "180", "--prefetch", "1", "--lr", "0.001"}};
    struct process loaders[5];

    story_open(&story, scene, "left");
    start_trainer(&story);
    for (int i = 0; i < 5; i++)
        start_loader(scene, &loaders[i], story.endpoint, "1"); /* one slice in hand */
    take(&story, 50);
    for (int i = 0; i < 4; i++)
        if (i % 2 == 0) {
            kill_and_release(&loaders[i]);
        } else {
            process_stop(&loaders[i], SIGTERM, SCENE_SECONDS);
            process_finish(&loaders[i], 0, SCENE_SECONDS);
            process_release(&loaders[i]);
        }
    take(&story, 1000);
    story_close(&story);
    kill_and_release(&loaders[4]);
}

static void a_trainer_comes_back_at_another_port(void **state)
{
    struct scene *scene = *state;
    struct story story = {.options = {"--checkpoint_every_steps", "1", "--epochs", "6"}};
    struct process loader;
    int port = free_ports(3);
    char range[64];

    snprintf(range, sizeof(range), "tcp://127.0.0.1:%d-%d", port, port + 2);
    snprintf(story.endpoint, sizeof(story.endpoint), "tcp://127.0.0.1:%d", port);
    story_open(&story, scene, "moved");
    start_loader(scene, &loader, range, "0");
    for (int i = 0; i < 3; i++) {
        snprintf(story.endpoint, sizeof(story.endpoint), "tcp://127.0.0.1:%d", port + i);
        start_trainer(&story);
        take(&story, 4);
        if (i < 2)
            end_trainer(&story, SIGKILL, 128 + SIGKILL);
    }
    story_close(&story);
    kill_and_release(&loader);
}

static void slices_may_be_large(void **state)
{
    struct scene *scene = *state;
    /* 16 images of 2 * 224 * 224 and 2 * 16 * 16 pixels: 4.8 MB in a slice */
    struct story story = {.options = {"--batch_size_per_gpu", "16", "--global_crop_size", "224",
                                      "--stop_at_step", "3"}};
    struct process loader;
    story_open(&story, scene, "large");
    struct command command = command_of("ibot-train", "--config", scene->recipe, "--listen",
                                        story.endpoint, "--output_dir", scene_path(scene, "large"),
                                        "--log_digests", story.digests, "--slice_size", "16", NULL);
    add_options(&story, &command);
    process_start(&story.trainer, &command);
    start_loader(scene, &loader, story.endpoint, "0");
    story_close(&story); /* the calm run's slices had three images */
    kill_and_release(&loader);
}

static void one_loader_serves_two_runs_of_which_one_comes_and_goes(void **state)
{
    struct scene *scene = *state;
    struct story steady = {.options = {"--epochs", "20", "--lr", "0.001"}};
    struct story restless = {
        .options = {"--local_crops_number", "1", "--epochs", "10", "--seed", "7"}};
    struct process loader;
    char both[300];
    int port = free_ports(2);
    snprintf(steady.endpoint, sizeof(steady.endpoint), "tcp://127.0.0.1:%d", port);
    snprintf(restless.endpoint, sizeof(restless.endpoint), "tcp://127.0.0.1:%d", port + 1);
    story_open(&steady, scene, "steady");
    story_open(&restless, scene, "restless");
    snprintf(both, sizeof(both), "%s,%s", steady.endpoint, restless.endpoint);
    start_loader(scene, &loader, both, "0");
    start_trainer(&steady);
    take(&steady, 3);
    for (int i = 0; i < 4; i++) {
        start_trainer(&restless);
        take(&restless, 3 + 3 * i);
        take(&steady, 3);
        if (i < 3)
            end_trainer(&restless, i % 2 == 0 ? SIGKILL : SIGTERM, i % 2 == 0 ? 137 : 75);
        take(&steady, 3);
    }
    story_close(&restless);
    story_close(&steady);
    kill_and_release(&loader);
}

/* Two ranks, one fleet: ports in a row, of which each loader has the range. */
static void ranks_share_a_fleet_that_changes(void **state)
{
    struct scene *scene = *state;
    struct process ranks, loaders[2];
    char listen[64], range[64];
    int port = free_ports(2);

    if (system("command -v mpirun > /dev/null") != 0) {
        print_message("no mpirun\n");
        skip();
    }
    snprintf(listen, sizeof(listen), "tcp://127.0.0.1:%d", port);
    snprintf(range, sizeof(range), "tcp://127.0.0.1:%d-%d", port, port + 1);
    char trainer[300];
    snprintf(trainer, sizeof(trainer), "%s/ibot-train", getenv("IBOT_BIN"));
    for (int round = 0; round < 2; round++) { /* calm, then not */
        const char *run = round == 0 ? "two_calm" : "two";
        struct command command =
            command_of("mpirun", "-np", "2", "--oversubscribe", trainer, "--config", scene->recipe,
                       "--batch_size_per_gpu", "4", "--listen", listen, "--output_dir",
                       scene_path(scene, "%s", run), "--log_digests",
                       scene_path(scene, "%s.digests", run), "--epochs", "10", NULL);
        process_start(&ranks, &command);
        for (int i = 0; i < 2; i++)
            start_loader(scene, &loaders[i], range, "0");
        while (!ranks.ended) {
            process_wait_ms(&ranks, 150);
            process_look(&loaders[1]);
            if (round == 0 || ranks.ended || strstr(loaders[1].text, "serving") == NULL)
                continue; /* the elder stays until the younger is there, be it ever so slow */
            kill_and_release(&loaders[0]);
            loaders[0] = loaders[1];
            start_loader(scene, &loaders[1], range, "0");
        }
        if (strstr(ranks.text, "no MPI") != NULL) {
            print_message("built without MPI\n");
            skip();
        }
        process_finish(&ranks, 0, SCENE_SECONDS);
        process_release(&ranks);
        for (int i = 0; i < 2; i++)
            kill_and_release(&loaders[i]);
    }
    for (int rank = 0; rank < 2; rank++) {
        char *calm = scene_read(scene_path(scene, "two_calm.digests.%d", rank));
        char *got = scene_read(scene_path(scene, "two.digests.%d", rank));
        assert_string_equal(calm, got);
        free(calm);
        free(got);
    }
    assert_true(scene_final_digest(scene, "two_calm") == scene_final_digest(scene, "two"));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)
    const struct CMUnitTest tests[] = {
        TEST(a_trainer_is_restarted_before_within_and_between_epochs),
        TEST(trainer_and_loaders_are_all_restarted),
        TEST(a_loader_added_in_the_middle_takes_over),
        TEST(four_of_five_loaders_leave_and_a_thousand_batches_follow),
        TEST(a_trainer_comes_back_at_another_port),
        TEST(slices_may_be_large),
        TEST(one_loader_serves_two_runs_of_which_one_comes_and_goes),
        TEST(ranks_share_a_fleet_that_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
