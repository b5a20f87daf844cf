/* The stream with keys: the same bytes, for those alone who are in the list, and everybody else is
 * told why not on both sides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/wire/consumer.h"
#include "proto/wire/refusals.h"
#include "tests/proto/wire/fleet.h"

static const int64_t patience_ns = 60000000000;

static struct scene {
    char folder[64], list[96];
    struct key_pair trainer, one, other;
} scene;

/* Puts another list into the place of the former one, as a whole. */
static void write_list(const struct key_pair *first, const struct key_pair *second)
{
    char temporary[128], hex[KEY_TEXT_BYTES];
    snprintf(temporary, sizeof(temporary), "%s.new", scene.list);
    FILE *file = fopen(temporary, "w");
    assert_non_null(file);
    fprintf(file, "# loaders\n%s first\n", key_format(&first->public_half, hex));
    if (second != NULL)
        fprintf(file, "%s second\n", key_format(&second->public_half, hex));
    assert_int_equal(fclose(file), 0);
    assert_int_equal(rename(temporary, scene.list), 0);
}

static int open_scene(void **state)
{
    (void)state;
    strcpy(scene.folder, "/tmp/ibot-curve-XXXXXX");
    if (mkdtemp(scene.folder) == NULL)
        return 1;
    snprintf(scene.list, sizeof(scene.list), "%s/allowed", scene.folder);
    assert_int_equal(key_pair_generate(&scene.trainer), STATUS_OK);
    assert_int_equal(key_pair_generate(&scene.one), STATUS_OK);
    assert_int_equal(key_pair_generate(&scene.other), STATUS_OK);
    write_list(&scene.one, NULL);
    return 0;
}

static int close_scene(void **state)
{
    (void)state;
    unlink(scene.list);
    return rmdir(scene.folder);
}

static struct consumer_options with_keys(const char *endpoint)
{
    struct consumer_options options = fleet_consumer_options(endpoint);

    options.keys = &scene.trainer;
    options.allow = scene.list;
    return options;
}

static struct fleet_loader *open_loader(const char *endpoint, const struct key_pair *keys,
                                        const struct key *server_key)
{
    struct fleet_options options = fleet_options(endpoint);
    options.keys = keys;
    options.server_key = server_key;
    return fleet_loader_open(&options);
}

/* Looks at refusals and batches until a refusal has all three texts; every batch is checked. */
static void expect_refusal(struct consumer *consumer, int64_t *step, const char *a, const char *b,
                           const char *c)
{
    struct data_spec spec = fleet_spec();
    int64_t deadline_ns = clock_monotonic_ns() + patience_ns;
    char text[REFUSAL_TEXT_BYTES + 32] = "";
    while (clock_monotonic_ns() < deadline_ns) {
        while (consumer_refusal(consumer, text, sizeof(text)))
            if (strstr(text, a) != NULL && strstr(text, b) != NULL && strstr(text, c) != NULL)
                return;
        fleet_check_batches(consumer, &spec, (*step)++, 1);
    }
    fail_msg("no refusal with '%s', '%s', '%s'; the last one is '%s'", a, b, c, text);
}

static void the_stream_is_the_same_with_keys_and_local_sockets_need_none(void **state)
{
    struct data_spec spec = fleet_spec();
    char local[96];
    (void)state;
    snprintf(local, sizeof(local), "ipc://%s/socket", scene.folder);
    for (int order = 0; order < 2; order++) { /* whichever is bound first */
        struct consumer_options options = with_keys("tcp://127.0.0.1:0");
        options.n_endpoints = 2;
        options.endpoints[order] = options.endpoints[0];
        options.endpoints[1 - order] = local;
        struct consumer *consumer = fleet_consumer_open(&options);
        struct fleet_loader *far =
            open_loader(consumer_endpoint(consumer, order), &scene.one, &scene.trainer.public_half);
        fleet_loader_expect(far, "serving, encrypted");
        fleet_consumer_start(consumer, 0, 1000);
        fleet_check_batches(consumer, &spec, 0, 70);
        struct fleet_loader *near = open_loader(local, NULL, NULL);
        struct fleet_loader *near_with_keys =
            open_loader(local, &scene.other, &scene.one.public_half); /* of no use there */
        fleet_loader_expect(near, "serving");
        fleet_loader_expect(near_with_keys, "serving");
        fleet_loader_close(&far);
        fleet_check_batches(consumer, &spec, 70, 70);
        fleet_loader_close(&near_with_keys);
        fleet_loader_close(&near);
        consumer_close(&consumer);
    }
}

/* Sealed frames are longer than what is in them. */
static void frames_of_the_largest_size_come_through(void **state)
{
    struct consumer_options options = with_keys("tcp://127.0.0.1:0");
    (void)state;
    options.spec.global_size_px = 400; /* a record of nearly a frame: each frame is a full one */
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *loader =
        open_loader(consumer_endpoint(consumer, 0), &scene.one, &scene.trainer.public_half);
    fleet_consumer_start(consumer, 0, 1000);
    fleet_check_batches(consumer, &options.spec, 0, 3);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static void an_unknown_key_is_named_on_both_sides_and_let_in_once_it_is_listed(void **state)
{
    struct consumer_options options = with_keys("tcp://127.0.0.1:0");
    struct consumer *consumer = fleet_consumer_open(&options);
    char hex[KEY_TEXT_BYTES];
    int64_t step = 0;
    (void)state;
    struct fleet_loader *known =
        open_loader(consumer_endpoint(consumer, 0), &scene.one, &scene.trainer.public_half);
    fleet_consumer_start(consumer, 0, 1000);
    struct fleet_loader *unknown =
        open_loader(consumer_endpoint(consumer, 0), &scene.other, &scene.trainer.public_half);
    key_format(&scene.other.public_half, hex);
    fleet_loader_expect(unknown, hex);
    fleet_loader_expect(unknown, "trying again");
    expect_refusal(consumer, &step, "127.0.0.1", hex, scene.list);
    struct consumer_stats stats;
    consumer_stats(consumer, &stats);
    assert_true(stats.n_refused_keys >= 1);
    assert_int_equal(stats.n_loaders, 1);
    write_list(&scene.one, &scene.other);
    fleet_loader_expect(unknown, "serving, encrypted");
    fleet_check_batches(consumer, &options.spec, step, 20);
    fleet_loader_close(&unknown);
    fleet_loader_close(&known);
    consumer_close(&consumer);
    write_list(&scene.one, NULL);
}

static void a_key_that_is_taken_from_the_list_ends_its_loader(void **state)
{
    struct consumer_options options = with_keys("tcp://127.0.0.1:0");
    int64_t step = 0;
    (void)state;
    write_list(&scene.one, &scene.other);
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *stays =
        open_loader(consumer_endpoint(consumer, 0), &scene.one, &scene.trainer.public_half);
    struct fleet_loader *goes =
        open_loader(consumer_endpoint(consumer, 0), &scene.other, &scene.trainer.public_half);
    fleet_loader_expect(stays, "serving");
    fleet_loader_expect(goes, "serving");
    fleet_consumer_start(consumer, 0, 1000);
    fleet_check_batches(consumer, &options.spec, 0, 10);
    step = 10;
    FILE *file = fopen(scene.list, "a"); /* a list that is no list leaves the former one */
    assert_non_null(file);
    fputs("not a key\n", file);
    fclose(file);
    expect_refusal(consumer, &step, scene.list, ":4:", "former list");
    write_list(&scene.one, NULL);
    assert_int_equal(fleet_loader_join(goes), STATUS_MISMATCH);
    assert_non_null(strstr(goes->text, "taken from the list"));
    expect_refusal(consumer, &step, "loader fleet", "127.0.0.1", "taken from the list");
    fleet_check_batches(consumer, &options.spec, step, 20);
    fleet_loader_close(&goes);
    fleet_loader_close(&stays);
    consumer_close(&consumer);
}

static void each_way_of_not_fitting_together_is_explained(void **state)
{
    struct consumer_options options = with_keys("tcp://127.0.0.1:0");
    struct consumer *closed = fleet_consumer_open(&options);
    struct consumer_stats stats;
    (void)state;
    options.keys = NULL;
    options.allow = NULL;
    struct consumer *open = fleet_consumer_open(&options);
    struct fleet_loader *no_keys = open_loader(consumer_endpoint(closed, 0), NULL, NULL);
    struct fleet_loader *wrong_server =
        open_loader(consumer_endpoint(closed, 0), &scene.one, &scene.one.public_half);
    struct fleet_loader *needless =
        open_loader(consumer_endpoint(open, 0), &scene.one, &scene.trainer.public_half);
    fleet_loader_expect(no_keys, "it asks for keys: give this loader --key and --server_key");
    fleet_loader_expect(wrong_server, "--server_key");
    fleet_loader_expect(needless, "it uses no keys");
    for (int64_t deadline_ns = clock_monotonic_ns() + patience_ns;;) {
        consumer_stats(closed, &stats);
        if (stats.n_failed_handshakes >= 2 || clock_monotonic_ns() > deadline_ns)
            break;
    }
    assert_true(stats.n_failed_handshakes >= 2);
    assert_int_equal(stats.n_loaders, 0);
    fleet_loader_close(&no_keys);
    fleet_loader_close(&wrong_server);
    fleet_loader_close(&needless);
    consumer_close(&closed);
    consumer_close(&open);
}

static void with_keys_a_public_address_needs_no_leave(void **state)
{
    struct consumer_options options = with_keys("tcp://0.0.0.0:0");
    struct consumer *consumer = fleet_consumer_open(&options);
    (void)state;
    consumer_close(&consumer);
    options.endpoints[0] = "ipc://@abstract"; /* which keys do not cover */
    assert_int_equal(consumer_open(&consumer, &options), STATUS_INVALID);
    options = with_keys("tcp://127.0.0.1:0");
    options.allow = "/no/such/list";
    assert_int_equal(consumer_open(&consumer, &options), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), "/no/such/list"));
    options.allow = "/dev/null";
    assert_int_equal(consumer_open(&consumer, &options), STATUS_INVALID);
    options.allow = NULL;
    assert_int_equal(consumer_open(&consumer, &options), STATUS_INVALID);
    assert_null(consumer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_stream_is_the_same_with_keys_and_local_sockets_need_none),
        cmocka_unit_test(frames_of_the_largest_size_come_through),
        cmocka_unit_test(an_unknown_key_is_named_on_both_sides_and_let_in_once_it_is_listed),
        cmocka_unit_test(a_key_that_is_taken_from_the_list_ends_its_loader),
        cmocka_unit_test(each_way_of_not_fitting_together_is_explained),
        cmocka_unit_test(with_keys_a_public_address_needs_no_leave),
    };
    return cmocka_run_group_tests(tests, open_scene, close_scene);
}
