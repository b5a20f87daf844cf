/* Kept features, and class folders: what is not right is told before anything is computed. */
#include "trainer/eval/features.h"

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

#include "trainer/eval/class_folders.h"
#include "trainer/weights/safetensors.h"

enum { N = 4, DIM = 3 };

static char folder[64], path[128];

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/ibot-features-XXXXXX");
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/file", folder);
    return 0;
}

static int tear_down(void **state)
{
    char command[160];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", folder);
    return system(command) == 0 ? 0 : -1;
}

static float values[N * DIM];
static int32_t labels[N];

/* The file as it should be, or with one thing changed. */
static void write_file(const char *classes, int64_t n_labels, enum dtype dtype)
{
    struct safetensors_item items[] = {
        {"values", tensor_2d(values, dtype, N, DIM)},
        {"labels", tensor_1d(labels, DTYPE_I32, n_labels)},
    };
    const char *metadata[] = {"n_classes", classes};

    assert_int_equal(safetensors_write(path, items, 2, metadata, 1), STATUS_OK);
}

static void refuse(enum status wanted, const char *text)
{
    struct features features;

    assert_int_equal(features_read(&features, path), wanted);
    assert_null(features.values);
    if (strstr(status_message(), text) == NULL)
        fail_msg("'%s' does not say '%s'", status_message(), text);
}

static void kept_features_come_back(void **state)
{
    struct features kept = {values, labels, N, DIM, 2}, read;

    (void)state;
    for (int i = 0; i < N * DIM; i++)
        values[i] = (float)i;
    for (int i = 0; i < N; i++)
        labels[i] = i % 2;
    assert_int_equal(features_write(&kept, path), STATUS_OK);
    assert_int_equal(features_read(&read, path), STATUS_OK);
    assert_int_equal(read.n, N);
    assert_int_equal(read.dim, DIM);
    assert_int_equal(read.n_classes, 2);
    assert_memory_equal(read.values, values, sizeof(values));
    assert_memory_equal(read.labels, labels, sizeof(labels));
    features_release(&read);
}

static void files_that_are_not_right_are_refused(void **state)
{
    (void)state;
    write_file("2", N - 1, DTYPE_F32);
    refuse(STATUS_CORRUPT, "wanted 'values'");
    write_file("2", N, DTYPE_I32);
    refuse(STATUS_CORRUPT, "wanted 'values'");
    write_file("1", N, DTYPE_F32);
    refuse(STATUS_CORRUPT, "label 1 of 1 classes");
    static const char *const numbers[] = {"", "two", "0", "-1", "2x", "4294967298", "2000000000"};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        write_file(numbers[i], N, DTYPE_F32);
        refuse(STATUS_CORRUPT, "n_classes is");
    }
    values[5] = NAN;
    write_file("2", N, DTYPE_F32);
    values[5] = 5.0f;
    refuse(STATUS_NOT_FINITE, "not finite");
}

/* FOLDER/SET/NAME for each name, with a file in the set when `file` is not NULL. */
static void make_set(char out[128], const char *set, const char *const *names, const char *file)
{
    char below[256];

    snprintf(out, 128, "%s/%s", folder, set);
    assert_int_equal(mkdir(out, 0700), 0);
    for (; *names != NULL; names++) {
        snprintf(below, sizeof(below), "%s/%s", out, *names);
        assert_int_equal(mkdir(below, 0700), 0);
    }
    if (file == NULL)
        return;
    snprintf(below, sizeof(below), "%s/%s", out, file);
    FILE *made = fopen(below, "w");
    assert_non_null(made);
    assert_int_equal(fclose(made), 0);
}

static void data_sets_with_other_classes_are_told_apart(void **state)
{
    char train[128], same[128], other[128], fewer[128], flat[128], archives[128];

    (void)state;
    make_set(train, "train", (const char *const[]){"ant", "bee", "cat", NULL}, "readme.txt");
    make_set(same, "same", (const char *const[]){"cat", "ant", "bee", NULL}, NULL);
    make_set(other, "other", (const char *const[]){"bee", "cat", "dog", NULL}, NULL);
    make_set(fewer, "fewer", (const char *const[]){"ant", "bee", NULL}, NULL);
    make_set(flat, "flat", (const char *const[]){NULL}, "one.jpg");
    make_set(archives, "archives", (const char *const[]){"notes", NULL}, "ant.tar");
    assert_int_equal(class_folders_check(train, same), STATUS_OK);
    assert_int_equal(class_folders_check(train, flat), STATUS_OK);
    assert_int_equal(class_folders_check(train, archives), STATUS_OK);
    assert_int_equal(class_folders_check(train, other), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "class 0 is 'ant' in one and 'bee' in the other"));
    assert_int_equal(class_folders_check(train, fewer), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "class 2 is 'cat' in one and '(none)'"));
    assert_int_equal(class_folders_check(train, "/nowhere/at/all"), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), "--test '/nowhere/at/all'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_features_come_back),
        cmocka_unit_test(files_that_are_not_right_are_refused),
        cmocka_unit_test(data_sets_with_other_classes_are_told_apart),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
