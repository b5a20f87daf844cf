/* Signals, in child processes: the first asks, the second ends, and a child of ours listens to its
 * parent alone. */
#include "proto/config/stop.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* How a child of this process ends that runs `body`; -signal when it is killed. */
static int end_of(int (*body)(int), int argument)
{
    int how;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0)
        _exit(body(argument));
    assert_int_equal(waitpid(pid, &how, 0), pid);
    return WIFSIGNALED(how) ? -WTERMSIG(how) : WEXITSTATUS(how);
}

static int one_signal(int number)
{
    const atomic_int *stop = stop_on_signals();

    if (atomic_load(stop) != 0)
        return 1;
    raise(number);
    return atomic_load(stop) == 1 ? 42 : 2;
}

static int two_signals(int number)
{
    const atomic_int *stop = stop_on_signals();

    raise(SIGUSR1); /* any of them first */
    if (atomic_load(stop) == 0)
        return 1;
    raise(number);
    return 2;
}

static void the_first_signal_asks_and_the_second_ends(void **state)
{
    const int numbers[] = {SIGINT, SIGTERM, SIGUSR1};
    (void)state;

    for (int i = 0; i < 3; i++) {
        assert_int_equal(end_of(one_signal, numbers[i]), 42);
        assert_int_equal(end_of(two_signals, numbers[i]), -numbers[i]);
    }
}

static int child_of_ours(int number)
{
    const atomic_int *stop = stop_on_signals();

    if (stop_with_parent(getppid()) != STATUS_OK)
        return 1;
    for (int i = 0; i < 3; i++)
        raise(number);
    if (atomic_load(stop) != 0)
        return 2;
    raise(SIGHUP);
    if (atomic_load(stop) == 0)
        return 3;
    raise(SIGHUP);
    return 4;
}

static void a_child_leaves_the_signals_of_the_group_to_its_parent(void **state)
{
    const int numbers[] = {SIGINT, SIGTERM, SIGUSR1};
    (void)state;

    for (int i = 0; i < 3; i++)
        assert_int_equal(end_of(child_of_ours, numbers[i]), -SIGHUP);
}

/* A middle process starts a child and ends; the child says through the pipe how it goes on. */
static int orphan(int out)
{
    const atomic_int *stop = stop_on_signals();
    pid_t parent = getpid();
    int ends[2];

    if (pipe(ends) != 0)
        return 1;
    if (fork() == 0) {
        char word = stop_with_parent(parent) == STATUS_OK ? 'y' : 'n';
        if (write(ends[1], &word, 1) != 1)
            _exit(1);
        while (atomic_load(stop) == 0) /* SIGHUP comes when the parent is gone */
            usleep(1000);
        word = 's';
        _exit(write(out, &word, 1) == 1 ? 0 : 1);
    }
    char word;
    return read(ends[0], &word, 1) == 1 && word == 'y' ? 0 : 2;
}

static int late_child(int argument)
{
    (void)argument;
    return stop_with_parent(getppid() + 1) == STATUS_INTERRUPTED ? 0 : 1;
}

static void a_child_ends_with_its_parent(void **state)
{
    int ends[2];
    char word = 0;
    (void)state;

    assert_int_equal(pipe(ends), 0);
    assert_int_equal(end_of(orphan, ends[1]), 0);
    close(ends[1]);
    assert_int_equal(read(ends[0], &word, 1), 1); /* ends when the orphan has said it, or ended */
    assert_int_equal(word, 's');
    close(ends[0]);
    assert_int_equal(end_of(late_child, 0), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_signal_asks_and_the_second_ends),
        cmocka_unit_test(a_child_leaves_the_signals_of_the_group_to_its_parent),
        cmocka_unit_test(a_child_ends_with_its_parent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
