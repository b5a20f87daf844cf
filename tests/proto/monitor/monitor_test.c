/* The pages of the monitor, and what else may come to its port. */
#include "proto/monitor/monitor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/exposition_check.h"
#include "tests/support/http_client.h"

struct program {
    atomic_bool healthy, ready;
    atomic_int n_collected;
};

static void collect(void *context, struct exposition *out)
{
    struct program *program = context;
    exposition_counter(out, "test_collected_total", "How often this was asked for.",
                       atomic_fetch_add(&program->n_collected, 1) + 1);
}

static bool healthy(void *context, char *reason)
{
    struct program *program = context;
    snprintf(reason, MONITOR_REASON_BYTES, "it stands still");
    return atomic_load(&program->healthy);
}

static bool ready(void *context, char *reason)
{
    struct program *program = context;
    snprintf(reason, MONITOR_REASON_BYTES, "it waits");
    return atomic_load(&program->ready);
}

static struct monitor *open_monitor(struct program *program, const char *listen)
{
    struct monitor_options options = {.listen = listen,
                                      .collect = collect,
                                      .healthy = healthy,
                                      .ready = ready,
                                      .context = program};
    struct monitor *monitor = NULL;
    if (monitor_open(&monitor, &options) != STATUS_OK)
        fail_msg("%s", status_message());
    return monitor;
}

static void expect(const struct monitor *monitor, const char *request, int code, const char *text)
{
    char *body;
    int got = http_request(monitor_address(monitor), request, &body);
    if (got != code || strcmp(body, text) != 0)
        fail_msg("%s: %d '%s', wanted %d '%s'", request, got, body, code, text);
    free(body);
}

static void each_page_says_what_it_is_for(void **state)
{
    struct program program = {.healthy = true};
    struct monitor *monitor = open_monitor(&program, ":0");
    char *body, why[256];
    (void)state;
    assert_int_equal(strncmp(monitor_address(monitor), "127.0.0.1:", 10), 0);
    for (int i = 1; i <= 3; i++) {
        assert_int_equal(http_request(monitor_address(monitor), "GET /metrics", &body), 200);
        if (!exposition_check(body, why, sizeof(why)))
            fail_msg("%s in:\n%s", why, body);
        assert_true(exposition_value(body, "test_collected_total") == i);
        assert_true(exposition_value(body, "process_open_fds") > 3);
        free(body);
    }
    expect(monitor, "GET /healthz", 200, "ok\n");
    expect(monitor, "GET /readyz", 503, "it waits\n");
    atomic_store(&program.ready, true);
    atomic_store(&program.healthy, false);
    expect(monitor, "GET /healthz", 503, "it stands still\n");
    expect(monitor, "GET /readyz", 200, "ok\n");
    expect(monitor, "HEAD /readyz", 200, "");
    expect(monitor, "POST /readyz", 405, "only GET and HEAD\n");
    expect(monitor, "GET /", 404, "there are /metrics, /healthz, /readyz\n");
    expect(monitor, "GET /metrics/../healthz", 404, "there are /metrics, /healthz, /readyz\n");
    monitor_close(&monitor);
    assert_null(monitor);
    monitor_close(&monitor);
}

static void what_is_no_request_leaves_it_answering(void **state)
{
    struct program program = {.healthy = true};
    struct monitor *monitor = open_monitor(&program, "0");
    int silent[20];
    char *garbage = malloc(1 << 20);
    (void)state;
    for (int i = 0; i < 1 << 20; i++)
        garbage[i] = (char)((unsigned)i * 7919u >> 3);
    for (int i = 0; i < 20; i++) { /* that connect and say half a word */
        silent[i] = http_connect(monitor_address(monitor));
        assert_true(silent[i] >= 0);
        (void)!send(silent[i], "GET /met", 8, MSG_NOSIGNAL);
    }
    for (int i = 0; i < 50; i++) {
        int connection = http_connect(monitor_address(monitor));
        assert_true(connection >= 0);
        (void)!send(connection, garbage + i, i % 2 == 0 ? 300 : (1 << 20) - 50,
                    MSG_NOSIGNAL | MSG_DONTWAIT);
        close(connection);
        expect(monitor, "GET /healthz", 200, "ok\n");
    }
    for (int i = 0; i < 20; i++)
        close(silent[i]);
    free(garbage);
    monitor_close(&monitor);
}

static void addresses_are_understood_or_named(void **state)
{
    struct program program = {.healthy = true};
    static const char *const good[] = {":9100", "9100", "0.0.0.0:9100", "[::1]:9100", "host:0"};
    static const char *const wrong[] = {"",       ":",        "host",   "1.2.3.4:", ":x",
                                        ":70000", "::1:9100", ":91 00", "-1"};
    struct monitor *monitor = NULL, *second = NULL;
    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(monitor_check(good[i]), STATUS_OK);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(monitor_check(wrong[i]), STATUS_INVALID);
        assert_non_null(strstr(status_message(), "--metrics"));
    }
    monitor = open_monitor(&program, "localhost:0");
    expect(monitor, "GET /healthz", 200, "ok\n");
    struct monitor_options options = {.listen = monitor_address(monitor),
                                      .collect = collect,
                                      .healthy = healthy,
                                      .ready = ready,
                                      .context = &program};
    assert_int_equal(monitor_open(&second, &options), STATUS_IO);
    assert_non_null(strstr(status_message(), "in use"));
    assert_non_null(strstr(status_message(), monitor_address(monitor)));
    options.listen = ":65535";
    options.rank = 1;
    assert_int_equal(monitor_open(&second, &options), STATUS_INVALID);
    options.listen = "203.0.113.7:0";
    assert_int_equal(monitor_open(&second, &options), STATUS_IO);
    assert_null(second);
    monitor_close(&monitor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_page_says_what_it_is_for),
        cmocka_unit_test(what_is_no_request_leaves_it_answering),
        cmocka_unit_test(addresses_are_understood_or_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
