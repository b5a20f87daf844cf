/* ranks_test BACKEND, as several ranks: CPU ranks under mpirun, ranks with an accelerator each by
 * run_ranks. Ranks with B images each end where one process with all images ends: each rank also
 * trains a model of its own, alone, on all images, and compares. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "proto/base/memory.h"
#include "tests/trainer/model_fixture.h"

enum {
    PER_RANK = 2,
    CELLS = 16,
    GLOBAL = 3 * 32 * 32,
    LOCAL = 3 * 16 * 16,
    N_STEPS = 4,
    SKIPPED = 77
};

static struct collective ranks, alone;
static struct rank_monitor *monitor;
static struct device device;
static const struct op_table *ops;

static void run(enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s", status_message());
}

struct batch {
    float *globals, *locals;
    void *on_device[2]; /* the same */
    uint8_t *masks;
    int64_t n;
};

static void batch_open(struct batch *batch, int64_t n)
{
    batch->n = n;
    run(device.alloc(&device, &batch->on_device[0], (size_t)(2 * n * GLOBAL) * 4, "g"));
    run(device.alloc(&device, &batch->on_device[1], (size_t)(2 * n * LOCAL) * 4, "l"));
    assert_int_equal(memory_alloc(&batch->globals, (size_t)(2 * n * GLOBAL), 4, "g"), STATUS_OK);
    assert_int_equal(memory_alloc(&batch->locals, (size_t)(2 * n * LOCAL), 4, "l"), STATUS_OK);
    assert_int_equal(memory_alloc(&batch->masks, (size_t)(2 * n * CELLS), 1, "m"), STATUS_OK);
}

static void batch_close(struct batch *batch)
{
    for (int i = 0; i < 2; i++)
        device.free(&device, batch->on_device[i]);
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
    run(device.copy_in(&device, batch->on_device[0], batch->globals,
                       (size_t)(2 * batch->n * GLOBAL) * 4));
    run(device.copy_in(&device, batch->on_device[1], batch->locals,
                       (size_t)(2 * batch->n * LOCAL) * 4));
    run(device.synchronize(&device));
    return (struct ibot_input){
        .globals = {batch->on_device[0], DTYPE_F32, 4, {2 * batch->n, 3, 32, 32}},
        .locals = {batch->on_device[1], DTYPE_F32, 4, {2 * batch->n, 3, 16, 16}},
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
    float *all;

    run(memory_alloc(&all, (size_t)table->n_elements, sizeof(float), "student"));
    for (size_t i = 0; i < table->n_params; i++) {
        float *values = all + table->params[i].offset;
        fill_random(values, table->params[i].n, 100 + i);
        for (int64_t k = 0; k < table->params[i].n; k++)
            values[k] = 0.2f * values[k] + (table->params[i].init == PARAM_ONES ? 1.0f : 0.0f);
    }
    run(device.copy_in(&device, ibot->student.parameters, all,
                       (size_t)table->n_elements * sizeof(float)));
    run(ibot_teacher_from_student(ibot));
    run(device.synchronize(&device));
    memory_free(all);
}

/* What ranks record of a step must look alike to all. */
static int64_t most_masked(const struct ibot *ibot, const struct ibot_input *input)
{
    int64_t own = ibot_n_masked(ibot, input->masks), most = 0, all[16];

    assert_true(ranks.world <= 16);
    run(ibot->collective->all_gather(ibot->collective, all, &own, sizeof(own)));
    for (int r = 0; r < ibot->collective->world; r++)
        most = all[r] > most ? all[r] : most;
    return most;
}

static void train(struct ibot *ibot, int64_t n, int64_t first, int64_t stride)
{
    struct batch batch;

    batch_open(&batch, n);
    fill_student(ibot);
    for (int32_t step = 0; step < N_STEPS; step++) {
        struct step_control control = plain_control(1e-3, step);
        struct ibot_input input = fill(&batch, first, stride, step);
        struct ibot_result result;
        input.most_masked = most_masked(ibot, &input);
        run(ibot_zero_gradients(ibot));
        run(ibot_accumulate(ibot, &input, &control));
        run(ibot_update(ibot));
        run(ibot_result(ibot, &result));
    }
    batch_close(&batch);
}

static float *download(const struct tensor *tensor)
{
    float *values;

    run(memory_alloc(&values, (size_t)tensor_n_elements(tensor), sizeof(float), "state"));
    run(device.copy_out(&device, values, tensor->data, tensor_size_bytes(tensor)));
    run(device.synchronize(&device));
    return values;
}

static void compare(const struct ibot *together, const struct ibot *by_itself)
{
    struct ibot_state_entry x, y;

    for (size_t i = 0; i < ibot_n_state(by_itself); i++) {
        ibot_state(by_itself, i, &x);
        ibot_state(together, i, &y);
        /* no gradient in exact arithmetic: Adam divides rounding noise by rounding noise */
        bool noise = strstr(x.name, "qkv.bias") != NULL;
        if (together->options.head.norm == HEAD_NORM_BN)
            noise = noise || strstr(x.name, "backbone.norm.bias") != NULL ||
                    strstr(x.name, "head.mlp.0.bias") != NULL ||
                    strstr(x.name, "head.mlp.3.bias") != NULL ||
                    strstr(x.name, "running_mean") != NULL; /* follows those biases */
        double limit = strstr(x.name, "weight_v") != NULL ? 1e-4 : 1e-5;
        float *wanted = download(&x.tensor), *got = download(&y.tensor);
        double error = relative_error(got, wanted, tensor_n_elements(&x.tensor));
        memory_free(wanted);
        memory_free(got);
        if (!noise && strncmp(x.name, "moment", 6) != 0 && !(error <= limit))
            fail_msg("%s differs by %g", x.name, error);
    }
}

static void check(struct ibot_options o, enum head_norm norm)
{
    struct ibot *together, *by_itself;

    o.backbone.drop_path = 0.4f;
    o.head.norm = norm;
    o.bucket_bytes = 4096; /* many to a backward */
    o.batch_size = PER_RANK;
    o.record_steps = true; /* where the device can */
    o.weights_apart = true;
    run(ibot_open(&together, &device, ops, &ranks, &o));
    train(together, PER_RANK, ranks.rank, ranks.world);
    o.weights_apart = false;
    o.batch_size = PER_RANK * ranks.world;
    run(ibot_open(&by_itself, &device, ops, &alone, &o));
    train(by_itself, PER_RANK * ranks.world, 0, 1);
    compare(together, by_itself);
    ibot_close(&by_itself);
    ibot_close(&together);
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

/* All that ranks do, in graphs with weights on a branch of their own, and call by call: the same
 * bits. */
static void recorded_steps_end_with_the_same_bits(void **state)
{
    struct ibot_options o = model_options_small();
    struct ibot *models[2];
    struct ibot_state_entry x, y;

    (void)state;
    o.bucket_bytes = 4096;
    o.batch_size = PER_RANK;
    for (int i = 0; i < 2; i++) {
        o.record_steps = o.weights_apart = i == 0;
        run(ibot_open(&models[i], &device, ops, &ranks, &o));
        train(models[i], PER_RANK, ranks.rank, ranks.world);
    }
    for (size_t i = 0; i < ibot_n_state(models[0]); i++) {
        ibot_state(models[0], i, &x);
        ibot_state(models[1], i, &y);
        float *recorded = download(&x.tensor), *called = download(&y.tensor);
        if (memcmp(recorded, called, tensor_size_bytes(&x.tensor)) != 0)
            fail_msg("%s differs", x.name);
        memory_free(recorded);
        memory_free(called);
    }
    ibot_close(&models[0]);
    ibot_close(&models[1]);
}

static enum status open_backend(const char *backend)
{
    struct collective_environment environment;
    struct rank_monitor_options options;

    collective_open_alone(&alone);
    if (strcmp(backend, op_table_cpu.name) == 0) {
        ops = &op_table_cpu;
        TRY(device_open_cpu(&device, 1));
        return collective_open_mpi(&ranks);
    }
    TRY(kernels_op_table(&ops));
    if (strcmp(backend, ops->name) != 0)
        FAIL(STATUS_UNSUPPORTED, "backend '%s' is not in this build", backend);
    TRY(collective_environment_read(&environment));
    TRY(kernels_device_open(&device, environment.local_rank));
    TRY(rank_monitor_options_read(&options, &environment));
    TRY(rank_monitor_open(&monitor, &options));
    return kernels_collective_open(&ranks, &device, monitor);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_is_more_than_one_rank),
        cmocka_unit_test(ranks_train_as_one_process_with_all_images),
        cmocka_unit_test(ranks_of_a_swin_train_as_one_process),
        cmocka_unit_test(batch_norm_sees_all_ranks),
        cmocka_unit_test(recorded_steps_end_with_the_same_bits),
    };
    enum status status = open_backend(argc == 2 ? argv[1] : "none");
    if (status != STATUS_OK) {
        fprintf(stderr, "ranks_test: %s\n", status_message());
        bool lacks = status == STATUS_UNSUPPORTED || status == STATUS_NOT_FOUND;
        return lacks && ranks.state == NULL ? SKIPPED : 1;
    }
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed > 0 && ranks.world > 1 && ops != &op_table_cpu)
        ranks.abort(&ranks, 1); /* the others may be elsewhere in it */
    collective_close(&ranks);
    rank_monitor_close(&monitor);
    device_close(&device);
    return failed;
}
