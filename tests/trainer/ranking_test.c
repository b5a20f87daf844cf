/* Average precision and precision at k, on cases counted by hand. */
#include "trainer/eval/ranking.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void near(double got, double wanted)
{
    if (!(fabs(got - wanted) < 1e-12))
        fail_msg("got %.15g, wanted %.15g", got, wanted);
}

static void areas_are_those_of_trapezoids(void **state)
{
    (void)state;
    near(average_precision((const int64_t[]){0}, 1, 1), 1.0);
    near(average_precision((const int64_t[]){0, 1, 2}, 3, 3), 1.0);
    /* (0/1 + 1/2)/2 */
    near(average_precision((const int64_t[]){1}, 1, 1), 0.25);
    /* half of (1 + 1)/2, and half of (1/3 + 2/4)/2 */
    near(average_precision((const int64_t[]){0, 3}, 2, 2), 0.5 + 5.0 / 24.0);
    /* one of two is never found */
    near(average_precision((const int64_t[]){0}, 1, 2), 0.5);
    near(average_precision(NULL, 0, 4), 0.0);
}

/* Places: junk, right, wrong, junk, right, wrong. Without junk: right at 0 and at 2. */
static void junk_is_passed_over(void **state)
{
    static const int32_t order[] = {4, 2, 0, 5, 1, 3}, ks[] = {1, 2, 3, 10};
    static const uint8_t relevance[] = {RANK_WRONG, RANK_RIGHT, RANK_RIGHT,
                                        RANK_WRONG, RANK_JUNK,  RANK_JUNK};
    struct ranking_score score;

    (void)state;
    assert_true(ranking_score(&score, order, relevance, 6, ks, 4));
    near(score.average_precision, 0.5 + 0.5 * (1.0 / 2.0 + 2.0 / 3.0) / 2.0);
    near(score.precision[0], 1.0);
    near(score.precision[1], 0.5);
    near(score.precision[2], 2.0 / 3.0);
    near(score.precision[3], 2.0 / 3.0); /* of those up to the last right one */
}

static void without_anything_right_there_is_no_score(void **state)
{
    static const int32_t order[] = {0, 1}, ks[] = {1};
    static const uint8_t relevance[] = {RANK_JUNK, RANK_WRONG};
    struct ranking_score score;

    (void)state;
    assert_false(ranking_score(&score, order, relevance, 2, ks, 1));
}

static void the_greatest_product_comes_first_and_the_first_of_equals(void **state)
{
    static const float query[] = {1, -1}, database[] = {0, 1, 2, 0, 0, 0, 3, 1, 0, 0};
    static const int32_t wanted[] = {1, 3, 2, 4, 0};
    float products[5];
    int32_t order[5];

    (void)state;
    ranking_order(order, products, query, database, 5, 2);
    for (int i = 0; i < 5; i++)
        assert_int_equal(order[i], wanted[i]);
    near((double)products[0], -1.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(areas_are_those_of_trapezoids),
        cmocka_unit_test(junk_is_passed_over),
        cmocka_unit_test(without_anything_right_there_is_no_score),
        cmocka_unit_test(the_greatest_product_comes_first_and_the_first_of_equals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
