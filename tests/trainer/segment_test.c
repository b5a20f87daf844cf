/* Scores of segmentations against a matrix of confusions in double; learning rates; what a data set
 * of scenes is, and how its labels become classes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "tests/support/test_folder.h"
#include "trainer/eval/class_names.h"
#include "trainer/eval/scene_reader.h"
#include "trainer/eval/segment_run.h"
#include "trainer/eval/segment_scores.h"

/* ------------------------------------------------------------------------------ scores */

static void expect_close(double got, double wanted)
{
    if (isnan(wanted) ? !isnan(got) : !(fabs(got - wanted) < 1e-12))
        fail_msg("got %.15f, wanted %.15f", got, wanted);
}

static void scores_are_those_of_a_matrix_of_confusions(void **state)
{
    enum { N = 5000, K = 7 };
    struct rng rng = rng_open((struct rng_key){5, 0, 0, 0, RNG_TEST});
    static double matrix[K][K]; /* truth, found */
    static uint8_t found[N], truth[N];
    static struct segment_counts counts;
    struct segment_scores scores;
    double iou_sum = 0.0, accuracy_sum = 0.0, right = 0.0, all = 0.0;
    int n_iou = 0, n_accuracy = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        /* class 5 is found and not annotated, class 6 neither, class 4 never found */
        truth[i] = rng_below(&rng, 9) == 0 ? SEGMENT_IGNORED : (uint8_t)rng_below(&rng, 5);
        found[i] =
            rng_below(&rng, 2) == 0 && truth[i] < 4 ? truth[i] : (uint8_t)(rng_below(&rng, 5) % 4);
        if (rng_below(&rng, 50) == 0)
            found[i] = 5;
        if (truth[i] != SEGMENT_IGNORED)
            matrix[truth[i]][found[i]]++;
    }
    segment_counts_add(&counts, found, truth, 1234);
    segment_counts_add(&counts, found + 1234, truth + 1234, N - 1234);
    segment_scores_of(&scores, &counts, K);
    for (int k = 0; k < K; k++) {
        double row = 0.0, column = 0.0;
        for (int j = 0; j < K; j++) {
            row += matrix[k][j];
            column += matrix[j][k];
        }
        double either = row + column - matrix[k][k];
        expect_close(scores.iou[k], either > 0.0 ? matrix[k][k] / either : NAN);
        expect_close(scores.accuracy[k], row > 0.0 ? matrix[k][k] / row : NAN);
        iou_sum += either > 0.0 ? matrix[k][k] / either : 0.0;
        n_iou += either > 0.0;
        accuracy_sum += row > 0.0 ? matrix[k][k] / row : 0.0;
        n_accuracy += row > 0.0;
        right += matrix[k][k];
        all += row;
    }
    assert_int_equal(n_iou, 6);
    assert_int_equal(n_accuracy, 5);
    assert_true(isnan(scores.iou[6]) && scores.iou[5] == 0.0 && scores.iou[4] == 0.0);
    expect_close(scores.mean_iou, iou_sum / n_iou);
    expect_close(scores.mean_accuracy, accuracy_sum / n_accuracy);
    expect_close(scores.all_accuracy, right / all);
}

static void without_labels_there_is_no_score(void **state)
{
    static struct segment_counts counts;
    struct segment_scores scores;

    (void)state;
    segment_counts_add(&counts, (const uint8_t[2]){0, 1}, (const uint8_t[2]){255, 255}, 2);
    segment_scores_of(&scores, &counts, 2);
    assert_true(isnan(scores.mean_iou) && isnan(scores.all_accuracy) && isnan(scores.iou[0]));
}

/* ------------------------------------------------------------------------------ rates */

/* By mmcv's words: the rate of the policy at that step, times 1 - (1 - step / warmup) (1 - ratio).
 */
static void rates_rise_and_fall_as_mmcv_has_it(void **state)
{
    struct segment_options o = {
        .steps = 160000, .warmup_steps = 1500, .lr = 8e-4, .warmup_ratio = 1e-6, .power = 1.0};
    static const struct {
        int64_t step;
        double lr;
    } wanted[] = {
        {0, 8e-10},
        {1, 5.34129461670009e-07}, /* 8e-4 (1 - 1/160000) (1 - (1 - 1/1500) (1 - 1e-6)) */
        {750, 3.98125398125e-4},
        {1500, 7.925e-4},
        {80000, 4e-4},
        {159999, 5e-9},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
        if (!(fabs(segment_lr(&o, wanted[i].step) - wanted[i].lr) < 1e-9 * wanted[i].lr + 1e-15))
            fail_msg("step %lld: %.12g, wanted %.12g", (long long)wanted[i].step,
                     segment_lr(&o, wanted[i].step), wanted[i].lr);
    o.power = 2.0;
    o.min_lr = 1e-4;
    expect_close(segment_lr(&o, 80000), 1e-4 + 7e-4 * 0.25);
    o.warmup_steps = 0;
    expect_close(segment_lr(&o, 0), 8e-4);
}

/* ------------------------------------------------------------------------------ data */

/* Folders below the test's own, made and removed with it. */
static const char *const folders[] = {"images", "images/b", "labels", "labels/b"};

static const char *at(const struct test_folder *f, const char *name)
{
    static char path[4][192];
    static int next;

    next = (next + 1) % 4;
    snprintf(path[next], sizeof(path[next]), "%s/%s", f->folder, name);
    return path[next];
}

static void put_picture(const struct test_folder *f, const char *name, int width, int height)
{
    char header[32];
    static uint8_t bytes[1024];
    int n = snprintf(header, sizeof(header), "P6\n%d %d\n255\n", width, height);

    memcpy(bytes, header, (size_t)n); /* told by its content */
    for (int i = 0; i < 3 * width * height; i++)
        bytes[n + i] = (uint8_t)(i * 7);
    test_file_put(at(f, name), bytes, (size_t)(n + 3 * width * height));
}

static void put_labels(const struct test_folder *f, const char *name, int width, int height,
                       uint8_t first)
{
    struct label_image image;

    assert_int_equal(label_image_open(&image, width, height), STATUS_OK);
    for (int i = 0; i < width * height; i++)
        image.labels[i] = (uint8_t)(first + i % 3);
    image.labels[0] = 255;
    assert_int_equal(label_image_write(&image, at(f, name)), STATUS_OK);
    label_image_release(&image);
}

static int set_up(void **state)
{
    if (test_folder_open(state, "none") != 0)
        return -1;
    for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++)
        assert_int_equal(mkdir(at(*state, folders[i]), 0777), 0);
    put_picture(*state, "images/z.jpg", 6, 4);
    put_picture(*state, "images/a.PNG", 5, 3);
    put_picture(*state, "images/b/c.jpeg", 4, 4);
    test_file_put(at(*state, "images/notes.txt"), "x", 1);
    put_labels(*state, "labels/z.png", 6, 4, 0);
    put_labels(*state, "labels/a.png", 5, 3, 0);
    put_labels(*state, "labels/b/c.png", 4, 4, 1);
    return 0;
}

static int tear_down(void **state)
{
    static const char *const files[] = {"images/z.jpg",     "images/a.PNG", "images/b/c.jpeg",
                                        "images/notes.txt", "labels/z.png", "labels/a.png",
                                        "labels/b/c.png"};

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++)
        unlink(at(*state, files[i]));
    for (size_t i = sizeof(folders) / sizeof(folders[0]); i > 0; i--)
        assert_int_equal(rmdir(at(*state, folders[i - 1])), 0);
    return test_folder_close(state);
}

static void open_data(struct scene_data *data, const struct test_folder *f)
{
    assert_int_equal(scene_data_open(data, at(f, "images"), at(f, "labels")), STATUS_OK);
}

static void expect_failure(const struct test_folder *f, enum status status, const char *text)
{
    struct scene_data data;

    assert_int_equal(scene_data_open(&data, at(f, "images"), at(f, "labels")), status);
    assert_non_null(strstr(status_message(), text));
    assert_int_equal(data.n, 0);
    scene_data_close(&data);
}

static void pictures_and_labels_have_the_same_names(void **state)
{
    struct test_folder *f = *state;
    struct scene_data data;
    char path[SCENE_MAX_PATH];
    uint64_t digest, other;

    open_data(&data, f);
    assert_int_equal(data.n, 3);
    assert_string_equal(data.names[0], "a.PNG");
    assert_string_equal(data.names[1], "b/c.jpeg");
    assert_string_equal(data.names[2], "z.jpg");
    scene_labels_path(path, &data, 1);
    assert_string_equal(path, at(f, "labels/b/c.png"));
    scene_path_in(path, "out", &data, 2);
    assert_string_equal(path, "out/z.png");
    assert_int_equal(scene_data_digest(&digest, &data), STATUS_OK);
    put_picture(f, "images/z.jpg", 6, 5);
    assert_int_equal(scene_data_digest(&other, &data), STATUS_OK);
    assert_true(digest != other);
    scene_data_close(&data);
    scene_data_close(&data);
    assert_int_equal(scene_data_open(&data, at(f, "images"), NULL), STATUS_OK);
    assert_int_equal(data.n, 3);
    scene_data_close(&data);
}

static void what_is_missing_is_named(void **state)
{
    struct test_folder *f = *state;

    unlink(at(f, "labels/b/c.png"));
    expect_failure(f, STATUS_NOT_FOUND, "b/c.jpeg' has no labels: wanted '");
    put_labels(f, "labels/b/c.png", 4, 4, 1);
    put_picture(f, "images/z.png", 2, 2);
    expect_failure(f, STATUS_INVALID, "'z.jpg' and 'z.png'");
    unlink(at(f, "images/z.png"));
    unlink(at(f, "images/z.jpg"));
    unlink(at(f, "images/a.PNG"));
    unlink(at(f, "images/b/c.jpeg"));
    expect_failure(f, STATUS_NOT_FOUND, "has no pictures");
}

static struct scene_reader *open_reader(const struct scene_data *data, int32_t n_classes,
                                        bool reduce)
{
    struct scene_labels labels = {n_classes, reduce};
    struct scene_reader *reader;

    assert_int_equal(scene_reader_open(&reader, data, &labels, 2), STATUS_OK);
    return reader;
}

static void labels_become_classes(void **state)
{
    static const struct scene_sizes sizes = {2, {8, 4}};
    struct scene scenes[3] = {{.whole = {.rgb = NULL}}};
    struct scene_reader *reader;
    struct scene_data data;

    open_data(&data, *state);
    reader = open_reader(&data, 4, false);
    assert_int_equal(scene_reader_scenes(reader, scenes, 0, 3, &sizes), STATUS_OK);
    assert_int_equal(scenes[0].truth.labels[0], 255);
    assert_int_equal(scenes[0].truth.labels[2], 2);
    assert_int_equal(scenes[1].truth.labels[2], 3);
    assert_int_equal(scenes[0].resized[0].width, 13); /* 5 x 3 to 8 down */
    assert_int_equal(scenes[0].resized[0].height, 8);
    assert_int_equal(scenes[0].resized[1].width, 7);
    assert_int_equal(scenes[0].resized[1].height, 4);
    scene_reader_close(&reader);
    reader = open_reader(&data, 3, true);
    assert_int_equal(scene_reader_scenes(reader, scenes, 0, 3, &sizes), STATUS_OK);
    assert_int_equal(scenes[0].truth.labels[3], 255); /* 0 is none */
    assert_int_equal(scenes[0].truth.labels[0], 255);
    assert_int_equal(scenes[0].truth.labels[1], 0);
    assert_int_equal(scenes[1].truth.labels[2], 2);
    scene_reader_close(&reader);
    reader = open_reader(&data, 3, false);
    assert_int_equal(scene_reader_scenes(reader, scenes, 0, 3, &sizes), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "b/c.png': label 3 at pixel 2, 0: wanted 0 to 2"));
    scene_reader_close(&reader);
    put_labels(*state, "labels/z.png", 4, 6, 0);
    reader = open_reader(&data, 4, false);
    assert_int_equal(scene_reader_scenes(reader, scenes, 0, 3, &sizes), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "z.png' is 4 x 6 px, its picture 6 x 4"));
    scene_reader_close(&reader);
    for (int i = 0; i < 3; i++)
        scene_release(&scenes[i]);
    scene_data_close(&data);
    assert_int_equal(scene_label_of_class(&(struct scene_labels){3, true}, 2), 3);
    assert_int_equal(scene_label_of_class(&(struct scene_labels){3, false}, 2), 2);
}

/* Each epoch has each scene once, whatever the batches; another order in each. */
static void crops_come_in_random_orders(void **state)
{
    enum { SIDE = 4, N = 30, AREA = SIDE * SIDE };
    struct scene_crop_options o = {
        .crop_px = SIDE, .resize_px = 4, .scale = {1.0, 1.0}, .most = 1.0, .seed = 3};
    static float whole[N][3 * AREA], parts[N][3 * AREA];
    static uint8_t labels[2][N][AREA];
    struct scene_reader *reader;
    struct scene_data data;
    int different = 0;

    open_data(&data, *state);
    reader = open_reader(&data, 4, false);
    assert_int_equal(scene_reader_crops(reader, whole[0], labels[0][0], 0, N, &o), STATUS_OK);
    for (int first = 0; first < N; first += 7) {
        int n = N - first < 7 ? N - first : 7;
        assert_int_equal(scene_reader_crops(reader, parts[first], labels[1][first], first, n, &o),
                         STATUS_OK);
    }
    assert_memory_equal(whole, parts, sizeof(whole));
    assert_memory_equal(labels[0], labels[1], sizeof(labels[0]));
    for (int epoch = 0; epoch < N / 3; epoch++) {
        int with_three = 0; /* label 3 is in b/c alone, of which a crop of 4 x 4 has all */
        for (int i = 0; i < 3; i++) {
            bool has = memchr(labels[0][3 * epoch + i], 3, AREA) != NULL;
            with_three += has;
            different += has && i > 0;
        }
        assert_int_equal(with_three, 1);
    }
    assert_in_range(different, 1, 9);
    scene_reader_close(&reader);
    scene_data_close(&data);
}

/* ------------------------------------------------------------------------------ names */

static void put_text(const struct test_folder *f, const char *name, const char *text)
{
    FILE *file = fopen(at(f, name), "wb");

    assert_non_null(file);
    assert_int_equal(fputs(text, file) >= 0, 1);
    assert_int_equal(fclose(file), 0);
}

static void expect_names_refused(const struct test_folder *f, const char *text, enum status status,
                                 const char *wanted)
{
    static struct class_names names;

    if (text != NULL)
        put_text(f, "images/notes.txt", text);
    assert_int_equal(class_names_read(&names, at(f, text != NULL ? "images/notes.txt" : "none"), 3),
                     status);
    if (strstr(status_message(), wanted) == NULL)
        fail_msg("'%s', wanted '%s'", status_message(), wanted);
}

static void classes_have_names(void **state)
{
    static struct class_names names;
    static char many[4096];
    const struct test_folder *f = *state;

    put_text(f, "images/notes.txt", "wall\r\n  building, edifice \nsk\xc3\xa9y\xff\n\n \n");
    assert_int_equal(class_names_read(&names, at(f, "images/notes.txt"), 3), STATUS_OK);
    assert_int_equal(names.n, 3);
    assert_string_equal(names.text[0], "wall");
    assert_string_equal(names.text[1], "building, edifice");
    assert_string_equal(names.text[2], "sk\xc3\xa9y\\xff"); /* no UTF-8 becomes some */
    expect_names_refused(f, "a\nb\n", STATUS_MISMATCH, "names 2 classes, and there are 3");
    expect_names_refused(f, "", STATUS_MISMATCH, "names 0 classes");
    expect_names_refused(f, "a\n\nb\nc\n", STATUS_INVALID, "line 2: wanted the name of a class");
    memset(many, 'x', 256);
    expect_names_refused(f, many, STATUS_INVALID, "line 1: wanted the name of a class");
    for (int i = 0; i < 256; i++)
        memcpy(many + 2 * i, "x\n", 3);
    expect_names_refused(f, many, STATUS_INVALID, "more than 255 lines");
    expect_names_refused(f, NULL, STATUS_NOT_FOUND, "none' can't be opened");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_those_of_a_matrix_of_confusions),
        cmocka_unit_test(without_labels_there_is_no_score),
        cmocka_unit_test(rates_rise_and_fall_as_mmcv_has_it),
        cmocka_unit_test_setup_teardown(pictures_and_labels_have_the_same_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_missing_is_named, set_up, tear_down),
        cmocka_unit_test_setup_teardown(labels_become_classes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(crops_come_in_random_orders, set_up, tear_down),
        cmocka_unit_test_setup_teardown(classes_have_names, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
