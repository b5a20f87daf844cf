/* Devices and planned memory, on every backend; and what the CPU says of types it lacks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ops/workspace.h"
#include "tests/support/op_fixture.h"

static void bytes_come_back_as_they_went_in(void **state)
{
    struct op_fixture f;
    unsigned char in[1000], out[1000] = {0};
    void *a, *b, *host;

    (void)state;
    op_fixture_open(&f, 1);
    for (int i = 0; i < 1000; i++)
        in[i] = (unsigned char)(i * 7);
    op_run(f.device.alloc(&f.device, &a, sizeof(in), "a"));
    op_run(f.device.alloc(&f.device, &b, sizeof(in), "b"));
    op_run(f.device.alloc_host(&f.device, &host, sizeof(in), "host"));
    memcpy(host, in, sizeof(in));
    op_run(f.device.copy_in(&f.device, a, host, sizeof(in)));
    op_run(f.device.copy(&f.device, b, a, sizeof(in)));
    op_run(f.device.zero(&f.device, a, sizeof(in)));
    op_run(f.device.copy_out(&f.device, out, b, sizeof(in)));
    op_run(f.device.synchronize(&f.device));
    assert_memory_equal(in, out, sizeof(in));
    op_run(f.device.copy_out(&f.device, out, a, sizeof(in)));
    op_run(f.device.synchronize(&f.device));
    for (int i = 0; i < 1000; i++)
        assert_int_equal(out[i], 0);
    op_run(f.device.copy_in(&f.device, a, NULL, 0)); /* nothing is fine */
    op_run(f.device.zero(&f.device, NULL, 0));
    f.device.free(&f.device, a);
    f.device.free(&f.device, b);
    f.device.free_host(&f.device, host);
    op_fixture_close(&f);
}

static void planned_pieces_are_aligned_apart_and_zero(void **state)
{
    struct op_fixture f;
    struct workspace plan = {0};
    unsigned char *pieces[20], zeros[256] = {0}, bytes[256];

    (void)state;
    op_fixture_open(&f, 2);
    for (size_t i = 0; i < 20; i++)
        op_run(workspace_reserve(&plan, &pieces[i], i * 13)); /* one is empty */
    assert_true(plan.size_bytes >= 19 * 20 / 2 * 13);
    op_run(workspace_commit(&plan, &f.device, "pieces"));
    for (size_t i = 0; i < 20; i++) {
        assert_int_equal((uintptr_t)pieces[i] % 256, 0);
        assert_true(i == 0 || pieces[i] >= pieces[i - 1] + (i - 1) * 13);
        op_run(f.device.copy_out(&f.device, bytes, pieces[i], i * 13));
        op_run(f.device.synchronize(&f.device));
        assert_memory_equal(bytes, zeros, i * 13);
        memset(bytes, 0xff, sizeof(bytes));
        op_run(f.device.copy_in(&f.device, pieces[i], bytes, i * 13));
        op_run(f.device.synchronize(&f.device));
    }
    workspace_release(&plan);
    workspace_release(&plan); /* twice is fine */
    workspace_release(NULL);
    op_fixture_close(&f);
}

static void a_plan_larger_than_memory_is_refused(void **state)
{
    struct op_fixture f;
    struct workspace plan = {0};
    void *piece;

    (void)state;
    op_fixture_open(&f, 3);
    op_run(workspace_reserve(&plan, &piece, SIZE_MAX / 2));
    assert_int_equal(workspace_reserve(&plan, &piece, SIZE_MAX / 2), STATUS_NO_MEMORY);
    assert_int_equal(workspace_commit(&plan, &f.device, "too much"), STATUS_NO_MEMORY);
    assert_non_null(strstr(status_message(), "too much"));
    workspace_release(&plan);
    op_fixture_close(&f);
}

static void a_negative_number_of_threads_is_refused(void **state)
{
    struct device device;

    (void)state;
    assert_int_equal(device_open_cpu(&device, -1), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "-1"));
}

static void a_closed_device_may_be_closed_again(void **state)
{
    struct device device;

    (void)state;
    op_run(device_open_cpu(&device, 1));
    assert_int_equal(device.n_threads, 1);
    device_close(&device);
    device_close(&device);
    device_close(NULL);
}

static size_t free_bytes(struct op_fixture *f)
{
    size_t free_bytes, all_bytes;

    op_run(f->device.memory(&f->device, &free_bytes, &all_bytes));
    return free_bytes;
}

/* An op that comes after the capture and wants more working memory must not take away what the
 * graph recorded; when the last graph is gone, what was outgrown is freed. */
static void a_graph_keeps_the_working_memory_it_was_recorded_with(void **state)
{
    enum { ROWS = 64, COLUMNS = 32, MORE = 4096, MOST = 8192 };
    struct op_fixture f;
    struct device_graph *graphs[2];

    (void)state;
    op_fixture_open(&f, 5);
    if (f.device.capture_begin == NULL) {
        op_fixture_close(&f);
        skip();
    }
    struct tensor x =
        op_upload(&f, DTYPE_F32, op_random(&f, DTYPE_F32, ROWS * MOST, 1.0), ROWS, MOST);
    struct tensor mean = op_output(&f, DTYPE_F32, MOST, 0),
                  other = op_output(&f, DTYPE_F32, MOST, 0);
    struct rows_mean_args means[3];
    static const int64_t columns[3] = {COLUMNS, MORE, MOST};
    static float want[COLUMNS], got[COLUMNS];
    for (int i = 0; i < 3; i++) {
        means[i] = (struct rows_mean_args){.x = x, .mean = i == 0 ? mean : other};
        means[i].x.shape[1] = means[i].mean.shape[0] = columns[i];
    }
    op_run(f.ops->rows_mean(&f.device, &means[0]));
    op_run(f.device.copy_out(&f.device, want, mean.data, sizeof(want)));
    for (int i = 0; i < 2; i++) {
        op_run(f.device.capture_begin(&f.device));
        op_run(f.ops->rows_mean(&f.device, &means[0]));
        op_run(f.device.capture_end(&f.device, &graphs[i]));
    }
    for (int i = 1; i < 3; i++) {
        op_run(f.ops->rows_mean(&f.device, &means[i]));
        op_run(f.device.zero(&f.device, mean.data, sizeof(got)));
        op_run(f.device.graph_launch(&f.device, graphs[i - 1]));
        op_run(f.device.copy_out(&f.device, got, mean.data, sizeof(got)));
        op_run(f.device.synchronize(&f.device));
        assert_memory_equal(got, want, sizeof(want));
    }
    size_t before = free_bytes(&f);
    f.device.graph_release(&f.device, &graphs[0]);
    op_run(f.device.graph_launch(&f.device, graphs[1]));
    f.device.graph_release(&f.device, &graphs[1]);
    assert_null(graphs[1]);
    if (strcmp(f.ops->name, "cuda_emulated") ==
        0) /* elsewhere others allocate, and in large pieces */
        assert_true(free_bytes(&f) > before);
    op_fixture_close(&f);
}

static void the_cpu_says_that_it_lacks_bf16(void **state)
{
    struct device device;
    uint16_t values[16] = {0};
    float floats[16] = {0};
    struct tensor half = tensor_2d(values, DTYPE_BF16, 2, 2);
    struct tensor whole = tensor_2d(floats, DTYPE_F32, 2, 2);

    (void)state;
    op_run(device_open_cpu(&device, 1));
    struct linear_args linear = {.x = half, .weight = half, .y = half};
    assert_int_equal(linear_forward_cpu(&device, &linear), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "float32"));
    linear = (struct linear_args){.x = whole, .weight = whole, .y = half};
    assert_int_equal(linear_forward_cpu(&device, &linear), STATUS_UNSUPPORTED);
    struct unit_norm_args norm = {.x = whole, .y = half};
    assert_int_equal(unit_norm_forward_cpu(&device, &norm), STATUS_UNSUPPORTED);
    struct activation_args activation = {.x = whole, .y = half};
    assert_int_equal(activation_forward_cpu(&device, &activation), STATUS_UNSUPPORTED);
    struct attention_args attention = {.qkv = tensor_2d(floats, DTYPE_F32, 2, 6),
                                       .out = half,
                                       .groups = {{0, 1, 2}},
                                       .n_groups = 1,
                                       .n_heads = 1};
    assert_int_equal(attention_forward_cpu(&device, &attention), STATUS_UNSUPPORTED);
    device_close(&device);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_back_as_they_went_in),
        cmocka_unit_test(planned_pieces_are_aligned_apart_and_zero),
        cmocka_unit_test(a_plan_larger_than_memory_is_refused),
        cmocka_unit_test(a_negative_number_of_threads_is_refused),
        cmocka_unit_test(a_closed_device_may_be_closed_again),
        cmocka_unit_test(a_graph_keeps_the_working_memory_it_was_recorded_with),
        cmocka_unit_test(the_cpu_says_that_it_lacks_bf16),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
