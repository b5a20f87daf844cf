/* Clustering scores against scikit-learn 1.9.1 (normalized_mutual_info_score, adjusted_rand_score,
 * fowlkes_mallows_score) on the same labels, which a linear congruential generator makes on both
 * sides: s = 1664525 s + 1013904223 mod 2^32, value s >> 8. */
#include "trainer/cluster_scores.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

enum { N = 20000 };

struct samples {
    int32_t first[N], second[N], third[N]; /* generator values of seeds 1, 2, 3 */
    int32_t labels[N], clusters[N];
};

static void fill(int32_t *out, uint32_t seed)
{
    for (int i = 0; i < N; i++) {
        seed = seed * 1664525u + 1013904223u;
        out[i] = (int32_t)(seed >> 8);
    }
}

static int setup(void **state)
{
    struct samples *samples = calloc(1, sizeof(*samples));
    fill(samples->first, 1);
    fill(samples->second, 2);
    fill(samples->third, 3);
    /* 100 classes; in 6 of 10 cases a cluster of the class's own, else one of 8,192. */
    for (int i = 0; i < N; i++) {
        int32_t label = samples->first[i] % 100;
        samples->labels[i] = label;
        samples->clusters[i] =
            samples->third[i] % 10 < 6 ? (label * 7 + 3) % 100 * 81 : samples->second[i] % 8192;
    }
    *state = samples;
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void assert_scores(const int32_t *labels, const int32_t *clusters, size_t n, double nmi,
                          double ari, double fmi)
{
    struct cluster_scores scores;

    assert_int_equal(cluster_scores_compute(&scores, labels, clusters, n), STATUS_OK);
    if (!(fabs(scores.nmi - nmi) < 1e-13) || !(fabs(scores.ari - ari) < 1e-13) ||
        !(fabs(scores.fmi - fmi) < 1e-13))
        fail_msg("got %.17g %.17g %.17g, wanted %.17g %.17g %.17g", scores.nmi, scores.ari,
                 scores.fmi, nmi, ari, fmi);
}

static void noisy_clusters_score_as_in_scikit_learn(void **state)
{
    struct samples *samples = *state;
    struct cluster_scores scores;

    assert_scores(samples->labels, samples->clusters, N, 0.76655114002476277, 0.52474898251173474,
                  0.59488262320473773);
    assert_int_equal(cluster_scores_compute(&scores, samples->labels, samples->clusters, N),
                     STATUS_OK);
    assert_int_equal(scores.n_classes, 100);
    assert_int_equal(scores.n_clusters, 5204);
}

static void independent_clusters_score_near_nothing(void **state)
{
    struct samples *samples = *state;

    for (int i = 0; i < N; i++) {
        samples->labels[i] = samples->first[i] % 10;
        samples->clusters[i] = samples->second[i] % 64;
    }
    assert_scores(samples->labels, samples->clusters, N, 0.0038315185772045362,
                  -0.00010442939339921236, 0.039324900526432574);
}

static void names_may_be_negative_and_large(void **state)
{
    struct samples *samples = *state;

    for (int i = 0; i < N; i++) {
        samples->labels[i] = INT32_MIN + samples->labels[i];
        samples->clusters[i] = -samples->clusters[i];
    }
    assert_scores(samples->labels, samples->clusters, N, 0.76655114002476277, 0.52474898251173474,
                  0.59488262320473773);
}

static void names_do_not_matter(void **state)
{
    struct samples *samples = *state;

    for (int i = 0; i < N; i++) {
        samples->labels[i] = samples->first[i] % 10;
        samples->clusters[i] = samples->labels[i] * 3 + 1;
    }
    assert_scores(samples->labels, samples->clusters, N, 1, 1, 1);
}

static void degenerate_cases_score_as_in_scikit_learn(void **state)
{
    static const int32_t small_labels[] = {0, 0, 1, 1, 2, 2, 2, 0, 1, 2, 3, 3};
    static const int32_t small_clusters[] = {5, 5, 5, 9, 9, 9, 1, 1, 5, 9, 1, 1};
    struct samples *samples = *state;
    int32_t zeros[50] = {0}, distinct[50], of_five[50], others[50];

    for (int i = 0; i < 50; i++) {
        distinct[i] = i;
        others[i] = 50 + i;
        of_five[i] = samples->second[i] % 5;
    }
    assert_scores(small_labels, small_clusters, 12, 0.48270987152311623, 0.20532319391634982,
                  0.39223227027636803);
    assert_scores(zeros, of_five, 50, 0, 0, 0.45624912636203746);
    for (int i = 0; i < 50; i++)
        of_five[i] = samples->first[i] % 5;
    assert_scores(of_five, zeros, 50, 0, 0, 0.51666118057214638);
    assert_scores(zeros, zeros, 50, 1, 1, 1);
    assert_scores(distinct, others, 50, 1, 1, 0);
    assert_scores(distinct, zeros, 50, 0, 0, 0);
    assert_scores(zeros, distinct, 1, 1, 1, 0);
    assert_scores(NULL, NULL, 0, 1, 1, 0);
}

/* Products of pair counts pass 2^64 from about 100,000 samples on: a closed form must still come
 * out. Two classes of n/2, each half in a cluster of its own and half in a common one. */
static void large_counts_do_not_overflow(void **state)
{
    enum { LARGE = 1 << 21 };
    int32_t *labels = malloc(LARGE * sizeof(*labels)),
            *clusters = malloc(LARGE * sizeof(*clusters));
    double n = LARGE, quarter = n / 4, half = n / 2;
    (void)state;

    assert_true(labels != NULL && clusters != NULL);
    for (int i = 0; i < LARGE; i++) {
        labels[i] = i % 2;
        clusters[i] = i / 2 % 2 == 0 ? i % 2 : 2;
    }
    double pairs = n * (n - 1) / 2;
    double same_both = 4 * quarter * (quarter - 1) / 2;
    double same_label = 2 * half * (half - 1) / 2;
    double same_cluster = (2 * quarter * (quarter - 1) + half * (half - 1)) / 2;
    double expected = same_label * same_cluster / pairs;
    double ari = (same_both - expected) / ((same_label + same_cluster) / 2 - expected);
    /* I = ln 2 / 2, entropies ln 2 and 3/2 ln 2 */
    struct cluster_scores scores;
    assert_int_equal(cluster_scores_compute(&scores, labels, clusters, LARGE), STATUS_OK);
    assert_true(fabs(scores.ari - ari) < 1e-10);
    assert_true(fabs(scores.nmi - 0.5 / 1.25) < 1e-10);
    assert_true(fabs(scores.fmi - same_both / sqrt(same_label * same_cluster)) < 1e-10);
    free(labels);
    free(clusters);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(noisy_clusters_score_as_in_scikit_learn, setup, teardown),
        cmocka_unit_test_setup_teardown(independent_clusters_score_near_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(names_may_be_negative_and_large, setup, teardown),
        cmocka_unit_test_setup_teardown(names_do_not_matter, setup, teardown),
        cmocka_unit_test_setup_teardown(degenerate_cases_score_as_in_scikit_learn, setup, teardown),
        cmocka_unit_test(large_counts_do_not_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
