/* Run under mpirun: ranks with B images each end where one process with all images ends. Each rank
 * also trains a model of its own, alone, on all images, and compares. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/trainer/model_fixture.h"

enum { PER_RANK = 2, CELLS = 16, GLOBAL = 3 * 32 * 32, LOCAL = 3 * 16 * 16, N_STEPS = 3 };

static struct collective ranks;

struct batch {
    float *globals, *locals;
    uint8_t *masks;
    int64_t n;
};

static void batch_open(struct batch *batch, int64_t n)
{
    batch->n = n;
    assert_int_equal(memory_alloc(&batch->globals, (size_t)(2 * n * GLOBAL), 4, "g"), STATUS_OK);
    assert_int_equal(memory_alloc(&batch->locals, (size_t)(2 * n * LOCAL), 4, "l"), STATUS_OK);
    assert_int_equal(memory_alloc(&batch->masks, (size_t)(2 * n * CELLS), 1, "m"), STATUS_OK);
}

static void batch_close(struct batch *batch)
{
    memory_free(batch->globals);
    memory_free(batch->locals);
    memory_free(batch->masks);
}

/* Images first, first + stride, … of a step: each a function of its number. */
static struct ibot_input fill(struct batch *batch, int64_t first, int64_t stride, int64_t step)
{
    for (int64_t crop = 0; crop < 2; crop++)
        for (int64_t i = 0; i < batch->n; i++) {
            int64_t number = first + i * stride, at = crop * batch->n + i;
            uint64_t seed = (uint64_t)(1000 * step + 10 * number + crop);
            fill_random(batch->globals + at * GLOBAL, GLOBAL, seed);
            fill_random(batch->locals + at * LOCAL, LOCAL, seed + 500000);
            for (int64_t j = 0; j < CELLS; j++)
                batch->masks[at * CELLS + j] = (number + crop) % 3 != 0 && (number + j) % 4 == 0;
        }
    return (struct ibot_input){
        .globals = {batch->globals, DTYPE_F32, 4, {2 * batch->n, 3, 32, 32}},
        .locals = {batch->locals, DTYPE_F32, 4, {2 * batch->n, 3, 16, 16}},
        .masks = batch->masks,
        .keep_seed = 5,
        .step = step,
        .first_sample = first,
        .sample_stride = stride,
    };
}

/* Larger than the initial weights, with which attention is uniform and queries and keys have hardly
 * any gradient but rounding noise, which Adam would magnify. */
static void fill_student(struct ibot *ibot)
{
    const struct param_table *table = &ibot->student.table;

    for (size_t i = 0; i < table->n_params; i++) {
        float *values = ibot->student.parameters + table->params[i].offset;
        fill_random(values, table->params[i].n, 100 + i);
        for (int64_t k = 0; k < table->params[i].n; k++)
            values[k] = 0.2f * values[k] + (table->params[i].init == PARAM_ONES ? 1.0f : 0.0f);
    }
    assert_int_equal(ibot_teacher_from_student(ibot), STATUS_OK);
}

static void train(struct ibot *ibot, int64_t n, int64_t first, int64_t stride)
{
    struct batch batch;

    batch_open(&batch, n);
    fill_student(ibot);
    for (int32_t step = 0; step < N_STEPS; step++) {
        struct step_control control = plain_control(1e-3, step);
        struct ibot_input input = fill(&batch, first, stride, step);
        assert_int_equal(ibot_zero_gradients(ibot), STATUS_OK);
        assert_int_equal(ibot_accumulate(ibot, &input, &control), STATUS_OK);
        assert_int_equal(ibot_update(ibot), STATUS_OK);
    }
    batch_close(&batch);
}

static void compare(const struct ibot *together, const struct ibot *alone)
{
    struct ibot_state_entry x, y;

    for (size_t i = 0; i < ibot_n_state(alone); i++) {
        ibot_state(alone, i, &x);
        ibot_state(together, i, &y);
        /* no gradient in exact arithmetic: Adam divides rounding noise by rounding noise */
        bool noise = strstr(x.name, "qkv.bias") != NULL;
        if (together->options.head.norm == HEAD_NORM_BN)
            noise = noise || strstr(x.name, "backbone.norm.bias") != NULL ||
                    strstr(x.name, "head.mlp.0.bias") != NULL ||
                    strstr(x.name, "head.mlp.3.bias") != NULL ||
                    strstr(x.name, "running_mean") != NULL; /* follows those biases */
        double limit = strstr(x.name, "weight_v") != NULL ? 1e-4 : 1e-5;
        double error = relative_error(y.tensor.data, x.tensor.data, tensor_n_elements(&x.tensor));
        if (!noise && strncmp(x.name, "moment", 6) != 0 && !(error <= limit))
            fail_msg("%s differs by %g", x.name, error);
    }
}

static void check(struct ibot_options o, enum head_norm norm)
{
    struct model_fixture alone;
    struct device device;
    struct ibot *together;

    o.backbone.drop_path = 0.4f;
    o.head.norm = norm;
    o.bucket_bytes = 4096; /* many to a backward */
    o.batch_size = PER_RANK;
    assert_int_equal(device_open_cpu(&device, 1), STATUS_OK);
    assert_int_equal(ibot_open(&together, &device, &op_table_cpu, &ranks, &o), STATUS_OK);
    train(together, PER_RANK, ranks.rank, ranks.world);
    o.batch_size = PER_RANK * ranks.world;
    model_fixture_open(&alone, &o);
    train(alone.ibot, PER_RANK * ranks.world, 0, 1);
    compare(together, alone.ibot);
    model_fixture_close(&alone);
    ibot_close(&together);
    device_close(&device);
}

static void there_is_more_than_one_rank(void **state)
{
    (void)state;
    assert_true(ranks.world > 1);
}

static void ranks_train_as_one_process_with_all_images(void **state)
{
    (void)state;
    check(model_options_small(), HEAD_NORM_NONE);
}

static void ranks_of_a_swin_train_as_one_process(void **state)
{
    (void)state;
    check(model_options_small_swin(), HEAD_NORM_NONE);
}

static void batch_norm_sees_all_ranks(void **state)
{
    (void)state;
    check(model_options_small(), HEAD_NORM_BN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_is_more_than_one_rank),
        cmocka_unit_test(ranks_train_as_one_process_with_all_images),
        cmocka_unit_test(ranks_of_a_swin_train_as_one_process),
        cmocka_unit_test(batch_norm_sees_all_ranks),
    };
    if (collective_open_mpi(&ranks) != STATUS_OK) {
        fprintf(stderr, "ranks_test: %s\n", status_message());
        return 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    collective_close(&ranks);
    return failed;
}
