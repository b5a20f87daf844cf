/* The progress line: its numbers at given times, and when it is written where. Time is handed in,
 * so nothing here waits. */
#include "trainer/progress.h"

#include <math.h>
#include <pty.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000000)

static const struct progress_options options = {
    .n_epochs = 4, .steps_per_epoch = 10, .images_per_step = 64, .interval_ns = 5 * SECOND};

static void the_line_has_speed_time_left_and_waiting(void **state)
{
    struct progress_options quiet = options;
    struct progress progress;
    char text[256];
    (void)state;

    quiet.quiet = true;
    progress_init(&progress, &quiet, 0, 7 * SECOND);
    assert_string_equal(progress_text(&progress, text, sizeof(text)), "");
    for (int64_t step = 0; step < 13; step++)
        progress_step(&progress, step, 8 - 0.5 * (double)(step % 10), SECOND / 2,
                      (9 + 2 * step) * SECOND);
    /* Epoch 2, steps 11 to 13: losses 8, 7.5, 7. 27 steps of 2 s are left. */
    assert_string_equal(progress_text(&progress, text, sizeof(text)),
                        "epoch 2/4  step 3/10  loss 7.5000 (7.5000)  32.0 images/s  0:00:54 left  "
                        "limit: data (25.0 % waiting for data, 0 loaders)");
    assert_true(fabs(progress_images_per_second(&progress) - 32) < 1e-9);
    assert_true(fabs(progress_wait_share(&progress) - 0.25) < 1e-9);
    assert_true(strlen(progress_text(&progress, text, 20)) == 19);
}

static void a_resumed_run_counts_from_where_it_is(void **state)
{
    struct progress_options quiet = options;
    struct progress progress;
    char text[256];
    (void)state;

    quiet.quiet = true;
    progress_init(&progress, &quiet, 35, 0);
    progress.n_loaders = 1;
    progress_step(&progress, 35, 1, 0, 3600 * SECOND);
    assert_string_equal(progress_text(&progress, text, sizeof(text)),
                        "epoch 4/4  step 6/10  loss 1.0000 (1.0000)  0.0 images/s  4:00:00 left  "
                        "limit: compute (0.0 % waiting for data, 1 loader)");
    progress_init(&progress, &quiet, 30, 0);
    progress_step(&progress, 30, 1, 0, 0); /* a clock that does not move divides nothing by zero */
    assert_non_null(strstr(progress_text(&progress, text, sizeof(text)), "0.0 images/s"));
    assert_true(progress_wait_share(&progress) == 0);
}

static void only_the_last_steps_decide_the_speed(void **state)
{
    struct progress_options quiet = options;
    struct progress progress;
    int64_t now_ns = 0;
    char text[256];
    (void)state;

    quiet.quiet = true;
    quiet.steps_per_epoch = 1000;
    progress_init(&progress, &quiet, 0, 0);
    for (int64_t step = 0; step < 100; step++) {
        now_ns += step < 80 ? 10 * SECOND : SECOND / 10;
        progress_step(&progress, step, 1, 0, now_ns);
    }
    assert_non_null(strstr(progress_text(&progress, text, sizeof(text)), "  640 images/s"));
}

static void data_are_the_limit_where_steps_wait_for_more_than_a_twentieth(void **state)
{
    struct progress_options quiet = options;
    struct progress progress;
    char text[256];
    (void)state;

    quiet.quiet = true;
    quiet.steps_per_epoch = 1000;
    progress_init(&progress, &quiet, 0, 0);
    progress.n_loaders = 7;
    for (int64_t step = 0; step < 60; step++) {
        int64_t waited = step < 30 ? SECOND / 2 : SECOND * 4 / 100; /* more loaders came */
        progress_step(&progress, step, 1, waited, (step + 1) * SECOND);
        if (step == 29)
            assert_true(progress_waits_for_data(&progress));
    }
    assert_false(progress_waits_for_data(&progress));
    assert_non_null(strstr(progress_text(&progress, text, sizeof(text)),
                           "limit: compute (4.0 % waiting for data, 7 loaders)"));
}

/* What goes to `descriptor` while stderr is that. */
static void run_steps(int descriptor, int64_t n_steps, int64_t step_ns)
{
    struct progress progress;
    int kept = dup(STDERR_FILENO);

    fflush(stderr);
    dup2(descriptor, STDERR_FILENO);
    progress_init(&progress, &options, 0, 0);
    for (int64_t step = 0; step < n_steps; step++)
        progress_step(&progress, step, 1, 0, (step + 1) * step_ns);
    progress_clear(&progress);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
}

static int count(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = strstr(text, what); at != NULL; at = strstr(at + 1, what))
        n++;
    return n;
}

static void a_file_gets_a_line_every_interval_and_the_last(void **state)
{
    FILE *file = tmpfile();
    char text[8192] = "";
    (void)state;

    assert_non_null(file);
    run_steps(fileno(file), 40, SECOND); /* 40 s, every 5 s; the last step is one of them */
    rewind(file);
    assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
    fclose(file);
    assert_int_equal(count(text, "\n"), 8);
    assert_int_equal(count(text, "\r"), 0);
    assert_int_equal(count(text, "info: epoch "), 8);
    assert_non_null(strstr(text, "epoch 1/4  step 5/10"));
    assert_non_null(strstr(text, "epoch 4/4  step 10/10"));
}

static void a_quick_run_still_gets_its_last_line(void **state)
{
    FILE *file = tmpfile();
    char text[8192] = "";
    (void)state;

    assert_non_null(file);
    run_steps(fileno(file), 40, SECOND / 100);
    rewind(file);
    assert_true(fread(text, 1, sizeof(text) - 1, file) > 0);
    fclose(file);
    assert_int_equal(count(text, "\n"), 1);
    assert_non_null(strstr(text, "epoch 4/4  step 10/10"));
}

static void a_terminal_gets_one_line_redrawn_within_its_width(void **state)
{
    struct winsize size = {.ws_row = 24, .ws_col = 40};
    char text[8192] = "";
    size_t n = 0;
    int master, slave;
    (void)state;

    if (openpty(&master, &slave, NULL, NULL, &size) != 0)
        skip();
    run_steps(slave, 5, SECOND / 20); /* redrawn every 0.1 s: after steps 2 and 4 */
    assert_int_equal(write(slave, "END", 3), 3);
    while (strstr(text, "END") == NULL) { /* it comes through when the kernel has time for it */
        ssize_t got = read(master, text + n, sizeof(text) - 1 - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    close(master);
    close(slave);
    assert_int_equal(count(text, "epoch 1/4"), 2);
    assert_int_equal(count(text, "\n"), 0);
    assert_int_equal(count(text, "\r\033[K"), 3); /* two drawn, one cleared */
    const char *second = strstr(strstr(text, "epoch") + 1, "\r\033[K");
    assert_non_null(second);
    assert_int_equal(second - strstr(text, "epoch"), 39);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_line_has_speed_time_left_and_waiting),
        cmocka_unit_test(a_resumed_run_counts_from_where_it_is),
        cmocka_unit_test(only_the_last_steps_decide_the_speed),
        cmocka_unit_test(data_are_the_limit_where_steps_wait_for_more_than_a_twentieth),
        cmocka_unit_test(a_file_gets_a_line_every_interval_and_the_last),
        cmocka_unit_test(a_quick_run_still_gets_its_last_line),
        cmocka_unit_test(a_terminal_gets_one_line_redrawn_within_its_width),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
