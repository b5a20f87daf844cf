/* What ibot-stream inspect shows of a real recording. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "tests/e2e/scene.h"

static const char *record(struct scene *scene, const char *kind)
{
    const char *folder = scene_path(scene, "recording_%s", kind);
    struct command command = scene_train(scene, kind, "1");
    struct process process;

    command_add(&command, "--record", folder, "--record_kind", kind, NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    return folder;
}

/* The JSON lines of an output, the log left out. */
static json_t *parse_lines(char *text)
{
    json_t *lines = json_array();

    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        json_error_t error;
        if (line[0] != '{')
            continue;
        json_t *object = json_loads(line, 0, &error);
        if (object == NULL)
            fail_msg("%s: %s", error.text, line);
        json_array_append_new(lines, object);
    }
    return lines;
}

static int64_t integer(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value))
        fail_msg("'%s' is no integer", key);
    return json_integer_value(value);
}

static void json_has_every_sample_once_with_its_parameters(void **state)
{
    struct scene *scene = *state;
    struct command command =
        command_of("ibot-stream", "inspect", record(scene, "ids"), "--data", scene->data, "--json",
                   "--parameters", "--steps", "0-5", NULL); /* the first epoch */
    bool seen[SCENE_IMAGES] = {false};
    struct process process;

    process_run(&process, &command, 0, SCENE_SECONDS);
    json_t *lines = parse_lines(process.text), *sample;
    assert_int_equal(json_array_size(lines), 1 + 6);
    const json_t *head = json_array_get(lines, 0), *spec = json_object_get(head, "spec");
    assert_int_equal(integer(head, "n_samples"), SCENE_IMAGES);
    assert_int_equal(integer(head, "batch_size"), SCENE_BATCH);
    assert_true(json_is_false(json_object_get(head, "pixels")));
    assert_int_equal(integer(spec, "n_local"), 2);
    assert_int_equal(integer(spec, "global_size_px"), 32);
    for (size_t i = 1; i < json_array_size(lines); i++) {
        const json_t *step = json_array_get(lines, i);
        size_t s;
        assert_int_equal(integer(step, "step"), i - 1);
        json_array_foreach(json_object_get(step, "samples"), s, sample)
        {
            int64_t index = integer(sample, "index");
            const json_t *image = json_object_get(sample, "image");
            char name[32];
            assert_int_equal(integer(sample, "sample"), s);
            assert_in_range(index, 0, SCENE_IMAGES - 1);
            assert_false(seen[index]);
            seen[index] = true;
            /* images of class c are image003.jpg, image007.jpg, … for c = 3 */
            snprintf(name, sizeof(name), "class%d/image%03d.jpg", (int)(index / 12),
                     (int)(index / 12 + index % 12 * 4));
            assert_non_null(strstr(json_string_value(json_object_get(sample, "path")), name));
            assert_int_equal(integer(sample, "label"), index / 12);
            const json_t *views = json_object_get(sample, "views");
            assert_int_equal(json_array_size(views), 4);
            for (size_t v = 0; v < 4; v++) {
                const json_t *crop = json_object_get(json_array_get(views, v), "crop");
                assert_true(integer(crop, "left") + integer(crop, "width") <=
                            integer(image, "width"));
                assert_true(integer(crop, "top") + integer(crop, "height") <=
                            integer(image, "height"));
            }
        }
        assert_int_equal(s, SCENE_BATCH);
    }
    json_decref(lines);
    process_release(&process);
}

static void chosen_samples_alone_are_shown_and_drawn(void **state)
{
    static const char *const kinds[] = {"full", "ids"};
    struct scene *scene = *state;
    struct process process;

    for (int i = 0; i < 2; i++) {
        const char *sheet = scene_path(scene, "%s.png", kinds[i]);
        struct command command =
            command_of("ibot-stream", "inspect", record(scene, kinds[i]), "--data", scene->data,
                       "--steps", "3,7", "--samples", "1,4-5", "--sheet", sheet, NULL);
        process_run(&process, &command, 0, SCENE_SECONDS);
        int n = 0;
        for (const char *at = process.text; (at = strstr(at, "\n  sample ")) != NULL; at++)
            n++;
        assert_int_equal(n, 6);
        assert_non_null(strstr(process.text, "\nstep 7 "));
        assert_null(strstr(process.text, "\nstep 4 "));
        process_release(&process);
    }
    /* made again from the data set, the sheet is the same */
    struct command command =
        command_of("cmp", scene_path(scene, "full.png"), scene_path(scene, "ids.png"), NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
}

static void what_is_missing_is_told(void **state)
{
    struct scene *scene = *state;
    const char *folder = record(scene, "ids");
    struct process process;
    struct command command = command_of("ibot-stream", "inspect", folder, "--sheet",
                                        scene_path(scene, "sheet.png"), NULL);

    process_run(&process, &command, 2, SCENE_SECONDS);
    assert_non_null(strstr(process.text, "--data tells from what"));
    process_release(&process);
    command = command_of("ibot-stream", "inspect", folder, "--steps", "5-3", NULL);
    process_run(&process, &command, 2, SCENE_SECONDS);
    assert_non_null(strstr(process.text, "--steps 5-3"));
    process_release(&process);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(json_has_every_sample_once_with_its_parameters),
        TEST(chosen_samples_alone_are_shown_and_drawn),
        TEST(what_is_missing_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
