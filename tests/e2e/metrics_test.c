/* What a trainer and a loader tell over HTTP while they work: that it is well-formed, that the
 * numbers agree with what happened, and that the states mean what they say. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "tests/e2e/scene.h"
#include "tests/support/exposition_check.h"
#include "tests/support/http_client.h"

#define EPOCHS "40000" /* more than there is time for */

/* What follows `before` in a program's log, up to the end of the word. */
static void word_after(struct process *process, const char *before, char *out, size_t size)
{
    size_t at = process_expect(process, before, 0, SCENE_SECONDS);
    process_expect(process, "\n", at, SCENE_SECONDS);
    snprintf(out, size, "%.*s", (int)strcspn(process->text + at, " /\n"), process->text + at);
}

/* The metrics at an address, checked; free them. */
static char *metrics_of(struct scene *scene, const char *address)
{
    char *body, why[256];
    if (http_request(address, "GET /metrics", &body) != 200 ||
        !exposition_check(body, why, sizeof(why)))
        fail_msg("%s in:\n%s", why, body);
    if (system("command -v promtool > /dev/null") == 0) { /* the judge itself, where it is */
        const char *path = scene_path(scene, "metrics");
        char command[512];
        scene_write(path, body);
        snprintf(command, sizeof(command), "promtool check metrics < '%s'", path);
        assert_int_equal(system(command), 0);
        unlink(path);
    }
    return body;
}

static int state_of(const char *address, const char *page, const char *text)
{
    char *body, request[64];
    snprintf(request, sizeof(request), "GET /%s", page);
    int code = http_request(address, request, &body);
    if (text != NULL && strstr(body, text) == NULL)
        fail_msg("%s: '%s' does not say '%s'", page, body, text);
    free(body);
    return code;
}

/* Asks until the page answers with this code, and then with this text. */
static void state_when(const char *address, const char *page, int code, const char *text)
{
    int64_t deadline_ns = clock_monotonic_ns() + (int64_t)SCENE_SECONDS * 1000000000;
    while (state_of(address, page, NULL) != code)
        assert_true(clock_monotonic_ns() < deadline_ns);
    assert_int_equal(state_of(address, page, text), code);
}

/* Asks until the metric is at least that much. */
static char *metrics_when(struct scene *scene, const char *address, const char *sample,
                          double at_least)
{
    int64_t deadline_ns = clock_monotonic_ns() + (int64_t)SCENE_SECONDS * 1000000000;
    for (;;) {
        char *body = metrics_of(scene, address);
        if (exposition_value(body, sample) >= at_least)
            return body;
        if (clock_monotonic_ns() > deadline_ns)
            fail_msg("%s did not come to %g:\n%s", sample, at_least, body);
        free(body);
    }
}

static void start_trainer(struct scene *scene, struct process *process, char *endpoint,
                          char *address, size_t size)
{
    struct command command = command_of("ibot-train", "--config", scene->recipe, "--listen",
                                        "tcp://127.0.0.1:0", "--metrics", ":0", "--epochs", EPOCHS,
                                        "--output_dir", scene_path(scene, "run"), NULL);
    process_start(process, &command);
    word_after(process, "metrics at http://", address, size);
    size_t at = process_expect(process, "listening on ", 0, SCENE_SECONDS);
    process_expect(process, "\n", at, SCENE_SECONDS);
    snprintf(endpoint, size, "%.*s", (int)strcspn(process->text + at, " \n"), process->text + at);
}

#define VALUE(name) exposition_value(text, name)

static void a_trainer_and_a_loader_tell_what_they_do(void **state)
{
    struct scene *scene = *state;
    struct process trainer, loader;
    char endpoint[128], address[64], loader_address[64], up[192];

    start_trainer(scene, &trainer, endpoint, address, sizeof(address));
    assert_int_equal(state_of(address, "healthz", "ok"), 200);
    state_when(address, "readyz", 200, "ok"); /* loaders may come */
    char *text = metrics_of(scene, address);
    assert_true(VALUE("ibot_consumer_loaders") == 0);
    assert_true(isnan(VALUE("ibot_train_step"))); /* there is no run before there are data */
    free(text);

    struct command command = command_of("ibot-loader", "--data", scene->data, "--connect", endpoint,
                                        "--threads", "1", "--metrics", ":0", NULL);
    process_start(&loader, &command);
    word_after(&loader, "metrics at http://", loader_address, sizeof(loader_address));
    free(metrics_when(scene, address, "ibot_train_steps_total", 8));
    process_signal(&loader, SIGSTOP); /* so that numbers stand still */
    double done = 0, before;
    do {
        before = done;
        text = metrics_of(scene, address);
        done = VALUE("ibot_train_steps_total") + VALUE("ibot_consumer_batches_ready");
        free(text);
    } while (done != before);
    text = metrics_of(scene, address);
    double steps = VALUE("ibot_train_steps_total");
    assert_true(VALUE("ibot_train_step") == steps);
    assert_true(VALUE("ibot_train_steps_planned") == atoi(EPOCHS) * SCENE_IMAGES / SCENE_BATCH);
    assert_true(VALUE("ibot_train_images_total") == steps * SCENE_BATCH);
    assert_true(VALUE("ibot_train_step_seconds_count") == steps);
    assert_true(VALUE("ibot_train_wait_seconds_count") == steps);
    assert_true(VALUE("ibot_train_step_seconds_sum") >= VALUE("ibot_train_wait_seconds_sum"));
    assert_true(VALUE("ibot_train_waiting_steps_total") <= steps);
    assert_true(VALUE("ibot_train_loss") > 0);
    assert_true(VALUE("ibot_train_epoch") == floor((steps - 1) * SCENE_BATCH / SCENE_IMAGES));
    assert_true(fabs(VALUE("ibot_train_checkpoint_timestamp_seconds") - clock_wall_seconds()) <
                2 * SCENE_SECONDS);
    assert_true(VALUE("ibot_train_checkpoint_step") <= steps);
    assert_true(VALUE("ibot_consumer_loaders") == 1);
    assert_true(VALUE("ibot_consumer_batches_total") >= steps);
    assert_true(VALUE("ibot_consumer_images_total") >= steps * SCENE_BATCH);
    assert_true(VALUE("ibot_consumer_leases_total") >= VALUE("ibot_consumer_slices_total"));
    assert_true(VALUE("ibot_consumer_batches_max") >= VALUE("ibot_consumer_batches_ready"));
    assert_true(VALUE("ibot_consumer_corrupt_slices_total") == 0);
    assert_true(VALUE("ibot_consumer_refused_loaders_total") == 0);
    double accepted = VALUE("ibot_consumer_slices_total");
    assert_int_equal(state_of(address, "healthz", "ok"), 200); /* it waits, and lives */
    free(text);

    process_signal(&loader, SIGCONT);
    text = metrics_when(scene, loader_address, "ibot_loader_sent_slices_total", accepted);
    snprintf(up, sizeof(up), "ibot_loader_consumer_up{endpoint=\"%s\"}", endpoint);
    assert_true(VALUE(up) == 1);
    assert_true(VALUE("ibot_loader_slices_total") >= VALUE("ibot_loader_sent_slices_total"));
    assert_true(VALUE("ibot_loader_images_total") >= 8 * SCENE_BATCH);
    assert_true(VALUE("ibot_loader_stage_seconds_total{stage=\"decode\"}") > 0);
    assert_true(VALUE("ibot_loader_stage_seconds_total{stage=\"resample\"}") > 0);
    assert_true(VALUE("ibot_loader_stage_seconds_total{stage=\"mask\"}") > 0);
    assert_true(VALUE("ibot_loader_busy_seconds_total") > 0);
    assert_true(VALUE("ibot_loader_threads") == 1);
    free(text);
    state_when(loader_address, "readyz", 200, "ok");
    assert_int_equal(state_of(loader_address, "healthz", "ok"), 200);

    process_signal(&trainer, SIGTERM);
    process_finish(&trainer, 75, SCENE_SECONDS);
    state_when(loader_address, "readyz", 503, "no consumer"); /* it serves nobody now */
    assert_int_equal(state_of(loader_address, "healthz", "ok"), 200);
    process_release(&trainer);
    process_release(&loader);
}

/* Variables are the trainer's own: its loaders would all want the same port. */
static void local_loaders_do_not_take_the_trainers_port(void **state)
{
    struct scene *scene = *state;
    const char *folder = getenv("IBOT_BIN");
    char program[512];
    struct process trainer;

    assert_non_null(folder);
    snprintf(program, sizeof(program), "%s/ibot-train", folder);
    struct command command =
        command_of("env", "IBOT_METRICS=127.0.0.1:0", program, "--config", scene->recipe, "--data",
                   scene->data, "--loaders", "2", "--output_dir", scene_path(scene, "run"), NULL);
    process_run(&trainer, &command, 0, SCENE_SECONDS);
    const char *first = strstr(trainer.text, "metrics at http://");
    assert_non_null(first);
    assert_null(strstr(first + 1, "metrics at http://"));
    process_release(&trainer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_trainer_and_a_loader_tell_what_they_do, scene_open,
                                        scene_close),
        cmocka_unit_test_setup_teardown(local_loaders_do_not_take_the_trainers_port, scene_open,
                                        scene_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
