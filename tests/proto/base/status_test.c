/* Status: codes travel, texts stay with their thread and may contain the text before them. */
#include "proto/base/status.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static enum status inner(bool fails)
{
    if (fails)
        FAIL(STATUS_CORRUPT, "byte %d is wrong", 7);
    return STATUS_OK;
}

static enum status outer(bool fails, bool *reached)
{
    TRY(inner(fails));
    *reached = true;
    return STATUS_OK;
}

static enum status owner(bool fails, int *n_released)
{
    enum status status;

    TRY_OUT(inner(false));
    TRY_OUT(inner(fails));
    if (!fails)
        FAIL_OUT(STATUS_INVALID, "last");
out:
    (*n_released)++;
    return status;
}

static void a_failure_leaves_through_every_caller(void **state)
{
    bool reached = false;
    (void)state;

    assert_int_equal(outer(true, &reached), STATUS_CORRUPT);
    assert_false(reached);
    assert_string_equal(status_message(), "byte 7 is wrong");
    assert_int_equal(outer(false, &reached), STATUS_OK);
    assert_true(reached);
}

static void out_is_reached_in_every_case(void **state)
{
    int n_released = 0;
    (void)state;

    assert_int_equal(owner(true, &n_released), STATUS_CORRUPT);
    assert_int_equal(owner(false, &n_released), STATUS_INVALID);
    assert_string_equal(status_message(), "last");
    assert_int_equal(n_released, 2);
}

static void a_text_may_contain_the_text_before_it(void **state)
{
    (void)state;
    assert_int_equal(status_set(STATUS_IO, "disk full"), STATUS_IO);
    assert_int_equal(status_set(STATUS_IO, "saving: %s", status_message()), STATUS_IO);
    assert_string_equal(status_message(), "saving: disk full");
}

static void a_text_that_is_too_long_is_cut(void **state)
{
    static char text[5000];
    (void)state;

    memset(text, 'x', sizeof(text) - 1);
    assert_int_equal(status_set(STATUS_IO, "%s", text), STATUS_IO);
    assert_true(strlen(status_message()) > 500);
    assert_true(strlen(status_message()) < sizeof(text) - 1);
}

static void *fail_elsewhere(void *unused)
{
    (void)unused;
    bool empty = status_message()[0] == '\0';
    (void)!status_set(STATUS_IO, "from the other thread");
    return empty ? NULL : (void *)"not empty";
}

static void texts_belong_to_their_thread(void **state)
{
    pthread_t thread;
    void *result;
    (void)state;

    (void)!status_set(STATUS_IO, "mine");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, NULL), 0);
    assert_int_equal(pthread_join(thread, &result), 0);
    assert_null(result);
    assert_string_equal(status_message(), "mine");
}

static void every_code_has_a_name_and_an_exit_status(void **state)
{
    (void)state;
    for (int i = 0; i < STATUS_COUNT; i++) {
        assert_string_not_equal(status_name((enum status)i), "unknown");
        for (int k = 0; k < i; k++)
            assert_string_not_equal(status_name((enum status)i), status_name((enum status)k));
        assert_true((status_exit_code((enum status)i) == 0) == (i == STATUS_OK));
    }
    assert_string_equal(status_name((enum status)1000), "unknown");
    assert_int_equal(status_exit_code(STATUS_INVALID), 2);
    assert_int_equal(status_exit_code(STATUS_MISMATCH), 3);
    assert_int_equal(status_exit_code(STATUS_INTERRUPTED), 75);
}

static void a_broken_promise_aborts_with_its_place(void **state)
{
    int pipe_ends[2], exit_status;
    char text[512] = "";
    (void)state;

    assert_int_equal(pipe(pipe_ends), 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipe_ends[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        CHECK(1 + 1 == 3, "the sum is %d", 2);
        _exit(0);
    }
    close(pipe_ends[1]);
    /* stderr has no buffer: the line comes in pieces, until the child's end closes */
    size_t n = 0;
    for (ssize_t part = 1; part > 0; n += (size_t)part) {
        part = read(pipe_ends[0], text + n, sizeof(text) - 1 - n);
        assert_true(part >= 0);
    }
    close(pipe_ends[0]);
    assert_int_equal(waitpid(child, &exit_status, 0), child);
    assert_true(WIFSIGNALED(exit_status) && WTERMSIG(exit_status) == SIGABRT);
    assert_non_null(strstr(text, "status_test.c:"));
    assert_non_null(strstr(text, "1 + 1 == 3: the sum is 2"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_leaves_through_every_caller),
        cmocka_unit_test(out_is_reached_in_every_case),
        cmocka_unit_test(a_text_may_contain_the_text_before_it),
        cmocka_unit_test(a_text_that_is_too_long_is_cut),
        cmocka_unit_test(texts_belong_to_their_thread),
        cmocka_unit_test(every_code_has_a_name_and_an_exit_status),
        cmocka_unit_test(a_broken_promise_aborts_with_its_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
