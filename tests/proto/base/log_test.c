/* The log: levels, the form of a line, and whole lines from many threads. */
#include "proto/base/log.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { N_THREADS = 4, N_LINES = 200 };

/* stderr goes to a temporary file meanwhile. */
struct capture {
    FILE *file;
    int kept;
};

static struct capture capture_open(void)
{
    struct capture capture = {tmpfile(), dup(STDERR_FILENO)};
    assert_non_null(capture.file);
    fflush(stderr);
    dup2(fileno(capture.file), STDERR_FILENO);
    return capture;
}

static char *capture_close(struct capture *capture)
{
    fflush(stderr);
    dup2(capture->kept, STDERR_FILENO);
    close(capture->kept);
    fseek(capture->file, 0, SEEK_END);
    size_t n = (size_t)ftell(capture->file);
    rewind(capture->file);
    char *text = calloc(1, n + 1);
    assert_int_equal(fread(text, 1, n, capture->file), n);
    fclose(capture->file);
    return text;
}

static void a_line_names_time_program_and_level(void **state)
{
    int year, month, day, hour, minute, second, pid, n = 0;
    (void)state;

    struct capture capture = capture_open();
    log_start("ibot-test", LOG_INFO);
    log_warning("class '%s' has no images", "x");
    char *text = capture_close(&capture);
    sscanf(text, "%d-%d-%d %d:%d:%d ibot-test[%d] warning: class 'x' has no images\n%n", &year,
           &month, &day, &hour, &minute, &second, &pid, &n);
    assert_int_equal(n, strlen(text));
    assert_int_equal(pid, getpid());
    free(text);
}

static void lines_below_the_level_are_left_out(void **state)
{
    (void)state;
    struct capture capture = capture_open();
    log_start("ibot-test", LOG_WARNING);
    log_info("quiet");
    log_error("loud");
    setenv("IBOT_LOG_LEVEL", "debug", 1);
    log_start("ibot-test", LOG_WARNING);
    log_debug("asked for");
    unsetenv("IBOT_LOG_LEVEL");
    log_start("ibot-test", LOG_INFO);
    char *text = capture_close(&capture);
    assert_null(strstr(text, "quiet"));
    assert_non_null(strstr(text, "error: loud"));
    assert_non_null(strstr(text, "debug: asked for"));
    free(text);
}

static void a_status_line_is_for_terminals_alone(void **state)
{
    (void)state;
    struct capture capture = capture_open();
    log_status_line("10 %");
    log_status_line(NULL);
    char *text = capture_close(&capture);
    assert_string_equal(text, "");
    free(text);
}

static void *write_lines(void *argument)
{
    for (int i = 0; i < N_LINES; i++)
        log_info("thread %s line %03d end", (const char *)argument, i);
    return NULL;
}

static void lines_of_many_threads_stay_whole(void **state)
{
    static char names[N_THREADS][2] = {"a", "b", "c", "d"};
    int n_next[N_THREADS] = {0};
    pthread_t threads[N_THREADS];
    (void)state;

    struct capture capture = capture_open();
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, names[i]), 0);
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    char *text = capture_close(&capture), *rest = text;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL;
         line = strtok_r(NULL, "\n", &rest)) {
        char name;
        int number, n = 0;
        const char *message = strstr(line, "info: ");
        assert_non_null(message);
        sscanf(message, "info: thread %c line %d end%n", &name, &number, &n);
        assert_int_equal(n, strlen(message));
        assert_int_equal(n_next[name - 'a']++, number);
    }
    for (int i = 0; i < N_THREADS; i++)
        assert_int_equal(n_next[i], N_LINES);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_names_time_program_and_level),
        cmocka_unit_test(lines_below_the_level_are_left_out),
        cmocka_unit_test(a_status_line_is_for_terminals_alone),
        cmocka_unit_test(lines_of_many_threads_stay_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
