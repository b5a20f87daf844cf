/* Erasing and mixing against their definitions in double, on whole images, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

static const char OP[] = "patch_mix";

/* Images [n, 3, S, S] as patch rows, and back. */
static void to_patches(const double *images, int64_t n, int64_t grid, int64_t p, double *patches)
{
    int64_t side = grid * p;

    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < 3; c++)
            for (int64_t y = 0; y < side; y++)
                for (int64_t x = 0; x < side; x++) {
                    int64_t patch = (i * grid + y / p) * grid + x / p;
                    int64_t column = (c * p + y % p) * p + x % p;
                    patches[patch * 3 * p * p + column] =
                        images[((i * 3 + c) * side + y) * side + x];
                }
}

static bool is_inside(const struct pixel_box *box, int64_t y, int64_t x)
{
    return y >= box->top && y < box->bottom && x >= box->left && x < box->right;
}

/* The contract's noise, drawn through the stream of its key. */
static double noise_of(const struct patch_mix *mix, int64_t image, int64_t pixel, int64_t c)
{
    struct rng rng = rng_open(
        (struct rng_key){.seed = mix->seed,
                         .epoch = mix->step,
                         .sample = mix->first_sample + (uint32_t)image * (1 + mix->sample_skip),
                         .purpose = RNG_ERASE});
    double w[4];

    rng.counter[0] = (uint32_t)pixel;
    for (int i = 0; i < 4; i++)
        w[i] = (double)rng_u32(&rng);
    double radius = sqrt(-2.0 * log((floor(w[c < 2 ? 0 : 2] / 256.0) + 1.0) * 0x1p-24));
    double angle = 2.0 * acos(-1.0) * floor(w[c < 2 ? 1 : 3] / 256.0) * 0x1p-24;
    return radius * (c == 1 ? sin(angle) : cos(angle));
}

struct shape {
    int64_t n, grid, p;
};

/* images -> what the op makes of them. */
static void mix_images(double *images, const struct shape *s, const struct pixel_box *erase,
                       const struct patch_mix *mix, double *out)
{
    int64_t side = s->grid * s->p, each = 3 * side * side;

    for (int64_t i = 0; i < s->n; i++)
        for (int64_t k = 0; k < each; k++)
            if (is_inside(&erase[i], k / side % side, k % side))
                images[i * each + k] = noise_of(mix, i, k % (side * side), k / (side * side));
    for (int64_t i = 0; i < s->n; i++)
        for (int64_t k = 0; k < each; k++) {
            double share =
                is_inside(&mix->cut, k / side % side, k % side) ? 0.0 : (double)mix->share;
            out[i * each + k] =
                share * images[i * each + k] + (1.0 - share) * images[(s->n - 1 - i) * each + k];
        }
}

static struct tensor upload_boxes(struct op_fixture *f, const struct pixel_box *boxes, int64_t n)
{
    double *values = op_zeros(f, 4 * n);

    for (int64_t i = 0; i < n; i++) {
        const int32_t box[4] = {boxes[i].top, boxes[i].left, boxes[i].bottom, boxes[i].right};
        for (int k = 0; k < 4; k++)
            values[4 * i + k] = box[k];
    }
    return op_upload(f, DTYPE_I32, values, 4 * n, 0);
}

static void *upload_mix(struct op_fixture *f, const struct patch_mix *mix)
{
    struct tensor place = op_output(f, DTYPE_U8, sizeof(*mix), 0);

    op_run(f->device.copy_in(&f->device, place.data, mix, sizeof(*mix)));
    op_run(f->device.synchronize(&f->device));
    return place.data;
}

static void run(struct shape s, const struct pixel_box *erase, const struct patch_mix *mix)
{
    struct op_fixture f;
    int64_t side = s.grid * s.p, n = s.n * 3 * side * side, rows = s.n * s.grid * s.grid;

    op_fixture_open(&f, (uint32_t)n);
    double *images = op_random(&f, f.dtype, n, 1.5), *patches = op_zeros(&f, n);
    double *mixed = op_zeros(&f, n), *want = op_zeros(&f, n);
    to_patches(images, s.n, s.grid, s.p, patches);
    struct patch_mix_args args = {
        .patches = op_upload(&f, f.dtype, patches, rows, 3 * s.p * s.p),
        .erase = upload_boxes(&f, erase, s.n),
        .mix = upload_mix(&f, mix),
        .grid = (int32_t)s.grid,
        .patch_size = (int32_t)s.p,
    };
    mix_images(images, &s, erase, mix, mixed);
    to_patches(mixed, s.n, s.grid, s.p, want);
    op_run(f.ops->patch_mix(&f.device, &args));
    op_expect(&f, OP, "patches", args.patches, want);
    op_fixture_close(&f);
}

static void pairs_are_mixed_or_cut(void **state)
{
    static const struct pixel_box none[8];
    struct patch_mix mix = {.share = 0.3f};

    (void)state;
    run((struct shape){4, 3, 4}, none, &mix);
    run((struct shape){2, 1, 5}, none, &mix);
    mix = (struct patch_mix){.share = 1.0f, .cut = {2, 3, 7, 12}};
    run((struct shape){4, 3, 4}, none, &mix);
    mix.cut = (struct pixel_box){0, 0, 12, 12}; /* all of it */
    run((struct shape){6, 3, 4}, none, &mix);
    mix.share = 0.8f; /* both */
    mix.cut = (struct pixel_box){0, 0, 1, 1};
    run((struct shape){3, 2, 4}, none, &mix); /* the middle one stays */
}

static void nothing_changes_without_a_box_or_a_share(void **state)
{
    static const struct pixel_box none[5];
    struct patch_mix mix = {.share = 1.0f, .cut = {4, 5, 4, 9}};

    (void)state;
    run((struct shape){5, 2, 4}, none, &mix);
}

static void boxes_become_noise_before_images_are_mixed(void **state)
{
    const struct pixel_box boxes[5] = {
        {0, 0, 3, 12}, {4, 5, 5, 6}, {1, 1, 11, 11}, {0}, {6, 0, 12, 2}};
    struct patch_mix mix = {
        .share = 1.0f, .seed = 0x123456789abcULL, .step = 7, .first_sample = 40};

    (void)state;
    run((struct shape){5, 3, 4}, boxes, &mix);
    mix.share = 0.6f;
    run((struct shape){5, 3, 4}, boxes, &mix);
    mix.sample_skip = 2; /* of a rank among three */
    run((struct shape){5, 3, 4}, boxes, &mix);
    mix.share = 1.0f;
    mix.cut = (struct pixel_box){2, 2, 8, 9};
    run((struct shape){4, 6, 2}, boxes, &mix);
}

/* Mean 0, variance 1, fourth moment 3; no correlation of channels, of neighbours, of images. */
static void noise_is_normal_and_independent(void **state)
{
    enum { GRID = 4, P = 8, SIDE = GRID * P, PIXELS = SIDE * SIDE, N = 2 * PIXELS * 3 };
    const struct pixel_box all[2] = {{0, 0, SIDE, SIDE}, {0, 0, SIDE, SIDE}};
    struct patch_mix mix = {.share = 1.0f, .seed = 3, .step = 1};
    double sums[4] = {0}, channels[3] = {0}, images = 0.0, neighbours = 0.0;
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 1);
    struct patch_mix_args args = {
        .patches = op_output(&f, f.dtype, 2 * GRID * GRID, 3 * P * P),
        .erase = upload_boxes(&f, all, 2),
        .mix = upload_mix(&f, &mix),
        .grid = GRID,
        .patch_size = P,
    };
    op_run(f.ops->patch_mix(&f.device, &args));
    double *z = op_download(&f, args.patches);
    for (int i = 0; i < N; i++) {
        double power = 1.0;
        for (int k = 0; k < 4; k++)
            sums[k] += power *= z[i];
        if (i % (3 * P * P) < P * P)
            for (int c = 0; c < 3; c++)
                channels[c] += z[i + c % 3 * P * P] * z[i + (c + 1) % 3 * P * P];
        images += z[i] * z[(i + N / 2) % N];
        neighbours += z[i] * z[(i + 1) % N];
    }
    for (int k = 0; k < 4; k++)
        sums[k] /= N;
    assert_true(fabs(sums[0]) < 0.05 && fabs(sums[1] - 1.0) < 0.08);
    assert_true(fabs(sums[2]) < 0.2 && fabs(sums[3] - 3.0) < 0.5);
    for (int c = 0; c < 3; c++)
        assert_true(fabs(channels[c]) / (2 * PIXELS) < 0.1);
    assert_true(fabs(images) / N < 0.05 && fabs(neighbours) / N < 0.05);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_are_mixed_or_cut),
        cmocka_unit_test(nothing_changes_without_a_box_or_a_share),
        cmocka_unit_test(boxes_become_noise_before_images_are_mixed),
        cmocka_unit_test(noise_is_normal_and_independent),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
