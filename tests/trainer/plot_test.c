/* The curves: a log gives panels for what it holds, odd logs do no harm. */
#include "trainer/plot.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
    char folder[64], log[128], svg[128], text[65536];
};

static int fixture_open(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    strcpy(fixture->folder, "/tmp/ibot-plot-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->log, sizeof(fixture->log), "%s/log.txt", fixture->folder);
    snprintf(fixture->svg, sizeof(fixture->svg), "%s/losses.svg", fixture->folder);
    *state = fixture;
    return 0;
}

/* Also shows that no temporary file was left behind. */
static int fixture_close(void **state)
{
    struct fixture *fixture = *state;
    unlink(fixture->log);
    unlink(fixture->svg);
    int removed = rmdir(fixture->folder);
    free(fixture);
    return removed;
}

static void log_put(struct fixture *fixture, const char *text)
{
    FILE *file = fopen(fixture->log, "w");
    fputs(text, file);
    fclose(file);
}

static const char *svg_text(struct fixture *fixture)
{
    FILE *file = fopen(fixture->svg, "r");
    assert_non_null(file);
    size_t n = fread(fixture->text, 1, sizeof(fixture->text) - 1, file);
    fixture->text[n] = '\0';
    fclose(file);
    return fixture->text;
}

static int count(const char *text, const char *word)
{
    int n = 0;
    for (; (text = strstr(text, word)) != NULL; text++)
        n++;
    return n;
}

static void a_log_gives_a_panel_for_each_kind_of_value_it_has(void **state)
{
    struct fixture *fixture = *state;

    log_put(
        fixture,
        "{\"train_loss\": 12.5, \"train_cls\": 6.5, \"train_patch\": 6.0, \"train_lr\": 0.001, "
        "\"epoch\": 0}\n"
        "{\"train_loss\": 11.5, \"train_cls\": 6.1, \"train_patch\": 5.4, \"train_lr\": 0.0005, "
        "\"epoch\": 1}\n");
    assert_int_equal(plot_log(fixture->svg, fixture->log), STATUS_OK);
    const char *text = svg_text(fixture);
    assert_int_equal(count(text, "<path"), 4);
    assert_int_equal(count(text, "class=\"f\""), 2);
    assert_non_null(strstr(text, "learning rate"));
    assert_null(strstr(text, "agreement"));
    assert_non_null(strstr(text, "</svg>"));
}

static void a_repeated_epoch_counts_as_last_written_and_torn_lines_are_passed_over(void **state)
{
    struct fixture *fixture = *state;
    char once[sizeof(fixture->text)];

    log_put(fixture, "{\"train_loss\": 9, \"epoch\": 0}\n{\"train_loss\": 5, \"epoch\": 1}\n");
    assert_int_equal(plot_log(fixture->svg, fixture->log), STATUS_OK);
    strcpy(once, svg_text(fixture));
    log_put(fixture, "{\"train_loss\": 9, \"epoch\": 0}\n{\"train_loss\": 700, \"epoch\": 1}\n"
                     "[1]\n{\"epoch\": -4}\n{\"epoch\": \"x\"}\n"
                     "{\"train_loss\": 5, \"epoch\": 1}\n{\"train_loss\": 4, \"ep");
    assert_int_equal(plot_log(fixture->svg, fixture->log), STATUS_OK);
    assert_string_equal(svg_text(fixture), once);
}

static void missing_epochs_and_values_are_gaps(void **state)
{
    struct fixture *fixture = *state;

    log_put(fixture, "{\"train_loss\": 9, \"epoch\": 0}\n{\"train_loss\": 5, \"epoch\": 20}\n"
                     "{\"train_loss\": null, \"epoch\": 21}\n");
    assert_int_equal(plot_log(fixture->svg, fixture->log), STATUS_OK);
    const char *path = strstr(svg_text(fixture), "<path d=\"");
    assert_non_null(path);
    size_t length = strcspn(path + 9, "\"");
    assert_null(memchr(path + 9, 'L', length));
    assert_int_equal(count(svg_text(fixture), "<circle"), 2);
    assert_null(strstr(svg_text(fixture), "nan"));
}

static void an_empty_log_draws_nothing_and_a_missing_one_is_not_found(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(plot_log(fixture->svg, fixture->log), STATUS_NOT_FOUND);
    log_put(fixture, "");
    assert_int_equal(plot_log(fixture->svg, fixture->log), STATUS_OK);
    assert_int_equal(access(fixture->svg, F_OK), -1);
}

static void flat_and_extreme_curves_have_finite_axes(void **state)
{
    static const double x[3] = {0, 1, 2};
    static const double values[][3] = {
        {0, 0, 0}, {7, 7, 7}, {-1e300, 0, 1e300}, {1e-12, 2e-12, 3e-12}, {1e9, 1e9 + 1, 1e9 + 2}};
    struct fixture *fixture = *state;

    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct plot_panel panel = {"<&>", {{"a<b", x, values[i], 3}}, 1, NULL};
        assert_int_equal(plot_write(fixture->svg, "t", "x", &panel, 1), STATUS_OK);
        const char *text = svg_text(fixture);
        assert_null(strstr(text, "nan"));
        assert_null(strstr(text, "inf"));
        assert_non_null(strstr(text, "a&lt;b"));
    }
}

static void accuracies_of_runs_are_drawn_against_epochs_and_minutes(void **state)
{
    struct fixture *fixture = *state;

    log_put(fixture, "{\"run\": \"ibot\", \"epoch\": 10, \"minutes\": 2, \"knn_top1\": 60, "
                     "\"linear_top1\": 65}\n"
                     "{\"event\": \"leg\", \"epoch\": 5}\nnonsense\n"
                     "{\"run\": \"ibot\", \"epoch\": 0, \"minutes\": 0, \"knn_top1\": 99}\n"
                     "{\"run\": \"torch\", \"epoch\": 10, \"minutes\": 8, \"knn_top1\": 59}\n"
                     "{\"run\": \"ibot\", \"epoch\": 0, \"minutes\": 0, \"knn_top1\": 30, "
                     "\"linear_top1\": 32}\n");
    assert_int_equal(plot_accuracies(fixture->svg, fixture->log), STATUS_OK);
    const char *text = svg_text(fixture);
    assert_int_equal(count(text, "class=\"f\""), 4); /* two accuracies, two axes */
    assert_int_equal(count(text, "<path"), 6);       /* torch has no linear one */
    assert_int_equal(count(text, ">torch<"), 2);
    assert_int_equal(count(text, ">epoch<"), 2);
    assert_int_equal(count(text, ">minutes of training<"), 2);
    /* epochs in order, and the later line for epoch 0: up from the lower left corner */
    assert_non_null(strstr(text, "<path d=\"M74.0 210.0L590.0 40.0\""));
    assert_non_null(strstr(text, "<circle")); /* torch is one point */
}

static void lines_of_one_epoch_add_up(void **state)
{
    struct fixture *fixture = *state;

    log_put(fixture, "{\"run\": \"ibot\", \"epoch\": 1, \"minutes\": 2, \"knn_top1\": 60}\n"
                     "{\"run\": \"ibot\", \"epoch\": 1, \"linear_top1\": 65}\n");
    assert_int_equal(plot_accuracies(fixture->svg, fixture->log), STATUS_OK);
    assert_int_equal(count(svg_text(fixture), "class=\"f\""), 4); /* both, against both axes */
}

static void accuracies_want_lines_that_have_some(void **state)
{
    struct fixture *fixture = *state;
    char line[128];

    assert_int_equal(plot_accuracies(fixture->svg, fixture->log), STATUS_NOT_FOUND);
    log_put(fixture, "{\"run\": \"ibot\", \"epoch\": 1}\n{\"knn_top1\": 3, \"epoch\": 2}\n");
    assert_int_equal(plot_accuracies(fixture->svg, fixture->log), STATUS_INVALID);
    FILE *file = fopen(fixture->log, "w");
    for (int i = 0; i <= PLOT_MAX_SERIES; i++) {
        snprintf(line, sizeof(line), "{\"run\": \"run %d\", \"epoch\": 1, \"knn_top1\": 3}\n", i);
        fputs(line, file);
    }
    fclose(file);
    assert_int_equal(plot_accuracies(fixture->svg, fixture->log), STATUS_INVALID);
    assert_int_equal(access(fixture->svg, F_OK), -1);
}

static void a_curve_becomes_a_picture(void **state)
{
    struct fixture *fixture = *state;
    char png[160], signature[8];

    log_put(fixture, "{\"run\": \"ibot\", \"epoch\": 1, \"knn_top1\": 3}\n");
    assert_int_equal(plot_accuracies(fixture->svg, fixture->log), STATUS_OK);
    snprintf(png, sizeof(png), "%s/curve.png", fixture->folder);
    enum status status = plot_png(png, fixture->svg);
    if (status == STATUS_UNSUPPORTED)
        skip(); /* this libvips has no SVG */
    assert_int_equal(status, STATUS_OK);
    FILE *file = fopen(png, "rb");
    assert_non_null(file);
    assert_int_equal(fread(signature, 1, 8, file), 8);
    fclose(file);
    assert_memory_equal(signature, "\x89PNG\r\n\x1a\n", 8);
    unlink(png);
    assert_int_equal(plot_png(png, fixture->log), STATUS_IO); /* no SVG */
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_open, fixture_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_log_gives_a_panel_for_each_kind_of_value_it_has),
        TEST(a_repeated_epoch_counts_as_last_written_and_torn_lines_are_passed_over),
        TEST(missing_epochs_and_values_are_gaps),
        TEST(an_empty_log_draws_nothing_and_a_missing_one_is_not_found),
        TEST(flat_and_extreme_curves_have_finite_axes),
        TEST(accuracies_of_runs_are_drawn_against_epochs_and_minutes),
        TEST(lines_of_one_epoch_add_up),
        TEST(accuracies_want_lines_that_have_some),
        TEST(a_curve_becomes_a_picture),
    };
    return cmocka_run_group_tests_name("trainer.plot", tests, NULL, NULL);
}
