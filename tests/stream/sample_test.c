/* What is shown of a sample is what is done to it. */
#include "stream/sample.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loader/rand_augment.h"
#include "loader/resample.h"
#include "loader/view.h"

enum { WIDTH = 90, HEIGHT = 70, SAMPLES = 40 };

static struct data_spec small_spec(void)
{
    struct data_spec spec = data_spec_default();

    spec.global_size_px = 32;
    spec.local_size_px = 16;
    spec.n_local = 3;
    spec.mask_cell_px = 4;
    spec.first.solarize = 0.3f;
    return spec;
}

static struct image noise(void)
{
    struct image image = {0};
    uint32_t state = 1;

    assert_int_equal(image_reserve(&image, WIDTH, HEIGHT), STATUS_OK);
    for (size_t y = 0; y < HEIGHT; y++)
        for (size_t x = 0; x < WIDTH; x++)
            for (int c = 0; c < 3; c++) {
                state = state * 1664525 + 1013904223;
                image_pixel(&image, x, y)[c] = (uint8_t)(state >> 24);
            }
    return image;
}

/* The operations of RandAugment, by their names. */
static void remake_augment(struct planes *planes, struct photometric *tools, const json_t *steps)
{
    struct scratch work = {0};
    const json_t *one;
    size_t i;

    json_array_foreach(steps, i, one)
    {
        const char *name = json_string_value(json_object_get(one, "operation"));
        const char *filter = json_string_value(json_object_get(one, "interpolation"));
        struct rand_augment_step step = {.amount = json_real_value(json_object_get(one, "amount")),
                                         .cubic = filter != NULL && strcmp(filter, "bicubic") == 0,
                                         .fill = {124, 116, 104}};
        while (step.op < RAND_AUGMENT_OPS && strcmp(name, rand_augment_names[step.op]) != 0)
            step.op++;
        assert_true(step.op < RAND_AUGMENT_OPS);
        assert_int_equal(rand_augment_apply(planes, &step, tools, &work), STATUS_OK);
    }
    scratch_release(&work);
}

/* Makes one view again from what the description says, step by step. */
static void remake(const struct image *image, const json_t *view, int32_t side, uint8_t *out)
{
    static const char *const names[] = {"brightness", "contrast", "saturation", "hue"};
    const struct pixel_kernels *kernels = pixel_kernels_best();
    struct resampler resampler = {.kernels = kernels};
    struct photometric tools = {.kernels = kernels};
    struct planes planes = {0};
    const json_t *crop = json_object_get(view, "crop"), *jitter = json_object_get(view, "jitter");
    struct region region = {(int32_t)json_integer_value(json_object_get(crop, "left")),
                            (int32_t)json_integer_value(json_object_get(crop, "top")),
                            (int32_t)json_integer_value(json_object_get(crop, "width")),
                            (int32_t)json_integer_value(json_object_get(crop, "height"))};
    struct resample_plan plan = resample_whole(region, side, side);
    size_t i;
    json_t *name;

    const char *filter = json_string_value(json_object_get(view, "interpolation"));
    plan.filter =
        filter != NULL && strcmp(filter, "bilinear") == 0 ? RESAMPLE_BILINEAR : RESAMPLE_BICUBIC;
    assert_int_equal(resample(&resampler, &planes, image, &plan), STATUS_OK);
    bool flip = json_is_true(json_object_get(view, "flip"));
    const json_t *augment = json_object_get(view, "rand_augment");
    if (augment != NULL && flip) { /* before them */
        for (int c = 0; c < 3; c++)
            for (int32_t y = 0; y < side; y++)
                for (int32_t x = 0; x < side / 2; x++) {
                    uint8_t *row = planes.channel[c] + y * side, value = row[x];
                    row[x] = row[side - 1 - x];
                    row[side - 1 - x] = value;
                }
        flip = false;
    }
    remake_augment(&planes, &tools, augment);
    json_array_foreach(json_object_get(jitter, "order"), i, name)
    {
        const char *word = json_string_value(name);
        float value = (float)json_real_value(json_object_get(jitter, word));
        if (strcmp(word, names[0]) == 0)
            photometric_brightness(&tools, &planes, value);
        else if (strcmp(word, names[1]) == 0)
            photometric_contrast(&tools, &planes, value);
        else if (strcmp(word, names[2]) == 0)
            photometric_saturation(&tools, &planes, value);
        else if (strcmp(word, names[3]) == 0)
            photometric_hue(&tools, &planes, value);
        else
            fail_msg("%s", word);
    }
    if (json_is_true(json_object_get(view, "grayscale")))
        photometric_grayscale(&tools, &planes);
    const json_t *radius = json_object_get(view, "blur_radius");
    const json_t *threshold = json_object_get(view, "solarize_threshold");
    if (radius != NULL)
        assert_int_equal(photometric_blur(&tools, &planes, (float)json_real_value(radius)),
                         STATUS_OK);
    if (threshold != NULL)
        photometric_solarize(&tools, &planes, (int32_t)json_integer_value(threshold));
    for (int32_t y = 0; y < side; y++)
        for (int32_t x = 0; x < side; x++)
            for (int c = 0; c < 3; c++)
                out[3 * (y * side + x) + c] =
                    planes.channel[c][y * side + (flip ? side - 1 - x : x)];
    planes_release(&planes);
    resampler_release(&resampler);
    photometric_release(&tools);
}

static void assert_mask(const struct data_spec *spec, const json_t *view, const uint8_t *bits)
{
    const json_t *mask = json_object_get(view, "mask");
    int32_t grid = data_spec_mask_grid(spec), n = 0;

    assert_int_equal(json_integer_value(json_object_get(mask, "grid")), grid);
    for (int32_t i = 0; i < grid * grid; i++) {
        const char *row =
            json_string_value(json_array_get(json_object_get(mask, "rows"), (size_t)(i / grid)));
        assert_int_equal(row[i % grid] == '#', bits[i / 8] >> (i % 8) & 1);
        n += row[i % grid] == '#';
    }
    assert_int_equal(json_integer_value(json_object_get(mask, "cells")), n);
}

static void a_view_can_be_made_again_from_its_description(void **state)
{
    const struct data_spec spec = small_spec();
    struct image image = noise();
    struct view_maker maker;
    uint8_t *record = malloc(data_spec_record_bytes(&spec)), crop[3 * 32 * 32];
    int n_of[4] = {0};

    (void)state;
    assert_int_equal(view_maker_open(&maker, NULL, NULL), STATUS_OK);
    for (uint32_t s = 0; s < SAMPLES; s++) {
        struct sample sample = {.epoch = (int32_t)s % 3,
                                .index = s,
                                .made = true,
                                .width = WIDTH,
                                .height = HEIGHT,
                                .path = "caf\xe9.jpg"};
        assert_int_equal(view_render(&maker, &spec, sample.epoch, s, &image, record), STATUS_OK);
        json_t *described = sample_json(&spec, &sample, true);
        assert_string_equal(json_string_value(json_object_get(described, "path")), "caf?.jpg");
        const json_t *views = json_object_get(described, "views");
        assert_int_equal(json_array_size(views), spec.n_global + spec.n_local);
        for (int32_t v = 0; v < spec.n_global + spec.n_local; v++) {
            const json_t *view = json_array_get(views, (size_t)v);
            bool global = v < spec.n_global;
            remake(&image, view, global ? 32 : 16, crop);
            assert_memory_equal(crop, record + data_spec_view_offset(&spec, v),
                                data_spec_view_bytes(&spec, v));
            if (global)
                assert_mask(&spec, view, record + data_spec_mask_offset(&spec, v));
            n_of[0] += json_object_get(view, "jitter") != NULL;
            n_of[1] += json_is_true(json_object_get(view, "grayscale"));
            n_of[2] += json_object_get(view, "blur_radius") != NULL;
            n_of[3] += json_object_get(view, "solarize_threshold") != NULL;
        }
        json_decref(described);
    }
    for (int i = 0; i < 4; i++)
        assert_true(n_of[i] > 0);
    view_maker_close(&maker);
    image_release(&image);
    free(record);
}

static void a_fine_tuning_crop_can_be_made_again_from_its_description(void **state)
{
    struct data_spec spec = data_spec_fine_tuning(32);
    struct image image = noise();
    struct view_maker maker;
    uint8_t record[3 * 32 * 32], crop[3 * 32 * 32];
    char letters[64];
    size_t n_steps = 0;

    (void)state;
    spec.repeats = 3;
    spec.interpolation = INTERPOLATION_RANDOM;
    assert_int_equal(view_maker_open(&maker, NULL, NULL), STATUS_OK);
    for (uint32_t s = 0; s < 5 * SAMPLES; s++) {
        struct sample sample = {.position = s, .index = s / 3, .width = WIDTH, .height = HEIGHT};
        assert_int_equal(
            view_render_repeat(&maker, &spec, 0, s / 3, (int32_t)s % 3, &image, record), STATUS_OK);
        json_t *described = sample_json(&spec, &sample, true);
        const json_t *view = json_array_get(json_object_get(described, "views"), 0);
        remake(&image, view, 32, crop);
        assert_memory_equal(crop, record, sizeof(crop));
        size_t n = json_array_size(json_object_get(view, "rand_augment"));
        sample_letters(&spec, &sample, 0, letters, sizeof(letters));
        assert_int_equal(strlen(letters), 3 * n + json_is_true(json_object_get(view, "flip")));
        n_steps += n;
        json_decref(described);
    }
    assert_in_range(n_steps, 4 * SAMPLES, 6 * SAMPLES); /* one of two, in the mean */
    view_maker_close(&maker);
    image_release(&image);
}

static void text_and_letters_say_the_same(void **state)
{
    const struct data_spec spec = small_spec();

    (void)state;
    for (uint32_t s = 0; s < SAMPLES; s++) {
        struct sample sample = {.index = s, .width = WIDTH, .height = HEIGHT};
        char *text = NULL, letters[32];
        size_t n = 0;
        FILE *out = open_memstream(&text, &n);
        sample_print(out, &spec, &sample, true);
        fclose(out);
        char *line = strchr(text, '\n') + 1;
        for (int32_t v = 0; v < spec.n_global + spec.n_local; v++) {
            char *end = strchr(line, '\n');
            *end = '\0';
            sample_letters(&spec, &sample, v, letters, sizeof(letters));
            assert_int_equal(strchr(letters, 'F') != NULL, strstr(line, ", flip") != NULL);
            assert_int_equal(strchr(letters, 'J') != NULL, strstr(line, ", jitter (") != NULL);
            assert_int_equal(strchr(letters, 'G') != NULL, strstr(line, ", grey") != NULL);
            assert_int_equal(strchr(letters, 'B') != NULL, strstr(line, ", blur ") != NULL);
            assert_int_equal(strchr(letters, 'S') != NULL, strstr(line, ", solarize ") != NULL);
            line = end + 1;
        }
        assert_int_equal(*line, '\0');
        free(text);
    }
}

static void images_that_were_passed_over_are_named(void **state)
{
    const struct data_spec spec = small_spec();
    const struct bad_image bad[] = {
        {.index = 7, .kind = BAD_IMAGE_MISSING, .path = "/data/7.jpg", .reason = "no such file"},
        {.index = 9, .kind = BAD_IMAGE_CORRUPT, .path = "/data/\xff.jpg", .reason = "truncated"},
    };
    struct sample sample = {
        .index = 8, .made = true, .n_substituted = 2, .n_repaired = 3, .bad_images = bad};
    char *text = NULL;
    size_t n = 0;

    (void)state;
    sample.n_bad_images = 2;
    FILE *out = open_memstream(&text, &n);
    sample_print(out, &spec, &sample, false);
    fclose(out);
    assert_non_null(strstr(text, "repaired in 3 places"));
    assert_non_null(strstr(text, "bad image 7 (missing) '/data/7.jpg': no such file"));
    free(text);
    json_t *described = sample_json(&spec, &sample, false);
    const json_t *images = json_object_get(described, "bad_images");
    assert_int_equal(json_array_size(images), 2);
    const json_t *second = json_array_get(images, 1);
    assert_int_equal(json_integer_value(json_object_get(second, "index")), 9);
    assert_string_equal(json_string_value(json_object_get(second, "kind")), "corrupt");
    assert_string_equal(json_string_value(json_object_get(second, "path")), "/data/?.jpg");
    assert_int_equal(json_integer_value(json_object_get(described, "repaired")), 3);
    json_decref(described);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_view_can_be_made_again_from_its_description),
        cmocka_unit_test(a_fine_tuning_crop_can_be_made_again_from_its_description),
        cmocka_unit_test(text_and_letters_say_the_same),
        cmocka_unit_test(images_that_were_passed_over_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
