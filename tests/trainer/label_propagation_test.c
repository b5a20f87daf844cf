/* Labels from frame to frame against the definition, written plainly in double: every patch of
 * every source frame, those outside of the window and below the k-th zeroed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "tests/support/queued_device.h"
#include "trainer/eval/label_propagation.h"

enum { MAX_CELLS = 60, WIDTH = 10, MAX_LABELS = 5, MAX_FRAMES = 9 };

static float tokens[MAX_FRAMES][MAX_CELLS * WIDTH], labels[MAX_FRAMES][MAX_CELLS * MAX_LABELS];

static void draw_frames(const struct label_propagation_options *o, bool whole_numbers)
{
    struct rng rng = rng_open((struct rng_key){.seed = 5, .purpose = RNG_TEST});

    for (int f = 0; f < MAX_FRAMES; f++)
        for (int i = 0; i < MAX_CELLS * WIDTH; i++) {
            double value = rng_range(&rng, -1.0, 1.0);
            tokens[f][i] = (float)value;
        }
    /* one of three unit vectors each */
    for (int i = 0; whole_numbers && i < MAX_FRAMES * MAX_CELLS; i++) {
        float *token = &tokens[i / MAX_CELLS][i % MAX_CELLS * WIDTH];
        memset(token, 0, WIDTH * sizeof(*token));
        token[rng_u32(&rng) % 3] = 2.0f;
    }
    for (int i = 0; i < o->rows * o->columns * o->n_labels; i++)
        labels[0][i] = (float)(i % o->n_labels == i / o->n_labels % o->n_labels);
}

static double cosine(const float *a, const float *b)
{
    double dot = 0.0, aa = 0.0, bb = 0.0;

    for (int i = 0; i < WIDTH; i++) {
        dot += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return dot / (sqrt(aa) * sqrt(bb));
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x < y) - (x > y);
}

/* Labels of frame `to` from frame 0 and the n_last before it; `slack`: what counts as equal. */
static void by_definition(const struct label_propagation_options *o, int to, double *out,
                          double slack)
{
    static double affinity[MAX_FRAMES * MAX_CELLS], sorted[MAX_FRAMES * MAX_CELLS];
    int cells = o->rows * o->columns, first = to - o->n_last_frames,
        far = o->size_mask_neighborhood;

    first = first < 1 ? 1 : first;
    for (int q = 0; q < cells; q++) {
        int n = 0, source[MAX_FRAMES] = {0}, n_sources = 1;
        for (int f = first; f < to; f++)
            source[n_sources++] = f;
        for (int s = 0; s < n_sources; s++)
            for (int c = 0; c < cells; c++, n++) {
                bool seen = far == 0 || (abs(q / o->columns - c / o->columns) <= far &&
                                         abs(q % o->columns - c % o->columns) <= far);
                double value = cosine(&tokens[to][q * WIDTH], &tokens[source[s]][c * WIDTH]);
                affinity[n] = seen ? exp(value / (double)o->temperature) : 0.0;
            }
        memcpy(sorted, affinity, sizeof(double) * (size_t)n);
        qsort(sorted, (size_t)n, sizeof(double), descending);
        double least = o->topk <= n ? sorted[o->topk - 1] * (1.0 - slack) : 0.0, sum = 0.0;
        memset(out + q * o->n_labels, 0, sizeof(double) * (size_t)o->n_labels);
        for (int i = 0; i < n; i++) {
            if (affinity[i] < least)
                continue;
            sum += affinity[i];
            for (int c = 0; c < o->n_labels; c++)
                out[q * o->n_labels + c] +=
                    affinity[i] * (double)labels[source[i / cells]][i % cells * o->n_labels + c];
        }
        for (int c = 0; c < o->n_labels; c++)
            out[q * o->n_labels + c] /= sum;
    }
}

static void run(struct device *device, const struct op_table *ops,
                const struct label_propagation_options *o, int32_t block_rows, bool whole_numbers)
{
    static double wanted[MAX_CELLS * MAX_LABELS];
    struct label_propagation p;
    int n = o->rows * o->columns * o->n_labels;

    draw_frames(o, whole_numbers);
    assert_int_equal(label_propagation_open(&p, device, ops, o), STATUS_OK);
    assert_int_equal(p.block_rows, o->rows); /* all at once: it is small */
    p.block_rows = block_rows < o->rows ? block_rows : o->rows;
    assert_int_equal(label_propagation_begin(&p, tokens[0], labels[0]), STATUS_OK);
    for (int f = 1; f < MAX_FRAMES; f++) {
        assert_int_equal(label_propagation_next(&p, labels[f], tokens[f]), STATUS_OK);
        by_definition(o, f, wanted, whole_numbers ? 1e-6 : 0.0);
        for (int i = 0; i < n; i++)
            if (!(fabs((double)labels[f][i] - wanted[i]) < 2e-5))
                fail_msg("%d x %d, window %d, top %d, last %d, block %d: frame %d, patch %d, label "
                         "%d: got %g, wanted %g",
                         o->rows, o->columns, o->size_mask_neighborhood, o->topk, o->n_last_frames,
                         block_rows, f, i / o->n_labels, i % o->n_labels, (double)labels[f][i],
                         wanted[i]);
    }
    label_propagation_close(&p);
}

static const struct label_propagation_options cases[] = {
    {6, 10, WIDTH, 3, 3, 2, 5, 0.1f},  {10, 6, WIDTH, 5, 7, 1, 3, 0.1f},
    {5, 5, WIDTH, 2, 0, 12, 1, 0.07f}, {4, 7, WIDTH, 3, 2, 0, 4, 0.1f},
    {1, 1, WIDTH, 2, 1, 3, 5, 0.1f}, /* fewer patches than topk */
    {7, 3, WIDTH, 1, 1, 1, 100, 1.0f},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

static void labels_follow_the_definition(void **state)
{
    struct device device;

    (void)state;
    assert_int_equal(device_open_cpu(&device, 2), STATUS_OK);
    for (int i = 0; i < N_CASES; i++)
        for (int32_t block = 1; block <= 16; block *= 4)
            run(&device, &op_table_cpu, &cases[i], block, false);
    device_close(&device);
}

static void all_that_equals_the_last_counts(void **state)
{
    struct device device;

    (void)state;
    assert_int_equal(device_open_cpu(&device, 2), STATUS_OK);
    for (int i = 0; i < N_CASES; i++)
        run(&device, &op_table_cpu, &cases[i], 16, true); /* three kinds of patches */
    device_close(&device);
}

static void a_device_that_queues_gives_the_same(void **state)
{
    struct device device;

    (void)state;
    assert_int_equal(queued_device_open(&device, 2), STATUS_OK);
    for (int i = 0; i < N_CASES; i++)
        run(&device, &op_table_queued, &cases[i], 2, false);
    device_close(&device);
}

static void similarities_keep_to_their_memory(void **state)
{
    struct label_propagation_options o = {60, 106, WIDTH, 3, 7, 12, 5, 0.1f}; /* 854 x 480 by 8 */
    struct label_propagation p;
    struct device device;

    (void)state;
    assert_int_equal(device_open_cpu(&device, 1), STATUS_OK);
    assert_int_equal(label_propagation_open(&p, &device, &op_table_cpu, &o), STATUS_OK);
    assert_true(p.block_rows >= 1 && p.block_rows < o.rows);
    int64_t band = p.block_rows + 24 < o.rows ? p.block_rows + 24 : o.rows;
    assert_true(8 * p.block_rows * 106 * band * 106 * (int64_t)sizeof(float) <= 64 << 20);
    label_propagation_close(&p);
    device_close(&device);
}

static void features_that_are_no_numbers_are_an_error(void **state)
{
    struct label_propagation p;
    struct device device;

    (void)state;
    assert_int_equal(device_open_cpu(&device, 1), STATUS_OK);
    draw_frames(&cases[0], false);
    assert_int_equal(label_propagation_open(&p, &device, &op_table_cpu, &cases[0]), STATUS_OK);
    assert_int_equal(label_propagation_begin(&p, tokens[0], labels[0]), STATUS_OK);
    tokens[1][17] = NAN;
    assert_int_equal(label_propagation_next(&p, labels[1], tokens[1]), STATUS_NOT_FINITE);
    label_propagation_close(&p);
    label_propagation_close(&p);
    device_close(&device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(labels_follow_the_definition),
        cmocka_unit_test(all_that_equals_the_last_counts),
        cmocka_unit_test(a_device_that_queues_gives_the_same),
        cmocka_unit_test(similarities_keep_to_their_memory),
        cmocka_unit_test(features_that_are_no_numbers_are_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
