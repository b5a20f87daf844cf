/* The contact sheet shows crops and masks where they belong, and is a PNG that can be read back. */
#include "trainer/picture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <vips/vips.h>

#include <cmocka.h>

enum { B = 3, G = 2, L = 3, S = 32, LOCAL = 16, GRID = 4 };

struct fixture {
    char folder[64], path[128];
    struct data_spec spec;
    struct batch batch;
};

static int fixture_open(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    strcpy(fixture->folder, "/tmp/ibot-picture-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->path, sizeof(fixture->path), "%s/crops.png", fixture->folder);
    fixture->spec = data_spec_default();
    fixture->spec.n_global = G;
    fixture->spec.global_size_px = S;
    fixture->spec.n_local = L;
    fixture->spec.local_size_px = LOCAL;
    fixture->spec.mask_cell_px = S / GRID;
    fixture->batch = (struct batch){.n_samples = B,
                                    .globals = malloc(G * B * S * S * 3),
                                    .locals = malloc(L * B * LOCAL * LOCAL * 3),
                                    .masks = calloc(G * B, GRID * GRID)};
    memset(fixture->batch.globals, 200, G * B * S * S * 3);
    memset(fixture->batch.locals, 90, L * B * LOCAL * LOCAL * 3);
    *state = fixture;
    return 0;
}

/* Also shows that nothing but the picture was left behind. */
static int fixture_close(void **state)
{
    struct fixture *fixture = *state;
    free(fixture->batch.globals);
    free(fixture->batch.locals);
    free(fixture->batch.masks);
    unlink(fixture->path);
    int removed = rmdir(fixture->folder);
    free(fixture);
    return removed;
}

/* The decoded file; free it with g_free. */
static uint8_t *sheet_read(const char *path, int *width, int *height)
{
    size_t bytes;
    VipsImage *image = vips_image_new_from_file(path, NULL);
    assert_non_null(image);
    assert_int_equal(image->Bands, 3);
    *width = image->Xsize;
    *height = image->Ysize;
    uint8_t *pixels = vips_image_write_to_memory(image, &bytes);
    g_object_unref(image);
    return pixels;
}

static void crops_and_masks_are_where_they_belong(void **state)
{
    struct fixture *fixture = *state;
    int width, height;

    /* sample 1, global view 0, cell (2, 3): masked */
    fixture->batch.masks[1 * GRID * GRID + 2 * GRID + 3] = 1;
    assert_int_equal(picture_contact_sheet(fixture->path, &fixture->batch, &fixture->spec, 2),
                     STATUS_OK);
    uint8_t *pixels = sheet_read(fixture->path, &width, &height);
    /* 32 px are enlarged to 128: two rows of samples, locals in two rows and two columns */
    assert_int_equal(height, 12 + 2 * (132 + 12));
    assert_int_equal(width, 2 * 12 + 2 * 132 - 4 + 8 + 2 * 68);
    const uint8_t *row = pixels + (size_t)(12 + 144 + 2 * 32 + 16) * (size_t)width * 3;
    assert_int_equal(row[3 * (12 + 3 * 32 + 16)], 200 * 70 / 256);
    assert_int_equal(row[3 * (12 + 3 * 32)], 255); /* the outline */
    assert_int_equal(row[3 * (12 + 3 * 32) + 2], 0);
    assert_int_equal(row[3 * (12 + 2 * 32 + 16)], 200);
    assert_int_equal(row[3 * (12 + 132 + 3 * 32 + 16)], 200); /* the other view is not masked */
    assert_int_equal(row[3 * (12 + 2 * 132 + 8 + 5)], 90);
    assert_int_equal(row[3 * 4], 246);
    g_free(pixels);
}

static void batches_without_local_crops_and_masks_are_drawn(void **state)
{
    struct fixture *fixture = *state;
    int width, height;

    fixture->spec.n_local = 0;
    fixture->spec.n_pred_ratios = 0;
    free(fixture->batch.locals);
    free(fixture->batch.masks);
    fixture->batch.locals = fixture->batch.masks = NULL;
    assert_int_equal(picture_contact_sheet(fixture->path, &fixture->batch, &fixture->spec, 0),
                     STATUS_OK);
    uint8_t *pixels = sheet_read(fixture->path, &width, &height);
    assert_int_equal(height, 12 + 3 * (128 + 12));
    g_free(pixels);
}

static void an_empty_batch_and_a_bad_path_are_refused(void **state)
{
    struct fixture *fixture = *state;

    assert_int_equal(
        picture_contact_sheet("/nonexistent/a.png", &fixture->batch, &fixture->spec, 1), STATUS_IO);
    fixture->batch.n_samples = 0;
    assert_int_equal(picture_contact_sheet(fixture->path, &fixture->batch, &fixture->spec, 1),
                     STATUS_INVALID);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, fixture_open, fixture_close)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(crops_and_masks_are_where_they_belong),
        TEST(batches_without_local_crops_and_masks_are_drawn),
        TEST(an_empty_batch_and_a_bad_path_are_refused),
    };
    (void)argc;
    if (vips_init(argv[0]) != 0)
        return 1;
    int failed = cmocka_run_group_tests_name("trainer.picture", tests, NULL, NULL);
    vips_shutdown();
    return failed;
}
