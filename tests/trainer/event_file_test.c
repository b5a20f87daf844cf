/* TensorBoard event files, read back record by record. */
#include "trainer/event_file.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/event.pb-c.h"
#include "proto/wire/tfrecord.h"

struct fixture {
    char folder[64], events[96];
};

static int fixture_open(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    strcpy(fixture->folder, "/tmp/ibot-events-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->events, sizeof(fixture->events), "%s/tf_logs", fixture->folder);
    *state = fixture;
    return 0;
}

static int fixture_close(void **state)
{
    struct fixture *fixture = *state;
    DIR *folder = opendir(fixture->events);

    for (struct dirent *entry = folder != NULL ? readdir(folder) : NULL; entry != NULL;
         entry = readdir(folder)) {
        char path[512];
        snprintf(path, sizeof(path), "%s/%s", fixture->events, entry->d_name);
        unlink(path);
    }
    if (folder != NULL)
        closedir(folder);
    rmdir(fixture->events);
    int removed = rmdir(fixture->folder);
    free(fixture);
    return removed;
}

static Ibot__Event *next_event(struct tfrecord_reader *reader)
{
    const uint8_t *data;
    size_t n_bytes;

    assert_int_equal(tfrecord_reader_next(reader, &data, &n_bytes), STATUS_OK);
    Ibot__Event *event = ibot__event__unpack(NULL, n_bytes, data);
    assert_non_null(event);
    assert_true(event->wall_time > clock_wall_seconds() - 60);
    assert_true(event->wall_time <= clock_wall_seconds());
    return event;
}

static void assert_version(struct tfrecord_reader *reader)
{
    Ibot__Event *event = next_event(reader);
    assert_int_equal(event->what_case, IBOT__EVENT__WHAT_FILE_VERSION);
    assert_string_equal(event->file_version, "brain.Event:2");
    ibot__event__free_unpacked(event, NULL);
}

static void assert_end(struct tfrecord_reader *reader)
{
    const uint8_t *data;
    size_t n_bytes;
    assert_int_equal(tfrecord_reader_next(reader, &data, &n_bytes), STATUS_CLOSED);
}

static void scalars_are_there_as_soon_as_they_are_put(void **state)
{
    struct fixture *fixture = *state;
    static const struct event_scalar scalars[] = {{"loss", 8.25}, {"lr", 5e-4}};
    struct tfrecord_reader *reader;
    struct event_file *file;

    assert_int_equal(event_file_open(&file, fixture->events, 0), STATUS_OK);
    assert_int_equal(event_file_scalars(file, 41, scalars, 2), STATUS_OK);
    /* The file is still open for writing here. */
    assert_int_equal(tfrecord_reader_open(&reader, event_file_path(file), 1 << 20), STATUS_OK);
    assert_version(reader);
    Ibot__Event *event = next_event(reader);
    assert_int_equal(event->step, 41);
    assert_int_equal(event->what_case, IBOT__EVENT__WHAT_SUMMARY);
    assert_int_equal(event->summary->n_value, 2);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(event->summary->value[i]->tag, scalars[i].tag);
        assert_int_equal(event->summary->value[i]->value_case,
                         IBOT__SUMMARY__VALUE__VALUE_SIMPLE_VALUE);
        assert_true(event->summary->value[i]->simple_value == (float)scalars[i].value);
    }
    ibot__event__free_unpacked(event, NULL);
    assert_end(reader);
    tfrecord_reader_close(&reader);
    assert_int_equal(event_file_close(&file), STATUS_OK);
    assert_null(file);
    assert_int_equal(event_file_close(&file), STATUS_OK);
}

static void names_follow_the_convention_and_never_meet(void **state)
{
    struct fixture *fixture = *state;
    struct event_file *files[3];
    char host[256], path[512];
    long long seconds;
    int pid, number, n;

    for (int i = 0; i < 3; i++)
        assert_int_equal(event_file_open(&files[i], fixture->events, 0), STATUS_OK);
    for (int i = 0; i < 3; i++) {
        const char *name = strrchr(event_file_path(files[i]), '/') + 1;
        assert_int_equal(gethostname(host, sizeof(host)), 0);
        n = 0;
        snprintf(path, sizeof(path), "events.out.tfevents.%%10lld.%s.%%d.%%d%%n", host);
        assert_int_equal(sscanf(name, path, &seconds, &pid, &number, &n), 3);
        assert_int_equal(n, strlen(name));
        assert_int_equal(pid, getpid());
        for (int k = 0; k < i; k++)
            assert_string_not_equal(event_file_path(files[i]), event_file_path(files[k]));
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(event_file_close(&files[i]), STATUS_OK);
}

static void a_resumed_run_announces_its_first_step(void **state)
{
    struct fixture *fixture = *state;
    struct tfrecord_reader *reader;
    struct event_file *file;

    assert_int_equal(event_file_open(&file, fixture->events, 30), STATUS_OK);
    assert_int_equal(tfrecord_reader_open(&reader, event_file_path(file), 1 << 20), STATUS_OK);
    assert_version(reader);
    Ibot__Event *event = next_event(reader);
    assert_int_equal(event->step, 30);
    assert_int_equal(event->what_case, IBOT__EVENT__WHAT_SESSION_LOG);
    assert_int_equal(event->session_log->status, IBOT__SESSION_LOG__SESSION_STATUS__START);
    ibot__event__free_unpacked(event, NULL);
    assert_end(reader);
    tfrecord_reader_close(&reader);
    assert_int_equal(event_file_close(&file), STATUS_OK);
}

/* The header of a PNG of 300 x 200 pixels, RGB; the rest does not matter here. */
static const uint8_t png[40] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0,   13, 'I',
                                'H',  'D', 'R', 0,   0,    1,    44,   0,    0, 0, 200, 8,  2};

static void an_image_carries_its_size_and_bytes(void **state)
{
    struct fixture *fixture = *state;
    struct tfrecord_reader *reader;
    struct event_file *file;

    assert_int_equal(event_file_open(&file, fixture->events, 0), STATUS_OK);
    assert_int_equal(event_file_image(file, 3, "crops", png, sizeof(png)), STATUS_OK);
    assert_int_equal(tfrecord_reader_open(&reader, event_file_path(file), 1 << 20), STATUS_OK);
    assert_version(reader);
    Ibot__Event *event = next_event(reader);
    const Ibot__Summary__Value *value = event->summary->value[0];
    assert_string_equal(value->tag, "crops");
    assert_int_equal(value->value_case, IBOT__SUMMARY__VALUE__VALUE_IMAGE);
    assert_int_equal(value->image->width, 300);
    assert_int_equal(value->image->height, 200);
    assert_int_equal(value->image->colorspace, 3);
    assert_int_equal(value->image->encoded_image_string.len, sizeof(png));
    assert_memory_equal(value->image->encoded_image_string.data, png, sizeof(png));
    ibot__event__free_unpacked(event, NULL);
    assert_end(reader);
    tfrecord_reader_close(&reader);
    assert_int_equal(event_file_close(&file), STATUS_OK);
}

static void what_is_no_png_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct event_file *file;
    uint8_t wrong[40];

    assert_int_equal(event_file_open(&file, fixture->events, 0), STATUS_OK);
    assert_int_equal(event_file_image(file, 3, "crops", png, 25), STATUS_INVALID);
    memcpy(wrong, png, sizeof(wrong));
    wrong[1] = 'J';
    assert_int_equal(event_file_image(file, 3, "crops", wrong, sizeof(wrong)), STATUS_INVALID);
    memcpy(wrong, png, sizeof(wrong));
    wrong[25] = 5;
    assert_int_equal(event_file_image(file, 3, "crops", wrong, sizeof(wrong)), STATUS_INVALID);
    memcpy(wrong, png, sizeof(wrong));
    wrong[16] = 0x80;
    assert_int_equal(event_file_image(file, 3, "crops", wrong, sizeof(wrong)), STATUS_INVALID);
    assert_int_equal(event_file_close(&file), STATUS_OK);
}

static void a_folder_that_cannot_be_made_is_named(void **state)
{
    struct event_file *file = NULL;
    (void)state;

    assert_int_equal(event_file_open(&file, "/nowhere/tf_logs", 0), STATUS_IO);
    assert_non_null(strstr(status_message(), "/nowhere/tf_logs"));
    assert_null(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(scalars_are_there_as_soon_as_they_are_put, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(names_follow_the_convention_and_never_meet, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(a_resumed_run_announces_its_first_step, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(an_image_carries_its_size_and_bytes, fixture_open,
                                        fixture_close),
        cmocka_unit_test_setup_teardown(what_is_no_png_is_refused, fixture_open, fixture_close),
        cmocka_unit_test(a_folder_that_cannot_be_made_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
