/* What watch shows on a terminal. */
#include "stream/report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void a_report_is_cut_to_the_terminal(void **state)
{
    char text[] = "first line\nab\xc3\xa4\xc3\xb6"
                  "cd\nthird\nfourth\n",
         whole[] = "a\nb\n", open_end[] = "abc";

    (void)state;
    assert_int_equal(report_fit(text, 4, 3), 3);
    assert_string_equal(text, "firs\nab\xc3\xa4\xc3\xb6\nthir\n");
    assert_int_equal(report_fit(whole, 80, 24), 2);
    assert_string_equal(whole, "a\nb\n");
    assert_int_equal(report_fit(open_end, 2, 24), 1);
    assert_string_equal(open_end, "ab\n");
}

/* A fleet of 64 on a terminal of 24 rows. */
static void a_large_fleet_fits_too(void **state)
{
    static struct message_status now;
    char *text = NULL;
    size_t n = 0;
    int n_lines = 0;

    (void)state;
    now.n_loaders = 70;
    now.n_listed = STATUS_MAX_LOADERS;
    now.n_bad_images = 3;
    now.n_repaired = 4;
    for (int i = 0; i < STATUS_MAX_LOADERS; i++)
        snprintf(now.loaders[i].name, sizeof(now.loaders[i].name), "loader%d:1", i);
    FILE *out = open_memstream(&text, &n);
    report_print(out, "tcp://trainer:5550", NULL, &now);
    fclose(out);
    assert_non_null(strstr(text, "bad images: 3, repaired: 4"));
    assert_non_null(strstr(text, "and 6 more"));
    assert_int_equal(report_fit(text, 79, 23), 23);
    for (char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        assert_true(strchr(line, '\n') - line <= 79);
        n_lines++;
    }
    assert_int_equal(n_lines, 23);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_report_is_cut_to_the_terminal),
        cmocka_unit_test(a_large_fleet_fits_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
