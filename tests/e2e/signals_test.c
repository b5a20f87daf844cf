/* Programs as schedulers and service managers see them: which signals mean what, with which exit
 * status they end, and what they say of themselves. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "tests/e2e/scene.h"

enum { MOST_TRIES = 20 }; /* of what a slow machine may do too late */

static const int signals[] = {SIGINT, SIGTERM, SIGUSR1};

static void a_loader_that_is_asked_to_end_ends_with_0(void **state)
{
    struct scene *scene = *state;
    struct process trainer, loader;

    for (int i = 0; i < 3; i++) {
        struct command command =
            command_of("ibot-train", "--config", scene->recipe, "--listen", "tcp://127.0.0.1:0",
                       "--epochs", "4000", "--output_dir", scene_path(scene, "run%d", i), NULL);
        char endpoint[128];
        process_start(&trainer, &command);
        size_t at = process_expect(&trainer, "listening on ", 0, SCENE_SECONDS);
        process_expect(&trainer, "\n", at, SCENE_SECONDS);
        snprintf(endpoint, sizeof(endpoint), "%.*s", (int)strcspn(trainer.text + at, " \n"),
                 trainer.text + at);
        command = command_of("ibot-loader", "--data", scene->data, "--connect", endpoint, NULL);
        process_start(&loader, &command);
        process_expect(&trainer, "steps in each", 0, SCENE_SECONDS); /* it has work in its hands */
        process_signal(&loader, signals[i]);
        process_finish(&loader, 0, SCENE_SECONDS);
        assert_non_null(strstr(loader.text, "asked to stop"));
        process_release(&loader);
        process_release(&trainer);
    }
    /* With nobody to serve, too. */
    struct command command =
        command_of("ibot-loader", "--data", scene->data, "--connect", "tcp://127.0.0.1:1", NULL);
    process_start(&loader, &command);
    process_expect(&loader, "images in", 0, SCENE_SECONDS);
    process_signal(&loader, SIGTERM);
    process_finish(&loader, 0, SCENE_SECONDS);
    process_release(&loader);
}

/* Waits until a FIFO that nobody reads has no room for another line. */
static void until_full(int fifo, const struct process *process)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)SCENE_SECONDS * 1000000000;

    for (int n = 0; n < 4096 - 48;) {
        assert_true(clock_monotonic_ns() < deadline && !process->ended);
        assert_int_equal(ioctl(fifo, FIONREAD, &n), 0);
        poll(NULL, 0, 5);
    }
    poll(NULL, 0, 100); /* the one that fills it */
}

static void a_second_signal_ends_a_trainer_at_once(void **state)
{
    struct scene *scene = *state;
    const char *path = scene_path(scene, "digests");
    int fifo = scene_fifo(path);
    struct command command = scene_train(scene, "run", "1");
    struct process trainer;

    command_add(&command, "--epochs", "4000", "--log_digests", path, NULL);
    for (int try = 1;; try++) {
        process_start(&trainer, &command);
        until_full(fifo, &trainer); /* now its step can't end */
        process_signal(&trainer, SIGTERM);
        process_took(&trainer, SIGTERM, SCENE_SECONDS);
        process_wait_ms(&trainer, 300);
        if (!trainer.ended)
            break;
        /* it was slow to come to the line that does not fit, and heard of the end before */
        assert_true(try < MOST_TRIES);
        process_finish_lines(&trainer, fifo, 75, SCENE_SECONDS);
        process_release(&trainer);
    }
    process_signal(&trainer, SIGTERM);
    process_finish(&trainer, 128 + SIGTERM, SCENE_SECONDS);
    process_release(&trainer);
    close(fifo);
}

/* Lets the trainer go on, line by line, until a loader ignores the signal. */
static void until_ignored(struct process *trainer, int fifo, pid_t loader, int signal_number)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)SCENE_SECONDS * 1000000000;

    while (!process_ignores(loader, signal_number)) {
        assert_true(clock_monotonic_ns() < deadline);
        assert_int_equal(process_lines(trainer, fifo, 1, SCENE_SECONDS), 1);
    }
}

/* systemd and Slurm signal every process of a group at once. */
static void local_loaders_leave_signals_to_their_trainer(void **state)
{
    struct scene *scene = *state;
    const char *path = scene_path(scene, "digests");
    int fifo = scene_fifo(path);
    struct command command = scene_train(scene, "run", "2");
    struct process trainer;
    pid_t loaders[4];

    command_add(&command, "--epochs", "4000", "--log_digests", path, NULL);
    process_start(&trainer, &command);
    assert_int_equal(process_lines(&trainer, fifo, 5, SCENE_SECONDS), 5);
    assert_int_equal(process_children(&trainer, loaders, 4), 2);
    for (int i = 0; i < 2; i++) /* the second one may only just have been started */
        until_ignored(&trainer, fifo, loaders[i], SIGUSR1);
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 3; k++)
            assert_int_equal(kill(loaders[i], signals[k]), 0);
    assert_int_equal(process_lines(&trainer, fifo, 300, SCENE_SECONDS), 300);
    assert_null(strstr(trainer.text, "ended"));
    process_signal(&trainer, SIGTERM);
    process_finish_lines(&trainer, fifo, 75, SCENE_SECONDS);
    process_release(&trainer);
    for (int i = 0; i < 2; i++)
        assert_int_not_equal(kill(loaders[i], 0), 0); /* they ended with it */
    close(fifo);
}

/* Stopped before it is a loader, the new process would hold up whoever starts it. */
static bool is_a_loader(pid_t pid)
{
    char path[64], name[32] = "";

    snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    bool read = fgets(name, sizeof(name), file) != NULL;
    fclose(file);
    return read && strcmp(name, "ibot-loader\n") == 0;
}

static void an_evaluation_that_is_asked_to_end_ends_with_75(void **state)
{
    struct scene *scene = *state;
    struct command command = scene_train(scene, "run", "1");
    struct process process;
    pid_t loader = 0;

    command_add(&command, "--epochs", "1", "--warmup_epochs", "0", "--warmup_teacher_temp_epochs",
                "0", NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    command = command_of("ibot-eval", "knn", "--checkpoint", scene_path(scene, "run"), "--train",
                         scene->data, "--test", scene->data, "--resize_size", "32", NULL);
    for (int try = 1;; try++) {
        process_start(&process, &command);
        while ((process_children(&process, &loader, 1) == 0 || !is_a_loader(loader)) &&
               !process.ended)
            process_wait_ms(&process, 1);
        if (!process.ended)
            kill(loader, SIGSTOP); /* it waits for data from now on */
        process_wait_ms(&process, 200);
        if (!process.ended)
            break;
        process_finish(&process, 0, SCENE_SECONDS); /* it had all its data before that */
        process_release(&process);
        assert_true(try < MOST_TRIES);
    }
    process_signal(&process, SIGTERM);
    process_finish(&process, 75, SCENE_SECONDS);
    process_release(&process);
}

/* ---- a service manager ---- */

struct manager {
    int socket;
    char heard[1 << 14]; /* all of it, a line each */
    size_t n;
};

static void listen_at(struct manager *manager, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    manager->n = 0;
    manager->heard[0] = '\0';
    manager->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(manager->socket, (struct sockaddr *)&address, sizeof(address)), 0);
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "4000000", 1); /* few enough for the queue of a slow listener */
}

/* Takes what was said; what finds a full queue is lost. */
static void take_words(struct manager *manager)
{
    ssize_t n;

    while (manager->n + 512 < sizeof(manager->heard) &&
           (n = recv(manager->socket, manager->heard + manager->n, 500, MSG_DONTWAIT)) > 0) {
        manager->n += (size_t)n;
        strcpy(manager->heard + manager->n++, "\n");
    }
}

/* Listens until `text` was heard, to the other one too. */
static void hear(struct manager *manager, struct manager *other, const char *text)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)SCENE_SECONDS * 1000000000;

    while (strstr(manager->heard, text) == NULL) {
        struct pollfd event = {manager->socket, POLLIN, 0};
        if (clock_monotonic_ns() > deadline || manager->n + 512 > sizeof(manager->heard))
            fail_msg("waited for '%s', heard:\n%s", text, manager->heard);
        poll(&event, 1, 100);
        take_words(manager);
        if (other != NULL)
            take_words(other);
    }
}

static void service_managers_hear_of_a_trainer_and_a_loader(void **state)
{
    struct scene *scene = *state;
    struct manager of_trainer, of_loader;
    struct process trainer, loader;
    char address[300];

    snprintf(address, sizeof(address), "ipc://%s", scene_path(scene, "stream"));
    listen_at(&of_trainer, scene_path(scene, "trainer.notify"));
    struct command command =
        command_of("ibot-train", "--config", scene->recipe, "--listen", address, "--epochs", "4000",
                   "--output_dir", scene_path(scene, "run"), NULL);
    process_start(&trainer, &command);
    hear(&of_trainer, NULL, "READY=1\n");    /* though no loader is there */
    hear(&of_trainer, NULL, "WATCHDOG=1\n"); /* it waits, and lives */
    listen_at(&of_loader, scene_path(scene, "loader.notify"));
    command = command_of("ibot-loader", "--data", scene->data, "--connect", address, NULL);
    process_start(&loader, &command);
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    hear(&of_loader, &of_trainer, "READY=1\n");
    hear(&of_loader, &of_trainer, "STATUS=1 consumer");
    hear(&of_loader, &of_trainer, "WATCHDOG=1\n");
    hear(&of_trainer, &of_loader, "STATUS=step ");
    process_signal(&loader, SIGTERM);
    hear(&of_loader, &of_trainer, "STOPPING=1\n");
    process_finish(&loader, 0, SCENE_SECONDS);
    process_signal(&trainer, SIGTERM);
    hear(&of_trainer, &of_loader, "STOPPING=1\n");
    process_finish(&trainer, 75, SCENE_SECONDS);
    process_release(&loader);
    process_release(&trainer);
    close(of_loader.socket);
    close(of_trainer.socket);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)
    const struct CMUnitTest tests[] = {
        TEST(a_loader_that_is_asked_to_end_ends_with_0),
        TEST(a_second_signal_ends_a_trainer_at_once),
        TEST(local_loaders_leave_signals_to_their_trainer),
        TEST(an_evaluation_that_is_asked_to_end_ends_with_75),
        TEST(service_managers_hear_of_a_trainer_and_a_loader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
