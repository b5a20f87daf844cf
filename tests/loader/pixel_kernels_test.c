/* Every instruction set's kernels against plain C, byte for byte, on random pictures of random
 * sizes; hue on every colour there is. The last test also prints how long each takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loader/resample.h"
#include "ops/pixels/photometric.h"
#include "ops/pixels/pixel_kernels.h"
#include "proto/base/clock.h"

/* The sets of this processor but plain C. */
static int other_sets(const struct pixel_kernels *sets[SIMD_COUNT])
{
    int n = 0;

    for (int simd = SIMD_NONE + 1; simd < SIMD_COUNT; simd++)
        if (pixel_kernels_for((enum simd)simd) != NULL)
            sets[n++] = pixel_kernels_for((enum simd)simd);
    return n;
}

static const struct pixel_kernels *plain(void)
{
    return pixel_kernels_for(SIMD_NONE);
}

static uint32_t random_state;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)random_state * n >> 32);
}

static float random_factor(void)
{
    static const float odd[] = {-1.0f, -0.25f, 0.999f, 1.001f, 2.0f, 300.0f, 1e8f};
    uint32_t choice = random_below(40);
    return choice < 7 ? odd[choice] : (float)random_below(2000) / 1000.0f;
}

/* Flat, smooth and noisy pictures, with many extreme values. */
static void random_planes(struct planes *planes, int32_t width, int32_t height)
{
    uint32_t kind = random_below(4);

    assert_int_equal(planes_reserve(planes, width, height), STATUS_OK);
    for (int c = 0; c < 3; c++) {
        uint32_t base = random_below(256);
        for (size_t i = 0; i < planes_n_pixels(planes); i++) {
            uint32_t value = kind == 0   ? base
                             : kind == 1 ? base + random_below(8)
                             : kind == 2 ? random_below(2) * 255
                                         : random_below(256);
            planes->channel[c][i] = (uint8_t)(value > 255 ? 255 : value);
        }
    }
}

static void copy_planes(struct planes *to, const struct planes *from)
{
    assert_int_equal(planes_reserve(to, from->width, from->height), STATUS_OK);
    for (int c = 0; c < 3; c++)
        memcpy(to->channel[c], from->channel[c], planes_n_pixels(from));
}

static void assert_planes_equal(const struct planes *a, const struct planes *b, const char *set,
                                const char *what)
{
    assert_int_equal(a->width, b->width);
    assert_int_equal(a->height, b->height);
    for (int c = 0; c < 3; c++)
        for (size_t i = 0; i < planes_n_pixels(a); i++)
            if (a->channel[c][i] != b->channel[c][i])
                fail_msg("%s %s: %d x %d, channel %d, pixel %zu: got %d, wanted %d", set, what,
                         a->width, a->height, c, i, a->channel[c][i], b->channel[c][i]);
}

enum operation { BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAYSCALE, SOLARIZE, BLUR, N_OPERATIONS };

static const char *const operation_names[] = {"brightness", "contrast", "saturation", "hue",
                                              "grayscale",  "solarize", "blur"};

static void operate(enum operation operation, const struct pixel_kernels *kernels,
                    struct planes *planes, float amount)
{
    struct photometric tools = {.kernels = kernels};

    switch (operation) {
    case BRIGHTNESS:
        photometric_brightness(&tools, planes, amount);
        break;
    case CONTRAST:
        photometric_contrast(&tools, planes, amount);
        break;
    case SATURATION:
        photometric_saturation(&tools, planes, amount);
        break;
    case HUE:
        photometric_hue(&tools, planes, amount);
        break;
    case GRAYSCALE:
        photometric_grayscale(&tools, planes);
        break;
    case SOLARIZE:
        photometric_solarize(&tools, planes, (int32_t)(amount * 256.0f));
        break;
    default:
        assert_int_equal(photometric_blur(&tools, planes, amount), STATUS_OK);
    }
    photometric_release(&tools);
}

static float random_amount(enum operation operation)
{
    switch (operation) {
    case HUE:
        return (float)random_below(1001) / 1000.0f - 0.5f;
    case BLUR:
        return random_below(8) == 0 ? (float)random_below(300) / 10.0f
                                    : (float)random_below(2000) / 1000.0f;
    case SOLARIZE:
        return (float)random_below(260) / 256.0f;
    default:
        return random_factor();
    }
}

static void colour_is_the_same_in_every_set(void **state)
{
    const struct pixel_kernels *sets[SIMD_COUNT];
    int n_sets = other_sets(sets);
    struct planes original = {0}, wanted = {0}, got = {0};

    (void)state;
    random_state = 1;
    for (int round = 0; round < 700; round++) {
        enum operation operation = (enum operation)(round % N_OPERATIONS);
        float amount = random_amount(operation);
        random_planes(&original, 1 + (int32_t)random_below(100), 1 + (int32_t)random_below(70));
        copy_planes(&wanted, &original);
        operate(operation, plain(), &wanted, amount);
        for (int i = 0; i < n_sets; i++) {
            copy_planes(&got, &original);
            operate(operation, sets[i], &got, amount);
            assert_planes_equal(&got, &wanted, sets[i]->name, operation_names[operation]);
        }
    }
    planes_release(&original);
    planes_release(&wanted);
    planes_release(&got);
}

static void every_colour_keeps_its_hue_in_every_set(void **state)
{
    const struct pixel_kernels *sets[SIMD_COUNT];
    int n_sets = other_sets(sets);
    struct planes original = {0}, wanted = {0}, got = {0};

    (void)state;
    assert_int_equal(planes_reserve(&original, 256, 256), STATUS_OK);
    for (size_t red = 0; red < 256; red++) {
        for (size_t i = 0; i < 65536; i++) {
            original.channel[0][i] = (uint8_t)red;
            original.channel[1][i] = (uint8_t)(i >> 8);
            original.channel[2][i] = (uint8_t)i;
        }
        copy_planes(&wanted, &original);
        plain()->hue(wanted.channel, 65536, (uint8_t)red);
        for (int i = 0; i < n_sets; i++) {
            copy_planes(&got, &original);
            sets[i]->hue(got.channel, 65536, (uint8_t)red);
            assert_planes_equal(&got, &wanted, sets[i]->name, "hue");
        }
    }
    planes_release(&original);
    planes_release(&wanted);
    planes_release(&got);
}

/* Noise is bounded by the file's own size: rows end where the memory ends, but for the padding. */
static void random_image(struct image *image)
{
    assert_int_equal(
        image_reserve(image, 1 + (int32_t)random_below(150), 1 + (int32_t)random_below(120)),
        STATUS_OK);
    size_t n = (size_t)image->width * (((size_t)image->height + 3) / 4 * 4) * IMAGE_CHANNELS;
    bool extreme = random_below(2) == 0;
    for (size_t i = 0; i < n; i++)
        image->pixels[i] = (uint8_t)(extreme ? random_below(2) * 255 : random_below(256));
}

static struct resample_plan random_plan(const struct image *image)
{
    uint32_t width = (uint32_t)image->width, height = (uint32_t)image->height;
    struct resample_plan plan = {.filter =
                                     random_below(2) == 0 ? RESAMPLE_BICUBIC : RESAMPLE_BILINEAR};

    plan.source.width = 1 + (int32_t)random_below(width);
    plan.source.height = 1 + (int32_t)random_below(height);
    plan.source.left = (int32_t)random_below(width - (uint32_t)plan.source.width + 1);
    plan.source.top = (int32_t)random_below(height - (uint32_t)plan.source.height + 1);
    plan.width = 1 + (int32_t)random_below(120);
    plan.height = 1 + (int32_t)random_below(120);
    plan.window.width = 1 + (int32_t)random_below((uint32_t)plan.width);
    plan.window.height = 1 + (int32_t)random_below((uint32_t)plan.height);
    plan.window.left = (int32_t)random_below((uint32_t)(plan.width - plan.window.width + 1));
    plan.window.top = (int32_t)random_below((uint32_t)(plan.height - plan.window.height + 1));
    return plan;
}

static void resizing_is_the_same_in_every_set(void **state)
{
    const struct pixel_kernels *sets[SIMD_COUNT];
    int n_sets = other_sets(sets);
    struct image image = {0};
    struct planes wanted = {0}, got = {0};
    struct resampler resamplers[SIMD_COUNT] = {{.kernels = plain()}};

    (void)state;
    random_state = 2;
    for (int i = 0; i < n_sets; i++)
        resamplers[i + 1].kernels = sets[i];
    for (int round = 0; round < 400; round++) {
        random_image(&image);
        struct resample_plan plan = random_plan(&image);
        assert_int_equal(resample(&resamplers[0], &wanted, &image, &plan), STATUS_OK);
        for (int i = 0; i < n_sets; i++) {
            assert_int_equal(resample(&resamplers[i + 1], &got, &image, &plan), STATUS_OK);
            assert_planes_equal(&got, &wanted, sets[i]->name, "resample");
        }
    }
    for (int i = 0; i <= n_sets; i++)
        resampler_release(&resamplers[i]);
    image_release(&image);
    planes_release(&wanted);
    planes_release(&got);
}

static void packing_is_the_same_in_every_set(void **state)
{
    const struct pixel_kernels *sets[SIMD_COUNT];
    int n_sets = other_sets(sets);
    struct planes planes = {0};

    (void)state;
    random_state = 3;
    for (int round = 0; round < 300; round++) {
        size_t n = 1 + random_below(150), bytes = 3 * n;
        uint8_t *wanted = malloc(bytes), *got = malloc(bytes + 1);
        random_planes(&planes, (int32_t)n, 1);
        const uint8_t *const rows[3] = {planes.channel[0], planes.channel[1], planes.channel[2]};
        bool mirrored = random_below(2) == 0;
        plain()->interleave(wanted, rows, n, mirrored);
        for (int i = 0; i < n_sets; i++) {
            got[bytes] = 0x5a;
            sets[i]->interleave(got, rows, n, mirrored);
            assert_memory_equal(got, wanted, bytes);
            assert_int_equal(got[bytes], 0x5a);
        }
        free(wanted);
        free(got);
    }
    planes_release(&planes);
}

static void transforming_is_the_same_in_every_set(void **state)
{
    enum { WIDTH = 23, HEIGHT = 17, TRIES = 200 };
    const struct pixel_kernels *sets[SIMD_COUNT];
    int n_sets = other_sets(sets);
    int32_t pixels[4 * WIDTH * HEIGHT];
    uint8_t wanted[3][WIDTH], got[3][WIDTH + 1];

    (void)state;
    for (int try = 0; try < TRIES; try++) {
        struct affine_source source = {.pixels = pixels,
                                       .width = WIDTH,
                                       .height = HEIGHT,
                                       .cubic = try % 2 == 0,
                                       .fill = {1, 2, 3}};
        for (size_t i = 0; i < sizeof(pixels) / sizeof(pixels[0]); i++)
            pixels[i] = (int32_t)random_below(256);
        for (int i = 0; i < 6; i++)
            source.m[i] = (random_below(2001) - 1000.0) / (i % 3 == 2 ? 100.0 : 900.0);
        for (int32_t y = 0; y < HEIGHT; y++) {
            uint8_t *const rows[3] = {wanted[0], wanted[1], wanted[2]};
            plain()->affine_row(rows, &source, y);
            for (int i = 0; i < n_sets; i++) {
                uint8_t *const others[3] = {got[0], got[1], got[2]};
                got[0][WIDTH] = got[1][WIDTH] = got[2][WIDTH] = 0x5a;
                sets[i]->affine_row(others, &source, y);
                for (int c = 0; c < 3; c++) {
                    assert_memory_equal(got[c], wanted[c], WIDTH);
                    assert_int_equal(got[c][WIDTH], 0x5a);
                }
            }
        }
    }
}

static void grouping_is_the_same_in_every_set(void **state)
{
    enum { MOST = 40 };
    const struct pixel_kernels *sets[SIMD_COUNT];
    int n_sets = other_sets(sets);
    uint8_t lines[16 * MOST], wanted[16 * MOST], got[16 * MOST];

    (void)state;
    for (size_t i = 0; i < sizeof(lines); i++)
        lines[i] = (uint8_t)(i * 37 >> 2);
    for (size_t width = 1; width <= MOST; width++) {
        plain()->group_rows(wanted, lines, 4 * width, width);
        assert_memory_equal(wanted + 4, lines + 4 * width, 4); /* row 1 follows row 0 */
        for (int i = 0; i < n_sets; i++) {
            sets[i]->group_rows(got, lines, 4 * width, width);
            assert_memory_equal(got, wanted, 16 * width);
        }
    }
}

static void time_operation(enum operation operation, const struct pixel_kernels *kernels,
                           const struct planes *original)
{
    static const float amounts[] = {0.9f, 1.2f, 0.7f, 0.1f, 0.0f, 0.5f, 1.5f};
    struct planes planes = {0};
    int64_t best = INT64_MAX;

    for (int round = 0; round < 3; round++) {
        copy_planes(&planes, original);
        int64_t start = clock_monotonic_ns();
        operate(operation, kernels, &planes, amounts[operation]);
        int64_t took = clock_monotonic_ns() - start;
        best = took < best ? took : best;
    }
    printf("  %-10s %8.3f\n", operation_names[operation],
           (double)best / (double)planes_n_pixels(original));
    planes_release(&planes);
}

static void what_each_costs_is_printed(void **state)
{
    struct planes picture = {0};
    struct image image = {0};

    (void)state;
    random_state = 4;
    assert_int_equal(image_reserve(&image, 448, 448), STATUS_OK);
    memset(image.pixels, 100, 448 * 448 * IMAGE_CHANNELS);
    do
        random_planes(&picture, 224, 224);
    while (picture.channel[0][0] == picture.channel[0][1]);
    for (int simd = 0; simd < SIMD_COUNT; simd++) {
        const struct pixel_kernels *kernels = pixel_kernels_for((enum simd)simd);
        if (kernels == NULL)
            continue;
        printf("%s, nanoseconds per pixel of 224 x 224:\n", kernels->name);
        for (int i = 0; i < N_OPERATIONS; i++)
            time_operation((enum operation)i, kernels, &picture);
        struct resampler resampler = {.kernels = kernels};
        struct resample_plan plan = resample_whole((struct region){3, 5, 350, 300}, 224, 224);
        struct planes out = {0};
        int64_t best = INT64_MAX;
        for (int round = 0; round < 3; round++) {
            int64_t start = clock_monotonic_ns();
            assert_int_equal(resample(&resampler, &out, &image, &plan), STATUS_OK);
            int64_t took = clock_monotonic_ns() - start;
            best = took < best ? took : best;
        }
        printf("  %-10s %8.3f\n", "resample", (double)best / (224.0 * 224.0));
        resampler_release(&resampler);
        planes_release(&out);
    }
    image_release(&image);
    planes_release(&picture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(colour_is_the_same_in_every_set),
        cmocka_unit_test(every_colour_keeps_its_hue_in_every_set),
        cmocka_unit_test(resizing_is_the_same_in_every_set),
        cmocka_unit_test(packing_is_the_same_in_every_set),
        cmocka_unit_test(grouping_is_the_same_in_every_set),
        cmocka_unit_test(transforming_is_the_same_in_every_set),
        cmocka_unit_test(what_each_costs_is_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
