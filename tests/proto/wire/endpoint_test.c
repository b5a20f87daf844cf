/* Where a consumer may listen, and what it does about socket files. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/wire/consumer.h"
#include "tests/proto/wire/fleet.h"

static void bind_fails(const char *endpoint, bool insecure, enum status want, const char *text)
{
    struct consumer_options options = fleet_consumer_options("tcp://127.0.0.1:0");
    struct consumer *consumer = NULL;
    options.endpoints[0] = endpoint;
    options.insecure = insecure;
    assert_int_equal(consumer_open(&consumer, &options), want);
    assert_null(consumer);
    assert_non_null(strstr(status_message(), text));
    assert_non_null(strstr(status_message(), endpoint));
}

static void endpoints_that_are_wrong_or_not_safe_are_named(void **state)
{
    (void)state;
    bind_fails("tcp://0.0.0.0:5550", false, STATUS_INVALID, "--insecure");
    bind_fails("tcp://*:5550", false, STATUS_INVALID, "--insecure");
    bind_fails("tcp://example.org:5550", false, STATUS_INVALID, "--insecure");
    bind_fails("ipc://@abstract", false, STATUS_INVALID, "--insecure");
    bind_fails("udp://127.0.0.1:5550", true, STATUS_INVALID, "tcp://HOST:PORT");
    bind_fails("tcp://127.0.0.1", true, STATUS_INVALID, "tcp://HOST:PORT");
    bind_fails("tcp://127.0.0.1:x", true, STATUS_INVALID, "no port");
    bind_fails("tcp://127.0.0.1:70000", true, STATUS_INVALID, "no port");
    bind_fails("ipc://", true, STATUS_INVALID, "ipc://PATH");
    bind_fails("ipc:///no/such/folder/socket", true, STATUS_IO, "No such file");
    bind_fails("tcp://203.0.113.7:0", true, STATUS_IO, "no such address");
}

static void a_public_address_is_used_when_told_so(void **state)
{
    (void)state;
    struct consumer_options options = fleet_consumer_options("tcp://127.0.0.1:0");
    options.endpoints[0] = "tcp://0.0.0.0:*";
    options.insecure = true;
    struct consumer *consumer = fleet_consumer_open(&options);
    assert_non_null(strstr(consumer_endpoint(consumer, 0), "tcp://0.0.0.0:"));
    assert_null(strchr(consumer_endpoint(consumer, 0), '*'));
    consumer_close(&consumer);
}

static void a_socket_in_a_folder_of_everybody_is_refused(void **state)
{
    (void)state;
    char folder[] = "/tmp/ibot-hostile-XXXXXX", endpoint[96];
    assert_non_null(mkdtemp(folder));
    snprintf(endpoint, sizeof(endpoint), "ipc://%s/socket", folder);
    assert_int_equal(chmod(folder, 0777), 0);
    bind_fails(endpoint, false, STATUS_INVALID, "everybody may write");
    struct consumer_options options = fleet_consumer_options("tcp://127.0.0.1:0");
    options.endpoints[0] = endpoint;
    for (int kind = 0; kind < 2; kind++) {
        struct stat info;
        options.insecure = kind == 0;
        assert_int_equal(chmod(folder, kind == 0 ? 0777 : 01777), 0); /* as /tmp is */
        mode_t mask = umask(0);
        struct consumer *consumer = fleet_consumer_open(&options);
        assert_int_equal(umask(mask), 0); /* the caller's still */
        assert_int_equal(stat(endpoint + 6, &info), 0);
        assert_int_equal(info.st_mode & 0777, 0600);
        consumer_close(&consumer);
    }
    assert_int_equal(rmdir(folder), 0);
}

static void an_endpoint_in_use_is_left_alone(void **state)
{
    (void)state;
    char folder[] = "/tmp/ibot-hostile-XXXXXX", endpoint[96], copy[96];
    assert_non_null(mkdtemp(folder));
    struct consumer_options options = fleet_consumer_options("tcp://127.0.0.1:0");
    struct consumer *first = fleet_consumer_open(&options);
    snprintf(copy, sizeof(copy), "%s", consumer_endpoint(first, 0));
    bind_fails(copy, false, STATUS_IO, "in use");
    consumer_close(&first);
    snprintf(endpoint, sizeof(endpoint), "ipc://%s/socket", folder);
    options.endpoints[0] = endpoint;
    first = fleet_consumer_open(&options);
    bind_fails(endpoint, false, STATUS_IO, "in use");
    struct fleet_loader *loader =
        fleet_loader_open_sound(first); /* the first one still has its socket */
    fleet_consumer_start(first, 0, 1);
    fleet_check_batches(first, &options.spec, 0, 3);
    struct stat info;
    assert_int_equal(stat(endpoint + 6, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0600);
    fleet_loader_close(&loader);
    consumer_close(&first);
    assert_int_equal(access(endpoint + 6, F_OK), -1);
    assert_int_equal(rmdir(folder), 0);
}

static void a_stale_socket_is_taken_over_and_other_files_are_not(void **state)
{
    (void)state;
    char folder[] = "/tmp/ibot-hostile-XXXXXX", endpoint[96];
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    assert_non_null(mkdtemp(folder));
    snprintf(endpoint, sizeof(endpoint), "ipc://%s/socket", folder);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", folder);
    int dead = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(dead, (struct sockaddr *)&address, sizeof(address)), 0);
    close(dead);
    struct consumer_options options = fleet_consumer_options("tcp://127.0.0.1:0");
    options.endpoints[0] = endpoint;
    struct consumer *consumer = fleet_consumer_open(&options);
    consumer_close(&consumer);
    int file = creat(address.sun_path, 0600);
    assert_true(file >= 0);
    close(file);
    bind_fails(endpoint, false, STATUS_IO, "no socket");
    assert_int_equal(unlink(address.sun_path), 0);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(endpoints_that_are_wrong_or_not_safe_are_named),
        cmocka_unit_test(a_public_address_is_used_when_told_so),
        cmocka_unit_test(a_socket_in_a_folder_of_everybody_is_refused),
        cmocka_unit_test(an_endpoint_in_use_is_left_alone),
        cmocka_unit_test(a_stale_socket_is_taken_over_and_other_files_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
