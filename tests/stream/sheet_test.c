/* On a contact sheet crops are pixel by pixel what they are, and boxes are where they are. */
#include "stream/sheet.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vips/vips.h>

#include <cmocka.h>

#include "loader/draw.h"
#include "loader/view.h"
#include "ops/pixels/photometric.h"

enum { SIDE = 128, SMALL = 48, WIDTH = 300, HEIGHT = 200 };

static struct data_spec small_spec(void)
{
    struct data_spec spec = data_spec_default();

    spec.global_size_px = SIDE;
    spec.local_size_px = SMALL;
    spec.n_local = 2;
    spec.mask_cell_px = 16;
    return spec;
}

static struct image gradient(void)
{
    struct image image = {0};

    assert_int_equal(image_reserve(&image, WIDTH, HEIGHT), STATUS_OK);
    for (size_t y = 0; y < HEIGHT; y++)
        for (size_t x = 0; x < WIDTH; x++) {
            uint8_t *pixel = image_pixel(&image, x, y);
            pixel[0] = (uint8_t)(x * 255 / WIDTH);
            pixel[1] = (uint8_t)(y * 255 / HEIGHT);
            pixel[2] = 60;
        }
    return image;
}

struct picture {
    uint8_t *pixels;
    int width, height;
};

/* The sheet of one sample as it comes back from its file. */
static struct picture sheet_of(const struct data_spec *spec, const struct sample *sample,
                               const struct image *image, const uint8_t *record)
{
    char path[] = "/tmp/ibot-sheet-XXXXXX";
    struct sheet *sheet;
    bool added;
    size_t n;

    close(mkstemp(path));
    assert_int_equal(sheet_open(&sheet, spec, 1, image != NULL), STATUS_OK);
    assert_int_equal(sheet_save(sheet, path), STATUS_INVALID); /* nothing on it yet */
    assert_int_equal(sheet_add(sheet, sample, image, record, &added), STATUS_OK);
    assert_true(added);
    assert_int_equal(sheet_save(sheet, path), STATUS_OK);
    assert_int_equal(sheet_add(sheet, sample, image, record, &added), STATUS_OK);
    assert_false(added);
    sheet_close(&sheet);
    VipsImage *read = vips_image_new_from_file(path, NULL);
    assert_non_null(read);
    struct picture picture = {vips_image_write_to_memory(read, &n), read->Xsize, read->Ysize};
    g_object_unref(read);
    unlink(path);
    return picture;
}

/* Where a crop lies on the sheet, unmasked; fails when it is nowhere. */
static int find(const struct picture *picture, const uint8_t *crop, int side)
{
    for (int y = 0; y + side <= picture->height; y++)
        for (int x = 0; x + side <= picture->width; x++) {
            int row = 0;
            while (row < side && memcmp(picture->pixels + 3 * ((y + row) * picture->width + x),
                                        crop + 3 * row * side, 3 * (size_t)side) == 0)
                row++;
            if (row == side)
                return x;
        }
    fail_msg("a crop of %d pixels is not on the sheet", side);
    return -1;
}

static void crops_are_on_the_sheet_as_they_are(void **state)
{
    struct data_spec spec = small_spec();
    struct sample sample = {.index = 7, .label = 3, .made = true, .path = "folder/name.jpg"};
    struct image image = gradient();
    struct view_maker maker;
    uint8_t *record = malloc(data_spec_record_bytes(&spec));

    (void)state;
    spec.n_pred_ratios = 0;
    assert_int_equal(view_maker_open(&maker, NULL, NULL), STATUS_OK);
    for (int with_source = 0; with_source < 2; with_source++) {
        assert_int_equal(view_render(&maker, &spec, 0, 7, &image, record), STATUS_OK);
        struct picture picture = sheet_of(&spec, &sample, with_source ? &image : NULL, record);
        int last = -1;
        for (int32_t v = 0; v < spec.n_global + spec.n_local; v++) {
            int x = find(&picture, record + data_spec_view_offset(&spec, v),
                         v < spec.n_global ? SIDE : SMALL);
            assert_true(v > spec.n_global ? x >= last : x > last); /* local ones stand in columns */
            last = x;
        }
        g_free(picture.pixels);
    }
    view_maker_close(&maker);
    image_release(&image);
    free(record);
}

static void colours_left_to_the_trainer_are_applied(void **state)
{
    struct data_spec spec = small_spec(), left = spec;
    struct sample sample = {.index = 11};
    struct image image = gradient();
    struct view_maker maker;

    (void)state;
    spec.n_pred_ratios = left.n_pred_ratios = 0;
    left.photometric = PHOTOMETRIC_BY_TRAINER;
    uint8_t *record = malloc(data_spec_record_bytes(&spec));
    uint8_t *raw = malloc(data_spec_record_bytes(&left));
    assert_int_equal(view_maker_open(&maker, NULL, NULL), STATUS_OK);
    assert_int_equal(view_render(&maker, &spec, 0, 11, &image, record), STATUS_OK);
    assert_int_equal(view_render(&maker, &left, 0, 11, &image, raw), STATUS_OK);
    struct picture picture = sheet_of(&left, &sample, NULL, raw);
    for (int32_t v = 0; v < spec.n_global + spec.n_local; v++)
        find(&picture, record + data_spec_view_offset(&spec, v), v < spec.n_global ? SIDE : SMALL);
    g_free(picture.pixels);

    struct sheet *sheet;
    bool added;
    memset(raw + data_spec_photometric_offset(&left, 1), 0xff, DATA_SPEC_PHOTOMETRIC_BYTES);
    assert_int_equal(sheet_open(&sheet, &left, 1, false), STATUS_OK);
    assert_int_equal(sheet_add(sheet, &sample, NULL, raw, &added), STATUS_CORRUPT);
    sheet_close(&sheet);
    view_maker_close(&maker);
    image_release(&image);
    free(record);
    free(raw);
}

/* The frame of each crop, in its colour, is also in the source image, where the crop was cut. */
static void boxes_in_the_source_are_where_the_crops_are(void **state)
{
    struct data_spec spec = small_spec();
    struct sample sample = {.index = 3};
    struct image image = gradient();
    struct view_maker maker;
    uint8_t *record = malloc(data_spec_record_bytes(&spec));

    (void)state;
    spec.n_pred_ratios = 0;
    spec.n_local = 0;
    assert_int_equal(view_maker_open(&maker, NULL, NULL), STATUS_OK);
    assert_int_equal(view_render(&maker, &spec, 0, 3, &image, record), STATUS_OK);
    struct picture picture = sheet_of(&spec, &sample, &image, record);
    int crop_x = find(&picture, record, SIDE);
    const uint8_t *pixels = picture.pixels;
    int crop_y = 0;
    while (memcmp(pixels + 3 * (crop_y * picture.width + crop_x), record, 3 * SIDE) != 0)
        crop_y++;
    const uint8_t *colour = pixels + 3 * ((crop_y - 1) * picture.width + crop_x);
    int left = picture.width, right = 0, top = picture.height, bottom = 0;
    for (int y = crop_y; y < crop_y + 192; y++) /* beside the first crop: the source */
        for (int x = 0; x < crop_x - 8; x++)
            if (memcmp(pixels + 3 * (y * picture.width + x), colour, 3) == 0) {
                left = x < left ? x : left;
                right = x > right ? x : right;
                top = y < top ? y : top;
                bottom = y > bottom ? y : bottom;
            }
    struct draw draw = {.spec = &spec, .sample = 3};
    struct region region = draw_region(&draw, WIDTH, HEIGHT);
    double scale = 0.96; /* of 300 x 200 in the box of 288 x 192 */
    assert_in_range(left, (int)(12 + region.left * scale) - 1, (int)(12 + region.left * scale) + 1);
    assert_in_range(right - left + 1, (int)(region.width * scale) - 1,
                    (int)(region.width * scale) + 1);
    assert_in_range(bottom - top + 1, (int)(region.height * scale) - 1,
                    (int)(region.height * scale) + 1);
    g_free(picture.pixels);
    view_maker_close(&maker);
    image_release(&image);
    free(record);
}

static void a_sheet_that_is_too_large_is_refused(void **state)
{
    struct data_spec spec = small_spec();
    struct sheet *sheet = NULL;

    (void)state;
    spec.global_size_px = 4096;
    spec.mask_cell_px = 64;
    assert_int_equal(sheet_open(&sheet, &spec, 1000, true), STATUS_INVALID);
    assert_null(sheet);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crops_are_on_the_sheet_as_they_are),
        cmocka_unit_test(colours_left_to_the_trainer_are_applied),
        cmocka_unit_test(boxes_in_the_source_are_where_the_crops_are),
        cmocka_unit_test(a_sheet_that_is_too_large_is_refused),
    };
    (void)argc;
    if (vips_init(argv[0]) != 0)
        return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    vips_shutdown();
    return failed;
}
