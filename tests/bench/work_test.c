/* What the benchmarks count: the formula of a step against figures worked out apart from it, and
 * against the sum over the calls that a step makes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/bench/json_out.h"
#include "tests/bench/samples.h"
#include "tests/bench/step_profile.h"
#include "tests/bench/step_work.h"

static void ok(enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s", status_message());
}

static void assert_near(double got, double wanted, double within)
{
    if (!(fabs(got - wanted) <= within))
        fail_msg("got %.9g, wanted %.9g", got, wanted);
}

static struct ibot_options published(const char *arch)
{
    struct ibot_options o = step_work_published();

    o.batch_size = 100;
    ok(backbone_options_for(&o.backbone, arch));
    return o;
}

/* GFLOP per image with 28.63 masked patches in each global crop. */
static void a_step_of_the_published_networks_has_the_operations_of_the_budget(void **state)
{
    static const struct {
        const char *arch;
        double original, model, done;
    } budget[] = {
        {"vit_small", 159.5, 129.4, 123.9},
        {"vit_base", 513.5, 480.2, 458.1},
        {"vit_large", 1704.7, 1669.2, 1629.8},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(budget) / sizeof(budget[0]); i++) {
        struct ibot_options o = published(budget[i].arch);
        struct step_work work = step_work_of(&o, 5726);
        double images = 1e9 * o.batch_size;
        assert_near(work.original_flop / images, budget[i].original, 0.1);
        assert_near(work.model_flop / images, budget[i].model, 0.1);
        assert_near(work.done_flop / images, budget[i].done, 0.2);
    }
}

/* ------------------------------------------------------------------------------ against calls */

static double calls_of_a_step(const struct ibot_options *o, int64_t *n_masked)
{
    struct op_table table = step_profile_open(&op_table_cpu, NULL);
    struct step_control control = {.lr = 1e-4f,
                                   .student_temp = 0.1f,
                                   .teacher_temp = 0.04f,
                                   .teacher_patch_temp = 0.04f,
                                   .centre_momentum = 0.9f,
                                   .centre_patch_momentum = 0.9f};
    int64_t globals = (int64_t)o->n_global * o->batch_size, grid;
    int64_t locals = (int64_t)o->n_local * o->batch_size, side = o->global_size_px;
    struct device device;
    struct collective alone;
    struct ibot *ibot = NULL;
    uint8_t *pixels = NULL, *masks = NULL;
    double flop = 0.0;

    grid = backbone_grid(&o->backbone, o->global_size_px);
    ok(memory_alloc(&pixels, (size_t)((globals + locals) * side * side * 3), 1, "crops"));
    ok(memory_alloc(&masks, (size_t)(globals * grid * grid), 1, "masks"));
    for (int64_t i = 0; i < globals * grid * grid; i++)
        masks[i] = i % 3 == 0;
    ok(device_open_cpu(&device, 1));
    collective_open_alone(&alone);
    ok(ibot_open(&ibot, &device, &table, &alone, o));
    ok(ibot_initialise(ibot, 0));
    struct ibot_input input = {
        .globals = {pixels, DTYPE_U8, 4, {globals, side, side, 3}},
        .locals = {pixels, DTYPE_U8, 4, {locals, o->local_size_px, o->local_size_px, 3}},
        .masks = masks};
    *n_masked = ibot_n_masked(ibot, masks);
    step_profile_reset();
    ok(ibot_zero_gradients(ibot));
    ok(ibot_accumulate(ibot, &input, &control));
    ok(ibot_update(ibot));
    const struct step_profile_row *rows = step_profile_rows();
    for (int i = 0; i < N_STEP_OPS; i++)
        flop += rows[i].work.flop;
    ibot_close(&ibot);
    device_close(&device);
    memory_free(pixels);
    memory_free(masks);
    return flop;
}

static void check_calls(struct ibot_options o, int32_t global_px, int32_t local_px)
{
    int64_t n_masked;

    o.batch_size = 2;
    o.n_local = 3;
    o.global_size_px = o.backbone.image_size_px = global_px;
    o.local_size_px = local_px;
    o.head.hidden_dim = 48;
    o.head.bottleneck_dim = 16;
    o.head.out_dim = o.head.patch_out_dim = 40;
    double calls = calls_of_a_step(&o, &n_masked);
    /* the centres: the last layer of two mean vectors */
    double centres = 2.0 * 2.0 * o.head.bottleneck_dim * o.head.out_dim;
    double formula = step_work_of(&o, n_masked).done_flop;
    assert_true(n_masked > 0);
    assert_near((formula + centres) / calls, 1.0, 1e-9);
}

static void the_formula_is_the_sum_over_the_calls_of_a_vit(void **state)
{
    struct ibot_options o = published("vit_test");

    (void)state;
    o.backbone.patch_size_px = 8;
    check_calls(o, 32, 16);
}

/* What stochastic depth drops is left out of the calls, and of the formula in the mean. */
static void the_formula_leaves_out_what_is_dropped(void **state)
{
    struct ibot_options o = published("vit_base");
    double all = step_work_of(&o, 0).done_flop;

    (void)state;
    o.backbone.drop_path = 0.1f;
    assert_true(step_work_of(&o, 0).done_flop == all);
    o.skip_dropped = true;
    struct step_work work = step_work_of(&o, 0);
    assert_true(work.model_flop > work.done_flop);
    /* of twelve blocks with rates from 0 to 0.1 all but the last: 4.2 % of a student's, which is
     * three quarters and more of all */
    assert_in_range((int64_t)(1e4 * (all - work.done_flop) / all), 280, 420);
    o.backbone.drop_path = 0.0f;
    assert_true(step_work_of(&o, 0).done_flop == all);
}

/* Shifted and padded windows, an odd map to merge. */
static void the_formula_is_the_sum_over_the_calls_of_a_swin(void **state)
{
    struct ibot_options o = published("swin_test");

    (void)state;
    o.backbone.window_size = 3;
    check_calls(o, 32, 24);
}

/* ------------------------------------------------------------------------------ what is printed */

static void quartiles_are_of_the_sorted_values(void **state)
{
    double values[] = {5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 8.0, 7.0};
    struct quartiles q = samples_quartiles(values, 8);

    (void)state;
    assert_near(q.least, 1.0, 0.0);
    assert_near(q.first, 3.0, 0.0);
    assert_near(q.median, 4.5, 0.0);
    assert_near(q.third, 7.0, 0.0);
    assert_near(q.most, 8.0, 0.0);
}

static void json_is_nested_escaped_and_without_numbers_that_it_has_not(void **state)
{
    char *text = NULL;
    size_t n = 0;
    struct json_out json = {.file = open_memstream(&text, &n)};

    (void)state;
    json_object(&json, NULL);
    json_text(&json, "a", "say \"so\\\n");
    json_list(&json, "b");
    json_number(&json, NULL, 0.5);
    json_number(&json, NULL, NAN);
    json_object(&json, NULL);
    json_integer(&json, "c", -7);
    json_end(&json);
    json_end(&json);
    json_bool(&json, "d", true);
    json_text(&json, "e", NULL);
    json_end(&json);
    fclose(json.file);
    assert_string_equal(text, "{\"a\": \"say \\\"so\\\\\\u000a\", \"b\": [0.5, null, {\"c\": -7}], "
                              "\"d\": true, \"e\": null}\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_of_the_published_networks_has_the_operations_of_the_budget),
        cmocka_unit_test(the_formula_is_the_sum_over_the_calls_of_a_vit),
        cmocka_unit_test(the_formula_leaves_out_what_is_dropped),
        cmocka_unit_test(the_formula_is_the_sum_over_the_calls_of_a_swin),
        cmocka_unit_test(quartiles_are_of_the_sorted_values),
        cmocka_unit_test(json_is_nested_escaped_and_without_numbers_that_it_has_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
