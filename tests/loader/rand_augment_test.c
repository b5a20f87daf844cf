/* RandAugment: every byte is that of timm and Pillow, and what is drawn has the distributions of
 * timm. The hashes come from scripts/rand_augment_reference.py (timm 1.0.31, Pillow 13.0.0). */
#include "loader/rand_augment.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/pixels/tone.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

enum { N_PICTURES = 4, N_MAGNITUDES = 8, N_DRAWS = 60000, MAX_BYTES = 1 << 21 };

static const int32_t sizes[N_PICTURES][2] = {{61, 47}, {64, 64}, {224, 224}, {33, 90}};
static const double magnitudes[N_MAGNITUDES] = {0.0, 0.37, 3.3, 7.5, 8.71, 9.0, 9.64, 10.0};

/* What an operation makes of all magnitudes and pictures, one after the other. */
static const struct {
    int op;
    int increasing, negative, cubic;
    uint64_t hash;
} references[] = {
    {0, 1, 0, 0, 0x0306386d7886e4acu},  {1, 1, 0, 0, 0x4e00792d727185deu},
    {2, 1, 0, 0, 0xcf96c0f2e8cdba32u},  {3, 1, 0, 0, 0x4315ab09043163b4u},
    {3, 1, 0, 1, 0xe32dabdefdcee97fu},  {3, 1, 1, 0, 0x9e5de04281a49b66u},
    {3, 1, 1, 1, 0x5c488e442e3c4071u},  {4, 0, 0, 0, 0xacc1478cbef4b908u},
    {4, 1, 0, 0, 0x6dfbc36f8578f35eu},  {5, 0, 0, 0, 0xbc750953edee027bu},
    {5, 1, 0, 0, 0x5e98d46477b2b8f0u},  {6, 1, 0, 0, 0xe82127c67d4d0912u},
    {7, 0, 0, 0, 0x7736100a32346e97u},  {7, 1, 0, 0, 0x63166ea51041dfb9u},
    {7, 1, 1, 0, 0x053c4653de35551du},  {8, 0, 0, 0, 0xa19849f6575b1cd0u},
    {8, 1, 0, 0, 0x33d8d659c65be2bau},  {8, 1, 1, 0, 0x2f573d35175c2ae7u},
    {9, 0, 0, 0, 0x91fa2426591acd6du},  {9, 1, 0, 0, 0x67c7e36a4a97c273u},
    {9, 1, 1, 0, 0x8492d4f58228a824u},  {10, 0, 0, 0, 0xd3ee7493d8b5f37cu},
    {10, 1, 0, 0, 0x50224d13373b72b9u}, {10, 1, 1, 0, 0xa8f3806c9ab3f276u},
    {11, 1, 0, 0, 0xc8b69200194baed9u}, {11, 1, 0, 1, 0xa1487702c3299fe5u},
    {11, 1, 1, 0, 0x403321434c2ac8c1u}, {11, 1, 1, 1, 0x856728ba93eac07fu},
    {12, 1, 0, 0, 0x1527fc104154d4c5u}, {12, 1, 0, 1, 0x40a500397ec3fed2u},
    {12, 1, 1, 0, 0x63ce8437fae9a07cu}, {12, 1, 1, 1, 0x1d9c1ac08c082f14u},
    {13, 1, 0, 0, 0xab109e3f25a82370u}, {13, 1, 0, 1, 0xb844ccfa0c54808fu},
    {13, 1, 1, 0, 0x83663214360d1734u}, {13, 1, 1, 1, 0x9c0785968de6c3ffu},
    {14, 1, 0, 0, 0xa7c2c551a508d933u}, {14, 1, 0, 1, 0x18674adaaffe4992u},
    {14, 1, 1, 0, 0x0dd64794a2eaeef2u}, {14, 1, 1, 1, 0x3776d50f4ff2a620u},
};

/* A tool of each kind, and room for a picture. */
struct scene {
    struct photometric photometric;
    struct scratch work;
    struct planes planes;
    uint8_t *rgb, *all;
};

static int open_scene(void **state)
{
    struct scene *scene;

    assert_int_equal(memory_alloc(&scene, 1, sizeof(*scene), "scene"), STATUS_OK);
    scene->photometric.kernels = pixel_kernels_best();
    assert_int_equal(memory_alloc(&scene->rgb, 224 * 224 * 3, 1, "picture"), STATUS_OK);
    assert_int_equal(memory_alloc(&scene->all, MAX_BYTES, 1, "pictures"), STATUS_OK);
    *state = scene;
    return 0;
}

static int close_scene(void **state)
{
    struct scene *scene = *state;

    photometric_release(&scene->photometric);
    scratch_release(&scene->work);
    planes_release(&scene->planes);
    memory_free(scene->rgb);
    memory_free(scene->all);
    memory_free(scene);
    return 0;
}

/* 0: waves with noise, 1: noise, 2: dull, 3: of few colours. The script makes the same ones. */
static void draw_picture(struct scene *scene, int kind, int32_t width, int32_t height)
{
    for (uint32_t y = 0, i = 0; y < (uint32_t)height; y++)
        for (uint32_t x = 0; x < (uint32_t)width; x++)
            for (uint32_t c = 0; c < 3; c++, i++) {
                uint32_t noise = ((i + 1) * 2654435761u) >> 13;
                uint32_t wave = (x * x + 3 * y * (c + 1) + x * y / 7) % 512;
                uint32_t triangle = wave < 256 ? wave : 511 - wave;
                const uint32_t values[] = {(triangle * 7 + noise % 256) / 8, noise % 256,
                                           90 + (triangle + noise % 64) / 6 + 5 * c,
                                           triangle / 64 * 60 + 3 * c};
                scene->rgb[i] = (uint8_t)values[kind];
            }
    assert_int_equal(planes_from_rgb(&scene->planes, scene->rgb, width, height), STATUS_OK);
}

static void apply(struct scene *scene, const struct rand_augment_step *step)
{
    assert_int_equal(rand_augment_apply(&scene->planes, step, &scene->photometric, &scene->work),
                     STATUS_OK);
}

static size_t append(struct scene *scene, size_t at)
{
    size_t n = planes_n_pixels(&scene->planes);

    assert_true(at + 3 * n <= MAX_BYTES);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            scene->all[at++] = scene->planes.channel[c][i];
    return at;
}

static void every_operation_gives_the_bytes_of_timm_and_pillow(void **state)
{
    struct scene *scene = *state;

    for (size_t r = 0; r < sizeof(references) / sizeof(references[0]); r++) {
        enum rand_augment_op op = (enum rand_augment_op)references[r].op;
        int n_magnitudes = rand_augment_has_amount(op) ? N_MAGNITUDES : 1;
        size_t n_bytes = 0;
        for (int m = 0; m < n_magnitudes; m++)
            for (int kind = 0; kind < N_PICTURES; kind++) {
                struct rand_augment_step step = {
                    .op = op,
                    .amount = rand_augment_amount(op, magnitudes[m], references[r].increasing != 0,
                                                  references[r].negative != 0),
                    .cubic = references[r].cubic != 0,
                    .fill = {124, 116, 104}};
                if (op == RAND_POSTERIZE && step.amount == 0.0)
                    continue; /* newer Pillows refuse to */
                const int32_t *size = sizes[(kind + m) % N_PICTURES];
                draw_picture(scene, kind, size[0], size[1]);
                apply(scene, &step);
                n_bytes = append(scene, n_bytes);
            }
        if (hash_bytes(scene->all, n_bytes) != references[r].hash)
            fail_msg("%s, increasing %d, negative %d, cubic %d: other bytes than Pillow's",
                     rand_augment_names[op], references[r].increasing, references[r].negative,
                     references[r].cubic);
    }
}

/* By hand: what no Pillow at hand does, and pictures that are too small or of one colour. */
static void extremes_are_what_their_formulas_say(void **state)
{
    struct scene *scene = *state;
    static const uint8_t one_colour[3 * 4] = {9, 9, 7, 9, 9, 7, 9, 9, 7, 9, 9, 7};

    for (int op = 0; op < RAND_AUGMENT_OPS; op++) {
        struct rand_augment_step step = {
            .op = (enum rand_augment_op)op,
            .amount = rand_augment_amount((enum rand_augment_op)op, 10.0, true, false)};
        assert_int_equal(planes_from_rgb(&scene->planes, one_colour, 1, 1), STATUS_OK);
        apply(scene, &step);
        assert_int_equal(planes_from_rgb(&scene->planes, one_colour, 2, 2), STATUS_OK);
        apply(scene, &step);
        if (op == RAND_AUTOCONTRAST || op == RAND_EQUALIZE || op == RAND_SHARPNESS) {
            assert_int_equal(append(scene, 0), sizeof(one_colour));
            assert_memory_equal(scene->all, one_colour, sizeof(one_colour));
        } else if (op == RAND_POSTERIZE) {
            for (size_t i = 0; i < append(scene, 0); i++)
                assert_int_equal(scene->all[i], 0); /* no bit is kept */
        } else if (op == RAND_SOLARIZE || op == RAND_INVERT) {
            append(scene, 0);
            assert_int_equal(scene->all[0], 255 - 9); /* from 0 on */
        }
    }
}

static struct rng stream(uint32_t sample)
{
    return rng_open((struct rng_key){
        .seed = 20260302, .epoch = 1, .sample = sample, .purpose = RNG_RAND_AUGMENT});
}

/* The count of an event of probability p in n tries, held to 5 sigma. Seeds are fixed: it passes
 * always or never. */
static void assert_share(double n_events, double n, double p, const char *what)
{
    double sigma = (n_events - n * p) / sqrt(n * p * (1.0 - p));

    if (fabs(sigma) > 5.0)
        fail_msg("%s: %g of %g, %.1f sigma from a share of %g", what, n_events, n, sigma, p);
}

static double normal_below(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0));
}

static void operations_and_magnitudes_have_the_distributions_of_timm(void **state)
{
    (void)state;
    struct rand_augment_step steps[RAND_AUGMENT_MAX_OPS];
    struct rand_augment official = rand_augment_official();
    double n_ops[RAND_AUGMENT_OPS] = {0}, n_of[3] = {0}, n_pairs = 0, n_equal = 0, n_cubic = 0;
    double n_signed = 0, n_negative = 0, below[5] = {0}, n_magnitudes = 0;
    static const double edges[5] = {8.0, 8.5, 9.0, 9.5, 9.999999};

    for (uint32_t i = 0; i < N_DRAWS; i++) {
        struct rng rng = stream(i);
        int32_t n = rand_augment_draw(&rng, steps, &official, INTERPOLATION_RANDOM);
        assert_in_range(n, 0, 2);
        n_of[n]++;
        if (n == 2) {
            n_pairs++;
            n_equal += steps[0].op == steps[1].op;
        }
        for (int32_t k = 0; k < n; k++) {
            n_ops[steps[k].op]++;
            assert_int_equal(steps[k].fill[0] << 16 | steps[k].fill[1] << 8 | steps[k].fill[2],
                             124 << 16 | 116 << 8 | 104);
            if (steps[k].op != RAND_ROTATE && steps[k].op < RAND_SHEAR_X) {
                assert_false(steps[k].cubic);
                continue;
            }
            n_signed++;
            n_negative += steps[k].amount < 0;
            n_cubic += steps[k].cubic;
            if (steps[k].op != RAND_ROTATE)
                continue;
            double magnitude = fabs(steps[k].amount) / 3.0;
            assert_true(magnitude <= 10.0 + 1e-12);
            n_magnitudes++;
            for (int e = 0; e < 5; e++)
                below[e] += magnitude < edges[e];
        }
    }
    assert_share(n_of[0], N_DRAWS, 0.25, "no operation");
    assert_share(n_of[2], N_DRAWS, 0.25, "both operations");
    assert_share(n_equal, n_pairs, 1.0 / 15.0, "twice the same");
    assert_share(n_negative, n_signed, 0.5, "negative amounts");
    assert_share(n_cubic, n_signed, 0.5, "bicubic");
    for (int op = 0; op < RAND_AUGMENT_OPS; op++)
        assert_share(n_ops[op], 2.0 * N_DRAWS, 0.5 / 15.0, rand_augment_names[op]);
    for (int e = 0; e < 5; e++)
        assert_share(below[e], n_magnitudes, normal_below((edges[e] - 9.0) / 0.5), "magnitudes");
}

static void other_parameters_are_followed(void **state)
{
    (void)state;
    struct rand_augment_step steps[RAND_AUGMENT_MAX_OPS];
    struct rand_augment r;
    double n_low = 0, n_rotations = 0;

    assert_int_equal(rand_augment_parse(&r, "rand-m6-n3-p1"), STATUS_OK);
    for (uint32_t i = 0; i < 2000; i++) {
        struct rng rng = stream(i);
        assert_int_equal(rand_augment_draw(&rng, steps, &r, INTERPOLATION_BILINEAR), 3);
        for (int k = 0; k < 3; k++) {
            assert_false(steps[k].cubic);
            double wanted = rand_augment_amount(steps[k].op, 6.0, false, steps[k].amount < 0);
            assert_true(steps[k].amount == wanted);
        }
    }
    assert_int_equal(rand_augment_parse(&r, "rand-m8-mstd101-p1-inc1"), STATUS_OK);
    for (uint32_t i = 0; i < 60000; i++) { /* uniform in 0 .. 8 */
        struct rng rng = stream(i);
        int32_t n = rand_augment_draw(&rng, steps, &r, INTERPOLATION_BICUBIC);
        for (int32_t k = 0; k < n; k++)
            if (steps[k].op == RAND_ROTATE) {
                assert_true(steps[k].cubic && fabs(steps[k].amount) < 24.0);
                n_rotations++;
                n_low += fabs(steps[k].amount) < 6.0;
            }
    }
    assert_share(n_low, n_rotations, 0.25, "uniform magnitudes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_operation_gives_the_bytes_of_timm_and_pillow,
                                        open_scene, close_scene),
        cmocka_unit_test_setup_teardown(extremes_are_what_their_formulas_say, open_scene,
                                        close_scene),
        cmocka_unit_test(operations_and_magnitudes_have_the_distributions_of_timm),
        cmocka_unit_test(other_parameters_are_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
