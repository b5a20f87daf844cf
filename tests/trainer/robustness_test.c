/* What the robustness benchmarks count, their masks, and the book of results. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/test_folder.h"
#include "trainer/eval/npy.h"
#include "trainer/eval/robustness_book.h"
#include "trainer/eval/robustness_scores.h"
#include "trainer/utf8_text.h"

/* ------------------------------------------------------------------------------ classes */

/* Numbers of fine classes from table 1 of Xiao et al. 2020; single ones from ImageNet's list. */
static void imagenet_9_is_made_of_370_classes(void **state)
{
    static const int32_t wanted[IN9_CLASSES] = {116, 52, 42, 36, 35, 27, 26, 20, 16};
    int32_t count[IN9_CLASSES] = {0};

    (void)state;
    for (int32_t k = 0; k < IMAGENET_CLASSES; k++) {
        assert_in_range(in9_class(k) + 1, 0, IN9_CLASSES);
        if (in9_class(k) >= 0)
            count[in9_class(k)]++;
    }
    assert_memory_equal(count, wanted, sizeof(wanted));
    assert_int_equal(in9_class(207), 0);  /* golden retriever */
    assert_int_equal(in9_class(171), -1); /* Italian greyhound: one of two dogs that it lacks */
    assert_int_equal(in9_class(22), 1);   /* bald eagle */
    assert_int_equal(in9_class(817), 2);  /* sports car */
    assert_int_equal(in9_class(39), 3);   /* common iguana */
    assert_int_equal(in9_class(291), 4);  /* lion */
    assert_int_equal(in9_class(323), 5);  /* monarch */
    assert_int_equal(in9_class(546), 6);  /* electric guitar */
    assert_int_equal(in9_class(366), 7);  /* gorilla */
    assert_int_equal(in9_class(2), 8);    /* great white shark */
    assert_int_equal(in9_class(-1), -1);
    assert_int_equal(in9_class(1000), -1);
}

static void imagenet_a_has_200_classes_in_order(void **state)
{
    (void)state;
    for (int i = 0; i < IMAGENET_A_CLASSES; i++)
        assert_true(imagenet_a_classes[i] < IMAGENET_CLASSES &&
                    (i == 0 || imagenet_a_classes[i] > imagenet_a_classes[i - 1]));
    assert_int_equal(imagenet_a_classes[0], 6);     /* stingray */
    assert_int_equal(imagenet_a_classes[38], 207);  /* golden retriever */
    assert_int_equal(imagenet_a_classes[199], 988); /* acorn */
}

static void answers_are_the_first_of_the_greatest(void **state)
{
    static const float logits[] = {1.0f, 5.0f, 2.0f, 4.0f, 4.0f};
    static const int16_t classes[] = {0, 3, 4};
    double probability;

    (void)state;
    assert_int_equal(argmax(logits, 5), 1);
    assert_int_equal(argmax_among(logits, classes, 3, &probability), 1); /* place of class 3 */
    assert_true(fabs(probability - 1.0 / (2.0 + exp(-3.0))) < 1e-15);
}

/* ------------------------------------------------------------------------------ measures */

/* Three groups of two; the middle one is right half the time at 0.5, and so without error. */
static void calibration_of_a_case_by_hand(void **state)
{
    static const double confidence[] = {0.9, 0.1, 0.4, 0.8, 0.6, 0.3};
    static const bool correct[] = {true, true, false, true, true, false};
    double published, all;

    (void)state;
    assert_int_equal(calibration_error(&published, confidence, correct, 6, 2, false), STATUS_OK);
    assert_int_equal(calibration_error(&all, confidence, correct, 6, 2, true), STATUS_OK);
    /* 0.1 0.3 | 0.4 0.6 | 0.8 0.9: means 0.2 0.5 0.85, right 1/2 1/2 1 */
    assert_true(fabs(published - sqrt((0.09 + 0.0) / 3.0)) < 1e-12);
    assert_true(fabs(all - sqrt((0.09 + 0.0 + 0.0225) / 3.0)) < 1e-12);
    /* one group alone is the greatest, which the original leaves out */
    assert_int_equal(calibration_error(&published, confidence, correct, 3, 100, false), STATUS_OK);
    assert_true(isnan(published));
    assert_int_equal(calibration_error(&all, confidence, correct, 3, 100, true), STATUS_OK);
    assert_true(fabs(all - fabs(1.4 / 3.0 - 2.0 / 3.0)) < 1e-12);
}

static void response_rate_of_a_case_by_hand(void **state)
{
    static const double confidence[] = {0.2, 0.9, 0.5, 0.7};
    static const bool correct[] = {true, true, false, false};
    double area;

    (void)state;
    /* answered in the order right, wrong, wrong, right */
    assert_int_equal(response_rate_accuracy(&area, confidence, correct, 4), STATUS_OK);
    assert_true(fabs(area - (1.0 + 0.5 + 1.0 / 3.0 + 0.5) / 4.0) < 1e-12);
}

/* What NumPy makes of 350 answers by the definitions: groups of 100, the last of 150. */
static void measures_are_those_of_numpy(void **state)
{
    double confidence[350], published, all, area;
    bool correct[350];

    (void)state;
    for (int i = 0; i < 350; i++) {
        confidence[i] = fmod(i * 0.6180339887498949, 1.0);
        correct[i] = i * 7 % 10 < 8.0 * confidence[i];
    }
    assert_int_equal(calibration_error(&published, confidence, correct, 350, 100, false),
                     STATUS_OK);
    assert_int_equal(calibration_error(&all, confidence, correct, 350, 100, true), STATUS_OK);
    assert_int_equal(response_rate_accuracy(&area, confidence, correct, 350), STATUS_OK);
    assert_true(fabs(published - 0.04174418835835589) < 1e-12);
    assert_true(fabs(all - 0.08380170673947068) < 1e-12);
    assert_true(fabs(area - 0.634727138119501) < 1e-12);
}

/* ------------------------------------------------------------------------------ masks */

static size_t put_npy(unsigned char *out, int version, const char *header, const void *data,
                      size_t n_bytes)
{
    size_t n = strlen(header), prefix = version == 1 ? 10 : 12;

    memcpy(out, "\x93NUMPY", 6);
    out[6] = (unsigned char)version;
    out[7] = 0;
    memset(out + 8, 0, 4);
    out[8] = (unsigned char)n;
    memcpy(out + prefix, header, n);
    memcpy(out + prefix + n, data, n_bytes);
    return prefix + n + n_bytes;
}

static void masks_of_every_type_are_read(void **state)
{
    static const uint8_t wanted[4] = {1, 0, 1, 1}, turned[4] = {1, 1, 0, 1};
    static const uint8_t bools[] = {1, 0, 1, 1};
    static const float floats[] = {0.5f, -0.0f, -2.0f, 1e-30f};
    static const int64_t longs[] = {1, 0, -1, 1LL << 40};
    static const unsigned char shorts[] = {1, 0, 0, 0, 0, 9, 255, 255}; /* big-endian */
    unsigned char bytes[512];
    uint8_t mask[4];
    size_t n;

    (void)state;
    n = put_npy(bytes, 1, "{'descr': '|b1', 'fortran_order': False, 'shape': (2, 2), }\n", bools,
                4);
    assert_int_equal(npy_mask(mask, 2, bytes, n, "m"), STATUS_OK);
    assert_memory_equal(mask, wanted, 4);
    n = put_npy(bytes, 1, "{'descr': '|b1', 'fortran_order': True, 'shape': (2, 2), }\n", bools, 4);
    assert_int_equal(npy_mask(mask, 2, bytes, n, "m"), STATUS_OK);
    assert_memory_equal(mask, turned, 4);
    n = put_npy(bytes, 2, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n", floats,
                16);
    assert_int_equal(npy_mask(mask, 2, bytes, n, "m"), STATUS_OK);
    assert_memory_equal(mask, wanted, 4);
    n = put_npy(bytes, 3, "{'shape': (2,2), 'descr': '<i8', 'fortran_order': False}", longs, 32);
    assert_int_equal(npy_mask(mask, 2, bytes, n, "m"), STATUS_OK);
    assert_memory_equal(mask, wanted, 4);
    n = put_npy(bytes, 1, "{'descr': '>i2', 'fortran_order': False, 'shape': (2, 2), }\n", shorts,
                8);
    assert_int_equal(npy_mask(mask, 2, bytes, n, "m"), STATUS_OK);
    assert_memory_equal(mask, wanted, 4);
}

static void other_files_are_no_masks(void **state)
{
    static const struct {
        const char *header;
        size_t n_bytes;
        enum status status;
        const char *text;
    } cases[] = {
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (2, 2), }", 3, STATUS_CORRUPT,
         "3 bytes"},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (2, 2), }", 5, STATUS_CORRUPT,
         "5 bytes"},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (4, 2), }", 8, STATUS_MISMATCH,
         "4 x 2"},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (4,), }", 4, STATUS_MISMATCH, "shape"},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (2, 2, 1), }", 4, STATUS_MISMATCH,
         "shape"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (2, 2), }", 32, STATUS_UNSUPPORTED,
         "'<c8'"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }", 32, STATUS_UNSUPPORTED,
         "descr"},
        {"{'fortran_order': False, 'shape': (2, 2), }", 4, STATUS_UNSUPPORTED, "descr"},
        {"{'descr': '|b1', 'shape': (2, 2), }", 4, STATUS_MISMATCH, "fortran_order"},
        {"", 0, STATUS_UNSUPPORTED, "descr"},
    };
    unsigned char bytes[512], zeros[64] = {0};
    uint8_t mask[4];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t n = put_npy(bytes, 1, cases[i].header, zeros, cases[i].n_bytes);
        enum status status = npy_mask(mask, 2, bytes, n < 12 ? 12 : n, "m");
        if (status != cases[i].status || strstr(status_message(), cases[i].text) == NULL)
            fail_msg("case %zu: %s", i, status_message());
    }
    assert_int_equal(npy_mask(mask, 2, "PK\3\4 and more bytes", 20, "m"), STATUS_CORRUPT);
    assert_int_equal(npy_mask(mask, 2, "", 0, "m"), STATUS_CORRUPT);
    assert_int_equal(npy_mask_read(mask, 2, "/nowhere/m.npy"), STATUS_NOT_FOUND);
}

/* ------------------------------------------------------------------------------ text */

static void bytes_become_text(void **state)
{
    static const char *const cases[][2] = {
        {"/data/val", "/data/val"},
        {"Zürich \xe2\x82\xac \xf0\x9f\x98\x80", "Zürich \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"caf\xe9", "caf\\xe9"},             /* Latin-1 */
        {"\xc0\xaf", "\\xc0\\xaf"},          /* overlong */
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, /* a surrogate */
        {"\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"},
        {"\xe2\x82", "\\xe2\\x82"}, /* cut */
        {"\x80x", "\\x80x"},
    };
    char out[64], room[8];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(utf8_text(out, sizeof(out), cases[i][0]), cases[i][1]);
    assert_string_equal(utf8_text(room, sizeof(room), "123456\xc3\xa9"), "123456");
    assert_string_equal(utf8_text(room, sizeof(room), "1234\xe9"), "1234");
}

/* ------------------------------------------------------------------------------ results */

static int book_folder_open(void **state)
{
    return test_folder_open(state, "robustness.jsonl");
}

static int book_folder_close(void **state)
{
    struct test_folder *f = *state;

    snprintf(f->out, sizeof(f->out), "%s/progress.json", f->folder);
    return test_folder_close(state);
}

static void results_are_found_again(void **state)
{
    const struct test_folder *f = *state;
    struct book_entry one = {.test = "shuffle", .setting = "4x8", .data = "/d/caf\xe9"};
    struct book_entry again = {.test = "shuffle", .setting = "4x8", .data = "/d/caf\xe9"};
    struct book_entry other = {.test = "shuffle", .setting = "4x8", .data = "/d/other"};
    struct robustness_book book;

    assert_int_equal(book_open(&book, f->folder, "weights a", true), STATUS_OK);
    assert_false(book_find(&book, &one));
    one.n_images = 200;
    book_value(&one, "top1", 41.0);
    book_value(&one, "dropped", NAN);
    assert_int_equal(book_add(&book, &one), STATUS_OK);
    book_close(&book);

    assert_int_equal(book_open(&book, f->folder, "weights a", true), STATUS_OK);
    assert_true(book_find(&book, &again));
    assert_int_equal(again.n_images, 200);
    assert_int_equal(again.n_values, 2);
    assert_string_equal(again.values[0].name, "top1");
    assert_true(again.values[0].value == 41.0);
    assert_true(isnan(again.values[1].value));
    assert_false(book_find(&book, &other));
    book_close(&book);

    assert_int_equal(book_open(&book, f->folder, "weights b", true), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "begun with (weights a), this one is (weights b)"));
    book_close(&book);
}

static void a_torn_line_is_written_again(void **state)
{
    static const char torn[] = "{\"run\": \"w\"}\n{\"test\": \"shuf";
    struct book_entry entry = {.test = "shuffle", .setting = "2x2"};
    const struct test_folder *f = *state;
    struct robustness_book book;

    test_file_put(f->path, torn, strlen(torn));
    assert_int_equal(book_open(&book, f->folder, "w", true), STATUS_OK);
    assert_false(book_find(&book, &entry));
    book_value(&entry, "top1", 1.0);
    assert_int_equal(book_add(&book, &entry), STATUS_OK);
    book_close(&book);
    char *text = test_file_get(f->path, NULL);
    assert_string_equal(text, "{\"run\": \"w\"}\n{\"test\": \"shuffle\", \"setting\": \"2x2\", "
                              "\"top1\": 1.0}\n");
    free(text);

    test_file_put(f->path, "{\"run\": \"w\"}\nnonsense\n", 23);
    assert_int_equal(book_open(&book, f->folder, "w", true), STATUS_CORRUPT);
    assert_non_null(strstr(status_message(), "line 2 is no object"));
    book_close(&book);
}

static void progress_is_of_its_part(void **state)
{
    const double sums[3] = {1.0, 0.1, 1e15};
    const struct test_folder *f = *state;
    struct robustness_book book;
    double got[3] = {9, 9, 9};
    int64_t done;

    assert_int_equal(book_open(&book, f->folder, "w", true), STATUS_OK);
    assert_int_equal(book_progress_read(&book, "a", &done, got, 3), STATUS_OK);
    assert_int_equal(done, 0);
    assert_true(got[0] == 0.0);
    assert_int_equal(book_progress_write(&book, "a", 77, sums, 3), STATUS_OK);
    assert_int_equal(book_progress_read(&book, "a", &done, got, 3), STATUS_OK);
    assert_int_equal(done, 77);
    assert_memory_equal(got, sums, sizeof(sums));
    assert_int_equal(book_progress_read(&book, "b", &done, got, 3), STATUS_OK);
    assert_int_equal(done, 0);
    assert_int_equal(book_progress_read(&book, "a", &done, got, 2), STATUS_OK);
    assert_int_equal(done, 0);
    book_close(&book);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(imagenet_9_is_made_of_370_classes),
        cmocka_unit_test(imagenet_a_has_200_classes_in_order),
        cmocka_unit_test(answers_are_the_first_of_the_greatest),
        cmocka_unit_test(calibration_of_a_case_by_hand),
        cmocka_unit_test(response_rate_of_a_case_by_hand),
        cmocka_unit_test(measures_are_those_of_numpy),
        cmocka_unit_test(masks_of_every_type_are_read),
        cmocka_unit_test(other_files_are_no_masks),
        cmocka_unit_test(bytes_become_text),
        cmocka_unit_test_setup_teardown(results_are_found_again, book_folder_open,
                                        book_folder_close),
        cmocka_unit_test_setup_teardown(a_torn_line_is_written_again, book_folder_open,
                                        book_folder_close),
        cmocka_unit_test_setup_teardown(progress_is_of_its_part, book_folder_open,
                                        book_folder_close),
    };
    return cmocka_run_group_tests_name("trainer.robustness", tests, NULL, NULL);
}
