/* J and F, and labels between pictures and patches: cases by hand, and values that numpy, Pillow
 * and PyTorch have made of the same numbers (scripts/check_torch_video.py has the code). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/eval/label_map.h"
#include "trainer/eval/mask_scores.h"

static void expect(double got, double wanted)
{
    if (!(fabs(got - wanted) < 1e-9))
        fail_msg("got %.12f, wanted %.12f", got, wanted);
}

static double boundary(const struct mask_pair *pair)
{
    double f = -1.0;

    assert_int_equal(mask_boundary(&f, pair), STATUS_OK);
    return f;
}

/* An ellipse of label 1, and two corners of label 2. */
static uint8_t *draw(int width, int height, int right, int down, int radius)
{
    uint8_t *labels = malloc((size_t)(width * height));

    assert_non_null(labels);
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++) {
            int u = x - width / 2 - right, v = y - height / 2 - down, square = radius * radius;
            labels[y * width + x] = u * u + 2 * v * v < square ? 1 : u * v > square / 2 ? 2 : 0;
        }
    return labels;
}

static void masks_score_as_numpy_says(void **state)
{
    static const struct {
        int width, height, right, down, radius, true_radius;
        double j[2], f[2];
    } cases[] = {
        {61, 47, 3, -2, 14, 12, {0.628008752735, 0.852697095436}, {0.392370572207, 0.431211498973}},
        {300,
         200,
         9,
         5,
         60,
         66,
         {0.767427884615, 0.850858754166},
         {0.300911854103, 0.244749912862}},
        {854,
         480,
         12,
         -7,
         130,
         131,
         {0.858785942492, 0.959904071569},
         {0.485360360360, 0.799998829045}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int width = cases[i].width, height = cases[i].height;
        uint8_t *found = draw(width, height, cases[i].right, cases[i].down, cases[i].radius);
        uint8_t *truth = draw(width, height, 0, 0, cases[i].true_radius);
        for (int object = 1; object <= 2; object++) {
            struct mask_pair pair = {found, truth, width, height, (uint8_t)object};
            expect(mask_similarity(&pair), cases[i].j[object - 1]);
            expect(boundary(&pair), cases[i].f[object - 1]);
        }
        free(found);
        free(truth);
    }
}

static void empty_and_equal_masks_are_what_the_challenge_says(void **state)
{
    static const uint8_t none[25], some[25] = {[6] = 1, [7] = 1, [11] = 1, [12] = 1};
    static const uint8_t far[25] = {[24] = 1, [23] = 1};
    struct mask_pair neither = {none, none, 5, 5, 1}, equal = {some, some, 5, 5, 1};
    struct mask_pair missed = {none, some, 5, 5, 1}, invented = {some, none, 5, 5, 1};
    struct mask_pair apart = {far, some, 5, 5, 1};

    (void)state;
    expect(mask_similarity(&neither), 1.0);
    expect(boundary(&neither), 1.0);
    expect(mask_similarity(&equal), 1.0);
    expect(boundary(&equal), 1.0);
    expect(mask_similarity(&missed), 0.0);
    expect(boundary(&missed), 0.0);
    expect(mask_similarity(&invented), 0.0);
    expect(boundary(&invented), 0.0);
    expect(mask_similarity(&apart), 0.0);
    /* boundaries of `some`, (0,0)-(2,2) but (1,1); of `far` (3,2), (3,3), (3,4), (4,2): (3,2) is
     * next to (2,2), and no other is that near */
    expect(boundary(&apart), 2.0 * (1.0 / 4.0) * (1.0 / 8.0) / (1.0 / 4.0 + 1.0 / 8.0));
}

static void statistics_are_mean_recall_and_decay(void **state)
{
    static const struct {
        int n;
        double mean, recall, decay;
    } cases[] = {
        {1, 0.0, 0.0, 0.0},
        {2, 0.183168316832, 0.0, -0.366336633663},
        {5, 0.332673267327, 0.2, -0.099009900990},
        {13, 0.428789032749, 0.384615384615, -0.047029702970},
        {103, 0.488993559550, 0.485436893204, -0.013356463852},
    };
    static const double half[4] = {0.5, 0.5, 0.75, 1.0};
    double values[103];

    (void)state;
    for (int i = 0; i < 103; i++)
        values[i] = i * 37 % 101 / 101.0;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct mask_statistics s = mask_statistics(values, cases[i].n);
        expect(s.mean, cases[i].mean);
        expect(s.recall, cases[i].recall);
        expect(s.decay, cases[i].decay);
    }
    expect(mask_statistics(half, 4).recall, 0.5); /* 0.5 is not above 0.5 */
}

/* ------------------------------------------------------------------------------ label maps */

static int64_t checksum(const uint8_t *values, int64_t n)
{
    int64_t sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += values[i] * (i % 9973 + 1);
    return sum % 1000000007;
}

static void the_nearest_label_is_pillows(void **state)
{
    static const struct {
        int width, height, to_width, to_height;
        int64_t sum;
    } cases[] = {
        {854, 480, 52, 30, 152211369},  {832, 480, 854, 480, 955875947},
        {7, 5, 20, 3, 111724},          {1, 1, 3, 2, 0},
        {910, 480, 113, 60, 875646860},
    };
    static uint8_t from[910 * 480], to[854 * 480];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int width = cases[i].width, height = cases[i].height;
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                from[y * width + x] = (uint8_t)((x * 7 + y * 13) % 251);
        assert_int_equal(
            label_map_resize(to, cases[i].to_width, cases[i].to_height, from, width, height),
            STATUS_OK);
        assert_int_equal(checksum(to, (int64_t)cases[i].to_width * cases[i].to_height),
                         cases[i].sum);
    }
}

static void one_hot_labels_have_weight_one(void **state)
{
    static const uint8_t labels[3] = {2, 0, 1};
    static const float wanted[9] = {0, 0, 1, 1, 0, 0, 0, 1, 0};
    float weights[9];

    (void)state;
    label_map_one_hot(weights, labels, 3, 3);
    assert_memory_equal(weights, wanted, sizeof(wanted));
}

static void maps_grow_as_pytorch_makes_them(void **state)
{
    static const struct {
        int rows, columns, n_labels, scale;
        int64_t sum;
    } cases[] = {
        {3, 4, 3, 8, 245426},
        {5, 2, 4, 16, 2629710}, /* of the last label nothing is there */
        {1, 1, 2, 4, 136},      /* everywhere the same: what there is */
        {6, 7, 1, 4, 0},
    };
    static uint8_t labels[80 * 32];
    float weights[64];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int rows = cases[i].rows, columns = cases[i].columns, n_labels = cases[i].n_labels;
        struct label_weights map = {weights, rows, columns, n_labels};
        for (int k = 0; k < rows * columns * n_labels; k++)
            weights[k] =
                n_labels == 4 && k % 4 == 3 ? 0.0f : (float)((k * k * 31 + k * 17) % 101 / 101.0);
        for (int threads = 1; threads <= 3; threads += 2) {
            label_map_grow(labels, &map, cases[i].scale, threads);
            int64_t n = (int64_t)rows * columns * cases[i].scale * cases[i].scale;
            assert_int_equal(checksum(labels, n), cases[i].sum);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_score_as_numpy_says),
        cmocka_unit_test(empty_and_equal_masks_are_what_the_challenge_says),
        cmocka_unit_test(statistics_are_mean_recall_and_decay),
        cmocka_unit_test(the_nearest_label_is_pillows),
        cmocka_unit_test(one_hot_labels_have_weight_one),
        cmocka_unit_test(maps_grow_as_pytorch_makes_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
