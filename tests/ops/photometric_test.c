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

enum { N = 37, MOST_SIDE = 33 };

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
static void reference(uint8_t *rgb, int32_t side, const struct photometric_params *params)
{
    struct photometric tools = {.kernels = pixel_kernels_for(SIMD_NONE)};
    struct planes planes = {0};

    assert_int_equal(planes_from_rgb(&planes, rgb, side, side), STATUS_OK);
    assert_int_equal(photometric_apply(&tools, &planes, params), STATUS_OK);
    const uint8_t *const channels[3] = {planes.channel[0], planes.channel[1], planes.channel[2]};
    tools.kernels->interleave(rgb, channels, planes_n_pixels(&planes), false);
    photometric_release(&tools);
    planes_release(&planes);
}

/* Bytes to device memory; to be freed. */
static void *upload(struct op_fixture *f, const void *bytes, size_t n_bytes)
{
    void *memory;

    op_run(f->device.alloc(&f->device, &memory, n_bytes, "bytes"));
    op_run(f->device.copy_in(&f->device, memory, bytes, n_bytes));
    op_run(f->device.synchronize(&f->device));
    return memory;
}

static void crops_get_the_bytes_that_loaders_would_send(void **state)
{
    static const int32_t sides[] = {1, 16, MOST_SIDE};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 31);
    for (size_t s = 0; s < sizeof(sides) / sizeof(sides[0]); s++) {
        int32_t side = sides[s];
        size_t crop_bytes = 3 * (size_t)side * (size_t)side, n_bytes = N * crop_bytes;
        struct photometric_params params[N];
        uint8_t *wanted = malloc(n_bytes), *got = malloc(n_bytes);
        for (size_t i = 0; i < n_bytes; i++)
            wanted[i] = (uint8_t)rng_below(&f.rng, 256);
        for (int i = 0; i < N; i++)
            params[i] = random_params(&f.rng);
        uint8_t *pixels = upload(&f, wanted, n_bytes);
        uint8_t *on_device = upload(&f, params, sizeof(params));
        for (int i = 0; i < N; i++)
            reference(wanted + (size_t)i * crop_bytes, side, &params[i]);
        struct photometric_args args = {
            .pixels = {pixels, DTYPE_U8, 4, {N, side, side, 3}},
            .params = tensor_2d(on_device, DTYPE_U8, N, PHOTOMETRIC_PARAMS_BYTES),
        };
        op_run(f.ops->photometric(&f.device, &args));
        op_run(f.device.copy_out(&f.device, got, pixels, n_bytes));
        op_run(f.device.synchronize(&f.device));
        assert_memory_equal(got, wanted, n_bytes);
        f.device.free(&f.device, pixels);
        f.device.free(&f.device, on_device);
        free(wanted);
        free(got);
    }
    op_fixture_close(&f);
}

static void wrong_parameters_are_refused(void **state)
{
    struct op_fixture f;
    struct device cpu;
    uint8_t pixels[3] = {1, 2, 3};
    struct photometric_params good = {.solarize_threshold = 128}, bad;
    struct photometric_args args = {
        .pixels = {pixels, DTYPE_U8, 4, {1, 1, 1, 3}},
        .params = tensor_2d(&bad, DTYPE_U8, 1, PHOTOMETRIC_PARAMS_BYTES),
    };

    (void)state;
    op_fixture_open(&f, 32);
    op_run(device_open_cpu(&cpu, 1));
    bad = good;
    op_run(photometric_cpu(&cpu, &args));
    bad.order[2] = 5;
    assert_int_equal(photometric_cpu(&cpu, &args), STATUS_CORRUPT);
    bad = good;
    bad.blur_radius = 1e9f;
    assert_int_equal(photometric_cpu(&cpu, &args), STATUS_CORRUPT);
    bad = good;
    bad.hue = NAN;
    assert_int_equal(photometric_cpu(&cpu, &args), STATUS_CORRUPT);
    bad = good;
    bad.steps = 16;
    assert_int_equal(photometric_cpu(&cpu, &args), STATUS_CORRUPT);
    assert_non_null(strstr(status_message(), "crop 0"));
    device_close(&cpu);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crops_get_the_bytes_that_loaders_would_send),
        cmocka_unit_test(wrong_parameters_are_refused),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
