/* Learning rates of a fine-tuning and what its mixing draws, against timm's and by their rules. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/trainer/classifier_values.h"
#include "trainer/eval/finetune_run.h"

static void expect_near(const char *what, double got, double wanted, double tolerance)
{
    if (!(fabs(got - wanted) <= tolerance))
        fail_msg("%s: got %.9g, wanted %.9g within %.2g", what, got, wanted, tolerance);
}

/* ------------------------------------------------------------------------------ rates */

static void rates_by_step_are_a_ramp_and_a_cosine(void **state)
{
    struct finetune_options o = {
        .epochs = 10,
        .warmup_epochs = 2,
        .lr = 4e-3,
        .min_lr = 1e-6,
        .batch_size_per_gpu = 8,
        .update_freq = 1,
        .lr_schedule = FINETUNE_BY_STEP,
    };

    (void)state;
    expect_near("first", finetune_lr(&o, 0, 5, 1), 0.0, 0.0);
    expect_near("ramp", finetune_lr(&o, 3, 5, 1), 4e-3 * 3 / 9, 1e-12);
    expect_near("top", finetune_lr(&o, 9, 5, 1), 4e-3, 1e-12);
    expect_near("cosine", finetune_lr(&o, 10, 5, 1), 4e-3, 1e-12);
    expect_near("middle", finetune_lr(&o, 30, 5, 1), (4e-3 + 1e-6) / 2, 1e-12);
    expect_near("last", finetune_lr(&o, 49, 5, 1),
                1e-6 + 0.5 * (4e-3 - 1e-6) * (1.0 + cos(acos(-1.0) * 39 / 40)), 1e-12);
    o.lr_batch = 512;
    o.batch_size_per_gpu = 96;
    o.update_freq = 8;
    expect_near("scaled", finetune_lr(&o, 9, 5, 1), 4e-3 * 768 / 512, 1e-12);
    expect_near("of 8 ranks", finetune_lr(&o, 9, 5, 8), 4e-3 * 8 * 768 / 512, 1e-12);
}

static void rates_by_epoch_are_timms(void **state)
{
    enum { EPOCHS = sizeof(torch_rates) / sizeof(torch_rates[0]) };
    struct finetune_options o = {
        .epochs = EPOCHS,
        .warmup_epochs = 3,
        .lr = 5e-4,
        .lr_batch = 512,
        .min_lr = 1e-5,
        .warmup_lr = 1e-6,
        .batch_size_per_gpu = 96,
        .update_freq = 8,
        .lr_schedule = FINETUNE_BY_EPOCH,
    };

    (void)state;
    for (int epoch = 0; epoch < EPOCHS; epoch++)
        for (int update = 0; update < 3; update++)
            expect_near("rate", finetune_lr(&o, epoch * 3 + update, 3, 1), torch_rates[epoch],
                        1e-11);
    o.warmup_epochs = 0;
    expect_near("no warm-up", finetune_lr(&o, 0, 3, 1), 7.5e-4, 1e-12);
}

/* ------------------------------------------------------------------------------ mixing */

static const struct mixing_options both = {
    .mixup = 0.8,
    .cutmix = 1.0,
    .probability = 1.0,
    .switch_probability = 0.5,
    .erase_probability = 0.25,
    .side_px = 40,
    .seed = 7,
};

static double area_of(const struct pixel_box *box)
{
    return (double)(box->bottom - box->top) * (double)(box->right - box->left);
}

static bool is_within(const struct pixel_box *box, int32_t side)
{
    return box->top >= 0 && box->left >= 0 && box->bottom <= side && box->right <= side &&
           box->bottom >= box->top && box->right >= box->left;
}

/* Means over n draws, each within five of its standard errors or so. */
static void batches_are_mixed_as_often_and_as_much_as_timms(void **state)
{
    enum { N = 20000 };
    double cuts = 0.0, share = 0.0, square = 0.0, whole = 0.0, product = 0.0, fourth = 0.0;

    (void)state;
    for (int i = 0; i < N; i++) {
        struct mixing m = mixing_draw(&both, i);
        double own = (double)m.label_share;
        assert_true(m.mixed && own >= 0.0 && own <= 1.0 && m.mix.seed == 7);
        assert_int_equal(m.mix.step, i);
        assert_true(is_within(&m.mix.cut, 40));
        if (m.mix.share < 1.0f) { /* mixup */
            assert_true(m.mix.share == m.label_share && area_of(&m.mix.cut) == 0.0);
            product += own * (1.0 - own);
            fourth += pow(own, 4.0);
            continue;
        }
        expect_near("own pixels", own, 1.0 - area_of(&m.mix.cut) / 1600.0, 1e-6);
        cuts++;
        share += own;
        square += own * own;
        whole += own == 1.0;
    }
    double mixes = N - cuts;
    expect_near("share of CutMix", cuts / N, 0.5, 0.018);
    expect_near("its labels", share / cuts, torch_draws[0], 0.015);
    expect_near("their squares", square / cuts, torch_draws[1], 0.015);
    expect_near("cuts of nothing", whole / cuts, torch_draws[2], 0.004);
    expect_near("spread of mixup", product / mixes, torch_draws[3], 0.005);
    expect_near("its fourth power", fourth / mixes, torch_draws[4], 0.015);
}

/* Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)), fourth central moment 3 / (16 (2a+1)(2a+3)). */
static void shares_are_of_the_beta_distribution(void **state)
{
    static const double alphas[] = {0.2, 0.8, 1.0, 3.0};
    enum { N = 20000 };

    (void)state;
    for (size_t k = 0; k < sizeof(alphas) / sizeof(alphas[0]); k++) {
        struct rng rng = rng_open((struct rng_key){.seed = k, .purpose = RNG_TEST});
        double a = alphas[k], sums[3] = {0};
        for (int i = 0; i < N; i++) {
            double x = mixing_draw_beta(&rng, a) - 0.5;
            assert_true(fabs(x) <= 0.5);
            sums[0] += x / N;
            sums[1] += x * x / N;
            sums[2] += x * x * x * x / N;
        }
        expect_near("mean", sums[0], 0.0, 0.018);
        expect_near("variance", sums[1], 1.0 / (4.0 * (2.0 * a + 1.0)), 0.004);
        expect_near("fourth", sums[2], 3.0 / (16.0 * (2.0 * a + 1.0) * (2.0 * a + 3.0)), 0.0012);
    }
}

static void what_is_off_is_not_drawn(void **state)
{
    struct mixing_options o = both;
    struct pixel_box boxes[4];
    int n = 0;

    (void)state;
    o.cutmix = 0.0;
    for (int i = 0; i < 200; i++) {
        struct mixing m = mixing_draw(&o, i);
        assert_true(area_of(&m.mix.cut) == 0.0);
    }
    o.cutmix = 1.0;
    o.mixup = 0.0;
    for (int i = 0; i < 200; i++)
        assert_true(mixing_draw(&o, i).mix.share == 1.0f);
    o.probability = 0.3;
    for (int i = 0; i < 2000; i++)
        n += mixing_draw(&o, i).mixed;
    expect_near("mixed batches", n / 2000.0, 0.3, 0.05);
    o.cutmix = o.erase_probability = 0.0;
    struct mixing none = mixing_draw(&o, 3);
    assert_true(!none.mixed && none.label_share == 1.0f && none.mix.share == 1.0f);
    assert_false(mixing_draw_boxes(&o, 3, 4, boxes));
}

static void ranks_mix_each_in_ways_of_its_own_and_erase_an_image_whoever_has_it(void **state)
{
    enum { RANKS = 3, B = 4, N = 500 };
    int apart = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        struct pixel_box all[RANKS * B], own[B];
        float shares[RANKS];
        mixing_draw_boxes(&both, i, RANKS * B, all);
        for (uint32_t r = 0; r < RANKS; r++) {
            struct mixing_options o = both;
            o.rank = r;
            o.n_ranks = RANKS;
            struct mixing m = mixing_draw(&o, i);
            shares[r] = m.label_share;
            assert_int_equal(m.mix.first_sample, r);
            assert_int_equal(m.mix.sample_skip, RANKS - 1);
            mixing_draw_boxes(&o, i, B, own);
            for (uint32_t k = 0; k < B; k++)
                assert_memory_equal(&own[k], &all[r + k * RANKS], sizeof(own[k]));
        }
        assert_true(shares[0] == mixing_draw(&both, i).label_share);
        apart += shares[0] != shares[1] && shares[1] != shares[2] && shares[2] != shares[0];
    }
    assert_true(apart > N / 2); /* cuts of nothing are alike */
}

static void boxes_are_timms(void **state)
{
    enum { N = 4000, B = 4 };
    struct mixing_options o = both;
    struct pixel_box boxes[B], again[B];
    double area = 0.0, height = 0.0, width = 0.0, square = 0.0;
    int erased = 0;

    (void)state;
    for (int i = 0; i < N; i++) {
        bool any = mixing_draw_boxes(&o, i, B, boxes), found = false;
        assert_int_equal(mixing_draw_boxes(&o, i, B, again), any);
        assert_memory_equal(boxes, again, sizeof(boxes)); /* a function of seed and batch */
        for (int k = 0; k < B; k++) {
            double h = (boxes[k].bottom - boxes[k].top) / 40.0;
            assert_true(is_within(&boxes[k], 40));
            if (area_of(&boxes[k]) == 0.0)
                continue;
            found = true;
            erased++;
            area += area_of(&boxes[k]) / 1600.0;
            height += h;
            width += (boxes[k].right - boxes[k].left) / 40.0;
            square += h * h;
        }
        assert_int_equal(any, found);
    }
    expect_near("erased images", (double)erased / (N * B), 0.25, 0.018);
    expect_near("area", area / erased, torch_draws[5], 0.008);
    expect_near("height", height / erased, torch_draws[6], 0.015);
    expect_near("width", width / erased, torch_draws[7], 0.015);
    expect_near("square of the height", square / erased, torch_draws[8], 0.016);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_by_step_are_a_ramp_and_a_cosine),
        cmocka_unit_test(rates_by_epoch_are_timms),
        cmocka_unit_test(batches_are_mixed_as_often_and_as_much_as_timms),
        cmocka_unit_test(shares_are_of_the_beta_distribution),
        cmocka_unit_test(what_is_off_is_not_drawn),
        cmocka_unit_test(ranks_mix_each_in_ways_of_its_own_and_erase_an_image_whoever_has_it),
        cmocka_unit_test(boxes_are_timms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
