/* What UPerNet is made of: matrices on maps against plain loops, convolutions in parts of every
 * size, whose memory has a bound. The whole of it is held against PyTorch in
 * classifier_torch_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/trainer/model_fixture.h"
#include "trainer/model/upernet.h"

static struct device device;

static int set_up(void **state)
{
    (void)state;
    return device_open_cpu(&device, 2) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    device_close(&device);
    return 0;
}

static void run(enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s", status_message());
}

/* ------------------------------------------------------------------------------ matrices */

enum { MOST = 256 };

/* The matrix as a dense one, by multiplying with it. */
static void dense(double out[MOST][MOST], const struct map_tables *tables,
                  const struct map_matrix *matrix)
{
    static float unit[MOST], row[MOST];

    assert_true(matrix->n_rows <= MOST && matrix->n_columns <= MOST);
    for (int64_t j = 0; j < matrix->n_columns; j++) {
        memset(unit, 0, sizeof(unit));
        unit[j] = 1.0f;
        struct spmm_args args = {
            .a = map_tables_sparse(tables, matrix),
            .x = tensor_2d(unit, DTYPE_F32, matrix->n_columns, 1),
            .y = tensor_2d(row, DTYPE_F32, matrix->n_rows, 1),
            .n_maps = 1,
        };
        run(spmm_cpu(&device, &args));
        for (int64_t i = 0; i < matrix->n_rows; i++)
            out[i][j] = (double)row[i];
    }
}

/* The forward matrix; the backward one is checked to be its transpose. */
static void both(double out[MOST][MOST], struct map_tables *tables, const struct map_pair *pair)
{
    static double transposed[MOST][MOST];

    run(map_tables_upload(tables, &device));
    dense(out, tables, &pair->forward);
    dense(transposed, tables, &pair->backward);
    assert_int_equal(pair->forward.n_rows, pair->backward.n_columns);
    assert_int_equal(pair->forward.n_columns, pair->backward.n_rows);
    for (int64_t i = 0; i < pair->forward.n_rows; i++)
        for (int64_t j = 0; j < pair->forward.n_columns; j++)
            assert_true(out[i][j] == transposed[j][i]);
}

static double whole[MOST][MOST];

static void resizing_is_bilinear(void **state)
{
    static const int32_t sizes[][4] = {{3, 5, 6, 10}, {4, 7, 9, 5}, {1, 1, 3, 4}, {6, 6, 6, 6}};

    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        int32_t h = sizes[s][0], w = sizes[s][1], rows = sizes[s][2], columns = sizes[s][3];
        struct map_tables tables = {0};
        struct map_pair pair;
        run(map_tables_resize(&tables, &pair, h, w, rows, columns));
        both(whole, &tables, &pair);
        for (int32_t i = 0; i < rows * columns; i++) {
            double y = fmax(0.0, (i / columns + 0.5) * h / rows - 0.5);
            double x = fmax(0.0, (i % columns + 0.5) * w / columns - 0.5);
            for (int32_t j = 0; j < h * w; j++) {
                double near_y = fmax(0.0, 1.0 - fabs(fmin(y, h - 1.0) - j / w));
                double near_x = fmax(0.0, 1.0 - fabs(fmin(x, w - 1.0) - j % w));
                assert_near(whole[i][j], near_y * near_x, 1e-6);
            }
        }
        map_tables_release(&tables);
    }
}

static void bins_are_means(void **state)
{
    static const int32_t sizes[][3] = {{7, 5, 3}, {2, 3, 6}, {4, 4, 1}, {13, 11, 6}};

    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        int32_t h = sizes[s][0], w = sizes[s][1], side = sizes[s][2];
        struct map_tables tables = {0};
        struct map_pair pair;
        run(map_tables_pool(&tables, &pair, h, w, side));
        both(whole, &tables, &pair);
        for (int32_t i = 0; i < side * side; i++) {
            int32_t top = (int32_t)floor((double)(i / side) * h / side);
            int32_t bottom = (int32_t)ceil((double)(i / side + 1) * h / side);
            int32_t left = (int32_t)floor((double)(i % side) * w / side);
            int32_t right = (int32_t)ceil((double)(i % side + 1) * w / side);
            for (int32_t j = 0; j < h * w; j++) {
                bool in = j / w >= top && j / w < bottom && j % w >= left && j % w < right;
                assert_near(whole[i][j], in ? 1.0 / ((bottom - top) * (right - left)) : 0.0, 1e-7);
            }
        }
        map_tables_release(&tables);
    }
}

static void squares_become_a_map(void **state)
{
    enum { H = 3, W = 5 };
    struct map_tables tables = {0};
    struct map_pair pair;

    (void)state;
    run(map_tables_double(&tables, &pair, H, W));
    both(whole, &tables, &pair);
    for (int32_t y = 0; y < 2 * H; y++)
        for (int32_t x = 0; x < 2 * W; x++)
            for (int32_t j = 0; j < 4 * H * W; j++) {
                int32_t from = (y / 2 * W + x / 2) * 4 + y % 2 * 2 + x % 2;
                assert_true(whole[y * 2 * W + x][j] == (j == from ? 1.0 : 0.0));
            }
    /* the same block holds other matrices then */
    map_tables_clear(&tables);
    run(map_tables_copy(&tables, &pair, 7));
    both(whole, &tables, &pair);
    for (int i = 0; i < 49; i++)
        assert_true(whole[i / 7][i % 7] == (i / 7 == i % 7 ? 1.0 : 0.0));
    map_tables_release(&tables);
}

/* ------------------------------------------------------------------------------ convolution */

enum { N = 3, H = 5, W = 4, IN = 6, OUT = 7, CELLS = N * H * W };

static float x[CELLS * IN], d_y[CELLS * OUT], weight[OUT * 9 * IN];

/* Calls add(at of y, of x, of the weight) for all that meet. */
static void each_product(void (*add)(void *, int64_t, int64_t, int64_t), void *to)
{
    for (int64_t i = 0; i < CELLS; i++)
        for (int64_t k = 0; k < 9; k++) {
            int64_t row = i / W % H + k / 3 - 1, column = i % W + k % 3 - 1;
            if (row < 0 || row >= H || column < 0 || column >= W)
                continue;
            int64_t from = i / (H * W) * H * W + row * W + column;
            for (int64_t o = 0; o < OUT; o++)
                for (int64_t c = 0; c < IN; c++)
                    add(to, i * OUT + o, from * IN + c, (o * 9 + k) * IN + c);
        }
}

struct wanted {
    double y[CELLS * OUT], d_x[CELLS * IN], d_weight[OUT * 9 * IN];
};

static void add_product(void *to, int64_t at_y, int64_t at_x, int64_t at_weight)
{
    struct wanted *want = to;

    want->y[at_y] += (double)x[at_x] * (double)weight[at_weight];
    want->d_x[at_x] += (double)d_y[at_y] * (double)weight[at_weight];
    want->d_weight[at_weight] += (double)d_y[at_y] * (double)x[at_x];
}

static void expect(const float *got, const double *want, int64_t n, double before)
{
    for (int64_t i = 0; i < n; i++)
        assert_near((double)got[i], want[i] + before, 2e-5);
}

static void convolve(int64_t room, const struct wanted *want)
{
    static float y[CELLS * OUT], d_x[CELLS * IN], d_weight[OUT * 9 * IN];
    static float windows[CELLS * 9 * IN], d_windows[CELLS * 9 * IN];
    struct conv3x3_scratch scratch = {
        .windows = tensor_1d(windows, DTYPE_F32, 0),
        .d_windows = tensor_1d(d_windows, DTYPE_F32, 0),
        .n = conv3x3_scratch_values(IN, H * W, N, room * 9 * IN),
    };
    struct map_tables tables = {0};
    struct conv3x3 conv = {
        .device = &device,
        .ops = &op_table_cpu,
        .tables = &tables,
        .scratch = &scratch,
        .in = IN,
        .out = OUT,
        .layer = {.weight = tensor_2d(weight, DTYPE_F32, OUT, 9 * IN),
                  .d_weight = tensor_2d(d_weight, DTYPE_F32, OUT, 9 * IN)},
    };
    struct tensor none = {0}, in = tensor_2d(x, DTYPE_F32, CELLS, IN);

    assert_true(scratch.n <= CELLS * 9 * IN && scratch.n % (9 * IN) == 0);
    for (int i = 0; i < CELLS * 9 * IN; i++) /* nothing beyond what was planned is written */
        windows[i] = d_windows[i] = 77.0f;
    for (int i = 0; i < CELLS * IN; i++)
        d_x[i] = 0.5f;
    for (int i = 0; i < OUT * 9 * IN; i++)
        d_weight[i] = -0.5f;
    run(conv3x3_reshape(&conv, H, W));
    run(map_tables_upload(&tables, &device));
    run(conv3x3_forward(&conv, in, tensor_2d(y, DTYPE_F32, CELLS, OUT), N));
    expect(y, want->y, CELLS * OUT, 0.0);
    struct tensor back = tensor_2d(d_y, DTYPE_F32, CELLS, OUT);
    run(conv3x3_backward(&conv, back, in, tensor_2d(d_x, DTYPE_F32, CELLS, IN), N));
    expect(d_x, want->d_x, CELLS * IN, 0.5);
    expect(d_weight, want->d_weight, OUT * 9 * IN, -0.5);
    memset(d_weight, 0, sizeof(d_weight));
    run(conv3x3_backward(&conv, back, in, none, N));
    expect(d_weight, want->d_weight, OUT * 9 * IN, 0.0);
    for (int64_t i = scratch.n; i < CELLS * 9 * IN; i++)
        assert_true(windows[i] == 77.0f && d_windows[i] == 77.0f);
    conv3x3_release(&conv);
    map_tables_release(&tables);
}

static void a_convolution_is_the_same_in_parts(void **state)
{
    static const int64_t rooms[] = {1000,      3 * H * W, 2 * H * W, H * W + 1, H * W,
                                    H * W - 1, 7,         1,         0};
    static struct wanted want;

    (void)state;
    fill_random(x, CELLS * IN, 1);
    fill_random(d_y, CELLS * OUT, 2);
    fill_random(weight, OUT * 9 * IN, 3);
    each_product(add_product, &want);
    for (size_t i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++)
        convolve(rooms[i], &want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resizing_is_bilinear),
        cmocka_unit_test(bins_are_means),
        cmocka_unit_test(squares_become_a_map),
        cmocka_unit_test(a_convolution_is_the_same_in_parts),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
