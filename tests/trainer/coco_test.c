/* Annotations, masks and scores against what COCO's own tools made of the same files
 * (tests/data/coco, scripts/make_coco_fixtures.py). */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "proto/base/rng.h"
#include "trainer/detect/coco_scores.h"

static const char *file(const char *name)
{
    static char path[4][512];
    static int next;

    next = (next + 1) % 4;
    snprintf(path[next], sizeof(path[next]), "%s/coco/%s", getenv("IBOT_TEST_DATA"), name);
    return path[next];
}

static struct coco_data data;
static struct coco_detections found;
static json_t *expected;

static int open_files(void **state)
{
    json_error_t error;

    (void)state;
    expected = json_load_file(file("expected.json"), 0, &error);
    assert_non_null(expected);
    assert_int_equal(coco_data_open(&data, file("annotations.json"), true), STATUS_OK);
    assert_int_equal(coco_detections_read(&found, &data, file("results.json")), STATUS_OK);
    return 0;
}

static int close_files(void **state)
{
    (void)state;
    json_decref(expected);
    coco_detections_release(&found);
    coco_data_close(&data);
    return 0;
}

/* ------------------------------------------------------------------------------ masks */

/* In the order of the file: that of the annotations' ids is another one. */
static void polygons_have_the_pixels_of_coco(void **state)
{
    json_error_t error;
    json_t *root = json_load_file(file("annotations.json"), 0, &error), *entry;
    int64_t seen[64] = {0};
    size_t i;

    (void)state;
    json_array_foreach(json_object_get(root, "annotations"), i, entry)
    {
        char id[24], *text;
        int64_t image =
            coco_data_image(&data, json_integer_value(json_object_get(entry, "image_id")));
        const struct coco_image *of = &data.images[image];
        const struct coco_object *object = &data.objects[of->first_object + seen[image]++];
        snprintf(id, sizeof(id), "%lld",
                 (long long)json_integer_value(json_object_get(entry, "id")));
        const json_t *want = json_object_get(json_object_get(expected, "masks"), id);
        assert_int_equal(run_length_mask_text(&text, &object->mask), STATUS_OK);
        assert_string_equal(text, json_string_value(json_object_get(want, "text")));
        memory_free(text);
        assert_int_equal(run_length_mask_area(&object->mask),
                         json_integer_value(json_object_get(want, "area")));
        struct mask_box box = run_length_mask_box(&object->mask);
        const double values[] = {box.x, box.y, box.width, box.height};
        for (size_t k = 0; k < 4; k++)
            assert_true(values[k] ==
                        json_number_value(json_array_get(json_object_get(want, "bbox"), k)));
    }
    json_decref(root);
}

/* Bits of all densities; joined and intersected as the bits are. */
static void masks_come_back_from_bits_and_texts(void **state)
{
    struct rng rng = rng_open((struct rng_key){.seed = 5});

    (void)state;
    for (int round = 0; round < 200; round++) {
        int32_t height = 1 + (int32_t)rng_below(&rng, 20), width = 1 + (int32_t)rng_below(&rng, 20);
        struct run_length_mask masks[2] = {{0}}, again = {0}, joined = {0};
        uint8_t bits[2][400], back[400];
        int64_t area = 0, both = 0;
        size_t n = (size_t)(height * width);
        char *text;
        for (int m = 0; m < 2; m++) {
            uint32_t density = rng_below(&rng, 11);
            for (size_t i = 0; i < n; i++)
                bits[m][i] = rng_below(&rng, 10) < density;
            assert_int_equal(run_length_mask_from_bits(&masks[m], bits[m], height, width),
                             STATUS_OK);
            run_length_mask_bits(&masks[m], back);
            assert_memory_equal(back, bits[m], n);
            assert_int_equal(run_length_mask_text(&text, &masks[m]), STATUS_OK);
            assert_int_equal(run_length_mask_parse(&again, text, height, width), STATUS_OK);
            memory_free(text);
            run_length_mask_bits(&again, back);
            assert_memory_equal(back, bits[m], n);
        }
        for (size_t i = 0; i < n; i++) {
            area += bits[0][i];
            both += bits[0][i] & bits[1][i];
            bits[0][i] |= bits[1][i];
        }
        assert_int_equal(run_length_mask_area(&masks[0]), area);
        assert_int_equal(run_length_mask_overlap(&masks[0], &masks[1]), both);
        assert_int_equal(run_length_mask_join(&joined, &masks[0], &masks[1]), STATUS_OK);
        run_length_mask_bits(&joined, back);
        assert_memory_equal(back, bits[0], n);
        run_length_mask_release(&masks[0]);
        run_length_mask_release(&masks[1]);
        run_length_mask_release(&again);
        run_length_mask_release(&joined);
    }
}

/* ------------------------------------------------------------------------------ scores */

static void expect_share(double got, const json_t *want)
{
    if (json_is_null(want)) {
        assert_true(isnan(got));
        return;
    }
    if (!(fabs(got - json_number_value(want)) < 1e-12))
        fail_msg("got %.15g, wanted %.15g", got, json_number_value(want));
}

static void expect_scores(const struct coco_detections *of, enum coco_overlap overlap,
                          const char *key)
{
    static struct coco_scores s;
    const json_t *want = json_object_get(expected, key), *stats = json_object_get(want, "stats");

    assert_int_equal(coco_scores_compute(&s, &data, of, overlap), STATUS_OK);
    const double values[] = {
        s.precision[COCO_ALL],   s.precision_50,           s.precision_75,
        s.precision[COCO_SMALL], s.precision[COCO_MEDIUM], s.precision[COCO_LARGE],
        s.recall_at[0],          s.recall_at[1],           s.recall_at[2],
        s.recall[COCO_SMALL],    s.recall[COCO_MEDIUM],    s.recall[COCO_LARGE],
    };
    for (size_t i = 0; i < 12; i++)
        expect_share(values[i], json_array_get(stats, i));
    for (size_t c = 0; c < (size_t)data.n_categories; c++)
        expect_share(s.category_precision[c],
                     json_array_get(json_object_get(want, "categories"), c));
}

static void scores_are_those_of_coco(void **state)
{
    (void)state;
    expect_scores(&found, COCO_BOXES, "bbox");
    expect_scores(&found, COCO_MASKS, "segm");
}

static void results_come_back_from_their_file(void **state)
{
    char path[] = "/tmp/ibot_coco_XXXXXX";
    struct coco_detections again = {0};

    (void)state;
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    assert_int_equal(coco_detections_write(&found, &data, path), STATUS_OK);
    assert_int_equal(coco_detections_read(&again, &data, path), STATUS_OK);
    assert_int_equal(again.n, found.n);
    expect_scores(&again, COCO_BOXES, "bbox");
    expect_scores(&again, COCO_MASKS, "segm");
    coco_detections_release(&again);
    unlink(path);
}

/* ------------------------------------------------------------------------------ errors */

#define IMAGE    "\"images\": [{\"id\": 1, \"file_name\": \"a.jpg\", \"height\": 4, \"width\": 5}]"
#define CATEGORY "\"categories\": [{\"id\": 1, \"name\": \"a\"}]"
#define OBJECT(MORE)                                                                               \
    "{" IMAGE "," CATEGORY ", \"annotations\": [{\"image_id\": 1, \"category_id\": 1, "            \
    "\"bbox\": [0, 0, 1, 1], \"area\": 1, " MORE "}]}"

static void expect_error(enum status want, const char *text, const char *words)
{
    struct coco_data bad = {0};

    enum status status = coco_data_parse(&bad, text, strlen(text), "bad.json", true);
    if (status != want || strstr(status_message(), words) == NULL ||
        strstr(status_message(), "bad.json") == NULL)
        fail_msg("%s: got %s '%s'", text, status_name(status), status_message());
}

static void bad_files_say_which_entry(void **state)
{
    struct coco_detections none = {0};
    const char *stranger = "[{\"image_id\": 5, \"category_id\": 3, \"score\": 1, \"bbox\": "
                           "[0, 0, 1, 1]}]";

    (void)state;
    expect_error(STATUS_CORRUPT, "{", "line 1");
    expect_error(STATUS_CORRUPT, "{}", "images");
    expect_error(STATUS_CORRUPT, "{\"images\": [{\"id\": 1.5}]}", "images[0]: 'id'");
    expect_error(STATUS_CORRUPT,
                 "{" IMAGE ", \"categories\": [{\"id\": 1, \"name\": \"a\"}, {\"id\": 1, "
                 "\"name\": \"b\"}], \"annotations\": []}",
                 "the id 1 occurs twice");
    expect_error(STATUS_CORRUPT, OBJECT("\"bbox\": [0, 1]"), "annotations[0]: 'bbox'");
    expect_error(STATUS_CORRUPT, OBJECT("\"category_id\": 2"), "no category 2");
    expect_error(STATUS_CORRUPT, OBJECT("\"iscrowd\": 0"), "'segmentation'");
    expect_error(STATUS_CORRUPT, OBJECT("\"segmentation\": [[1, 2, null, 4]]"), "null");
    expect_error(STATUS_CORRUPT, OBJECT("\"segmentation\": [[1e9, 2, 3, 4]]"), "corner");
    expect_error(STATUS_CORRUPT, OBJECT("\"segmentation\": {\"size\": [4, 4], \"counts\": [16]}"),
                 "[4, 5]");
    expect_error(STATUS_CORRUPT, OBJECT("\"segmentation\": {\"size\": [4, 5], \"counts\": [19]}"),
                 "leave 1 px");
    expect_error(STATUS_CORRUPT,
                 OBJECT("\"segmentation\": {\"size\": [4, 5], \"counts\": [7, 14]}"), "run 1");
    expect_error(STATUS_CORRUPT,
                 OBJECT("\"segmentation\": {\"size\": [4, 5], \"counts\": \"ooo\"}"),
                 "ends within");
    assert_int_equal(
        coco_detections_parse(&none, &data, stranger, strlen(stranger), "strange.json"),
        STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "no image 5"));
    assert_int_equal(coco_data_open(&(struct coco_data){0}, "/nowhere/x.json", false),
                     STATUS_NOT_FOUND);
}

/* A data set whose boxes alone were read has no masks to compare. */
static void masks_that_are_missing_are_an_error(void **state)
{
    static struct coco_scores s;
    struct coco_data boxes = {0};

    (void)state;
    assert_int_equal(coco_data_open(&boxes, file("annotations.json"), false), STATUS_OK);
    assert_int_equal(coco_scores_compute(&s, &boxes, &found, COCO_MASKS), STATUS_INVALID);
    assert_int_equal(coco_scores_compute(&s, &boxes, &found, COCO_BOXES), STATUS_OK);
    coco_data_close(&boxes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(polygons_have_the_pixels_of_coco),
        cmocka_unit_test(masks_come_back_from_bits_and_texts),
        cmocka_unit_test(scores_are_those_of_coco),
        cmocka_unit_test(results_come_back_from_their_file),
        cmocka_unit_test(bad_files_say_which_entry),
        cmocka_unit_test(masks_that_are_missing_are_an_error),
    };
    return cmocka_run_group_tests(tests, open_files, close_files);
}
