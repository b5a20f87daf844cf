/* Maps of tokens: masking, merging and means against plain loops, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"
#include "tests/support/op_reference.h"

/* ------------------------------------------------------------------------------ masking */

static void masked_cells_become_the_mask_token(void **state)
{
    enum { N = 3 };
    static const struct {
        int64_t side, cells, width;
    } cases[] = {{8, 2, 70}, {6, 3, 72}, {5, 5, 70}, {4, 1, 8}, {7, 7, 1}};

    (void)state;
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        int64_t side = cases[c].side, cells = cases[c].cells, width = cases[c].width;
        int64_t rows = N * side * side;
        struct op_fixture f;
        op_fixture_open(&f, 30);
        double *x = op_random(&f, f.dtype, rows * width, 1.0),
               *token = op_random(&f, f.dtype, width, 1.0);
        double *mask = op_zeros(&f, N * cells * cells),
               *before = op_random(&f, DTYPE_F32, width, 1.0);
        for (int64_t i = 0; i < N * cells * cells; i++)
            mask[i] = i % 3 == 1 ? 1.0 : 0.0;
        struct region_mask_args args = {
            .x = op_upload(&f, f.dtype, x, rows, width),
            .mask = op_upload(&f, DTYPE_U8, mask, N * cells * cells, 0),
            .mask_token = op_upload(&f, DTYPE_F32, token, width, 0),
            .side = side,
            .cells = cells,
        };
        struct region_mask_backward_args back = {
            .d_x = op_upload(&f, f.dtype, x, rows, width),
            .mask = args.mask,
            .d_mask_token = op_upload(&f, DTYPE_F32, before, width, 0),
            .side = side,
            .cells = cells,
        };
        op_run(f.ops->region_mask(&f.device, &args));
        op_run(f.ops->region_mask_backward(&f.device, &back));
        double *want = op_zeros(&f, rows * width), *d_want = op_zeros(&f, rows * width);
        for (int64_t n = 0; n < N; n++)
            for (int64_t y = 0; y < side; y++)
                for (int64_t xx = 0; xx < side; xx++) {
                    int64_t r = side / cells;
                    bool masked = mask[(n * cells + y / r) * cells + xx / r] > 0.0;
                    for (int64_t j = 0, i = ((n * side + y) * side + xx) * width; j < width; j++) {
                        want[i + j] = masked ? token[j] : x[i + j];
                        d_want[i + j] = masked ? 0.0 : x[i + j];
                        before[j] += masked ? x[i + j] : 0.0;
                    }
                }
        op_expect(&f, "region_mask", "x", args.x, want);
        op_expect(&f, "region_mask_backward", "d_x", back.d_x, d_want);
        op_expect(&f, "region_mask_backward", "d_mask_token", back.d_mask_token, before);
        op_fixture_close(&f);
    }
}

/* ------------------------------------------------------------------------------ merging */

static void merge_and_part(int64_t c)
{
    enum { ROWS = 2 * 16 + 3 * 25 + 1, MERGED = 2 * 4 + 3 * 9 + 1 };
    const struct region_group from[] = {{0, 2, 4}, {32, 3, 5}, {107, 1, 1}};
    const struct region_group to[] = {{0, 2, 2}, {8, 3, 3}, {35, 1, 1}};
    static const int dy[] = {0, 1, 0, 1}, dx[] = {0, 0, 1, 1};
    struct op_fixture f;

    op_fixture_open(&f, 31);
    double *x = op_random(&f, f.dtype, ROWS * c, 1.0);
    double *d_y = op_random(&f, f.dtype, MERGED * 4 * c, 1.0);
    double *want = op_zeros(&f, MERGED * 4 * c), *d_want = op_zeros(&f, ROWS * c);
    struct patch_merge_args args = {.x = op_upload(&f, f.dtype, x, ROWS, c),
                                    .y = op_output(&f, f.dtype, MERGED, 4 * c),
                                    .n_groups = 3};
    struct patch_merge_backward_args back = {.d_y = op_upload(&f, f.dtype, d_y, MERGED, 4 * c),
                                             .d_x = op_output(&f, f.dtype, ROWS, c),
                                             .n_groups = 3};
    for (int g = 0; g < 3; g++) {
        args.from[g] = back.from[g] = from[g];
        args.to[g] = back.to[g] = to[g];
        for (int64_t n = 0; n < from[g].n_images; n++)
            for (int64_t y = 0; y < to[g].side; y++)
                for (int64_t xx = 0; xx < to[g].side; xx++)
                    for (int q = 0; q < 4; q++) {
                        int64_t fy = 2 * y + dy[q], fx = 2 * xx + dx[q], side = from[g].side;
                        int64_t row = to[g].first_row + (n * to[g].side + y) * to[g].side + xx;
                        int64_t source = from[g].first_row + (n * side + fy) * side + fx;
                        for (int64_t j = 0; fy < side && fx < side && j < c; j++) {
                            want[(row * 4 + q) * c + j] = x[source * c + j];
                            d_want[source * c + j] = d_y[(row * 4 + q) * c + j];
                        }
                    }
    }
    op_run(f.ops->patch_merge(&f.device, &args));
    op_expect(&f, "patch_merge", "y", args.y, want);
    op_run(f.ops->patch_merge_backward(&f.device, &back));
    op_expect(&f, "patch_merge_backward", "d_x", back.d_x, d_want);
    op_fixture_close(&f);
}

static void four_neighbours_merge_and_part_again(void **state)
{
    (void)state;
    merge_and_part(5); /* rows of odd words, of words, of packs */
    merge_and_part(6);
    merge_and_part(40);
}

/* ------------------------------------------------------------------------------ means */

enum { N_TOKENS = 3 * 9 + 2, N_OUT = 3 * 10 + 2 * 2 };
static const struct region_group mean_groups[] = {{0, 3, 3}, {27, 2, 1}};

struct mean_problem {
    int64_t width;
    double *x, *y, *d_y;
};

static double mean_loss(void *context)
{
    struct mean_problem *p = context;
    int64_t to = 0, width = p->width;

    for (int g = 0; g < 2; g++)
        for (int64_t n = 0; n < mean_groups[g].n_images; n++) {
            int64_t tokens = mean_groups[g].side * mean_groups[g].side;
            const double *x = p->x + (mean_groups[g].first_row + n * tokens) * width;
            double *y = p->y + to * width;
            for (int64_t j = 0; j < width; j++) {
                y[j] = 0.0;
                for (int64_t t = 0; t < tokens; t++) {
                    y[j] += x[t * width + j] / (double)tokens;
                    y[(1 + t) * width + j] = x[t * width + j];
                }
            }
            to += tokens + 1;
        }
    return reference_dot(p->y, p->d_y, N_OUT * width);
}

static void run_means(int64_t width)
{
    struct op_fixture f;

    op_fixture_open(&f, 32);
    struct mean_problem p = {width, op_random(&f, f.dtype, N_TOKENS * width, 1.0),
                             op_zeros(&f, N_OUT * width),
                             op_random(&f, f.dtype, N_OUT * width, 1.0)};
    struct region_mean_args args = {
        .x = op_upload(&f, f.dtype, p.x, N_TOKENS, width),
        .y = op_output(&f, f.dtype, N_OUT, width),
        .groups = {mean_groups[0], mean_groups[1]},
        .to_row = {0, 30},
        .n_groups = 2,
    };
    struct region_mean_backward_args back = {
        .d_y = op_upload(&f, f.dtype, p.d_y, N_OUT, width),
        .d_x = op_output(&f, f.dtype, N_TOKENS, width),
        .groups = {mean_groups[0], mean_groups[1]},
        .to_row = {0, 30},
        .n_groups = 2,
    };
    op_run(f.ops->region_mean(&f.device, &args));
    (void)mean_loss(&p);
    op_expect(&f, "region_mean", "y", args.y, p.y);
    op_run(f.ops->region_mean_backward(&f.device, &back));
    op_expect_gradient(&f, "region_mean_backward", "d_x", back.d_x, NULL, p.x, mean_loss, &p);
    op_fixture_close(&f);
}

static void the_mean_goes_before_each_map(void **state)
{
    (void)state;
    run_means(67);
    run_means(68);
}

/* A backend may have no hierarchical backbones. */
static bool has_the_ops(void)
{
    struct op_fixture f;

    op_fixture_open(&f, 0);
    bool has = f.ops->region_mask != NULL;
    op_fixture_close(&f);
    return has;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masked_cells_become_the_mask_token),
        cmocka_unit_test(four_neighbours_merge_and_part_again),
        cmocka_unit_test(the_mean_goes_before_each_map),
    };
    int leave = op_backend_choose(argc, argv);
    if (leave == 0 && !has_the_ops())
        leave = OP_TEST_SKIPPED;
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
