/* What was recorded is made again from its data set, and what has changed since is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/e2e/scene.h"

static const char *record(struct scene *scene, const char *run, const char *kind, const char *place)
{
    const char *folder = scene_path(scene, "recording_%s", run);
    struct command command = scene_train(scene, run, "1");
    struct process process;

    command_add(&command, "--record", folder, "--record_kind", kind, "--photometric", place, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    return folder;
}

static struct command verify(struct scene *scene, const char *folder)
{
    return command_of("ibot-stream", "verify", folder, "--data", scene->data, "--threads", "3",
                      NULL);
}

static void change_byte(const char *path, long offset)
{
    FILE *file = fopen(path, "r+b");

    assert_non_null(file);
    assert_int_equal(fseek(file, offset, SEEK_SET), 0);
    int byte = fgetc(file);
    assert_int_equal(fseek(file, offset, SEEK_SET), 0);
    assert_int_equal(fputc(byte + 1, file), byte + 1);
    fclose(file);
}

static void every_kind_of_recording_is_made_again(void **state)
{
    static const char *const kinds[] = {"full", "ids"}, *const places[] = {"loader", "trainer"};
    struct scene *scene = *state;
    struct process process;

    /* one that cannot be read: the next one takes its place, now as then */
    scene_write(scene_path(scene, "images/class1/image005.jpg"), "not an image");
    for (int i = 0; i < 4; i++) {
        char run[16];
        snprintf(run, sizeof(run), "%s_%s", kinds[i / 2], places[i % 2]);
        const char *folder = record(scene, run, kinds[i / 2], places[i % 2]);
        struct command command = verify(scene, folder);
        process_run(&process, &command, 0, SCENE_SECONDS);
        assert_non_null(strstr(process.text, "144 samples are made now as they were recorded"));
        process_release(&process);
    }
}

/* A quantization step of one JPEG changes: its size stays, its pixels do not. */
static void the_first_difference_is_named_down_to_the_pixel(void **state)
{
    struct scene *scene = *state;
    const char *full = record(scene, "full", "full", "loader");
    const char *ids = record(scene, "ids", "ids", "loader");
    const char *path = scene_path(scene, "images/class2/image010.jpg");
    struct command command;
    struct process process;
    int step, rank, sample, epoch;
    char steps[16];

    change_byte(path, 25);
    command = verify(scene, full);
    process_run(&process, &command, 3, SCENE_SECONDS);
    assert_non_null(strstr(process.text, path));
    assert_non_null(strstr(process.text, "global crop 0: pixel x "));
    const char *found = strstr(process.text, "step ");
    assert_non_null(found);
    assert_int_equal(sscanf(found, "step %d, rank %d, sample %d ", &step, &rank, &sample), 3);
    process_release(&process);

    command = verify(scene, ids);
    process_run(&process, &command, 3, SCENE_SECONDS);
    assert_non_null(strstr(process.text, path));
    assert_non_null(strstr(process.text, "global crop 0: hash "));
    process_release(&process);

    /* Each image comes once in each epoch of six steps: without its steps all is well. */
    assert_in_range(step, 0, 5);
    snprintf(steps, sizeof(steps), "0-%d", step - 1);
    if (step > 0) {
        command = verify(scene, full);
        command_add(&command, "--steps", steps, NULL);
        process_run(&process, &command, 0, SCENE_SECONDS);
        process_release(&process);
    }
    /* Of the next epoch alone, it is the place there that is named. */
    command = verify(scene, full);
    command_add(&command, "--steps", "6-11", NULL);
    process_run(&process, &command, 3, SCENE_SECONDS);
    found = strstr(process.text, "step ");
    assert_non_null(found);
    assert_int_equal(
        sscanf(found, "step %d, rank %d, sample %d (epoch %d, ", &step, &rank, &sample, &epoch), 4);
    assert_in_range(step, 6, 11);
    assert_int_equal(epoch, 1);
    process_release(&process);
}

static void verify_fails_with(const char *folder, const char *data, const char *text)
{
    struct command command = command_of("ibot-stream", "verify", folder, "--data", data, NULL);
    struct process process;

    process_run(&process, &command, 3, SCENE_SECONDS);
    if (strstr(process.text, text) == NULL)
        fail_msg("no '%s' in: %s", text, process.text);
    process_release(&process);
}

static void another_data_set_is_told(void **state)
{
    struct scene *scene = *state;
    const char *folder = record(scene, "run", "full", "loader");
    const char *fewer = scene_path(scene, "fewer"), *other = scene_path(scene, "other");

    scene_images(fewer, SCENE_IMAGES - 1, 1);
    verify_fails_with(folder, fewer, "is not the data set that was recorded");
    scene_images(other, SCENE_IMAGES, 5); /* as many, of other sizes: the first one is named */
    verify_fails_with(folder, other, "step 0, rank 0, sample 0 ");

    /* A file grows by a byte after its image: the data set is another one, its pixels the same. */
    FILE *file = fopen(scene_path(scene, "images/class2/image010.jpg"), "a");
    assert_non_null(file);
    assert_int_equal(fputc('x', file), 'x');
    assert_int_equal(fclose(file), 0);
    verify_fails_with(folder, scene->data, "though not the pixels of these samples");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_kind_of_recording_is_made_again),
        TEST(the_first_difference_is_named_down_to_the_pixel),
        TEST(another_data_set_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
