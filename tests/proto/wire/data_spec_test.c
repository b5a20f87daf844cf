/* The data spec: its limits, its digest, and the layout of an image record. */
#include "proto/wire/data_spec.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void the_official_specs_are_accepted(void **state)
{
    (void)state;
    struct data_spec spec = data_spec_default();
    assert_int_equal(data_spec_check(&spec), STATUS_OK);
    assert_int_equal(data_spec_mask_grid(&spec), 14);
    spec = data_spec_centre_crop(256, 224);
    assert_int_equal(data_spec_check(&spec), STATUS_OK);
    assert_int_equal(data_spec_mask_grid(&spec), 0);
    assert_int_equal(data_spec_record_bytes(&spec), 224 * 224 * 3);
}

static void a_record_holds_globals_then_locals_then_masks(void **state)
{
    (void)state;
    struct data_spec spec = data_spec_default();
    assert_int_equal(data_spec_view_bytes(&spec, 1), 150528);
    assert_int_equal(data_spec_view_bytes(&spec, 2), 27648);
    assert_int_equal(data_spec_view_offset(&spec, 0), 0);
    assert_int_equal(data_spec_view_offset(&spec, 1), 150528);
    assert_int_equal(data_spec_view_offset(&spec, 2), 301056);
    assert_int_equal(data_spec_view_offset(&spec, 11), 301056 + 9 * 27648);
    assert_int_equal(data_spec_mask_bytes(&spec), 25); /* 196 bits */
    assert_int_equal(data_spec_mask_offset(&spec, 0), 577536);
    assert_int_equal(data_spec_mask_offset(&spec, 1), 577561);
    assert_int_equal(data_spec_record_bytes(&spec), 577586);
    spec.n_pred_ratios = 0;
    assert_int_equal(data_spec_record_bytes(&spec), 577536);
    spec.n_local = 0;
    assert_int_equal(data_spec_record_bytes(&spec), 301056);
}

/* Expects a refusal whose text names the field. */
static void refused(const struct data_spec *spec, const char *field)
{
    assert_int_equal(data_spec_check(spec), STATUS_INVALID);
    assert_non_null(strstr(status_message(), field));
}

#define REFUSED(field, value)                                                                      \
    do {                                                                                           \
        struct data_spec wrong = data_spec_default();                                              \
        wrong.field = (value);                                                                     \
        char name[] = #field;                                                                      \
        name[strcspn(name, "[")] = '\0';                                                           \
        char *last = strrchr(name, '.');                                                           \
        refused(&wrong, last != NULL ? last + 1 : name);                                           \
    } while (0)

static void each_field_out_of_its_limits_is_named(void **state)
{
    (void)state;
    REFUSED(kind, (enum data_kind)2);
    REFUSED(n_global, 0);
    REFUSED(n_global, DATA_SPEC_MAX_VIEWS + 1);
    REFUSED(n_local, DATA_SPEC_MAX_VIEWS - 1);
    REFUSED(n_local, -1);
    REFUSED(global_size_px, 0);
    REFUSED(global_size_px, DATA_SPEC_MAX_SIZE_PX + 1);
    REFUSED(local_size_px, 0);
    REFUSED(global_scale[0], 0.0f);
    REFUSED(global_scale[1], 1.5f);
    REFUSED(local_scale[0], 0.3f); /* above the other end */
    REFUSED(local_scale[1], NAN);
    REFUSED(aspect[0], -1.0f);
    REFUSED(first.flip, 1.1f);
    REFUSED(other.jitter, -0.1f);
    REFUSED(local.blur, NAN);
    REFUSED(first.solarize, INFINITY);
    REFUSED(brightness, -0.5f);
    REFUSED(contrast, 11.0f);
    REFUSED(saturation, NAN);
    REFUSED(hue, 0.6f);
    REFUSED(blur_radius[0], 3.0f);
    REFUSED(blur_radius[1], INFINITY);
    REFUSED(solarize_threshold, 257);
    REFUSED(photometric, 2);
    REFUSED(interpolation, 3);
    REFUSED(repeats, 0);
    REFUSED(repeats, DATA_SPEC_MAX_REPEATS + 1);
    REFUSED(rand_augment.n_ops, -1);
    REFUSED(rand_augment.n_ops, RAND_AUGMENT_MAX_OPS + 1);
    REFUSED(rand_augment.probability, 1.5f);
    REFUSED(rand_augment.magnitude, 10.5f);
    REFUSED(rand_augment.magnitude, NAN);
    REFUSED(rand_augment.magnitude_std, -1.0f);
    REFUSED(rand_augment.fill[1], 256);
    REFUSED(mask_cell_px, 0);
    REFUSED(mask_cell_px, 225);
    REFUSED(mask_shape, (enum mask_shape)7);
    REFUSED(n_pred_ratios, DATA_SPEC_MAX_RATIOS + 1);
    REFUSED(n_pred_ratios, -1);
    REFUSED(pred_ratio[1], 1.2f);
    REFUSED(pred_ratio_var[1], 0.4f); /* above its ratio */
    REFUSED(mask_aspect[0], 4.0f);
    REFUSED(pred_start_epoch, -1);
    REFUSED(bad_image_policy, (enum bad_image_policy)2);
}

static void a_record_that_is_too_large_is_refused(void **state)
{
    (void)state;
    struct data_spec spec = data_spec_default();
    spec.global_size_px = 4096;
    spec.n_global = 64;
    spec.n_local = 0;
    refused(&spec, "bytes");
}

static void a_mask_grid_that_is_too_fine_is_refused(void **state)
{
    (void)state;
    struct data_spec spec = data_spec_default();
    spec.global_size_px = 512;
    spec.mask_cell_px = 2;
    assert_int_equal(data_spec_check(&spec), STATUS_OK);
    spec.mask_cell_px = 1;
    refused(&spec, "mask_cell_px is 512");
}

static void a_centre_crop_has_one_view_and_fits_in_what_it_is_cut_from(void **state)
{
    (void)state;
    struct data_spec spec = data_spec_centre_crop(100, 101);
    refused(&spec, "resize_px");
    spec = data_spec_centre_crop(256, 224);
    spec.n_global = 2;
    refused(&spec, "n_global");
    spec = data_spec_centre_crop(256, 224);
    spec.n_local = 1;
    refused(&spec, "n_local");
    spec = data_spec_centre_crop(256, 224);
    spec.n_pred_ratios = 1;
    refused(&spec, "n_pred_ratios");
}

static void fine_tuning_crops_are_the_official_ones(void **state)
{
    (void)state;
    struct data_spec spec = data_spec_fine_tuning(224);
    assert_int_equal(data_spec_check(&spec), STATUS_OK);
    assert_int_equal(spec.interpolation, INTERPOLATION_BICUBIC);
    assert_true(spec.global_scale[0] == 0.08f && spec.global_scale[1] == 1.0f);
    assert_true(spec.aspect[0] == 0.75f && spec.first.flip == 0.5f);
    assert_int_equal(data_spec_record_bytes(&spec), 224 * 224 * 3);
    spec.photometric = PHOTOMETRIC_BY_TRAINER;
    refused(&spec, "photometric");
    spec = data_spec_fine_tuning(224);
    spec.first.jitter = 1.0f;
    refused(&spec, "jitter");
    spec.rand_augment = (struct rand_augment){0};
    assert_int_equal(data_spec_check(&spec), STATUS_OK);
    spec = data_spec_centre_crop(256, 224);
    spec.interpolation = INTERPOLATION_RANDOM;
    refused(&spec, "interpolation");
    spec = data_spec_centre_crop(256, 224);
    spec.repeats = 3;
    refused(&spec, "repeats");
    spec = data_spec_centre_crop(256, 224);
    spec.rand_augment.n_ops = 1;
    refused(&spec, "rand_augment");
}

static void same_rand_augment(const struct rand_augment *a, const struct rand_augment *b)
{
    assert_int_equal(a->n_ops, b->n_ops);
    assert_true(a->probability == b->probability && a->magnitude == b->magnitude &&
                a->magnitude_std == b->magnitude_std && a->increasing == b->increasing);
    assert_memory_equal(a->fill, b->fill, sizeof(a->fill));
}

static void parameters_of_rand_augment_are_read_as_timm_reads_them(void **state)
{
    (void)state;
    struct rand_augment r, official = rand_augment_official();
    const char *const wrong[] = {"",           "augmix-m9", "randm9",        "rand-m9-",
                                 "rand-m11",   "rand-x3",   "rand-m",        "rand-mstd-1",
                                 "rand-inc2",  "rand-m9.5", "rand-n0",       "rand-p1.5",
                                 "rand-n9",    "rand--m9",  "rand-tweights", "rand-p",
                                 "rand-p1e-3", "rand-m9 ",  "rand-mstd0.5.5"};

    assert_int_equal(rand_augment_parse(&r, "rand-m9-mstd0.5-inc1"), STATUS_OK);
    same_rand_augment(&r, &official);
    assert_int_equal(rand_augment_parse(&r, "rand-inc0-p0.25-n3-m7"), STATUS_OK);
    assert_true(r.n_ops == 3 && r.magnitude == 7.0f && r.magnitude_std == 0.0f && !r.increasing &&
                r.probability == 0.25f);
    assert_int_equal(rand_augment_parse(&r, "rand"), STATUS_OK);
    assert_true(r.n_ops == 2 && r.magnitude == 10.0f && r.probability == 0.5f && !r.increasing);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        r = official;
        assert_int_equal(rand_augment_parse(&r, wrong[i]), STATUS_INVALID);
        same_rand_augment(&r, &official);
    }
}

/* len(RASampler(range(n), num_replicas=world)), by hand. */
static void an_epoch_of_repeats_is_as_long_as_the_sampler_makes_it(void **state)
{
    (void)state;
    struct data_spec spec = data_spec_fine_tuning(224);
    assert_int_equal(data_spec_epoch_positions(&spec, 50000, 8), 6250);
    assert_int_equal(data_spec_epoch_positions(&spec, 50001, 8), 6251);
    spec.repeats = 3;
    assert_int_equal(data_spec_epoch_positions(&spec, 50000, 8), 6240); /* 195 * 256 / 8 */
    assert_int_equal(data_spec_epoch_positions(&spec, 50000, 3), 16640);
    assert_int_equal(data_spec_epoch_positions(&spec, 8144, 7), 1133); /* 31 * 256 = 7936 */
    assert_int_equal(data_spec_epoch_positions(&spec, 100, 3), 33);
}

#define CHANGES_DIGEST(field, value)                                                               \
    do {                                                                                           \
        struct data_spec changed = data_spec_default();                                            \
        uint64_t before = data_spec_digest(&changed);                                              \
        changed.field = (value);                                                                   \
        assert_int_not_equal(data_spec_digest(&changed), before);                                  \
    } while (0)

static void every_field_with_an_effect_changes_the_digest(void **state)
{
    (void)state;
    CHANGES_DIGEST(shuffle, false);
    CHANGES_DIGEST(order_seed, 1);
    CHANGES_DIGEST(seed, 1);
    CHANGES_DIGEST(n_global, 3);
    CHANGES_DIGEST(global_size_px, 225);
    CHANGES_DIGEST(n_local, 9);
    CHANGES_DIGEST(local_size_px, 97);
    CHANGES_DIGEST(global_scale[0], 0.3f);
    CHANGES_DIGEST(global_scale[1], 0.9f);
    CHANGES_DIGEST(local_scale[0], 0.06f);
    CHANGES_DIGEST(local_scale[1], 0.4f);
    CHANGES_DIGEST(aspect[0], 0.8f);
    CHANGES_DIGEST(aspect[1], 1.2f);
    CHANGES_DIGEST(first.blur, 0.9f);
    CHANGES_DIGEST(other.solarize, 0.3f);
    CHANGES_DIGEST(local.grayscale, 0.3f);
    CHANGES_DIGEST(brightness, 0.5f);
    CHANGES_DIGEST(contrast, 0.5f);
    CHANGES_DIGEST(saturation, 0.5f);
    CHANGES_DIGEST(hue, 0.2f);
    CHANGES_DIGEST(blur_radius[1], 3.0f);
    CHANGES_DIGEST(solarize_threshold, 127);
    CHANGES_DIGEST(upright, true);
    CHANGES_DIGEST(interpolation, INTERPOLATION_BILINEAR);
    CHANGES_DIGEST(interpolation, INTERPOLATION_RANDOM);
    CHANGES_DIGEST(repeats, 3);
    CHANGES_DIGEST(rand_augment.n_ops, 2);
    CHANGES_DIGEST(photometric, PHOTOMETRIC_BY_TRAINER);
    CHANGES_DIGEST(mask_cell_px, 8);
    CHANGES_DIGEST(mask_shape, MASK_RANDOM);
    CHANGES_DIGEST(n_pred_ratios, 1);
    CHANGES_DIGEST(pred_ratio[1], 0.4f);
    CHANGES_DIGEST(pred_ratio_var[1], 0.1f);
    CHANGES_DIGEST(mask_aspect[0], 0.5f);
    CHANGES_DIGEST(pred_start_epoch, 50);
    CHANGES_DIGEST(bad_image_policy, BAD_IMAGE_FAIL);
    for (int i = 0; i < 7; i++) {
        struct data_spec tuned = data_spec_fine_tuning(224);
        uint64_t official = data_spec_digest(&tuned);
        tuned.rand_augment.n_ops += i == 0;
        tuned.rand_augment.probability += i == 1 ? 0.25f : 0.0f;
        tuned.rand_augment.magnitude -= i == 2 ? 1.0f : 0.0f;
        tuned.rand_augment.magnitude_std += i == 3 ? 0.5f : 0.0f;
        tuned.rand_augment.increasing = i != 4;
        tuned.rand_augment.fill[2] += i == 5;
        tuned.repeats += i == 6;
        assert_int_not_equal(data_spec_digest(&tuned), official);
    }
    struct data_spec eval = data_spec_centre_crop(256, 224);
    uint64_t before = data_spec_digest(&eval);
    eval.resize_px = 257;
    assert_int_not_equal(data_spec_digest(&eval), before);
}

static void fields_without_effect_do_not_change_the_digest(void **state)
{
    (void)state;
    struct data_spec a = data_spec_default(), b = data_spec_default();
    a.n_local = b.n_local = 0;
    b.local_size_px = 7;
    b.local.flip = 1;
    a.n_pred_ratios = b.n_pred_ratios = 0;
    b.mask_cell_px = 3;
    a.shuffle = b.shuffle = false;
    b.order_seed = 99;
    b.brightness = a.brightness = 0.0f;
    b.brightness = -0.0f;
    b.rand_augment.fill[0] = 7;
    assert_int_equal(data_spec_digest(&a), data_spec_digest(&b));
    a = b = data_spec_centre_crop(256, 224);
    b.seed = 5;
    b.hue = 0.5f;
    assert_int_equal(data_spec_digest(&a), data_spec_digest(&b));
}

/* Recordings and resumed runs compare digests: the encoding must not change by accident. */
static void the_digest_of_the_official_spec_stays_what_it_was(void **state)
{
    (void)state;
    struct data_spec spec = data_spec_default();
    assert_int_equal(data_spec_digest(&spec), 0x4c69dd8586323898u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_official_specs_are_accepted),
        cmocka_unit_test(a_record_holds_globals_then_locals_then_masks),
        cmocka_unit_test(each_field_out_of_its_limits_is_named),
        cmocka_unit_test(a_record_that_is_too_large_is_refused),
        cmocka_unit_test(a_mask_grid_that_is_too_fine_is_refused),
        cmocka_unit_test(a_centre_crop_has_one_view_and_fits_in_what_it_is_cut_from),
        cmocka_unit_test(fine_tuning_crops_are_the_official_ones),
        cmocka_unit_test(parameters_of_rand_augment_are_read_as_timm_reads_them),
        cmocka_unit_test(an_epoch_of_repeats_is_as_long_as_the_sampler_makes_it),
        cmocka_unit_test(every_field_with_an_effect_changes_the_digest),
        cmocka_unit_test(fields_without_effect_do_not_change_the_digest),
        cmocka_unit_test(the_digest_of_the_official_spec_stays_what_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
