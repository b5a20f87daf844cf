/* Accuracy of clusters: against all assignments, tried one by one. */
#include "trainer/eval/cluster_accuracy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "proto/base/rng.h"

enum { N = 200, MOST = 6 };

static int64_t right_of(const int32_t *labels, const int32_t *clusters, size_t n)
{
    int64_t right = -1;

    assert_int_equal(cluster_accuracy(&right, labels, clusters, n), STATUS_OK);
    return right;
}

/* The best of every way to give clusters from `cluster` on a class of their own, or none. */
static int64_t best_of(int64_t count[MOST][MOST], int n_classes, int n_clusters, int cluster,
                       bool taken[MOST])
{
    if (cluster >= MOST || cluster == n_clusters)
        return 0;
    int64_t best = best_of(count, n_classes, n_clusters, cluster + 1, taken);
    for (int c = 0; c < n_classes; c++) {
        if (taken[c])
            continue;
        taken[c] = true;
        int64_t with =
            count[c][cluster] + best_of(count, n_classes, n_clusters, cluster + 1, taken);
        taken[c] = false;
        best = with > best ? with : best;
    }
    return best;
}

static void the_best_of_all_assignments_is_found(void **state)
{
    struct rng rng = rng_open((struct rng_key){.seed = 11});
    int32_t labels[N], clusters[N];

    (void)state;
    for (int turn = 0; turn < 300; turn++) {
        int64_t count[MOST][MOST] = {{0}};
        bool taken[MOST] = {false};
        int n_classes = 1 + (int)(rng_uniform(&rng) * MOST);
        int n_clusters = 1 + (int)(rng_uniform(&rng) * MOST);
        int n = 1 + (int)(rng_uniform(&rng) * N);
        for (int i = 0; i < n; i++) { /* squared: some are much larger than others */
            double a = rng_uniform(&rng), b = rng_uniform(&rng);
            int class = (int)(a * a * n_classes), cluster = (int)(b * b * n_clusters);
            if (rng_uniform(&rng) < 0.4)
                cluster = class % n_clusters;
            count[class][cluster]++;
            labels[i] = 7 * class - 9; /* any numbers will do */
            clusters[i] = 1000 - 3 * cluster;
        }
        assert_int_equal(right_of(labels, clusters, (size_t)n),
                         best_of(count, n_classes, n_clusters, 0, taken));
    }
}

static void names_of_clusters_do_not_matter(void **state)
{
    static const int32_t labels[] = {0, 0, 1, 1, 2, 2}, clusters[] = {5, 5, 9, 9, 0, 0};
    static const int32_t one[] = {4, 4, 4, 4, 4, 4}, each[] = {0, 1, 2, 3, 4, 5};

    (void)state;
    assert_int_equal(right_of(labels, clusters, 6), 6);
    assert_int_equal(right_of(labels, one, 6), 2);
    assert_int_equal(right_of(labels, each, 6), 3);
    assert_int_equal(right_of(labels, clusters, 0), 0);
}

/* A greedy choice takes 10 and is left with 0; the best is 9 and 8. */
static void a_greedy_choice_is_not_the_best(void **state)
{
    int32_t labels[27], clusters[27];
    int n = 0;

    (void)state;
    for (int i = 0; i < 10; i++, n++)
        labels[n] = 0, clusters[n] = 0;
    for (int i = 0; i < 9; i++, n++)
        labels[n] = 0, clusters[n] = 1;
    for (int i = 0; i < 8; i++, n++)
        labels[n] = 1, clusters[n] = 0;
    assert_int_equal(right_of(labels, clusters, (size_t)n), 17);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_of_all_assignments_is_found),
        cmocka_unit_test(names_of_clusters_do_not_matter),
        cmocka_unit_test(a_greedy_choice_is_not_the_best),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
