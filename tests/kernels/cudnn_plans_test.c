/* Every attention plan that training asks cuDNN for compiles, for a GPU that need not be here: its
 * properties come from a file, its driver is a stub. Nothing is executed. Shapes as kernels see
 * them: ViT-S, B and L on 224 and 96 pixels, windows of 7 and 14, the small shapes of other tests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/attention_cudnn.h"

static char properties[4096];

static const char *const kinds[] = {
    [ATTENTION_CUDNN_FORWARD] = "forward",
    [ATTENTION_CUDNN_FORWARD_STATS] = "forward with stats",
    [ATTENTION_CUDNN_BACKWARD] = "backward",
};
enum { N_KINDS = sizeof(kinds) / sizeof(kinds[0]) };

static int read_properties(void **state)
{
    char path[1024];

    (void)state;
    snprintf(path, sizeof(path), "%s/device_properties_h200.json", getenv("IBOT_TEST_DATA"));
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    properties[fread(properties, 1, sizeof(properties) - 1, file)] = '\0';
    fclose(file);
    return 0;
}

static void expect_plans(const struct attention_cudnn_shape *shape, int first_kind)
{
    size_t rows = (size_t)(shape->n_sequences * shape->n_heads * shape->length);

    for (int kind = first_kind; kind < N_KINDS; kind++) {
        struct attention_cudnn_plan plan;
        assert_int_equal(
            attention_cudnn_build(&plan, (enum attention_cudnn_kind)kind, shape, NULL, properties),
            0);
        if (plan.plan == NULL)
            fail_msg("%s of %lld x %lld x %lld x %lld: %s", kinds[kind],
                     (long long)shape->n_sequences, (long long)shape->n_heads,
                     (long long)shape->length, (long long)shape->head_dim, plan.refusal);
        printf("%4lld x %2lld x %3lld x %3lld  %-18s engine %lld, %zu bytes\n",
               (long long)shape->n_sequences, (long long)shape->n_heads, (long long)shape->length,
               (long long)shape->head_dim, kinds[kind], (long long)plan.engine,
               attention_cudnn_bytes(&plan));
        assert_true(plan.engine >= 0);
        if (kind >= ATTENTION_CUDNN_BACKWARD)
            assert_true(attention_cudnn_bytes(&plan) >= rows * sizeof(float));
        attention_cudnn_release(&plan);
        attention_cudnn_release(&plan); /* nothing is left */
        assert_null(plan.plan);
    }
}

static void crops_of_each_vit_have_plans(void **state)
{
    static const struct attention_cudnn_shape shapes[] = {
        {128, 197, 6, 64}, {640, 37, 6, 64},  {64, 197, 12, 64},
        {640, 37, 12, 64}, {64, 197, 16, 64}, {320, 37, 16, 64},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        expect_plans(&shapes[i], ATTENTION_CUDNN_FORWARD_STATS);
}

static void windows_have_plans(void **state)
{
    (void)state;
    expect_plans(&(struct attention_cudnn_shape){512, 49, 3, 32}, ATTENTION_CUDNN_BACKWARD);
    expect_plans(&(struct attention_cudnn_shape){64, 196, 6, 32}, ATTENTION_CUDNN_BACKWARD);
}

static void small_shapes_have_plans(void **state)
{
    (void)state;
    expect_plans(&(struct attention_cudnn_shape){2, 17, 2, 16}, ATTENTION_CUDNN_FORWARD);
    expect_plans(&(struct attention_cudnn_shape){4, 5, 3, 32}, ATTENTION_CUDNN_BACKWARD);
    expect_plans(&(struct attention_cudnn_shape){1, 50, 1, 64}, ATTENTION_CUDNN_BACKWARD);
}

static void a_shape_that_cudnn_refuses_has_a_reason_and_no_plan(void **state)
{
    struct attention_cudnn_shape odd = {2, 17, 2, 3}; /* rows of 6 bytes are never aligned */
    struct attention_cudnn_plan plan;

    (void)state;
    assert_int_equal(attention_cudnn_build(&plan, ATTENTION_CUDNN_FORWARD, &odd, NULL, properties),
                     0);
    assert_null(plan.plan);
    assert_true(strlen(plan.refusal) > 0);
    attention_cudnn_release(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crops_of_each_vit_have_plans),
        cmocka_unit_test(windows_have_plans),
        cmocka_unit_test(small_shapes_have_plans),
        cmocka_unit_test(a_shape_that_cudnn_refuses_has_a_reason_and_no_plan),
    };
    return cmocka_run_group_tests(tests, read_properties, NULL);
}
