/* Randomness: the generators against their authors' published values, and the draws against what
 * they promise. */
#include "proto/base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Random123's kat_vectors, philox4x32 with 10 rounds. */
static void philox_gives_the_published_blocks(void **state)
{
    static const struct {
        uint32_t counter[4], key[2], words[4];
    } vectors[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;

    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        uint32_t words[4];
        rng_philox4x32(vectors[i].counter, vectors[i].key, words);
        assert_memory_equal(words, vectors[i].words, sizeof(words));
    }
}

/* The words of a stream are the blocks 0, 1, … of its key, in order. */
static void a_stream_is_the_blocks_of_its_key(void **state)
{
    struct rng_key key = {
        .seed = 0x123456789abcdef0, .epoch = 7, .sample = 42, .view = 3, .purpose = RNG_CROP};
    struct rng rng = rng_open(key);
    (void)state;

    for (uint32_t block = 0; block < 5; block++) {
        uint32_t counter[4] = {block, RNG_CROP << 16 | 3, 42, 7}, words[4];
        uint32_t philox_key[2] = {0x9abcdef0, 0x12345678};
        rng_philox4x32(counter, philox_key, words);
        for (int i = 0; i < 4; i++)
            assert_int_equal(rng_u32(&rng), words[i]);
    }
}

static void every_part_of_the_key_changes_the_stream(void **state)
{
    struct rng_key base = {.seed = 1, .epoch = 1, .sample = 1, .view = 1, .purpose = 1};
    struct rng_key keys[6] = {base, base, base, base, base, base};
    uint64_t firsts[6];
    (void)state;

    keys[1].seed = (1ull << 32) + 1;
    keys[2].epoch = 2;
    keys[3].sample = 2;
    keys[4].view = 2;
    keys[5].purpose = 2;
    for (int i = 0; i < 6; i++) {
        struct rng rng = rng_open(keys[i]);
        firsts[i] = (uint64_t)rng_u32(&rng) << 32;
        firsts[i] |= rng_u32(&rng);
        for (int k = 0; k < i; k++)
            assert_int_not_equal(firsts[i], firsts[k]);
    }
}

/* The reference output of mt19937ar.c for init_genrand(5489): its first and its 10,000th number
 * (the value that the C++ standard demands of mt19937). */
static void mersenne_twister_gives_the_published_numbers(void **state)
{
    static const uint32_t firsts[] = {3499211612u, 581869302u, 3890346734u, 3586334585u,
                                      545404204u};
    struct mt19937 generator;
    uint32_t word = 0;
    (void)state;

    mt19937_init(&generator, 5489);
    for (size_t i = 0; i < 10000; i++) {
        word = mt19937_u32(&generator);
        if (i < sizeof(firsts) / sizeof(firsts[0]))
            assert_int_equal(word, firsts[i]);
    }
    assert_int_equal(word, 4123659995u);
}

/* The official permutation of 10 samples with seed 0: 4 1 7 5 3 9 0 8 6 2. */
static void mersenne_twister_gives_the_official_order(void **state)
{
    static const int official[10] = {4, 1, 7, 5, 3, 9, 0, 8, 6, 2};
    struct mt19937 generator;
    int order[10];
    (void)state;

    for (int i = 0; i < 10; i++)
        order[i] = i;
    mt19937_init(&generator, 0);
    for (int i = 0; i < 9; i++) {
        int other = i + (int)(mt19937_u32(&generator) % (uint32_t)(10 - i));
        int kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    assert_memory_equal(order, official, sizeof(order));
}

static struct rng test_stream(uint32_t sample)
{
    return rng_open((struct rng_key){.seed = 99, .sample = sample, .purpose = RNG_TEST});
}

/* Chi-square over 100 cells: 99 degrees of freedom, 160 is passed by chance once in 10,000. */
static void uniform_numbers_fill_their_range_evenly(void **state)
{
    enum { N = 200000, CELLS = 100 };
    struct rng rng = test_stream(1);
    int counts[CELLS] = {0};
    double chi_square = 0;
    (void)state;

    for (int i = 0; i < N; i++) {
        double x = rng_uniform(&rng);
        assert_true(x >= 0 && x < 1);
        counts[(int)(x * CELLS)]++;
    }
    for (int i = 0; i < CELLS; i++) {
        double off = counts[i] - (double)N / CELLS;
        chi_square += off * off * CELLS / N;
    }
    assert_true(chi_square < 160);
}

static void whole_numbers_below_n_are_evenly_drawn(void **state)
{
    enum { N = 60000 };
    struct rng rng = test_stream(2);
    int counts[6] = {0};
    (void)state;

    for (int i = 0; i < N; i++) {
        uint32_t x = rng_below(&rng, 6);
        assert_true(x < 6);
        counts[x]++;
    }
    for (int i = 0; i < 6; i++)
        assert_true(abs(counts[i] - N / 6) < 450); /* 5 standard deviations */
    for (int i = 0; i < 100; i++)
        assert_int_equal(rng_below(&rng, 1), 0);
    /* With 3 * 2^30 a plain product would give every third number twice as often. */
    int n_low = 0;
    for (int i = 0; i < N; i++)
        n_low += rng_below(&rng, 3u << 30) < 1u << 30;
    assert_true(abs(n_low - N / 3) < 600);
}

static void normal_numbers_have_their_moments(void **state)
{
    enum { N = 200000 };
    struct rng rng = test_stream(3);
    double sum = 0, squares = 0, fourth = 0;
    (void)state;

    for (int i = 0; i < N; i++) {
        double x = rng_normal(&rng);
        assert_true(isfinite(x));
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
    }
    assert_true(fabs(sum / N) < 5 / sqrt(N));
    assert_true(fabs(squares / N - 1) < 5 * sqrt(2.0 / N));
    assert_true(fabs(fourth / N - 3) < 5 * sqrt(96.0 / N));
}

static void ranges_may_run_backwards(void **state)
{
    struct rng rng = test_stream(4);
    (void)state;

    for (int i = 0; i < 1000; i++) {
        double up = rng_range(&rng, -2, 3), down = rng_range(&rng, 3, -2);
        assert_true(up >= -2 && up < 3);
        assert_true(down > -2 && down <= 3);
        assert_true(rng_range(&rng, 5, 5) == 5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_blocks),
        cmocka_unit_test(a_stream_is_the_blocks_of_its_key),
        cmocka_unit_test(every_part_of_the_key_changes_the_stream),
        cmocka_unit_test(mersenne_twister_gives_the_published_numbers),
        cmocka_unit_test(mersenne_twister_gives_the_official_order),
        cmocka_unit_test(uniform_numbers_fill_their_range_evenly),
        cmocka_unit_test(whole_numbers_below_n_are_evenly_drawn),
        cmocka_unit_test(normal_numbers_have_their_moments),
        cmocka_unit_test(ranges_may_run_backwards),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
