/* The two ways to GELU's derivative and the column sums of what it makes: each gives what it
 * should, what was measured is kept, and what is kept is what is done. Once with the emulated
 * kernels, once on a GPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/matmul.h"
#include "kernels/matmul_cache.h"
#include "proto/base/memory.h"
#include "tests/support/op_fixture.h"
#include "tests/support/op_reference.h"

enum { N = 301, IN = 72, OUT = 16 };

static char folder[64], path[96];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/linear_choice_XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/choices", folder);
    return 0;
}

static int remove_folder(void **state)
{
    char lock[128];

    (void)state;
    snprintf(lock, sizeof(lock), "%s.lock", path);
    (void)unlink(lock);
    (void)unlink(path);
    return rmdir(folder);
}

/* ------------------------------------------------------------------------------ one call */

struct problem {
    struct linear_backward_args args;
    double *d_x, *sums; /* what they should be */
};

static struct problem problem_of(struct op_fixture *f)
{
    double *d_y = op_random(f, f->dtype, N * OUT, 1.0);
    double *weight = op_random(f, f->dtype, OUT * IN, 0.3);
    double *pre = op_random(f, f->dtype, N * IN, 1.5);
    double *before = op_random(f, DTYPE_F32, IN, 1.0), h = 1e-5;
    struct problem p = {.d_x = op_zeros(f, N * IN), .sums = op_zeros(f, IN)};

    memcpy(p.sums, before, IN * sizeof(*before));
    for (int i = 0; i < N; i++)
        for (int j = 0; j < IN; j++) {
            double gradient = 0.0, x = pre[i * IN + j];
            for (int k = 0; k < OUT; k++)
                gradient += d_y[i * OUT + k] * weight[k * IN + j];
            p.d_x[i * IN + j] = gradient *
                                (reference_activation(ACTIVATION_GELU_TANH, x + h) -
                                 reference_activation(ACTIVATION_GELU_TANH, x - h)) /
                                (2.0 * h);
            p.sums[j] += p.d_x[i * IN + j];
        }
    p.args = (struct linear_backward_args){
        .d_y = op_upload(f, f->dtype, d_y, N, OUT),
        .x = op_output(f, f->dtype, N, IN), /* is not read: no gradient of the weight */
        .weight = op_upload(f, f->dtype, weight, OUT, IN),
        .pre = op_upload(f, f->dtype, pre, N, IN),
        .d_x = op_output(f, f->dtype, N, IN),
        .d_x_sums = op_upload(f, DTYPE_F32, before, IN, 0),
        .activation = ACTIVATION_GELU_TANH,
    };
    return p;
}

static void run(struct op_fixture *f, const struct problem *p)
{
    op_run(f->ops->linear_backward(&f->device, &p->args));
}

static void expect_right(struct op_fixture *f, const struct problem *p)
{
    op_expect(f, "linear_backward", "d_x", p->args.d_x, p->d_x);
    op_expect(f, "linear_backward", "d_x_sums", p->args.d_x_sums, p->sums);
}

static void open_tuned(struct op_fixture *f, enum device_tuning_mode mode)
{
    op_fixture_open(f, 31);
    op_run(f->device.tune(&f->device, &(struct device_tuning){mode, path}));
}

/* ------------------------------------------------------------------------------ the file */

/* The kept choice of a way; false: there is none. */
static bool kept(struct matmul_choice *out, size_t *n)
{
    struct matmul_choices choices = {0};
    bool found = false;

    assert_int_equal(matmul_cache_read(&choices, path), STATUS_OK);
    for (size_t i = 0; i < choices.n; i++)
        if (strstr(choices.choices[i].product, "with column sums") != NULL) {
            assert_false(found);
            found = true;
            *out = choices.choices[i];
        }
    *n = choices.n;
    matmul_choices_release(&choices);
    return found;
}

static void keep(enum matmul_way way)
{
    struct matmul_choice choice, wrong;
    size_t n;

    assert_true(kept(&wrong, &n));
    choice = wrong;
    choice.algorithm[0] = (uint8_t)way;
    if (memcmp(&choice, &wrong, sizeof(choice)) != 0)
        assert_int_equal(matmul_cache_keep(path, &choice, &wrong), STATUS_OK);
}

/* ------------------------------------------------------------------------------ tests */

/* While the two are measured nothing is added to the sums; what is chosen is what took less. */
static void the_faster_way_is_found_once_and_kept(void **state)
{
    struct matmul_choice choice, again;
    struct op_fixture f;
    size_t n, n_again;

    (void)state;
    open_tuned(&f, DEVICE_TUNING_ON);
    struct problem p = problem_of(&f), second = problem_of(&f);
    run(&f, &p);
    expect_right(&f, &p);
    assert_true(kept(&choice, &n));
    assert_true(choice.algorithm[0] < MATMUL_N_WAYS);
    assert_int_equal(choice.n_candidates, MATMUL_N_WAYS);
    if (choice.algorithm[0] == MATMUL_FUSED)
        assert_int_equal(choice.time_ns, choice.first_ns);
    else
        assert_true(choice.time_ns < choice.first_ns);
    run(&f, &second);
    expect_right(&f, &second);
    assert_true(kept(&again, &n_again));
    assert_int_equal(n_again, n);
    assert_memory_equal(&again, &choice, sizeof(choice));
    op_fixture_close(&f);
}

static void what_is_kept_is_done_and_right(void **state)
{
    static char bits[MATMUL_N_WAYS][N * IN * sizeof(float)];
    struct op_fixture f;

    (void)state;
    open_tuned(&f, DEVICE_TUNING_ON);
    struct problem first = problem_of(&f);
    run(&f, &first);
    bool half = f.dtype == DTYPE_BF16;
    op_fixture_close(&f);
    for (int way = 0; way < MATMUL_N_WAYS; way++) {
        keep((enum matmul_way)way);
        open_tuned(&f, way == 0 ? DEVICE_TUNING_ON : DEVICE_TUNING_KEPT);
        struct problem p = problem_of(&f);
        run(&f, &p);
        expect_right(&f, &p);
        op_run(f.device.copy_out(&f.device, bits[way], p.args.d_x.data,
                                 tensor_size_bytes(&p.args.d_x)));
        op_run(f.device.synchronize(&f.device));
        op_fixture_close(&f);
    }
    if (half) /* one rounds twice */
        assert_memory_not_equal(bits[MATMUL_FUSED], bits[MATMUL_SPLIT], N * IN * 2);
}

/* A step that is recorded measures nothing, takes the epilogue, and settles nothing. */
static void nothing_is_measured_in_a_capture(void **state)
{
    struct device_graph *graph = NULL;
    struct matmul_choice choice;
    struct op_fixture f;
    size_t n;

    (void)state;
    open_tuned(&f, DEVICE_TUNING_OFF); /* for the working memory, which a capture may not grow */
    struct problem p = problem_of(&f), second = problem_of(&f);
    run(&f, &p);
    expect_right(&f, &p);
    assert_false(kept(&choice, &n));
    op_run(f.device.capture_begin(&f.device));
    run(&f, &second);
    op_run(f.device.capture_end(&f.device, &graph));
    op_run(f.device.graph_launch(&f.device, graph));
    expect_right(&f, &second);
    assert_false(kept(&choice, &n));
    assert_int_equal(n, 0);
    f.device.graph_release(&f.device, &graph);
    op_fixture_close(&f);
}

/* Without sums there is nothing to choose between. */
static void without_sums_the_epilogue_is_taken(void **state)
{
    struct matmul_choice choice;
    struct op_fixture f;
    size_t n;

    (void)state;
    open_tuned(&f, DEVICE_TUNING_ON);
    struct problem p = problem_of(&f);
    p.args.d_x_sums.data = NULL;
    run(&f, &p);
    op_expect(&f, "linear_backward", "d_x", p.args.d_x, p.d_x);
    assert_false(kept(&choice, &n));
    assert_int_equal(n, 1);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_faster_way_is_found_once_and_kept, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(what_is_kept_is_done_and_right, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(nothing_is_measured_in_a_capture, make_folder,
                                        remove_folder),
        cmocka_unit_test_setup_teardown(without_sums_the_epilogue_is_taken, make_folder,
                                        remove_folder),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
