/* Thumbnails: sizes and bytes of Pillow 13's Image.thumbnail((most, most), LANCZOS) on the same
 * made-up pictures. */
#include "loader/thumbnail.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct thumbnail_case {
    int32_t width, height, most;
    struct region region; /* width 0: all of it */
    int32_t wanted_width, wanted_height;
    uint32_t wanted; /* FNV-1a of its RGB bytes */
} cases[] = {
    {100, 75, 40, {0}, 40, 30, 0x6f6f1934},
    {75, 100, 40, {0}, 30, 40, 0x14c3a8a8},
    {301, 97, 32, {0}, 32, 10, 0xaa9f4281},
    {640, 480, 100, {0}, 100, 75, 0x37009c11},
    {50, 50, 64, {0}, 50, 50, 0x0ad6af4a},
    {333, 7, 64, {0}, 64, 2, 0x35e34dcb},
    {400, 300, 50, {13, 17, 348, 273}, 50, 39, 0x229a694f},
};

static void fill(struct image *image, int32_t width, int32_t height)
{
    assert_int_equal(image_reserve(image, width, height), STATUS_OK);
    for (int32_t y = 0; y < height; y++)
        for (int32_t x = 0; x < width; x++) {
            uint8_t *pixel = image_pixel(image, (size_t)x, (size_t)y);
            pixel[0] = (uint8_t)(x * 7 + y * 13 + x * y / 5);
            pixel[1] = (uint8_t)(x * x / 3 + y * 29);
            pixel[2] = (uint8_t)(x / 4 % 2 * 200 + y * 3);
        }
}

static uint32_t hash_of(const struct planes *planes)
{
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < planes_n_pixels(planes); i++)
        for (int c = 0; c < 3; c++)
            hash = (hash ^ planes->channel[c][i]) * 16777619u;
    return hash;
}

static void run(const struct pixel_kernels *kernels)
{
    struct resampler resampler = {.kernels = kernels};
    struct image image = {0}, reduced = {0};
    struct planes out = {0};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct thumbnail_case *c = &cases[i];
        struct region region = c->region;
        if (region.width == 0)
            region = (struct region){0, 0, c->width, c->height};
        fill(&image, c->width, c->height);
        assert_int_equal(thumbnail(&resampler, &out, &reduced, &image, region, c->most), STATUS_OK);
        assert_int_equal(out.width, c->wanted_width);
        assert_int_equal(out.height, c->wanted_height);
        if (hash_of(&out) != c->wanted)
            fail_msg("case %zu: other bytes than Pillow's in set %s", i, kernels->name);
    }
    planes_release(&out);
    image_release(&image);
    image_release(&reduced);
    resampler_release(&resampler);
}

static void thumbnails_are_pillows_in_every_set(void **state)
{
    (void)state;
    for (int simd = 0; simd < SIMD_COUNT; simd++)
        if (pixel_kernels_for((enum simd)simd) != NULL)
            run(pixel_kernels_for((enum simd)simd));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(thumbnails_are_pillows_in_every_set)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
