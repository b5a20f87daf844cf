/* Meters, and log.txt: the official keys in order, exact numbers, whole lines, and what a resumed
 * run takes back. */
#include "tests/support/test_folder.h"
#include "trainer/metrics.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static int fixture_open(void **state)
{
    return test_folder_open(state, "log.txt");
}

static void a_meter_has_a_mean_of_all_and_a_median_of_the_last(void **state)
{
    struct meter meter = {.n = 0};
    (void)state;

    assert_true(isnan(meter_mean(&meter)) && isnan(meter_median(&meter)));
    meter_add(&meter, 4);
    meter_add(&meter, 1);
    assert_true(meter_mean(&meter) == 2.5);
    assert_true(meter_median(&meter) == 1); /* the lower one of two */
    for (int i = 0; i < 100; i++)
        meter_add(&meter, 100 - i);
    assert_true(meter_mean(&meter) == (5 + 5050) / 102.0);
    assert_true(meter_median(&meter) == 10); /* of 20 … 1 */
}

static void totals_of_two_ranks_give_the_common_mean(void **state)
{
    struct metrics ranks[2];
    double totals[2][METRICS_TOTALS];
    (void)state;

    for (int rank = 0; rank < 2; rank++) {
        metrics_init(&ranks[rank]);
        for (int i = 0; i <= rank; i++)
            metrics_add(&ranks[rank], METRIC_LOSS, 3 * rank + i); /* 0; 3 4 */
        metrics_totals(&ranks[rank], totals[rank]);
    }
    for (int i = 0; i < METRICS_TOTALS; i++)
        totals[0][i] += totals[1][i];
    metrics_set_totals(&ranks[0], totals[0]);
    assert_true(metrics_mean(&ranks[0], METRIC_LOSS) == 7.0 / 3);
    assert_true(metrics_mean(&ranks[0], METRIC_ADJACC) == -1);
    assert_true(isnan(metrics_mean(&ranks[0], METRIC_NMI)));
}

static void fill(struct metrics *metrics)
{
    metrics_init(metrics);
    metrics_add(metrics, METRIC_LOSS, 0.1);
    metrics_add(metrics, METRIC_CLS, 1e-300);
    metrics_add(metrics, METRIC_PATCH, 1.0 / 3);
    metrics_add(metrics, METRIC_LR, 5e-4);
    metrics_add(metrics, METRIC_WD, 2);
    metrics_add(metrics, METRIC_ACC, NAN);
    metrics_set(metrics, METRIC_NMI, 0.25);
    metrics_set(metrics, METRIC_ARI, -0.125);
    metrics_set(metrics, METRIC_FSCORE, 0);
}

static void a_line_has_the_official_keys_in_order(void **state)
{
    struct test_folder *fixture = *state;
    static struct log_line line;
    struct metrics metrics;

    fill(&metrics);
    log_line_metrics(&line, &metrics, 7);
    log_line_number(&line, "train_images_per_second", 812.5);
    log_line_integer(&line, "n_bad_images", -9007199254740993);
    log_line_string(&line, "note", "a \"b\" \\ \n \xc3\xa4");
    assert_int_equal(log_line_append(&line, fixture->path), STATUS_OK);
    assert_int_equal(line.n, 0);
    char *text = test_file_get(fixture->path, NULL);
    assert_string_equal(
        text, "{\"train_loss\": 0.1, \"train_cls\": 1e-300, \"train_patch\": 0.3333333333333333, "
              "\"train_lr\": 0.0005, \"train_wd\": 2.0, \"train_acc\": null, \"train_nmi\": 0.25, "
              "\"train_ari\": -0.125, \"train_fscore\": 0.0, \"train_adjacc\": -1.0, \"epoch\": 7, "
              "\"train_images_per_second\": 812.5, \"n_bad_images\": -9007199254740993, "
              "\"note\": \"a \\\"b\\\" \\\\ \\u000a \xc3\xa4\"}\n");
    json_t *object = json_loads(text, 0, NULL);
    assert_non_null(object);
    assert_true(json_real_value(json_object_get(object, "train_patch")) == 1.0 / 3);
    json_decref(object);
    free(text);
}

static void lines_are_added_at_the_end(void **state)
{
    struct test_folder *fixture = *state;
    static struct log_line line;

    for (int i = 0; i < 3; i++) {
        log_line_integer(&line, "epoch", i);
        assert_int_equal(log_line_append(&line, fixture->path), STATUS_OK);
    }
    char *text = test_file_get(fixture->path, NULL);
    assert_string_equal(text, "{\"epoch\": 0}\n{\"epoch\": 1}\n{\"epoch\": 2}\n");
    free(text);
}

static void a_line_that_is_too_long_is_an_error(void **state)
{
    struct test_folder *fixture = *state;
    static struct log_line line;
    static char large[LOG_LINE_BYTES + 1];

    memset(large, 'x', sizeof(large) - 1);
    log_line_string(&line, "text", large);
    assert_int_equal(log_line_append(&line, fixture->path), STATUS_INVALID);
    assert_int_equal(access(fixture->path, F_OK), -1);
    assert_int_equal(line.n, 0);
    assert_int_equal(log_line_append(&line, "/nowhere/log.txt"), STATUS_IO);
    assert_non_null(strstr(status_message(), "/nowhere/log.txt"));
}

static void a_resumed_run_takes_back_the_epochs_it_writes_again(void **state)
{
    struct test_folder *fixture = *state;
    static const char before[] = "{\"epoch\": 0, \"a\": 1}\n"
                                 "{\"epoch\": 1}\n"
                                 "{\"other\": 5}\n"
                                 "{\"epoch\": 2}\n"
                                 "not json\n"
                                 "{\"epoch\": 1, \"to";
    FILE *file = fopen(fixture->path, "w");

    assert_non_null(file);
    fputs(before, file);
    fclose(file);
    assert_int_equal(log_file_rewind(fixture->path, 2), STATUS_OK);
    char *text = test_file_get(fixture->path, NULL);
    assert_string_equal(text, "{\"epoch\": 0, \"a\": 1}\n{\"epoch\": 1}\n{\"other\": 5}\n");
    free(text);
    struct stat info, again;
    assert_int_equal(stat(fixture->path, &info), 0);
    assert_int_equal(log_file_rewind(fixture->path, 2), STATUS_OK);
    assert_int_equal(stat(fixture->path, &again), 0);
    assert_int_equal(info.st_ino, again.st_ino); /* nothing to do, nothing done */
    assert_int_equal(log_file_rewind(fixture->path, 0), STATUS_OK);
    text = test_file_get(fixture->path, NULL);
    assert_string_equal(text, "{\"other\": 5}\n");
    free(text);
}

static void a_file_that_cannot_be_rewound_stays_as_it_was(void **state)
{
    struct test_folder *fixture = *state;
    char missing[128];
    struct rlimit limit, kept;

    snprintf(missing, sizeof(missing), "%s/none.txt", fixture->folder);
    assert_int_equal(log_file_rewind(missing, 3), STATUS_OK);
    assert_int_equal(log_file_rewind(fixture->folder, 3), STATUS_IO);

    FILE *file = fopen(fixture->path, "w");
    assert_non_null(file);
    fputs("{\"epoch\": 0}\n{\"epoch\": 1}\n", file);
    fclose(file);
    /* No file may grow beyond 4 bytes: as a full disk. */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &kept), 0);
    limit = kept;
    limit.rlim_cur = 4;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    enum status status = log_file_rewind(fixture->path, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &kept), 0);
    assert_int_equal(status, STATUS_IO);
    char *text = test_file_get(fixture->path, NULL);
    assert_string_equal(text, "{\"epoch\": 0}\n{\"epoch\": 1}\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_meter_has_a_mean_of_all_and_a_median_of_the_last),
        cmocka_unit_test(totals_of_two_ranks_give_the_common_mean),
        cmocka_unit_test_setup_teardown(a_line_has_the_official_keys_in_order, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(lines_are_added_at_the_end, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_line_that_is_too_long_is_an_error, fixture_open,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(a_resumed_run_takes_back_the_epochs_it_writes_again,
                                        fixture_open, test_folder_close),
        cmocka_unit_test_setup_teardown(a_file_that_cannot_be_rewound_stays_as_it_was, fixture_open,
                                        test_folder_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
