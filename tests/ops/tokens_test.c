/* Patches, token buffer, positions and rows against their definitions in double, on every
 * backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

static struct tensor images(struct tensor flat, int64_t n, int64_t a, int64_t b, int64_t c)
{
    return (struct tensor){flat.data, flat.dtype, 4, {n, a, b, c}};
}

/* ------------------------------------------------------------------------------ patches */

static const float mean[3] = {0.485f, 0.456f, 0.406f}, deviation[3] = {0.229f, 0.224f, 0.225f};

struct patch_case {
    int n, height, width, patch;
};

static const struct patch_case patch_cases[] = {
    {1, 1, 1, 1},    {3, 11, 11, 4}, {2, 10, 10, 3}, {1, 224, 224, 16}, {5, 32, 32, 8},
    {2, 37, 37, 37}, {3, 8, 20, 4},  {2, 25, 11, 3}, {1, 48, 16, 16},   {2, 17, 36, 8},
};

/* Where column k of row i comes from. */
static void origin(const struct patch_case *c, int i, int k, int *image, int *line, int *column,
                   int *channel)
{
    int rows = c->height / c->patch, columns = c->width / c->patch, p = c->patch;

    *image = i / (rows * columns);
    *line = i / columns % rows * p + k / p % p;
    *column = i % columns * p + k % p;
    *channel = k / (p * p);
}

static void run_patchify(const struct patch_case *c, bool bytes)
{
    int rows = c->n * (c->height / c->patch) * (c->width / c->patch);
    int width = 3 * c->patch * c->patch;
    int64_t n = (int64_t)c->n * 3 * c->height * c->width, high = c->height, wide = c->width;
    struct op_fixture f;

    op_fixture_open(&f, 1);
    double *pixels = op_random(&f, DTYPE_F32, n, 1.0), *want = op_zeros(&f, (int64_t)rows * width);
    for (int64_t i = 0; i < n && bytes; i++)
        pixels[i] = (double)(rng_u32(&f.rng) % 256);
    for (int i = 0; i < rows; i++)
        for (int k = 0; k < width; k++) {
            int image, line, column, channel;
            origin(c, i, k, &image, &line, &column, &channel);
            double *to = &want[i * width + k];
            if (!bytes) {
                *to = pixels[((image * 3 + channel) * high + line) * wide + column];
                continue;
            }
            /* in float, as the original does it: equal to the last bit */
            float value = (float)pixels[((image * high + line) * wide + column) * 3 + channel];
            *to = (double)((value / 255.0f - mean[channel]) / deviation[channel]);
        }
    struct tensor flat = op_upload(&f, bytes ? DTYPE_U8 : DTYPE_F32, pixels, n, 0);
    struct patchify_args args = {
        .pixels = bytes ? images(flat, c->n, high, wide, 3) : images(flat, c->n, 3, high, wide),
        .patches = op_output(&f, f.dtype, rows, width),
        .patch_size = c->patch,
    };
    memcpy(args.mean, mean, sizeof(mean));
    memcpy(args.std, deviation, sizeof(deviation));
    op_run(f.ops->patchify(&f.device, &args));
    op_expect(&f, "patchify", bytes ? "of bytes" : "of floats", args.patches, want);
    op_fixture_close(&f);
}

static void bytes_become_normalised_patches(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(patch_cases) / sizeof(patch_cases[0]); i++)
        run_patchify(&patch_cases[i], true);
}

static void float_planes_are_only_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(patch_cases) / sizeof(patch_cases[0]); i++)
        run_patchify(&patch_cases[i], false);
}

static void pixels_of_another_type_are_refused(void **state)
{
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 2);
    struct patchify_args args = {
        .pixels = images(op_output(&f, DTYPE_I32, 192, 0), 1, 8, 8, 3),
        .patches = op_output(&f, f.dtype, 4, 48),
        .patch_size = 4,
        .std = {1, 1, 1},
    };
    assert_int_equal(f.ops->patchify(&f.device, &args), STATUS_UNSUPPORTED);
    op_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ token buffer */

struct token_case {
    int n_images, n_patches, width;
    bool masked;
};

static const struct token_case token_cases[] = {
    {1, 1, 1, false},   {5, 6, 131, true}, {5, 6, 131, false},
    {37, 36, 64, true}, {2, 197, 3, true}, {70, 4, 8, true},
};
enum { N_TOKEN_CASES = sizeof(token_cases) / sizeof(token_cases[0]) };

/* About a third of the patches; none of image 1. */
static double *draw_mask(struct op_fixture *f, const struct token_case *c)
{
    int64_t n = (int64_t)c->n_images * c->n_patches;
    double *mask = op_zeros(f, n);

    for (int64_t i = 0; i < n; i++)
        mask[i] = i / c->n_patches != 1 && rng_uniform(&f->rng) < 0.3;
    return mask;
}

/* own_type: the token buffer is of the type of the patches, which may be bf16. */
static void run_tokens(const struct token_case *c, bool own_type)
{
    int64_t n = c->n_images, p = c->n_patches, d = c->width, length = p + 1;
    struct op_fixture f;

    op_fixture_open(&f, 3);
    double *patches = op_random(&f, f.dtype, n * p * d, 1.0), *mask = draw_mask(&f, c);
    double *token = op_random(&f, DTYPE_F32, d, 1.0), *cls = op_random(&f, DTYPE_F32, d, 1.0);
    double *pos = op_random(&f, DTYPE_F32, length * d, 1.0), *want = op_zeros(&f, n * length * d);
    for (int64_t i = 0; i < n * length; i++)
        for (int64_t j = 0; j < d; j++) {
            int64_t at = i % length, patch = i / length * p + at - 1;
            const double *from = at == 0                           ? cls
                                 : c->masked && mask[patch] != 0.0 ? token
                                                                   : patches + patch * d;
            want[i * d + j] = from[j] + pos[at * d + j];
        }
    struct tokens_args args = {
        .patches = op_upload(&f, f.dtype, patches, n * p, d),
        .cls = op_upload(&f, DTYPE_F32, cls, d, 0),
        .pos = op_upload(&f, DTYPE_F32, pos, length, d),
        .tokens = op_output(&f, own_type ? f.dtype : DTYPE_F32, n * length, d),
    };
    if (c->masked) {
        args.mask = op_upload(&f, DTYPE_U8, mask, n * p, 0);
        args.mask_token = op_upload(&f, DTYPE_F32, token, d, 0);
    }
    op_run(f.ops->tokens_forward(&f.device, &args));
    op_expect(&f, "tokens_forward", "tokens", args.tokens, want);
    op_fixture_close(&f);
}

static void tokens_carry_class_mask_and_position(void **state)
{
    (void)state;
    for (int i = 0; i < N_TOKEN_CASES; i++)
        for (int own_type = 0; own_type < 2; own_type++)
            run_tokens(&token_cases[i], own_type != 0);
}

static void run_tokens_backward(const struct token_case *c, bool own_type)
{
    int64_t n = c->n_images, p = c->n_patches, d = c->width, length = p + 1;
    struct op_fixture f;

    op_fixture_open(&f, 4);
    enum dtype stream = own_type ? f.dtype : DTYPE_F32;
    double *d_tokens = op_random(&f, stream, n * length * d, 1.0), *mask = draw_mask(&f, c);
    double *d_pos = op_random(&f, DTYPE_F32, length * d, 1.0);
    double *d_cls = op_random(&f, DTYPE_F32, d, 1.0), *d_token = op_random(&f, DTYPE_F32, d, 1.0);
    double *d_patches = op_zeros(&f, n * p * d);
    struct tokens_backward_args args = {
        .d_tokens = op_upload(&f, stream, d_tokens, n * length, d),
        .d_patches = op_output(&f, f.dtype, n * p, d),
        .d_mask_token = op_upload(&f, DTYPE_F32, d_token, d, 0), /* added to */
        .d_cls = op_upload(&f, DTYPE_F32, d_cls, d, 0),
        .d_pos = op_upload(&f, DTYPE_F32, d_pos, length, d),
    };
    if (c->masked)
        args.mask = op_upload(&f, DTYPE_U8, mask, n * p, 0);
    for (int64_t i = 0; i < n * length * d; i++) {
        int64_t j = i % d, at = i / d % length, patch = i / d / length * p + at - 1;
        d_pos[at * d + j] += d_tokens[i];
        if (at == 0)
            d_cls[j] += d_tokens[i];
        else if (c->masked && mask[patch] != 0.0)
            d_token[j] += d_tokens[i];
        else
            d_patches[patch * d + j] = d_tokens[i];
    }
    op_run(f.ops->tokens_backward(&f.device, &args));
    op_expect(&f, "tokens_backward", "d_patches", args.d_patches, d_patches);
    op_expect(&f, "tokens_backward", "d_pos", args.d_pos, d_pos);
    op_expect(&f, "tokens_backward", "d_cls", args.d_cls, d_cls);
    op_expect(&f, "tokens_backward", "d_mask_token", args.d_mask_token, d_token);
    op_fixture_close(&f);
}

static void gradients_of_tokens_are_added_up(void **state)
{
    (void)state;
    for (int i = 0; i < N_TOKEN_CASES; i++)
        for (int own_type = 0; own_type < 2; own_type++)
            run_tokens_backward(&token_cases[i], own_type != 0);
}

/* ------------------------------------------------------------------------------ positions */

/* The cubic convolution kernel of Keys 1981 with a = -0.75. */
static double cubic(double x)
{
    const double a = -0.75;

    x = fabs(x);
    if (x <= 1.0)
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    return x < 2.0 ? ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a : 0.0;
}

/* weight[i * n + k]: share of input k in output i of one axis; the scale is (size + extra) / n. */
static double *axis_weights(struct op_fixture *f, int size, int n, double extra)
{
    double *weight = op_zeros(f, (int64_t)size * n);

    for (int i = 0; i < size; i++) {
        double source = (i + 0.5) / ((size + extra) / n) - 0.5;
        for (int k = (int)floor(source) - 1; k <= (int)floor(source) + 2; k++)
            weight[i * n + (k < 0 ? 0 : k >= n ? n - 1 : k)] += cubic(source - k);
    }
    return weight;
}

static void run_positions(int n, int height, int width, int d, bool exact)
{
    double extra = exact ? 0.0 : 0.1;
    int64_t n_in = (int64_t)n * n, n_out = (int64_t)height * width;
    struct op_fixture f;

    op_fixture_open(&f, 5);
    double *grid = op_random(&f, DTYPE_F32, n_in * d, 1.0), *out = op_zeros(&f, n_out * d);
    double *d_out = op_random(&f, DTYPE_F32, n_out * d, 1.0);
    double *d_grid = op_random(&f, DTYPE_F32, n_in * d, 0.1);
    double *wy = axis_weights(&f, height, n, extra), *wx = axis_weights(&f, width, n, extra);
    struct position_interpolate_args forward = {op_upload(&f, DTYPE_F32, grid, n_in, d),
                                                op_output(&f, DTYPE_F32, n_out, d),
                                                n,
                                                height,
                                                width,
                                                exact};
    struct position_interpolate_backward_args backward = {op_upload(&f, DTYPE_F32, d_out, n_out, d),
                                                          op_upload(&f, DTYPE_F32, d_grid, n_in, d),
                                                          n, height, width};
    for (int64_t o = 0; o < n_out; o++)
        for (int64_t k = 0; k < n_in; k++) {
            double weight = wy[o / width * n + k / n] * wx[o % width * n + k % n];
            for (int j = 0; j < d && weight != 0.0; j++) {
                out[o * d + j] += weight * grid[k * d + j];
                d_grid[k * d + j] += weight * d_out[o * d + j]; /* the transpose */
            }
        }
    op_run(f.ops->position_interpolate(&f.device, &forward));
    op_expect(&f, "position_interpolate", "out", forward.out, out);
    if (exact) { /* of parameters as they are loaded: forward alone */
        op_fixture_close(&f);
        return;
    }
    op_run(f.ops->position_interpolate_backward(&f.device, &backward));
    op_expect(&f, "position_interpolate_backward", "d_grid", backward.d_grid, d_grid);
    op_fixture_close(&f);
}

static void positions_are_interpolated_both_ways(void **state)
{
    (void)state;
    run_positions(14, 6, 6, 5, false);
    run_positions(14, 16, 16, 64, false);
    run_positions(4, 2, 2, 67, false);
    run_positions(4, 9, 3, 3, false); /* up one axis, down the other */
    run_positions(7, 7, 7, 8,
                  false); /* the same size is not the same grid: the factor is (7 + 0.1)/7 */
    run_positions(2, 5, 5, 130, false);
    run_positions(1, 3, 2, 4, false);
    run_positions(14, 24, 24, 5, true);
    run_positions(7, 7, 7, 8, true); /* the same grid */
    run_positions(4, 2, 3, 3, true);
}

/* ------------------------------------------------------------------------------ rows */

static void pick_out_and_put_back(int width)
{
    enum { T = 9, N = 6 };
    static const double index[N] = {7, -1, 0, 3, -1, 8};
    struct op_fixture f;

    op_fixture_open(&f, 6);
    double *from = op_random(&f, f.dtype, T * width, 1.0),
           *old = op_random(&f, f.dtype, T * width, 1.0);
    double *picked = op_zeros(&f, N * width), *zeroed = op_zeros(&f, T * width);
    struct tensor before[2] = {op_upload(&f, f.dtype, old, T, width),
                               op_upload(&f, f.dtype, old, T, width)};
    for (int i = 0; i < N * width; i++) {
        int to = (int)index[i / width] * width + i % width;
        if (to < 0)
            continue;
        picked[i] = old[to] = zeroed[to] = from[to];
    }
    struct rows_gather_args gather = {op_upload(&f, f.dtype, from, T, width),
                                      op_upload(&f, DTYPE_I32, index, N, 0),
                                      op_output(&f, f.dtype, N, width)};
    op_run(f.ops->rows_gather(&f.device, &gather));
    op_expect(&f, "rows_gather", "to", gather.to, picked);
    for (int zero = 0; zero < 2; zero++) {
        struct rows_scatter_args scatter = {gather.to, gather.index, before[zero], zero == 1};
        op_run(f.ops->rows_scatter(&f.device, &scatter));
        op_expect(&f, "rows_scatter", "to", scatter.to, zero ? zeroed : old);
    }
    op_fixture_close(&f);
}

static void rows_are_picked_out_and_put_back(void **state)
{
    (void)state;
    pick_out_and_put_back(33); /* rows of odd words, of words, of packs of 16 bytes */
    pick_out_and_put_back(34);
    pick_out_and_put_back(40);
}

static void rows_may_be_none(void **state)
{
    static const double values[6] = {1, 2, 3, 4, 5, 6}, zeros[6] = {0};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 7);
    struct rows_gather_args gather = {op_upload(&f, f.dtype, values, 2, 3),
                                      op_output(&f, DTYPE_I32, 1, 0), op_output(&f, f.dtype, 1, 3)};
    gather.index.shape[0] = gather.to.shape[0] = 0;
    struct rows_scatter_args scatter = {gather.to, gather.index,
                                        op_upload(&f, f.dtype, values, 2, 3), true};
    op_run(f.ops->rows_gather(&f.device, &gather));
    op_run(f.ops->rows_scatter(&f.device, &scatter));
    op_expect(&f, "rows_scatter", "to", scatter.to, zeros);
    op_fixture_close(&f);
}

static void rows_are_added(void **state)
{
    enum { N = 3, D = 41 };
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 8);
    double *from = op_random(&f, DTYPE_F32, N * D, 1.0), *to = op_random(&f, DTYPE_F32, N * D, 1.0);
    struct rows_add_args args = {op_upload(&f, DTYPE_F32, from, N, D),
                                 op_upload(&f, DTYPE_F32, to, N, D)};
    for (int i = 0; i < N * D; i++)
        to[i] += from[i];
    op_run(f.ops->rows_add(&f.device, &args));
    op_expect(&f, "rows_add", "to", args.to, to);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_become_normalised_patches),
        cmocka_unit_test(float_planes_are_only_cut),
        cmocka_unit_test(pixels_of_another_type_are_refused),
        cmocka_unit_test(tokens_carry_class_mask_and_position),
        cmocka_unit_test(gradients_of_tokens_are_added_up),
        cmocka_unit_test(positions_are_interpolated_both_ways),
        cmocka_unit_test(rows_are_picked_out_and_put_back),
        cmocka_unit_test(rows_may_be_none),
        cmocka_unit_test(rows_are_added),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
