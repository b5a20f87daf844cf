/* Every parameter's gradient of the whole step against central differences of the loss. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/trainer/model_fixture.h"

enum { CELLS = 16, KEEP_ROWS = 8 };

struct step {
    float globals[4 * 3 * 32 * 32], locals[4 * 3 * 16 * 16];
    uint8_t masks[4 * CELLS], keep_globals[KEEP_ROWS * 4], keep_locals[KEEP_ROWS * 4];
    struct ibot_input input;
    struct step_control control;
};

static struct step *make_step(void)
{
    static struct step step;

    memset(&step, 0, sizeof(step));
    fill_random(step.globals, 4 * 3 * 32 * 32, 11);
    fill_random(step.locals, 4 * 3 * 16 * 16, 12);
    for (int i = 0; i < 4 * CELLS; i++)
        step.masks[i] = i / CELLS != 2 && i % 3 == 0; /* one crop without masked patches */
    for (int i = 0; i < KEEP_ROWS * 4; i++) {
        step.keep_globals[i] = i % 5 != 0;
        step.keep_locals[i] = i % 3 != 0;
    }
    step.input = (struct ibot_input){
        .globals = {step.globals, DTYPE_F32, 4, {4, 3, 32, 32}},
        .locals = {step.locals, DTYPE_F32, 4, {4, 3, 16, 16}},
        .masks = step.masks,
        .keep_globals = step.keep_globals,
        .keep_locals = step.keep_locals,
    };
    step.control = plain_control(0.0, 0);
    return &step;
}

static double loss_of(struct ibot *ibot, const struct step *step)
{
    struct ibot_result result;

    assert_int_equal(ibot_zero_gradients(ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(ibot, &step->input, &step->control), STATUS_OK);
    assert_int_equal(ibot_result(ibot, &result), STATUS_OK);
    return result.loss;
}

/* Moves the parameter by epsilon * direction. */
static void move(float *values, const float *saved, const float *direction, int64_t n, double by)
{
    for (int64_t k = 0; k < n; k++)
        values[k] = (float)((double)saved[k] + by * (double)direction[k]);
}

/* Along the gradient, made of length `epsilon`, the loss must rise by epsilon * |gradient|; along
 * a random direction by its product with the gradient. Both to within what float32 loses. */
static void check_parameter(struct ibot *ibot, const struct step *step, const struct param *param,
                            const float *gradient, bool along_gradient)
{
    float *values = ibot->student.parameters + param->offset, *saved, *direction;
    double squares = 0.0, slope = 0.0, epsilon = 4e-3;

    assert_int_equal(memory_alloc(&saved, (size_t)param->n, sizeof(float), "saved"), STATUS_OK);
    assert_int_equal(memory_alloc(&direction, (size_t)param->n, sizeof(float), "d"), STATUS_OK);
    memcpy(saved, values, (size_t)param->n * sizeof(float));
    if (along_gradient)
        memcpy(direction, gradient, (size_t)param->n * sizeof(float));
    else
        fill_random(direction, param->n, 77);
    for (int64_t k = 0; k < param->n; k++)
        squares += (double)direction[k] * (double)direction[k];
    for (int64_t k = 0; k < param->n && squares > 0.0; k++) {
        direction[k] = (float)((double)direction[k] / sqrt(squares));
        slope += (double)direction[k] * (double)gradient[k];
    }
    move(values, saved, direction, param->n, epsilon);
    double above = loss_of(ibot, step);
    move(values, saved, direction, param->n, -epsilon);
    double below = loss_of(ibot, step);
    memcpy(values, saved, (size_t)param->n * sizeof(float));
    double measured = (above - below) / (2.0 * epsilon);
    if (!(fabs(measured - slope) <= 5e-4 + 0.01 * fabs(slope)))
        fail_msg("%s: the loss changes by %g along %s, its gradient says %g", param->name, measured,
                 along_gradient ? "its gradient" : "a random direction", slope);
    memory_free(saved);
    memory_free(direction);
}

/* Random values of a size at which no token is close to zero, where LayerNorm would bend sharply.
 */
static void fill_network(struct network *network, uint64_t seed)
{
    for (size_t i = 0; i < network->table.n_params; i++) {
        const struct param *param = &network->table.params[i];
        float *values = network->parameters + param->offset;
        fill_random(values, param->n, seed + i);
        for (int64_t k = 0; k < param->n; k++)
            values[k] = 0.2f * values[k] + (param->init == PARAM_ONES ? 1.0f : 0.0f);
    }
}

static void check_model(const struct ibot_options *options)
{
    struct model_fixture f;
    struct step *step = make_step();
    float *gradients;

    model_fixture_open(&f, options);
    const struct param_table *table = &f.ibot->student.table;
    size_t n = (size_t)table->n_elements;
    fill_network(&f.ibot->student, 100); /* student, teacher and centres all differ */
    fill_network(&f.ibot->teacher, 200);
    fill_random(f.ibot->centre, 64, 21);
    fill_random(f.ibot->centre_patch, 64, 22);
    (void)loss_of(f.ibot, step);
    assert_int_equal(memory_alloc(&gradients, n, sizeof(float), "gradients"), STATUS_OK);
    memcpy(gradients, f.ibot->gradients, n * sizeof(float));
    for (size_t i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        if (param->flags & SEGMENT_FIXED) {
            assert_true(absolute_sum(gradients + param->offset, param->n) == 0.0);
            continue;
        }
        check_parameter(f.ibot, step, param, gradients + param->offset, true);
        check_parameter(f.ibot, step, param, gradients + param->offset, false);
    }
    memory_free(gradients);
    model_fixture_close(&f);
}

static struct ibot_options with_depth(void)
{
    struct ibot_options o = model_options_small();
    o.backbone.drop_path = 0.3f;
    return o;
}

static void the_published_model_has_true_gradients(void **state)
{
    struct ibot_options o = with_depth();

    (void)state;
    check_model(&o);
}

static void separate_layers_have_true_gradients(void **state)
{
    struct ibot_options o = with_depth();

    (void)state;
    o.head.shared_student = o.head.shared_teacher = false;
    o.head.fixed_gains = true;
    o.lambda1 = 0.7f;
    o.lambda2 = 1.9f;
    check_model(&o);
}

static void a_layernorm_head_has_true_gradients(void **state)
{
    struct ibot_options o = with_depth();

    (void)state;
    o.head.norm = HEAD_NORM_LN;
    check_model(&o);
}

static void a_batchnorm_head_has_true_gradients(void **state)
{
    struct ibot_options o = with_depth();

    (void)state;
    o.head.norm = HEAD_NORM_BN;
    check_model(&o);
}

static void a_swin_has_true_gradients(void **state)
{
    struct ibot_options o = model_options_small_swin();

    (void)state;
    o.backbone.drop_path = 0.3f;
    check_model(&o);
}

static void a_swin_with_a_batchnorm_head_has_true_gradients(void **state)
{
    struct ibot_options o = model_options_small_swin();

    (void)state;
    o.head.norm = HEAD_NORM_BN; /* the head takes all rows */
    check_model(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_model_has_true_gradients),
        cmocka_unit_test(separate_layers_have_true_gradients),
        cmocka_unit_test(a_layernorm_head_has_true_gradients),
        cmocka_unit_test(a_batchnorm_head_has_true_gradients),
        cmocka_unit_test(a_swin_has_true_gradients),
        cmocka_unit_test(a_swin_with_a_batchnorm_head_has_true_gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
