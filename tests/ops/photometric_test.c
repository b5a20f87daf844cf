/* Colours of crops: the loaders' bytes, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/pixels/photometric.h"
#include "tests/support/op_fixture.h"

static struct photometric_params random_params(struct rng *rng)
{
    struct photometric_params params = {
        .steps = rng_below(rng, 16),
        .brightness = (float)rng_range(rng, 0.0, 2.0),
        .contrast = (float)rng_range(rng, 0.0, 2.0),
        .saturation = (float)rng_range(rng, 0.0, 2.0),
        .hue = (float)rng_range(rng, -0.5, 0.5),
        .blur_radius = (float)rng_range(rng, 0.0, 4.0),
        .solarize_threshold = (int32_t)rng_below(rng, 257),
    };

    for (int i = 0; i < 4; i++)
        params.order[i] = (uint8_t)rng_below(rng, 5);
    return params;
}

/* By the plain kernels, one crop at a time. */
static void reference(uint8_t *rgb, int32_t width, int32_t height,
                      const struct photometric_params *params)
{
    struct photometric tools = {.kernels = pixel_kernels_for(SIMD_NONE)};
    struct planes planes = {0};

    assert_int_equal(planes_from_rgb(&planes, rgb, width, height), STATUS_OK);
    assert_int_equal(photometric_apply(&tools, &planes, params), STATUS_OK);
    const uint8_t *const channels[3] = {planes.channel[0], planes.channel[1], planes.channel[2]};
    tools.kernels->interleave(rgb, channels, planes_n_pixels(&planes), false);
    photometric_release(&tools);
    planes_release(&planes);
}

/* The op on crops in host memory, which on the device begin `shift` bytes past an aligned place. */
static void run_op(struct op_fixture *f, uint8_t *pixels, int32_t n, int32_t width, int32_t height,
                   const struct photometric_params *params, size_t shift)
{
    size_t n_bytes = 3 * (size_t)n * (size_t)width * (size_t)height;
    size_t params_bytes = (size_t)n * PHOTOMETRIC_PARAMS_BYTES;
    void *memory, *on_device;

    op_run(f->device.alloc(&f->device, &memory, n_bytes + shift, "pixels"));
    op_run(f->device.alloc(&f->device, &on_device, params_bytes, "params"));
    uint8_t *at = (uint8_t *)memory + shift;
    op_run(f->device.copy_in(&f->device, at, pixels, n_bytes));
    op_run(f->device.copy_in(&f->device, on_device, params, params_bytes));
    struct photometric_args args = {
        .pixels = {at, DTYPE_U8, 4, {n, height, width, 3}},
        .params = tensor_2d(on_device, DTYPE_U8, n, PHOTOMETRIC_PARAMS_BYTES),
    };
    op_run(f->ops->photometric(&f->device, &args));
    op_run(f->device.copy_out(&f->device, pixels, at, n_bytes));
    op_run(f->device.synchronize(&f->device));
    f->device.free(&f->device, memory);
    f->device.free(&f->device, on_device);
}

static void expect_bytes(const uint8_t *got, const uint8_t *wanted, int32_t n, int32_t width,
                         int32_t height, const char *what)
{
    size_t crop_bytes = 3 * (size_t)width * (size_t)height;

    for (size_t i = 0; i < (size_t)n * crop_bytes; i++)
        if (got[i] != wanted[i])
            fail_msg("%s: crop %zu of %d, %d x %d px, x %zu, y %zu, channel %zu: got %d, wanted %d",
                     what, i / crop_bytes, n, width, height, i % crop_bytes / 3 % (size_t)width,
                     i % crop_bytes / 3 / (size_t)width, i % 3, got[i], wanted[i]);
}

/* Crops of random bytes with these parameters, against the reference. */
static void compare(struct op_fixture *f, int32_t n, int32_t width, int32_t height,
                    const struct photometric_params *params, size_t shift, const char *what)
{
    size_t crop_bytes = 3 * (size_t)width * (size_t)height, n_bytes = (size_t)n * crop_bytes;
    uint8_t *wanted = malloc(n_bytes), *got = malloc(n_bytes);

    for (size_t i = 0; i < n_bytes; i++)
        got[i] = wanted[i] = (uint8_t)rng_below(&f->rng, 256);
    for (int32_t i = 0; i < n; i++)
        reference(wanted + (size_t)i * crop_bytes, width, height, &params[i]);
    run_op(f, got, n, width, height, params, shift);
    expect_bytes(got, wanted, n, width, height, what);
    free(wanted);
    free(got);
}

static void crops_get_the_bytes_that_loaders_would_send(void **state)
{
    static const struct {
        int32_t n, width, height;
        size_t shift;
    } sizes[] = {
        /* the last: 48 KiB of shared memory beside what the kernel declares */
        {37, 1, 1, 0},  {37, 16, 16, 0}, {37, 33, 33, 0},  {9, 32, 7, 4},
        {9, 32, 7, 1},  {9, 5, 40, 0},   {9, 6, 1, 0},     {9, 1, 9, 3},
        {5, 31, 66, 8}, {5, 96, 96, 0},  {1, 104, 105, 0},
    };
    struct photometric_params params[37];
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 31);
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        for (int i = 0; i < sizes[s].n; i++)
            params[i] = random_params(&f.rng);
        compare(&f, sizes[s].n, sizes[s].width, sizes[s].height, params, sizes[s].shift, "random");
    }
    op_fixture_close(&f);
}

/* On an accelerator: a block of its own for each, and planes that do not fit into shared memory. */
static void large_crops_are_the_same(void **state)
{
    static const int32_t sizes[][2] = {{152, 150}, {149, 151}, {292, 284}, {3, 5000}};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 33);
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        struct photometric_params params[2] = {random_params(&f.rng), random_params(&f.rng)};
        params[0].steps = 15; /* all of them */
        params[0].order[1] = 1;
        params[0].blur_radius = 1.7f;
        compare(&f, 2, sizes[s][0], sizes[s][1], params, 0, "large");
    }
    op_fixture_close(&f);
}

static void amounts_at_their_ends_are_the_same(void **state)
{
    enum { N = 24, SIDE = 20 };
    static const float factors[] = {0.0f, 1e-30f, 0.5f, 1.0f, 1.0000001f, 2.0f, 255.0f, 1000.0f};
    static const float turns[] = {-0.5f, -0.0039f, -0.0f, 0.0f, 0.0039f, 0.1f, 0.25f, 0.5f};
    static const float radii[] = {0.0f, 1e-3f, 0.3f, 1.0f, 2.0f, 8.9f, 31.0f, 100.0f};
    static const int32_t thresholds[] = {0, 1, 127, 128, 129, 254, 255, 256};
    struct photometric_params params[N];
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 34);
    for (int i = 0; i < N; i++) {
        params[i] = (struct photometric_params){.steps = i < 8    ? 1u
                                                         : i < 16 ? 4u
                                                                  : 15u,
                                                .brightness = factors[i % 8],
                                                .contrast = factors[(i + 3) % 8],
                                                .saturation = factors[(i + 5) % 8],
                                                .hue = turns[i % 8],
                                                .blur_radius = radii[i % 8],
                                                .solarize_threshold = thresholds[i % 8],
                                                .order = {1, 0, 3, 2}};
        if (i % 3 == 0) /* the same twice, and nothing */
            memcpy(params[i].order, (uint8_t[4]){1, 1, 4, 1}, 4);
    }
    compare(&f, N, SIDE, SIDE, params, 0, "ends");
    op_fixture_close(&f);
}

/* Crops whose pixels are colours in their order, a hue for each crop. */
static void colours_keep_their_hue(void **state)
{
    enum { SIDE = 64, STEP = 16 };
    struct op_fixture f;
    int32_t n = 0;

    (void)state;
    op_fixture_open(&f, 35);
    bool all = strcmp(f.ops->name, "cuda") == 0; /* the CPU's own test has them all too */
    int32_t most = 4096 / (all ? 1 : STEP);
    size_t crop_bytes = 3 * SIDE * SIDE;
    uint8_t *wanted = malloc((size_t)most * crop_bytes), *got = malloc((size_t)most * crop_bytes);
    struct photometric_params *params = calloc((size_t)most, sizeof(*params));
    for (uint32_t crop = 0; crop < 4096; crop++) {
        if (!all && (crop + crop / STEP) % STEP != 0)
            continue; /* some of the reds, and of the greens */
        uint8_t *at = wanted + (size_t)n * crop_bytes;
        for (uint32_t i = 0; i < SIDE * SIDE; i++) {
            uint32_t colour = crop * SIDE * SIDE + i;
            for (uint32_t c = 0; c < 3; c++)
                *at++ = (uint8_t)(colour >> 8 * (2 - c));
        }
        params[n++] = (struct photometric_params){
            .steps = 1, .hue = (float)((int)(crop / 16) - 128) / 256.0f, .order = {3, 4, 4, 4}};
    }
    assert_int_equal(n, most);
    memcpy(got, wanted, (size_t)n * crop_bytes);
    for (int32_t i = 0; i < n; i++)
        reference(wanted + (size_t)i * crop_bytes, SIDE, SIDE, &params[i]);
    run_op(&f, got, n, SIDE, SIDE, params, 0);
    expect_bytes(got, wanted, n, SIDE, SIDE, "colours");
    free(wanted);
    free(got);
    free(params);
    op_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ wrong ones */

static void wrong_parameters_are_refused_and_change_nothing(void **state)
{
    enum { SIDE = 6, N = 9 };
    struct photometric_params good = {
        .steps = 15, .brightness = 0.5f, .blur_radius = 1.0f, .order = {0, 1, 2, 3}};
    struct photometric_params params[N];
    uint8_t before[N][3 * SIDE * SIDE], after[N][3 * SIDE * SIDE];
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 32);
    for (int i = 0; i < N; i++)
        params[i] = good;
    params[1].order[2] = 5;
    params[2].blur_radius = 1e9f;
    params[3].hue = NAN;
    params[4].steps = 16;
    params[5].contrast = -1.0f;
    params[6].solarize_threshold = 257;
    params[7].blur_radius = NAN;
    for (int i = 1; i < N - 1; i++) {
        assert_int_equal(photometric_params_check((const uint8_t *)params, i),
                         i == 1 ? STATUS_OK : STATUS_CORRUPT);
        assert_int_equal(photometric_params_check((const uint8_t *)&params[i], 1), STATUS_CORRUPT);
        assert_non_null(strstr(status_message(), "crop 0"));
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 3 * SIDE * SIDE; j++)
            before[i][j] = (uint8_t)rng_below(&f.rng, 256);
    memcpy(after, before, sizeof(before));
    run_op(&f, after[0], N, SIDE, SIDE, params, 0);
    for (int i = 1; i < N - 1; i++)
        assert_memory_equal(after[i], before[i], sizeof(before[i]));
    reference(before[0], SIDE, SIDE, &params[0]);
    reference(before[N - 1], SIDE, SIDE, &params[N - 1]);
    assert_memory_equal(after[0], before[0], sizeof(before[0]));
    assert_memory_equal(after[N - 1], before[N - 1], sizeof(before[0]));
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crops_get_the_bytes_that_loaders_would_send),
        cmocka_unit_test(large_crops_are_the_same),
        cmocka_unit_test(amounts_at_their_ends_are_the_same),
        cmocka_unit_test(colours_keep_their_hue),
        cmocka_unit_test(wrong_parameters_are_refused_and_change_nothing),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
