/* Images of labels: what is written is read again; every depth that is read; what is no such image;
 * and OpenCV's resize of frames, frozen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ops/pixels/opencv_resize.h"
#include "tests/support/test_folder.h"
#include "trainer/eval/label_image.h"

/* Pillow: 5 x 2 px with labels 0 1 2 3 0 | 3 2 1 0 3 and a palette of 4 colours, 2 bits each. */
static const uint8_t two_bits[] = {
    137, 80, 78,  71,  13, 10, 26, 10, 0,   0,   0,   13,  73,  72,  68,  82,  0,  0,  0,
    5,   0,  0,   0,   2,  2,  3,  0,  0,   0,   237, 4,   254, 206, 0,   0,   0,  12, 80,
    76,  84, 69,  0,   0,  0,  10, 20, 30,  40,  50,  60,  70,  80,  90,  160, 38, 90, 34,
    0,   0,  0,   14,  73, 68, 65, 84, 120, 156, 99,  144, 102, 96,  124, 114, 7,  0,  3,
    52,  1,  221, 147, 43, 38, 84, 0,  0,   0,   0,   73,  69,  78,  68,  174, 66, 96, 130};
/* Pillow: the same pixels as grey of 8 bits; and as true colour. */
static const uint8_t grey[] = {
    137, 80,  78,  71,  13,  10, 26,  10, 0,   0,   0,  13,  73,  72,  68, 82, 0,  0,  0,  5,
    0,   0,   0,   2,   8,   0,  0,   0,  0,   181, 1,  73,  129, 0,   0,  0,  20, 73, 68, 65,
    84,  120, 156, 99,  96,  96, 100, 98, 102, 96,  96, 102, 98,  100, 96, 6,  0,  0,  93, 0,
    16,  114, 195, 153, 158, 0,  0,   0,  0,   73,  69, 78,  68,  174, 66, 96, 130};
static const uint8_t colour[] = {
    137, 80,  78, 71,  13, 10,  26,  10, 0,   0,   0,   13,  73, 72,  68,  82, 0,  0,
    0,   5,   0,  0,   0,  2,   8,   2,  0,   0,   0,   31,  8,  129, 10,  0,  0,  0,
    30,  73,  68, 65,  84, 120, 156, 37, 198, 177, 1,   0,   0,  8,   131, 48, 40, 255,
    255, 236, 96, 166, 0,  168, 219, 42, 128, 106, 155, 250, 63, 2,   168, 0,  46, 147,
    144, 192, 68, 0,   0,  0,   0,   73, 69,  78,  68,  174, 66, 96,  130};
static const uint8_t wanted[10] = {0, 1, 2, 3, 0, 3, 2, 1, 0, 3};

static void expect_labels(const uint8_t *bytes, size_t n)
{
    struct label_image image;

    assert_int_equal(label_image_decode(&image, bytes, n), STATUS_OK);
    assert_int_equal(image.width, 5);
    assert_int_equal(image.height, 2);
    assert_memory_equal(image.labels, wanted, sizeof(wanted));
    label_image_release(&image);
    label_image_release(&image);
}

static void palettes_and_grey_are_labels(void **state)
{
    struct label_image image;

    (void)state;
    expect_labels(two_bits, sizeof(two_bits));
    expect_labels(grey, sizeof(grey));
    assert_int_equal(label_image_decode(&image, two_bits, sizeof(two_bits)), STATUS_OK);
    assert_memory_equal(image.palette[1], ((const uint8_t[3]){10, 20, 30}), 3);
    label_image_release(&image);
}

static void what_is_written_is_read_again(void **state)
{
    const char *path = ((struct test_folder *)*state)->path;
    struct label_image image, again;

    assert_int_equal(label_image_open(&image, 301, 77), STATUS_OK);
    for (int i = 0; i < 301 * 77; i++)
        image.labels[i] = (uint8_t)(i * 7 % 256);
    image.palette[200][1] = 99;
    assert_int_equal(label_image_write(&image, path), STATUS_OK);
    assert_int_equal(label_image_read(&again, path), STATUS_OK);
    assert_int_equal(again.width, 301);
    assert_int_equal(again.height, 77);
    assert_memory_equal(again.labels, image.labels, 301 * 77);
    assert_memory_equal(again.palette, image.palette, sizeof(image.palette));
    label_image_release(&image);
    label_image_release(&again);
}

static void the_palette_is_that_of_davis(void **state)
{
    static const uint8_t first[8][3] = {{0, 0, 0},   {128, 0, 0},   {0, 128, 0},   {128, 128, 0},
                                        {0, 0, 128}, {128, 0, 128}, {0, 128, 128}, {128, 128, 128}};
    struct label_image image;

    (void)state;
    assert_int_equal(label_image_open(&image, 1, 1), STATUS_OK);
    assert_memory_equal(image.palette, first, sizeof(first));
    assert_memory_equal(image.palette[8], ((const uint8_t[3]){64, 0, 0}), 3);
    assert_memory_equal(image.palette[255], ((const uint8_t[3]){224, 224, 192}), 3);
    label_image_release(&image);
}

static void other_files_are_refused(void **state)
{
    struct label_image image;

    (void)state;
    assert_int_equal(label_image_decode(&image, colour, sizeof(colour)), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "palette"));
    for (size_t n = 0; n + 13 < sizeof(grey); n++) /* 12 bytes at the end say only that it is one */
        assert_int_equal(label_image_decode(&image, grey, n), STATUS_CORRUPT);
    assert_null(image.labels);
    assert_int_equal(label_image_read(&image, "/there is none/labels.png"), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), "/there is none/labels.png"));
}

static void frames_are_resized_as_opencv_does(void **state)
{
    static const struct {
        int width, height, to_width, to_height;
        int64_t sum;
    } cases[] = {
        {854, 480, 832, 480, 124042114}, {37, 53, 64, 80, 254359476},
        {40, 30, 20, 15, 52306040}, /* both sides halved */
        {31, 200, 64, 19, 856692577},    {1, 1, 2, 3, 0},
    };
    static uint8_t from[854 * 480 * 3], to[832 * 480 * 3];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int width = cases[i].width, height = cases[i].height;
        int64_t n = (int64_t)cases[i].to_width * cases[i].to_height * 3, sum = 0;
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                for (int c = 0; c < 3; c++)
                    from[(y * width + x) * 3 + c] =
                        (uint8_t)((x * x * 7 + y * 13 + c * x * y * 5) % 256);
        assert_int_equal(
            opencv_resize(to, cases[i].to_width, cases[i].to_height, from, width, height),
            STATUS_OK);
        for (int64_t k = 0; k < n; k++)
            sum += to[k] * (k % 9973 + 1);
        assert_int_equal(sum % 1000000007, cases[i].sum);
    }
}

static int set_up(void **state)
{
    return test_folder_open(state, "labels.png");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(palettes_and_grey_are_labels),
        cmocka_unit_test_setup_teardown(what_is_written_is_read_again, set_up, test_folder_close),
        cmocka_unit_test(the_palette_is_that_of_davis),
        cmocka_unit_test(other_files_are_refused),
        cmocka_unit_test(frames_are_resized_as_opencv_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
