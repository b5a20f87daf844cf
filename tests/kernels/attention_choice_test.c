/* Who computes attention: what was asked for does, and cuDNN's results are those of the own
 * kernels. Once with the emulated kernels, once on a GPU. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/attention_cudnn.h"
#include "tests/support/op_fixture.h"

enum { HEADS = 2, HEAD_DIM = 32, WIDTH = HEADS * HEAD_DIM };

/* Two crops of 70 tokens, three of 20: a batch of both sizes. A row in between is in no group. */
static const struct attention_group groups[2] = {{0, 2, 70}, {142, 3, 20}};
enum { TOKENS = 202 };

struct results {
    double *out, *lse, *d_qkv;
    int64_t n_runs; /* that cuDNN was given */
};

static void attend(struct op_fixture *f, enum attention_maker maker, struct results *results)
{
    double *zeros = op_zeros(f, TOKENS * 3 * WIDTH);
    struct rng start = f->rng;
    struct attention_args args = {
        .qkv = op_upload(f, f->dtype, op_random(f, f->dtype, TOKENS * 3 * WIDTH, 1.0), TOKENS,
                         3 * WIDTH),
        .out = op_upload(f, f->dtype, zeros, TOKENS, WIDTH),
        .lse = op_upload(f, DTYPE_F32, zeros, TOKENS, HEADS),
        .n_groups = 2,
        .n_heads = HEADS,
    };
    struct attention_backward_args back = {
        .d_out = op_upload(f, f->dtype, op_random(f, f->dtype, TOKENS * WIDTH, 1.0), TOKENS, WIDTH),
        .qkv = args.qkv,
        .out = args.out,
        .lse = args.lse,
        .d_qkv = op_upload(f, f->dtype, zeros, TOKENS, 3 * WIDTH),
        .n_groups = 2,
        .n_heads = HEADS,
    };
    int64_t before = attention_cudnn_n_runs(&f->device);

    f->rng = start; /* the next call has the same numbers */
    op_run(kernels_attention_by(&f->device, maker));
    memcpy(args.groups, groups, sizeof(groups));
    memcpy(back.groups, groups, sizeof(groups));
    op_run(f->ops->attention_forward(&f->device, &args));
    op_run(f->ops->attention_backward(&f->device, &back));
    *results = (struct results){
        .out = op_download(f, args.out),
        .lse = op_download(f, args.lse),
        .d_qkv = op_download(f, back.d_qkv),
        .n_runs = attention_cudnn_n_runs(&f->device) - before,
    };
}

static double greatest_difference(const double *a, const double *b, int64_t n)
{
    double greatest = 0.0;
    for (int64_t i = 0; i < n; i++)
        greatest = fmax(greatest, fabs(a[i] - b[i]));
    return greatest;
}

static void expect_alike(const struct results *a, const struct results *b)
{
    /* probabilities and their gradients are rounded to bf16 at other places */
    assert_true(greatest_difference(a->out, b->out, TOKENS * WIDTH) < 0.02);
    assert_true(greatest_difference(a->lse, b->lse, TOKENS * HEADS) < 1e-4);
    assert_true(greatest_difference(a->d_qkv, b->d_qkv, TOKENS * 3 * WIDTH) < 0.05);
}

static void each_maker_does_what_it_is_asked_to(void **state)
{
    struct results own, cudnn, choice;
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 12);
    bool half = f.dtype == DTYPE_BF16;
    attend(&f, ATTENTION_BY_OWN, &own);
    assert_int_equal(own.n_runs, 0);
    attend(&f, ATTENTION_BY_CUDNN, &cudnn);
    assert_int_equal(cudnn.n_runs, half ? 4 : 0);
    expect_alike(&own, &cudnn);
    attend(&f, ATTENTION_BY_CHOICE, &choice);
    assert_int_equal(choice.n_runs, half ? 4 : 0); /* the long ones, which are tried first */
    attend(&f, ATTENTION_BY_CHOICE, &choice);
    assert_int_equal(choice.n_runs, half ? 2 : 0);
    expect_alike(&own, &choice);
    op_fixture_close(&f);
}

/* What the file of tuning has for attention: lines of it. */
static int n_kept(const char *path)
{
    FILE *file = fopen(path, "r");
    char line[2048];
    int n = 0;

    while (file != NULL && fgets(line, sizeof(line), file) != NULL)
        n += strstr(line, "attention ") != NULL;
    if (file != NULL)
        fclose(file);
    return n;
}

/* Both are measured, once; a later run takes what was kept, whatever it would measure. */
static void what_was_measured_is_kept(void **state)
{
    char folder[] = "/tmp/attention_choice_XXXXXX", path[64];
    static double out[TOKENS * WIDTH], lse[TOKENS * HEADS], d_qkv[TOKENS * 3 * WIDTH];
    struct results first, again, later;
    struct op_fixture f;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/choices", folder);
    op_fixture_open(&f, 14);
    op_run(f.device.tune(&f.device, &(struct device_tuning){DEVICE_TUNING_ON, path}));
    attend(&f, ATTENTION_BY_CHOICE, &first);
    assert_true(first.n_runs >= 4 * 8); /* two groups both ways, a warm-up and seven rounds */
    assert_int_equal(n_kept(path), 4);
    attend(&f, ATTENTION_BY_CHOICE, &again);
    assert_true(again.n_runs <= 4);
    expect_alike(&first, &again);
    memcpy(out, again.out, sizeof(out)); /* the fixture's memory ends with it */
    memcpy(lse, again.lse, sizeof(lse));
    memcpy(d_qkv, again.d_qkv, sizeof(d_qkv));
    op_fixture_close(&f);
    op_fixture_open(&f, 14);
    op_run(f.device.tune(&f.device, &(struct device_tuning){DEVICE_TUNING_KEPT, path}));
    attend(&f, ATTENTION_BY_CHOICE, &later);
    assert_int_equal(later.n_runs, again.n_runs);
    expect_alike(&(struct results){out, lse, d_qkv, 0}, &later);
    op_fixture_close(&f);
    assert_int_equal(n_kept(path), 4);
    assert_int_equal(remove(path), 0);
    snprintf(path, sizeof(path), "%s/choices.lock", folder);
    (void)remove(path);
    assert_int_equal(rmdir(folder), 0);
}

/* A plan that was made may still not run. Nothing but a wish for cuDNN alone fails then. */
static void a_plan_that_does_not_run_is_left(void **state)
{
    static const enum device_tuning_mode modes[] = {DEVICE_TUNING_OFF, DEVICE_TUNING_ON};
    struct results own, choice;
    struct op_fixture f;

    (void)state;
    for (int i = 0; i < 2; i++) {
        op_fixture_open(&f, 15);
        if (strcmp(f.ops->name, "cuda_emulated") != 0) {
            op_fixture_close(&f);
            skip();
        }
        op_run(f.device.tune(&f.device, &(struct device_tuning){modes[i], NULL}));
        attend(&f, ATTENTION_BY_OWN, &own);
        setenv("IBOT_EMULATOR_CUDNN_FAILS", "1", 1);
        attend(&f, ATTENTION_BY_CHOICE, &choice);
        unsetenv("IBOT_EMULATOR_CUDNN_FAILS");
        assert_int_equal(choice.n_runs, 0);
        expect_alike(&own, &choice);
        attend(&f, ATTENTION_BY_CHOICE, &choice); /* and is not tried again */
        assert_int_equal(choice.n_runs, 0);
        expect_alike(&own, &choice);
        op_fixture_close(&f);
    }
}

/* A step that is recorded has its plans and its memory from the one before. */
static void captured_attention_is_the_same(void **state)
{
    struct op_fixture f;
    struct device_graph *graph = NULL;

    (void)state;
    op_fixture_open(&f, 13);
    op_run(kernels_attention_by(&f.device, ATTENTION_BY_CUDNN));
    struct attention_args args = {
        .qkv = op_upload(&f, f.dtype, op_random(&f, f.dtype, TOKENS * 3 * WIDTH, 1.0), TOKENS,
                         3 * WIDTH),
        .out = op_upload(&f, f.dtype, op_zeros(&f, TOKENS * WIDTH), TOKENS, WIDTH),
        .lse = op_output(&f, DTYPE_F32, TOKENS, HEADS),
        .n_groups = 2,
        .n_heads = HEADS,
    };
    memcpy(args.groups, groups, sizeof(groups));
    op_run(f.ops->attention_forward(&f.device, &args));
    double *before = op_download(&f, args.out);
    op_run(f.device.zero(&f.device, args.out.data, tensor_size_bytes(&args.out)));
    op_run(f.device.capture_begin(&f.device));
    op_run(f.ops->attention_forward(&f.device, &args));
    op_run(f.device.capture_end(&f.device, &graph));
    op_run(f.device.graph_launch(&f.device, graph));
    double *after = op_download(&f, args.out);
    assert_memory_equal(before, after, TOKENS * WIDTH * sizeof(double));
    f.device.graph_release(&f.device, &graph);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_maker_does_what_it_is_asked_to),
        cmocka_unit_test(what_was_measured_is_kept),
        cmocka_unit_test(a_plan_that_does_not_run_is_left),
        cmocka_unit_test(captured_attention_is_the_same),
    };
    int leave = op_backend_choose(argc, argv);
    if (leave == 0 && !attention_cudnn_is_there())
        leave = OP_TEST_SKIPPED;
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
