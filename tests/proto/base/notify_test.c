/* What a service manager gets to hear, read from a socket that stands for it. */
#include "proto/base/notify.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

struct manager {
    int socket;
    char folder[64], path[96], heard[256];
};

/* Listens at a path, or at an abstract name of its own. */
static void listen_at(struct manager *manager, const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t n = strlen(name);

    memcpy(address.sun_path, name, n);
    if (name[0] == '@')
        address.sun_path[0] = '\0';
    manager->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(manager->socket, (struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n)),
                     0);
    setenv("NOTIFY_SOCKET", name, 1);
}

static int manager_open(void **state)
{
    struct manager *manager = calloc(1, sizeof(*manager));

    strcpy(manager->folder, "/tmp/ibot-notify-XXXXXX");
    assert_non_null(mkdtemp(manager->folder));
    snprintf(manager->path, sizeof(manager->path), "%s/socket", manager->folder);
    manager->socket = -1;
    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    *state = manager;
    return 0;
}

static int manager_close(void **state)
{
    struct manager *manager = *state;

    if (manager->socket >= 0)
        close(manager->socket);
    unlink(manager->path);
    rmdir(manager->folder);
    free(manager);
    return 0;
}

/* The next datagram; "" when there is none. */
static const char *heard(struct manager *manager)
{
    ssize_t n = recv(manager->socket, manager->heard, sizeof(manager->heard) - 1, 0);
    manager->heard[n > 0 ? n : 0] = '\0';
    return manager->heard;
}

static void without_a_manager_nothing_is_said(void **state)
{
    struct notify notify = {0};
    (void)state;

    notify_ready(&notify); /* a zeroed one is valid */
    notify_alive(&notify, 1);
    assert_int_equal(notify_open(&notify), STATUS_OK);
    setenv("WATCHDOG_USEC", "1000000", 1);
    notify_ready(&notify);
    notify_alive(&notify, 1);
    notify_status(&notify, 1, "text");
    notify_stopping(&notify);
    notify_close(&notify);
    notify_close(&notify);
    notify_close(NULL);
}

static void the_manager_hears_of_ready_status_and_stopping(void **state)
{
    struct manager *manager = *state;
    struct notify notify;

    listen_at(manager, manager->path);
    assert_int_equal(notify_open(&notify), STATUS_OK);
    notify_ready(&notify);
    assert_string_equal(heard(manager), "READY=1");
    notify_status(&notify, 5, "step %d\nof 9", 3);
    assert_string_equal(heard(manager), "STATUS=step 3 of 9"); /* one line, whatever is in it */
    notify_status(&notify, 6, "step 4");
    assert_string_equal(heard(manager), ""); /* too soon */
    notify_status(&notify, 2000000000, "step 5");
    assert_string_equal(heard(manager), "STATUS=step 5");
    notify_status(&notify, 4000000000, "step 5");
    assert_string_equal(heard(manager), ""); /* nothing new */
    notify_alive(&notify, 5000000000);
    assert_string_equal(heard(manager), ""); /* no watchdog was asked for */
    notify_stopping(&notify);
    assert_string_equal(heard(manager), "STOPPING=1");
    notify_close(&notify);
}

static void an_abstract_address_works_too(void **state)
{
    struct manager *manager = *state;
    struct notify notify;
    char name[64];

    snprintf(name, sizeof(name), "@ibot-notify-%d", (int)getpid());
    listen_at(manager, name);
    assert_int_equal(notify_open(&notify), STATUS_OK);
    notify_ready(&notify);
    assert_string_equal(heard(manager), "READY=1");
    notify_close(&notify);
}

static void the_watchdog_is_fed_twice_in_its_time(void **state)
{
    struct manager *manager = *state;
    struct notify notify;
    char pid[16];
    int n = 0;

    listen_at(manager, manager->path);
    setenv("WATCHDOG_USEC", "4000000", 1);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    setenv("WATCHDOG_PID", pid, 1);
    assert_int_equal(notify_open(&notify), STATUS_OK);
    for (int64_t now_ns = 10000000000; now_ns < 20000000000; now_ns += 50000000) {
        notify_alive(&notify, now_ns);
        const char *text = heard(manager);
        if (text[0] == '\0')
            continue;
        assert_string_equal(text, "WATCHDOG=1");
        n++;
    }
    assert_int_equal(n, 5); /* at 0, 2, 4, 6 and 8 s */
    notify_close(&notify);
}

static void the_watchdog_of_another_process_is_not_fed(void **state)
{
    struct manager *manager = *state;
    struct notify notify;

    listen_at(manager, manager->path);
    setenv("WATCHDOG_USEC", "4000000", 1);
    setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(notify_open(&notify), STATUS_OK);
    notify_alive(&notify, 10000000000);
    assert_string_equal(heard(manager), "");
    notify_close(&notify);
    const char *const wrong[] = {"", "0", "-5", "4s", "9223372036854775807"};
    unsetenv("WATCHDOG_PID");
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        setenv("WATCHDOG_USEC", wrong[i], 1);
        assert_int_equal(notify_open(&notify), STATUS_OK);
        assert_int_equal(notify.watchdog_ns, 0);
        notify_close(&notify);
    }
}

static void an_address_of_no_use_is_named(void **state)
{
    struct manager *manager = *state;
    struct notify notify;
    char far[300];

    setenv("NOTIFY_SOCKET", "relative", 1);
    assert_int_equal(notify_open(&notify), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "relative"));
    setenv("NOTIFY_SOCKET", manager->path, 1); /* nobody listens */
    assert_int_equal(notify_open(&notify), STATUS_IO);
    assert_non_null(strstr(status_message(), manager->path));
    notify_ready(&notify);
    notify_close(&notify);
    memset(far, 'x', sizeof(far) - 1);
    far[0] = '/';
    far[sizeof(far) - 1] = '\0';
    setenv("NOTIFY_SOCKET", far, 1);
    assert_int_equal(notify_open(&notify), STATUS_INVALID);
    setenv("NOTIFY_SOCKET", "@", 1);
    assert_int_equal(notify_open(&notify), STATUS_INVALID);
}

static void a_manager_that_does_not_read_holds_nobody_up(void **state)
{
    struct manager *manager = *state;
    struct notify notify;

    listen_at(manager, manager->path);
    assert_int_equal(notify_open(&notify), STATUS_OK);
    for (int i = 0; i < 100000; i++)
        notify_ready(&notify);
    close(manager->socket);
    manager->socket = -1;
    notify_stopping(&notify);
    notify_close(&notify);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, manager_open, manager_close)
    const struct CMUnitTest tests[] = {
        TEST(without_a_manager_nothing_is_said),
        TEST(the_manager_hears_of_ready_status_and_stopping),
        TEST(an_abstract_address_works_too),
        TEST(the_watchdog_is_fed_twice_in_its_time),
        TEST(the_watchdog_of_another_process_is_not_fed),
        TEST(an_address_of_no_use_is_named),
        TEST(a_manager_that_does_not_read_holds_nobody_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
