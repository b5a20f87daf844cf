/* Colours of a crop against stored results of Pillow and torchvision, on every backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/pixels/photometric.h"
#include "tests/support/op_fixture.h"
#include "trainer/weights/safetensors.h"

static const struct safetensors_entry *find(const struct safetensors *file, const char *format,
                                            int i)
{
    char name[64];

    snprintf(name, sizeof(name), format, i);
    const struct safetensors_entry *entry = safetensors_find(file, name);
    if (entry == NULL)
        fail_msg("the file of stored values lacks '%s'", name);
    return entry;
}

static void expect_stored(struct op_fixture *f, const struct safetensors *file, const char *format,
                          int i, const struct photometric_params *params)
{
    const struct safetensors_entry *crop = find(file, "crop", 0), *wanted = find(file, format, i);
    int64_t height = crop->file_shape[0], width = crop->file_shape[1];
    const uint8_t *bytes = wanted->tensor.data;
    void *pixels, *on_device;

    assert_int_equal(wanted->n_bytes, crop->n_bytes);
    op_run(f->device.alloc(&f->device, &pixels, crop->n_bytes, "pixels"));
    op_run(f->device.alloc(&f->device, &on_device, sizeof(*params), "params"));
    op_run(f->device.copy_in(&f->device, pixels, crop->tensor.data, crop->n_bytes));
    op_run(f->device.copy_in(&f->device, on_device, params, sizeof(*params)));
    struct photometric_args args = {
        .pixels = {pixels, DTYPE_U8, 4, {1, height, width, 3}},
        .params = tensor_2d(on_device, DTYPE_U8, 1, PHOTOMETRIC_PARAMS_BYTES),
    };
    uint8_t *got = malloc(crop->n_bytes);
    op_run(f->ops->photometric(&f->device, &args));
    op_run(f->device.copy_out(&f->device, got, pixels, crop->n_bytes));
    op_run(f->device.synchronize(&f->device));
    for (size_t at = 0; at < crop->n_bytes; at++)
        if (got[at] != bytes[at])
            fail_msg("%s, byte %zu: got %d, wanted %d", wanted->name, at, got[at], bytes[at]);
    free(got);
    f->device.free(&f->device, pixels);
    f->device.free(&f->device, on_device);
}

static void bytes_are_those_of_pillow(void **state)
{
    static const char *const jitters[4] = {"brightness", "contrast", "saturation", "hue"};
    struct photometric_params grey = {.steps = PHOTOMETRIC_GRAYSCALE};
    struct photometric_params inverted = {.steps = PHOTOMETRIC_SOLARIZE, .solarize_threshold = 128};
    struct safetensors file = {0};
    struct op_fixture f;
    char path[512], name[64];

    (void)state;
    op_fixture_open(&f, 36);
    snprintf(path, sizeof(path), "%s/golden/image_ops.safetensors", getenv("IBOT_TEST_DATA"));
    op_run(safetensors_open(&file, path));
    for (uint8_t kind = 0; kind < 4; kind++) {
        snprintf(name, sizeof(name), "%s_factors", jitters[kind]);
        const struct safetensors_entry *factors = find(&file, name, 0);
        snprintf(name, sizeof(name), "%s%%d", jitters[kind]);
        for (int i = 0; i < factors->file_shape[0]; i++) {
            float factor = ((const float *)factors->tensor.data)[i];
            struct photometric_params params = {.steps = PHOTOMETRIC_JITTER,
                                                .brightness = factor,
                                                .contrast = factor,
                                                .saturation = factor,
                                                .hue = factor,
                                                .order = {4, 4, kind, 4}};
            if (kind == 3)
                params.brightness = params.contrast = params.saturation = 1.0f;
            else
                params.hue = 0.0f;
            expect_stored(&f, &file, name, i, &params);
        }
    }
    expect_stored(&f, &file, "grayscale", 0, &grey);
    expect_stored(&f, &file, "solarize128", 0, &inverted);
    const struct safetensors_entry *radii = find(&file, "blur_radii", 0);
    for (int i = 0; i < radii->file_shape[0]; i++) {
        struct photometric_params params = {.steps = PHOTOMETRIC_BLUR,
                                            .blur_radius = ((const float *)radii->tensor.data)[i]};
        expect_stored(&f, &file, "gaussian_blur%d", i, &params);
    }
    safetensors_release(&file);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_those_of_pillow),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
