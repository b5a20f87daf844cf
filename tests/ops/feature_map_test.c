/* Maps of features: sparse products, the largest of four, scaled channels, against plain loops, on
 * every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

/* ------------------------------------------------------------------------------ sparse product */

enum { ROWS = 37, COLUMNS = 23, MAPS = 3, MOST = 6 };

struct matrix_of_test {
    double start[ROWS + 1], column[ROWS * MOST], value[ROWS * MOST];
    int n;
};

/* Row i has i % 6 entries, so that some have none; a column may come twice. */
static void make_matrix(struct op_fixture *f, struct matrix_of_test *m)
{
    m->n = 0;
    for (int i = 0; i < ROWS; i++) {
        m->start[i] = m->n;
        for (int e = 0; e < i % MOST; e++, m->n++) {
            m->column[m->n] = rng_u32(&f->rng) % COLUMNS;
            m->value[m->n] = op_round(DTYPE_F32, rng_normal(&f->rng));
        }
    }
    m->start[ROWS] = m->n;
}

struct spmm_case {
    int64_t c, x_stride, y_stride, first, rows; /* rows of the matrix that are multiplied with */
    bool add, ones;
};

static void multiply(const struct spmm_case *t)
{
    struct op_fixture f;
    struct matrix_of_test m;

    op_fixture_open(&f, 40);
    make_matrix(&f, &m);
    double *x = op_random(&f, f.dtype, MAPS * COLUMNS * t->x_stride, 1.0);
    double *y = op_random(&f, f.dtype, MAPS * t->rows * t->y_stride, 1.0);
    struct tensor wide_x = op_upload(&f, f.dtype, x, MAPS * COLUMNS, t->x_stride);
    struct tensor wide_y = op_upload(&f, f.dtype, y, MAPS * t->rows, t->y_stride);
    struct tensor start = op_upload(&f, DTYPE_I32, m.start, ROWS + 1, 0);
    struct spmm_args args = {
        .a = {.start = tensor_rows(start, t->first, t->rows + 1),
              .column = op_upload(&f, DTYPE_I32, m.column, m.n, 0),
              .n_columns = COLUMNS},
        .x = tensor_2d(wide_x.data, f.dtype, MAPS * COLUMNS, t->c),
        .y = tensor_2d(wide_y.data, f.dtype, MAPS * t->rows, t->c),
        .n_maps = MAPS,
        .x_stride = t->x_stride,
        .y_stride = t->y_stride,
        .add = t->add,
    };
    if (!t->ones)
        args.a.value = op_upload(&f, DTYPE_F32, m.value, m.n, 0);
    op_run(f.ops->spmm(&f.device, &args));
    for (int64_t map = 0; map < MAPS; map++)
        for (int64_t i = 0; i < t->rows; i++)
            for (int64_t j = 0; j < t->c; j++) {
                double sum = 0.0;
                for (int e = (int)m.start[t->first + i]; e < (int)m.start[t->first + i + 1]; e++)
                    sum += (t->ones ? 1.0 : m.value[e]) *
                           x[(map * COLUMNS + (int64_t)m.column[e]) * t->x_stride + j];
                double *at = &y[(map * t->rows + i) * t->y_stride + j];
                *at = (t->add ? *at : 0.0) + sum;
            }
    op_expect(&f, "spmm", "y", wide_y, y); /* what lies between the rows stays */
    op_fixture_close(&f);
}

static void rows_are_sums_of_rows(void **state)
{
    static const struct spmm_case cases[] = {
        {5, 5, 5, 0, ROWS, false, false},  {8, 8, 8, 0, ROWS, false, false},
        {8, 16, 12, 0, ROWS, true, false}, {132, 132, 264, 0, ROWS, false, true},
        {7, 9, 8, 11, 20, true, false},    {300, 300, 300, 0, ROWS, true, true},
        {1, 1, 1, 36, 1, false, false},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        multiply(&cases[i]);
}

/* ------------------------------------------------------------------------------ largest of four */

static void pool(int64_t n, int32_t height, int32_t width, int64_t c)
{
    int32_t rows = height / 2, columns = width / 2;
    int64_t cells = n * height * width, pooled = n * rows * columns;
    struct op_fixture f;

    op_fixture_open(&f, 41);
    double *x = op_random(&f, f.dtype, cells * c, 1.0);
    double *d_y = op_random(&f, f.dtype, pooled * c, 1.0);
    double *d_x = op_random(&f, f.dtype, cells * c, 1.0);
    double *y = op_zeros(&f, pooled * c), *choice = op_zeros(&f, pooled * c);
    for (int64_t i = 0; i < cells * c; i += 3) /* equals, of which the first is taken */
        x[i] = 1.0;
    struct max_pool_args args = {
        .x = op_upload(&f, f.dtype, x, cells, c),
        .y = op_output(&f, f.dtype, pooled, c),
        .choice = op_output(&f, DTYPE_U8, pooled * c, 0),
        .height = height,
        .width = width,
    };
    struct max_pool_backward_args back = {
        .d_y = op_upload(&f, f.dtype, d_y, pooled, c),
        .choice = args.choice,
        .d_x = op_upload(&f, f.dtype, d_x, cells, c),
        .height = height,
        .width = width,
    };
    op_run(f.ops->max_pool(&f.device, &args));
    op_run(f.ops->max_pool_backward(&f.device, &back));
    for (int64_t i = 0; i < pooled; i++)
        for (int64_t j = 0; j < c; j++) {
            int64_t map = i / (rows * columns), top = 2 * (i / columns % rows);
            int64_t left = 2 * (i % columns), best = -1;
            for (int k = 0; k < 4; k++) {
                int64_t at = ((map * height + top + k / 2) * width + left + k % 2) * c + j;
                if (best >= 0 && !(x[at] > x[best]))
                    continue;
                best = at;
                choice[i * c + j] = k;
            }
            y[i * c + j] = x[best];
            d_x[best] += d_y[i * c + j];
        }
    op_expect(&f, "max_pool", "y", args.y, y);
    op_expect(&f, "max_pool", "choice", args.choice, choice);
    op_expect(&f, "max_pool_backward", "d_x", back.d_x, d_x);
    struct max_pool_args again = args;
    again.y = op_output(&f, f.dtype, pooled, c);
    again.choice = (struct tensor){0};
    op_run(f.ops->max_pool(&f.device, &again));
    op_expect(&f, "max_pool", "y without choice", again.y, y);
    op_fixture_close(&f);
}

static void the_largest_of_four_is_taken(void **state)
{
    (void)state;
    pool(2, 4, 6, 5);
    pool(1, 7, 5, 40); /* odd sides */
    pool(3, 2, 2, 1);
}

static void a_nan_is_the_largest(void **state)
{
    struct op_fixture f;
    double x[] = {1.0, NAN, 3.0, 2.0, NAN, 9.0, 9.0, 9.0}, want[] = {1.0, 0.0};

    (void)state;
    op_fixture_open(&f, 42);
    struct max_pool_args args = {
        .x = op_upload(&f, f.dtype, x, 8, 1), /* 2 maps of 2 x 2 */
        .y = op_output(&f, f.dtype, 2, 1),
        .choice = op_output(&f, DTYPE_U8, 2, 0),
        .height = 2,
        .width = 2,
    };
    op_run(f.ops->max_pool(&f.device, &args));
    op_expect(&f, "max_pool", "choice", args.choice, want);
    double *y = op_download(&f, args.y);
    assert_true(isnan(y[0]) && isnan(y[1]));
    op_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ channels */

static void channels_of_each_map_are_scaled(void **state)
{
    enum { N = 3, CELLS = 10, C = 37 };
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 43);
    double *x = op_random(&f, f.dtype, N * CELLS * C, 1.0);
    double *scale = op_random(&f, DTYPE_F32, N * C, 1.0);
    struct channel_scale_args args = {op_upload(&f, f.dtype, x, N * CELLS, C),
                                      op_upload(&f, DTYPE_F32, scale, N, C)};
    op_run(f.ops->channel_scale(&f.device, &args));
    for (int64_t i = 0; i < N * CELLS * C; i++)
        x[i] *= scale[i / (CELLS * C) * C + i % C];
    op_expect(&f, "channel_scale", "x", args.x, x);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_sums_of_rows),
        cmocka_unit_test(the_largest_of_four_is_taken),
        cmocka_unit_test(a_nan_is_the_largest),
        cmocka_unit_test(channels_of_each_map_are_scaled),
    };
    int leave = op_backend_choose(argc, argv);

    if (leave != 0)
        return leave;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
