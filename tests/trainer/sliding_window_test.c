/* Sliding windows against the long way in double: every window's map scaled up, summed, divided by
 * how many there are, the whole scaled to the result. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "trainer/eval/sliding_window.h"

static void expect_windows(int length, int window, int stride, int n, const int *first)
{
    struct windows w;

    assert_int_equal(windows_plan(&w, length, window, stride), STATUS_OK);
    assert_int_equal(w.n, n);
    assert_int_equal(w.window, length < window ? length : window);
    for (int i = 0; i < n; i++)
        assert_int_equal(w.first[i], first[i]);
}

static void windows_cover_a_side_and_end_with_it(void **state)
{
    struct windows w;

    (void)state;
    expect_windows(512, 512, 341, 1, (const int[]){0});
    expect_windows(683, 512, 341, 2, (const int[]){0, 171});
    expect_windows(853, 512, 341, 2, (const int[]){0, 341});
    expect_windows(854, 512, 341, 3, (const int[]){0, 341, 342});
    expect_windows(2048, 512, 341, 6, (const int[]){0, 341, 682, 1023, 1364, 1536});
    expect_windows(300, 512, 341, 1, (const int[]){0});
    expect_windows(1, 1, 1, 1, (const int[]){0});
    assert_int_equal(windows_plan(&w, 5000, 2, 1), STATUS_INVALID);
}

/* ------------------------------------------------------------------------------ the long way */

/* Bilinear with half-pixel centres: from [h, w, k] at (Y, X) of [H, W]. */
static double sample(const double *from, int h, int w, int k, int c, int y, int big_h, int x,
                     int big_w)
{
    double fy = fmax((y + 0.5) * h / big_h - 0.5, 0.0), fx = fmax((x + 0.5) * w / big_w - 0.5, 0.0);
    int y0 = (int)fy, x0 = (int)fx, y1 = y0 + 1 < h ? y0 + 1 : y0, x1 = x0 + 1 < w ? x0 + 1 : x0;
    double dy = fy - y0, dx = fx - x0;

    return (1 - dy) * ((1 - dx) * from[(y0 * w + x0) * k + c] + dx * from[(y0 * w + x1) * k + c]) +
           dy * ((1 - dx) * from[(y1 * w + x0) * k + c] + dx * from[(y1 * w + x1) * k + c]);
}

struct problem {
    int height, width, window, stride, patch, k, to_height, to_width;
};

static void expect_the_same(const struct problem *p, uint64_t seed)
{
    struct rng rng = rng_open((struct rng_key){seed, 0, 0, 0, RNG_TEST});
    struct windows down, across;

    assert_int_equal(windows_plan(&down, p->height, p->window, p->stride), STATUS_OK);
    assert_int_equal(windows_plan(&across, p->width, p->window, p->stride), STATUS_OK);
    int rows = down.window / p->patch, columns = across.window / p->patch, k = p->k;
    int map = rows * columns * k, n = down.n * across.n;
    float *logits = malloc(sizeof(float) * (size_t)(n * map));
    double *one = malloc(sizeof(double) * (size_t)map);
    double *whole = calloc((size_t)(p->height * p->width * k), sizeof(double));
    int *count = calloc((size_t)(p->height * p->width), sizeof(int));
    int pixels = p->to_height * p->to_width;
    float *got = malloc(sizeof(float) * (size_t)(pixels * k));
    uint8_t *labels = malloc((size_t)pixels);
    assert_true(logits && one && whole && count && got && labels);

    for (int i = 0; i < n * map; i++)
        logits[i] = (float)(3.0 * rng_normal(&rng));
    for (int i = 0; i < n; i++) {
        for (int j = 0; j < map; j++)
            one[j] = (double)logits[i * map + j];
        for (int y = 0; y < down.window; y++)
            for (int x = 0; x < across.window; x++) {
                int at = (down.first[i / across.n] + y) * p->width + across.first[i % across.n] + x;
                count[at]++;
                for (int c = 0; c < k; c++)
                    whole[at * k + c] +=
                        sample(one, rows, columns, k, c, y, down.window, x, across.window);
            }
    }
    for (int i = 0; i < p->height * p->width; i++) {
        assert_true(count[i] > 0);
        for (int c = 0; c < k; c++)
            whole[i * k + c] /= count[i];
    }
    struct window_maps maps = {logits, &down,     &across,  rows, columns,
                               k,      p->height, p->width, false};
    assert_int_equal(window_maps_classify(labels, got, p->to_width, p->to_height, &maps, 1),
                     STATUS_OK);
    for (int y = 0; y < p->to_height; y++)
        for (int x = 0; x < p->to_width; x++) {
            int at = y * p->to_width + x, best = 0;
            for (int c = 0; c < k; c++) {
                double wanted =
                    sample(whole, p->height, p->width, k, c, y, p->to_height, x, p->to_width);
                if (!(fabs((double)got[at * k + c] - wanted) < 2e-4))
                    fail_msg("pixel %d, %d class %d: %f, wanted %f", x, y, c,
                             (double)got[at * k + c], wanted);
                best = got[at * k + c] > got[at * k + best] ? c : best;
            }
            assert_int_equal(labels[at], best);
        }
    free(logits);
    free(one);
    free(whole);
    free(count);
    free(got);
    free(labels);
}

static void maps_are_put_together_as_the_long_way_does(void **state)
{
    static const struct problem problems[] = {
        {64, 64, 64, 42, 16, 5, 64, 64},    /* one window */
        {64, 85, 64, 42, 16, 5, 48, 70},    /* two, result smaller */
        {70, 200, 64, 42, 16, 3, 140, 401}, /* many, result larger */
        {64, 129, 64, 64, 8, 2, 64, 129},   /* no overlap but the last's */
        {40, 150, 64, 30, 8, 4, 33, 200},   /* lower than a window, no whole patches */
        {33, 33, 16, 3, 4, 3, 50, 20},      /* six windows over a place */
        {16, 16, 16, 16, 16, 4, 9, 7},      /* one cell */
        {17, 20, 16, 8, 16, 1, 17, 20},     /* one class */
    };

    (void)state;
    for (size_t i = 0; i < sizeof(problems) / sizeof(problems[0]); i++)
        expect_the_same(&problems[i], i);
}

/* Of several maps the sum of softmaxes, some of the picture mirrored; each map by itself is right.
 */
static void several_maps_add_their_softmaxes(void **state)
{
    enum { K = 4, PATCH = 8, WINDOW = 32, TO_WIDTH = 37, TO_HEIGHT = 29, MAPS = 3 };
    static const struct {
        int height, width;
        bool mirrored;
    } seen[MAPS] = {{32, 40, false}, {48, 61, true}, {16, 20, true}};
    struct rng rng = rng_open((struct rng_key){99, 0, 0, 0, RNG_TEST});
    static struct windows down[MAPS], across[MAPS];
    static float logits[MAPS][6 * 16 * K], alone[MAPS][TO_HEIGHT * TO_WIDTH * K];
    static float got[TO_HEIGHT * TO_WIDTH * K];
    static uint8_t labels[TO_HEIGHT * TO_WIDTH], one[TO_HEIGHT * TO_WIDTH];
    struct window_maps maps[MAPS];

    (void)state;
    for (int m = 0; m < MAPS; m++) {
        assert_int_equal(windows_plan(&down[m], seen[m].height, WINDOW, 21), STATUS_OK);
        assert_int_equal(windows_plan(&across[m], seen[m].width, WINDOW, 21), STATUS_OK);
        assert_in_range(down[m].n * across[m].n, 1, 6);
        for (int i = 0; i < 6 * 16 * K; i++)
            logits[m][i] = (float)(20.0 * rng_normal(&rng)); /* some softmaxes are all of one */
        maps[m] = (struct window_maps){
            .logits = logits[m],
            .down = &down[m],
            .across = &across[m],
            .rows = down[m].window / PATCH,
            .columns = across[m].window / PATCH,
            .n_classes = K,
            .height = seen[m].height,
            .width = seen[m].width,
        };
        assert_int_equal(window_maps_classify(one, alone[m], TO_WIDTH, TO_HEIGHT, &maps[m], 1),
                         STATUS_OK);
        maps[m].mirrored = seen[m].mirrored;
    }
    assert_int_equal(window_maps_classify(labels, got, TO_WIDTH, TO_HEIGHT, maps, MAPS), STATUS_OK);
    for (int at = 0; at < TO_HEIGHT * TO_WIDTH; at++) {
        int x = at % TO_WIDTH, best = 0;
        double wanted[K] = {0.0};
        for (int m = 0; m < MAPS; m++) {
            const float *z = alone[m] + (at - x + (seen[m].mirrored ? TO_WIDTH - 1 - x : x)) * K;
            double sum = 0.0;
            for (int c = 0; c < K; c++)
                sum += exp((double)z[c]);
            for (int c = 0; c < K; c++)
                wanted[c] += exp((double)z[c]) / sum;
        }
        for (int c = 0; c < K; c++) {
            assert_true(fabs((double)got[at * K + c] - wanted[c]) < 2e-5);
            best = got[at * K + c] > got[at * K + best] ? c : best;
        }
        assert_int_equal(labels[at], best);
    }
}

static void of_equal_classes_the_first_is_taken(void **state)
{
    static const float logits[2 * 3] = {1.0f, 2.0f, 2.0f, 5.0f, 5.0f, 5.0f};
    struct windows down, across;
    uint8_t labels[8];

    (void)state;
    assert_int_equal(windows_plan(&down, 4, 4, 4), STATUS_OK);
    assert_int_equal(windows_plan(&across, 8, 4, 4), STATUS_OK);
    struct window_maps maps = {logits, &down, &across, 1, 1, 3, 4, 8, false};
    assert_int_equal(window_maps_classify(labels, NULL, 8, 1, &maps, 1), STATUS_OK);
    assert_memory_equal(labels, ((const uint8_t[8]){1, 1, 1, 1, 0, 0, 0, 0}), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_cover_a_side_and_end_with_it),
        cmocka_unit_test(maps_are_put_together_as_the_long_way_does),
        cmocka_unit_test(several_maps_add_their_softmaxes),
        cmocka_unit_test(of_equal_classes_the_first_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
