/* Prometheus' text format: what is written passes a strict reader, which itself refuses what is
 * wrong. */
#include "proto/monitor/exposition.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/exposition_check.h"

static void check(const char *text)
{
    char why[256];
    if (!exposition_check(text, why, sizeof(why)))
        fail_msg("%s in:\n%s", why, text);
}

static void families_and_samples_are_lines(void **state)
{
    struct exposition e = {0};
    (void)state;
    exposition_counter(&e, "x_total", "Things.", 3);
    exposition_family(&e, "y_seconds_total", EXPOSITION_COUNTER, "Time \\ of\nwork.");
    exposition_sample(&e, "stage", "a", 0.1);
    exposition_sample(&e, "stage", "q\"b\\\n", 1e300);
    exposition_gauge(&e, "z", "A level.", -2.5);
    assert_int_equal(e.status, STATUS_OK);
    assert_string_equal(e.text, "# HELP x_total Things.\n"
                                "# TYPE x_total counter\n"
                                "x_total 3\n"
                                "# HELP y_seconds_total Time \\\\ of\\nwork.\n"
                                "# TYPE y_seconds_total counter\n"
                                "y_seconds_total{stage=\"a\"} 0.1\n"
                                "y_seconds_total{stage=\"q\\\"b\\\\\\n\"} 1e+300\n"
                                "# HELP z A level.\n"
                                "# TYPE z gauge\n"
                                "z -2.5\n");
    assert_int_equal(strlen(e.text), e.n_bytes);
    check(e.text);
    exposition_release(&e);
}

static void numbers_come_back_as_they_are(void **state)
{
    static const double values[] = {0,      1,   0.1,   1.0 / 3, 123456789012345678.0,
                                    5e-324, -42, 1e-10, 65536,   1795601278.21};
    char sample[32];
    (void)state;
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct exposition e = {0};
        snprintf(sample, sizeof(sample), "value_%zu", i);
        exposition_gauge(&e, sample, "A number.", values[i]);
        check(e.text);
        assert_true(exposition_value(e.text, sample) == values[i]);
        exposition_release(&e);
    }
    struct exposition e = {0};
    exposition_gauge(&e, "a", "Not one.", NAN);
    exposition_gauge(&e, "b", "None.", INFINITY);
    exposition_gauge(&e, "c", "None.", -INFINITY);
    assert_non_null(strstr(e.text, "\na NaN\n"));
    assert_non_null(strstr(e.text, "\nb +Inf\n"));
    assert_non_null(strstr(e.text, "\nc -Inf\n"));
    check(e.text);
    exposition_release(&e);
}

static void a_histogram_counts_up_to_each_bound(void **state)
{
    struct histogram histogram = {{0}, 0};
    struct exposition e = {0};
    (void)state;
    exposition_histogram(&e, "empty_seconds", "Nothing yet.", &histogram);
    histogram_add(&histogram, 0.0);
    histogram_add(&histogram, 0.25); /* a bound belongs to what is below it */
    histogram_add(&histogram, 0.26);
    histogram_add(&histogram, 1000);
    exposition_histogram(&e, "step_seconds", "Time.", &histogram);
    check(e.text);
    assert_true(exposition_value(e.text, "step_seconds_bucket{le=\"0.01\"}") == 1);
    assert_true(exposition_value(e.text, "step_seconds_bucket{le=\"0.1\"}") == 1);
    assert_true(exposition_value(e.text, "step_seconds_bucket{le=\"0.25\"}") == 2);
    assert_true(exposition_value(e.text, "step_seconds_bucket{le=\"0.5\"}") == 3);
    assert_true(exposition_value(e.text, "step_seconds_bucket{le=\"300\"}") == 3);
    assert_true(exposition_value(e.text, "step_seconds_bucket{le=\"+Inf\"}") == 4);
    assert_true(exposition_value(e.text, "step_seconds_count") == 4);
    assert_true(exposition_value(e.text, "step_seconds_sum") == 1000.51);
    exposition_release(&e);
}

static void a_process_tells_its_memory_files_and_time(void **state)
{
    struct exposition e = {0};
    FILE *files[3];
    (void)state;
    exposition_process(&e);
    check(e.text);
    double before = exposition_value(e.text, "process_open_fds");
    assert_true(before >= 3);
    assert_true(exposition_value(e.text, "process_resident_memory_bytes") > 1 << 20);
    assert_true(exposition_value(e.text, "process_cpu_seconds_total") >= 0);
    assert_true(exposition_value(e.text, "process_start_time_seconds") > 1.7e9);
    exposition_release(&e);
    for (int i = 0; i < 3; i++)
        files[i] = tmpfile();
    exposition_process(&e);
    assert_true(exposition_value(e.text, "process_open_fds") == before + 3);
    exposition_release(&e);
    for (int i = 0; i < 3; i++)
        fclose(files[i]);
}

#define X "# HELP x_total Things.\n# TYPE x_total counter\n"
#define H "# HELP h Times.\n# TYPE h histogram\n"

static void the_strict_reader_refuses_what_is_wrong(void **state)
{
    static const char *const wrong[] = {
        "",
        X,
        X "x_total 1",
        X "x_total\n",
        X "x_total  1\n",
        X "x_total one\n",
        X "x_total -1\n",
        X "x_total NaN\n",
        X "y_total 1\n",
        X "x_total_more 1\n",
        X "x_total{a} 1\n",
        X "x_total{a=\"b} 1\n",
        X "x_total{a=\"\\q\"} 1\n",
        X "x_total{1=\"b\"} 1\n",
        X "x_total{a=\"b\" 1\n",
        X "x_total 1\n" X "x_total 1\n",
        X "\nx_total 1\n",
        "x_total 1\n",
        "# TYPE x_total counter\nx_total 1\n",
        "# HELP x_total Things.\nx_total 1\n",
        "# HELP x Things.\n# TYPE x counter\nx 1\n",
        "# HELP x_total Things.\n# TYPE x_total gauge\nx_total 1\n",
        "# HELP x_total Things.\n# TYPE y_total counter\nx_total 1\n",
        "# nothing\n" X "x_total 1\n",
        H "h_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
        H "h_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n",
        H "h_bucket 1\n",
        H "h 1\n",
    };
    char why[256];
    (void)state;
    check(X "x_total 1\n");
    check(X "x_total{a=\"b\",c=\"d\"} 1\n" H "h_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n");
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        if (exposition_check(wrong[i], why, sizeof(why)))
            fail_msg("taken: %s", wrong[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(families_and_samples_are_lines),
        cmocka_unit_test(numbers_come_back_as_they_are),
        cmocka_unit_test(a_histogram_counts_up_to_each_bound),
        cmocka_unit_test(a_process_tells_its_memory_files_and_time),
        cmocka_unit_test(the_strict_reader_refuses_what_is_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
