/* Masks and crops follow the distributions of the official implementation, of which
 * random_statistics.json holds samples. Seeds are fixed, so that a test passes always or never; the
 * chance that a right implementation had failed was about 1e-4 in all. */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "loader/crop.h"
#include "loader/log_uniform.h"
#include "loader/mask.h"

enum { N_DRAWS = 40000, MAX_CELLS = 256 };

/* Two-sided deviations that are accepted: 5.5 sigma is 4e-8, for some thousands of comparisons. */
#define MAX_SIGMA 5.5

static struct rng stream(uint32_t sample, enum rng_purpose purpose)
{
    return rng_open((struct rng_key){
        .seed = 20260301, .epoch = 3, .sample = sample, .purpose = (uint16_t)purpose});
}

static int load_statistics(void **state)
{
    char path[1024];
    json_error_t error;

    snprintf(path, sizeof(path), "%s/golden/random_statistics.json", getenv("IBOT_TEST_DATA"));
    *state = json_load_file(path, 0, &error);
    if (*state == NULL)
        fprintf(stderr, "%s: %s\n", path, error.text);
    return *state == NULL;
}

static int release_statistics(void **state)
{
    json_decref(*state);
    return 0;
}

/* Upper tail of chi-square by Wilson and Hilferty's normal approximation, in sigma. */
static double chi_square_sigma(double chi_square, double n)
{
    return (cbrt(chi_square / n) - (1.0 - 2.0 / (9.0 * n))) / sqrt(2.0 / (9.0 * n));
}

/* Two-sample chi-square over the counts of masked cells; neighbouring counts are pooled until both
 * samples together have 40 in a bin. */
static void assert_same_counts(const double *ours, const double *theirs, int n, double n_ours,
                               double n_theirs, const char *what)
{
    double a = 0.0, b = 0.0, chi_square = 0.0;
    int n_bins = 0;

    for (int i = 0; i < n; i++) {
        a += ours[i];
        b += theirs[i];
        if (a + b >= 40.0 || (i == n - 1 && a + b > 0.0)) {
            double difference = a * sqrt(n_theirs / n_ours) - b * sqrt(n_ours / n_theirs);
            chi_square += difference * difference / (a + b);
            n_bins++;
            a = b = 0.0;
        }
    }
    if (n_bins > 1 && chi_square_sigma(chi_square, n_bins - 1) > MAX_SIGMA)
        fail_msg("%s: chi-square %.1f over %d bins", what, chi_square, n_bins);
}

static struct data_spec spec_of(const json_t *entry, int *grid)
{
    struct data_spec spec = data_spec_default();
    const json_t *ratios = json_object_get(entry, "pred_ratio");
    const json_t *widths = json_object_get(entry, "pred_ratio_var");
    const char *shape = json_string_value(json_object_get(entry, "pred_shape"));

    *grid = (int)json_integer_value(json_object_get(entry, "grid"));
    spec.n_pred_ratios = (int32_t)json_array_size(ratios);
    for (int32_t i = 0; i < spec.n_pred_ratios; i++) {
        spec.pred_ratio[i] = (float)json_number_value(json_array_get(ratios, (size_t)i));
        spec.pred_ratio_var[i] = (float)json_number_value(json_array_get(widths, (size_t)i));
    }
    spec.mask_shape = strcmp(shape, "rand") == 0 ? MASK_RANDOM : MASK_BLOCK;
    return spec;
}

static void compare_masks(const json_t *entry, uint32_t first_sample)
{
    int grid;
    struct data_spec spec = spec_of(entry, &grid);
    double n_theirs = json_number_value(json_object_get(entry, "draws"));
    double counts[MAX_CELLS + 1] = {0}, their_counts[MAX_CELLS + 1] = {0}, cells[MAX_CELLS] = {0};
    uint8_t mask[MAX_CELLS];
    char what[64];

    snprintf(what, sizeof(what), "masks of %d x %d, %d ratios, shape %d", grid, grid,
             spec.n_pred_ratios, (int)spec.mask_shape);
    for (uint32_t i = 0; i < N_DRAWS; i++) {
        struct rng rng = stream(first_sample + i, RNG_MASK);
        int32_t n = mask_draw(&rng, &spec, mask_ratio_draw(&rng, &spec, 1), grid, mask), sum = 0;
        for (int c = 0; c < grid * grid; c++) {
            assert_true(mask[c] <= 1);
            cells[c] += mask[c];
            sum += mask[c];
        }
        assert_int_equal(n, sum);
        counts[n]++;
    }
    const char *key;
    json_t *value;
    json_object_foreach(json_object_get(entry, "masked_count_histogram"), key, value)
        their_counts[atoi(key)] = json_number_value(value);
    assert_same_counts(counts, their_counts, grid * grid + 1, N_DRAWS, n_theirs, what);
    for (int c = 0; c < grid * grid; c++) {
        const json_t *row =
            json_array_get(json_object_get(entry, "per_cell_probability"), (size_t)(c / grid));
        double theirs = json_number_value(json_array_get(row, (size_t)(c % grid)));
        double ours = cells[c] / N_DRAWS, middle = (ours + theirs) / 2.0;
        double sigma = sqrt(middle * (1.0 - middle) * (1.0 / N_DRAWS + 1.0 / n_theirs));
        if (fabs(ours - theirs) > MAX_SIGMA * sigma + 5e-5) /* they are rounded to 4 digits */
            fail_msg("%s: cell %d is masked in %g, officially in %g", what, c, ours, theirs);
    }
}

static void masks_have_the_official_distributions(void **state)
{
    const json_t *entries = json_object_get(*state, "block_masks");

    assert_true(json_array_size(entries) >= 6);
    for (size_t i = 0; i < json_array_size(entries); i++)
        compare_masks(json_array_get(entries, i), (uint32_t)(i * N_DRAWS));
}

static void before_the_start_epoch_nothing_is_masked(void **state)
{
    struct data_spec spec = data_spec_default();
    uint8_t mask[196];

    (void)state;
    spec.pred_start_epoch = 5;
    for (uint32_t i = 0; i < 50; i++) {
        struct rng rng = stream(i, RNG_MASK);
        double ratio = mask_ratio_draw(&rng, &spec, 4);
        assert_true(ratio == 0.0);
        assert_int_equal(mask_draw(&rng, &spec, ratio, 14, mask), 0);
    }
}

/* trunc(ratio * cells), of the ratio in decimal: 0.7 and 0.9 are less as floats. */
static void single_patches_are_as_many_as_the_ratio_says(void **state)
{
    static const struct {
        float ratio;
        int grid, n;
    } cases[] = {{0.7f, 10, 70}, {0.9f, 10, 90},  {0.3f, 10, 30}, {0.35f, 20, 140},
                 {0.3f, 14, 58}, {1.0f, 14, 196}, {0.0f, 14, 0},  {0.255f, 2, 1}};
    uint8_t mask[400];

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct data_spec spec = data_spec_default();
        struct rng rng = stream((uint32_t)i, RNG_MASK);
        int grid = cases[i].grid, sum = 0;
        spec.mask_shape = MASK_RANDOM;
        spec.n_pred_ratios = 1;
        spec.pred_ratio[0] = cases[i].ratio;
        spec.pred_ratio_var[0] = 0.0f;
        double ratio = mask_ratio_draw(&rng, &spec, 0);
        assert_int_equal(mask_draw(&rng, &spec, ratio, grid, mask), cases[i].n);
        for (int c = 0; c < grid * grid; c++)
            sum += mask[c];
        assert_int_equal(sum, cases[i].n);
    }
}

/* 1 +- 0.5 of the cells: never more than there are, and what is returned is what is set. */
static void no_more_cells_are_masked_than_there_are(void **state)
{
    struct data_spec spec = data_spec_default();
    uint8_t mask[36];
    int n_full = 0;

    (void)state;
    spec.n_pred_ratios = 1;
    spec.pred_ratio[0] = 1.0f;
    spec.pred_ratio_var[0] = 0.5f;
    for (uint32_t i = 0; i < 400; i++) {
        struct rng rng = stream(i, RNG_MASK);
        int32_t n, sum = 0;
        spec.mask_shape = i % 2 ? MASK_RANDOM : MASK_BLOCK;
        n = mask_draw(&rng, &spec, mask_ratio_draw(&rng, &spec, 0), 6, mask);
        for (int c = 0; c < 36; c++)
            sum += mask[c];
        assert_int_equal(n, sum);
        n_full += n == 36;
    }
    assert_in_range(n_full, 60, 260);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Share of sorted values below v. */
static double share(const double *sorted, double v)
{
    size_t low = 0, high = N_DRAWS;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sorted[middle] < v)
            low = middle + 1;
        else
            high = middle;
    }
    return (double)low / N_DRAWS;
}

/* At each official quantile, our share of smaller values must be the quantile's; values are whole
 * pixels, so that many may be equal to it. */
static void assert_quantiles(double *values, const json_t *entry, const char *name)
{
    const json_t *quantiles = json_object_get(entry, "quantiles");
    const json_t *theirs = json_object_get(entry, name);

    qsort(values, N_DRAWS, sizeof(*values), compare_doubles);
    for (size_t i = 0; i < json_array_size(quantiles); i++) {
        double q = json_number_value(json_array_get(quantiles, i));
        double v = json_number_value(json_array_get(theirs, i));
        double slack = MAX_SIGMA * sqrt(q * (1.0 - q) * 2.0 / N_DRAWS);
        double below = share(values, v - 6e-5), up_to = share(values, v + 6e-5);
        if (q < below - slack || q > up_to + slack)
            fail_msg("%s: %g is the %g quantile officially, ours is between %g and %g", name, v, q,
                     below, up_to);
    }
}

static void assert_mean(const double *values, const json_t *entry, const char *name)
{
    double theirs = json_number_value(json_object_get(entry, name)), sum = 0.0, squares = 0.0;

    for (int i = 0; i < N_DRAWS; i++) {
        sum += values[i];
        squares += values[i] * values[i];
    }
    double mean = sum / N_DRAWS, variance = fmax(squares / N_DRAWS - mean * mean, 0.0);
    if (fabs(mean - theirs) > MAX_SIGMA * sqrt(variance * 2.0 / N_DRAWS) + 1e-6)
        fail_msg("%s: %g, officially %g", name, mean, theirs);
}

static void crops_have_the_official_distributions(void **state)
{
    const json_t *entries = json_object_get(*state, "random_resized_crop");
    double(*v)[N_DRAWS] = calloc(6, sizeof(*v));

    assert_true(json_array_size(entries) >= 5);
    for (size_t e = 0; e < json_array_size(entries); e++) {
        const json_t *entry = json_array_get(entries, e), *bounds = json_object_get(entry, "scale");
        int32_t width = (int32_t)json_integer_value(json_object_get(entry, "width"));
        int32_t height = (int32_t)json_integer_value(json_object_get(entry, "height"));
        const float scale[2] = {(float)json_number_value(json_array_get(bounds, 0)),
                                (float)json_number_value(json_array_get(bounds, 1))};
        const float aspect[2] = {3.0f / 4.0f, 4.0f / 3.0f};
        for (uint32_t i = 0; i < N_DRAWS; i++) {
            struct rng rng = stream((uint32_t)e * N_DRAWS + i, RNG_CROP);
            struct region r = crop_draw(&rng, width, height, scale, aspect);
            assert_true(r.left >= 0 && r.top >= 0 && r.width > 0 && r.height > 0 &&
                        r.left + r.width <= width && r.top + r.height <= height);
            v[0][i] = (double)r.width * r.height / ((double)width * height);
            v[1][i] = (double)r.width / r.height;
            v[2][i] = r.left;
            v[3][i] = r.top;
            v[4][i] = r.width;
            v[5][i] = r.height;
        }
        assert_mean(v[2], entry, "mean_left");
        assert_mean(v[3], entry, "mean_top");
        assert_mean(v[4], entry, "mean_width");
        assert_mean(v[5], entry, "mean_height");
        assert_quantiles(v[0], entry, "area_fraction");
        assert_quantiles(v[1], entry, "aspect_w_over_h");
    }
    free(v);
}

static void extreme_pictures_have_a_crop_too(void **state)
{
    static const int32_t sizes[][2] = {{1, 1}, {1, 65500}, {65500, 1}, {2, 3}, {7, 1}};
    static const float aspects[][2] = {{0.75f, 4.0f / 3.0f}, {0.01f, 0.02f}, {50.0f, 100.0f}};
    const float scale[2] = {0.05f, 1.0f};

    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++)
        for (size_t a = 0; a < sizeof(aspects) / sizeof(aspects[0]); a++)
            for (uint32_t i = 0; i < 200; i++) {
                struct rng rng = stream(i, RNG_CROP);
                struct region r = crop_draw(&rng, sizes[s][0], sizes[s][1], scale, aspects[a]);
                assert_true(r.left >= 0 && r.top >= 0 && r.width > 0 && r.height > 0 &&
                            r.left + r.width <= sizes[s][0] && r.top + r.height <= sizes[s][1]);
            }
}

static const float usual_aspect[2] = {3.0f / 4.0f, 4.0f / 3.0f};

/* Of 200 squares in a picture twice as high as wide, all are as wide as it and lie anywhere. */
static void a_crop_may_be_as_wide_or_as_high_as_the_picture(void **state)
{
    const float half[2] = {0.5f, 0.5f}, square[2] = {1.0f, 1.0f};

    (void)state;
    for (int turned = 0; turned < 2; turned++) {
        int32_t least = 100, most = 0;
        for (uint32_t i = 0; i < 200; i++) {
            struct rng rng = stream(i, RNG_CROP);
            struct region r = crop_draw(&rng, turned ? 200 : 100, turned ? 100 : 200, half, square);
            int32_t at = turned ? r.left : r.top;
            assert_int_equal(turned ? r.top : r.left, 0);
            assert_int_equal(r.width, 100);
            assert_int_equal(r.height, 100);
            least = at < least ? at : least;
            most = at > most ? at : most;
        }
        assert_in_range(least, 0, 9);
        assert_in_range(most, 91, 100);
    }
}

/* The nearest shape that is allowed, rounded, in the middle. */
static void where_no_crop_fits_the_middle_is_taken(void **state)
{
    static const struct region high = {0, 492, 11, 15}, wide = {492, 0, 15, 11};
    const float whole[2] = {1.0f, 1.0f};

    (void)state;
    for (uint32_t i = 0; i < 20; i++) {
        struct rng rng = stream(i, RNG_CROP);
        struct region r = crop_draw(&rng, 11, 1000, whole, usual_aspect);
        assert_memory_equal(&r, &high, sizeof(r));
        r = crop_draw(&rng, 1000, 11, whole, usual_aspect);
        assert_memory_equal(&r, &wide, sizeof(r));
    }
}

/* Of a picture of 120 x 100, 0.95 of the area fits in few shapes; without one there is the whole.
 */
static void a_crop_is_tried_ten_times(void **state)
{
    const float most[2] = {0.95f, 0.95f};
    double area = (double)most[0] * 120.0 * 100.0;
    double fits = log(120.5 * 120.5 / area * (100.5 * 100.5 / area)) / log(16.0 / 9.0);
    double missed = pow(1.0 - fits, 10.0), slack = sqrt(missed * (1.0 - missed) / N_DRAWS);
    int n_whole = 0;

    (void)state;
    for (uint32_t i = 0; i < N_DRAWS; i++) {
        struct rng rng = stream(i, RNG_CROP);
        struct region r = crop_draw(&rng, 120, 100, most, usual_aspect);
        n_whole += r.width == 120 && r.height == 100;
    }
    if (fabs((double)n_whole / N_DRAWS - missed) > MAX_SIGMA * slack)
        fail_msg("no crop was found in %g of all draws, wanted %g", (double)n_whole / N_DRAWS,
                 missed);
}

/* Rectangles are less wide and less high than the grid: one of a single cell has none. */
static void a_block_never_spans_the_grid(void **state)
{
    struct data_spec spec = data_spec_default();
    uint8_t cell;

    (void)state;
    for (uint32_t i = 0; i < 50; i++) {
        struct rng rng = stream(i, RNG_MASK);
        assert_int_equal(mask_draw(&rng, &spec, 1.0, 1, &cell), 0);
        assert_int_equal(cell, 0);
    }
}

static void our_exp_and_log_are_right(void **state)
{
    (void)state;
    for (int i = -70000; i <= 70000; i++) {
        double x = i * 0.01;
        assert_true(fabs(log_uniform_exp(x) - exp(x)) <= 2e-15 * exp(x));
    }
    for (int i = 1; i <= 200000; i++) {
        double x = i * 0.00037;
        assert_true(fabs(log_uniform_log(x) - log(x)) <= 2e-15 * fmax(1.0, fabs(log(x))));
    }
    assert_true(log_uniform_exp(0.0) == 1.0);
    assert_true(log_uniform_log(1.0) == 0.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(masks_have_the_official_distributions, load_statistics,
                                        release_statistics),
        cmocka_unit_test(before_the_start_epoch_nothing_is_masked),
        cmocka_unit_test(single_patches_are_as_many_as_the_ratio_says),
        cmocka_unit_test(no_more_cells_are_masked_than_there_are),
        cmocka_unit_test_setup_teardown(crops_have_the_official_distributions, load_statistics,
                                        release_statistics),
        cmocka_unit_test(extreme_pictures_have_a_crop_too),
        cmocka_unit_test(a_crop_may_be_as_wide_or_as_high_as_the_picture),
        cmocka_unit_test(where_no_crop_fits_the_middle_is_taken),
        cmocka_unit_test(a_crop_is_tried_ten_times),
        cmocka_unit_test(a_block_never_spans_the_grid),
        cmocka_unit_test(our_exp_and_log_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
