/* Three ranks in one process: each says what it has to say, which is kept; then each hears all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/rank_agreement.h"

enum { WORLD = 3, BYTES = 4096 };

static struct collective ranks[WORLD];
static char said[WORLD][BYTES];
static bool hearing;

static enum status gather(struct collective *c, void *to, const void *from, size_t bytes)
{
    assert_true(bytes <= BYTES);
    if (!hearing) {
        memcpy(said[c->rank], from, bytes);
        FAIL(STATUS_CLOSED, "it has spoken");
    }
    for (int r = 0; r < WORLD; r++)
        memcpy((char *)to + (size_t)r * bytes, said[r], bytes);
    return STATUS_OK;
}

static int set_up(void **state)
{
    (void)state;
    for (int r = 0; r < WORLD; r++)
        ranks[r] = (struct collective){.rank = r, .world = WORLD, .all_gather = gather};
    return 0;
}

/* What each rank comes out with. */
static void agree(const enum status fared[WORLD], struct rank_word words[WORLD],
                  enum status out[WORLD], char texts[WORLD][128])
{
    hearing = false;
    for (int r = 0; r < WORLD; r++) {
        struct rank_word word = words[r];
        assert_int_equal(rank_agree(&ranks[r], fared[r], &word), STATUS_CLOSED);
    }
    hearing = true;
    for (int r = 0; r < WORLD; r++) {
        if (fared[r] != STATUS_OK)
            status_set(fared[r], "own reason of rank %d", r);
        out[r] = rank_agree(&ranks[r], fared[r], &words[r]);
        snprintf(texts[r], 128, "%s", status_message());
    }
}

static void all_hear_what_each_has_said(void **state)
{
    const enum status well[WORLD] = {STATUS_OK, STATUS_OK, STATUS_OK};
    struct rank_word words[WORLD] = {
        {.save = true, .most = -5, .sums = {1e16, 1, 0, 0.25}},
        {.stop = true, .most = -7, .sums = {1, 2, 0, 0.5}},
        {.most = -9, .sums = {-1e16, 4, 0, 1}},
    };
    double order = 0.0 + 1e16;
    char texts[WORLD][128];
    enum status out[WORLD];

    (void)state;
    order += 1;
    order += -1e16;
    agree(well, words, out, texts);
    for (int r = 0; r < WORLD; r++) {
        assert_int_equal(out[r], STATUS_OK);
        assert_true(words[r].stop && words[r].save && words[r].most == -5);
        assert_true(words[r].sums[0] == order && words[r].sums[1] == 7.0);
        assert_true(words[r].sums[2] == 0.0 && words[r].sums[3] == 1.75);
        assert_false(ranks[r].ending);
    }
    struct rank_word others[WORLD] = {{.most = 3}, {.save = true, .most = 8}, {.most = 5}};
    agree(well, others, out, texts);
    for (int r = 0; r < WORLD; r++) /* when to save is rank 0's to say */
        assert_true(!others[r].stop && !others[r].save && others[r].most == 8);
}

static void one_that_fails_ends_all_and_keeps_its_own_reason(void **state)
{
    const enum status fared[WORLD] = {STATUS_INTERRUPTED, STATUS_CORRUPT, STATUS_OK};
    struct rank_word words[WORLD] = {{.stop = true}, {0}, {0}};
    char texts[WORLD][128];
    enum status out[WORLD];

    (void)state;
    agree(fared, words, out, texts);
    assert_int_equal(out[0], STATUS_DEVICE); /* there is more than an interruption */
    assert_int_equal(out[1], STATUS_CORRUPT);
    assert_int_equal(out[2], STATUS_DEVICE);
    assert_string_equal(texts[0], "rank 1 failed: it says why itself");
    assert_string_equal(texts[1], "own reason of rank 1");
    assert_string_equal(texts[2], "rank 1 failed: it says why itself");
    for (int r = 0; r < WORLD; r++)
        assert_true(ranks[r].ending && words[r].stop);
}

static void one_that_is_interrupted_ends_all_in_the_same_way(void **state)
{
    const enum status fared[WORLD] = {STATUS_OK, STATUS_OK, STATUS_INTERRUPTED};
    struct rank_word words[WORLD] = {{0}, {0}, {.stop = true}};
    char texts[WORLD][128];
    enum status out[WORLD];

    (void)state;
    agree(fared, words, out, texts);
    for (int r = 0; r < WORLD; r++) {
        assert_int_equal(out[r], STATUS_INTERRUPTED);
        assert_true(ranks[r].ending && words[r].stop);
    }
    assert_string_equal(texts[0], "rank 2 was interrupted");
    assert_string_equal(texts[2], "own reason of rank 2");
}

static void the_first_rank_that_differs_is_named(void **state)
{
    const char *texts[WORLD] = {"blue", "blue", "red"};

    (void)state;
    for (int same = 1; same >= 0; same--) {
        hearing = false;
        for (int r = 0; r < WORLD; r++)
            assert_int_equal(rank_compare(&ranks[r], "paint", texts[same ? 0 : r], "buy one"),
                             STATUS_CLOSED);
        hearing = true;
        for (int r = 0; r < WORLD; r++) {
            enum status status = rank_compare(&ranks[r], "paint", texts[same ? 0 : r], "buy one");
            assert_int_equal(status, same ? STATUS_OK : STATUS_MISMATCH);
            assert_int_equal(ranks[r].ending, !same);
            if (!same)
                assert_string_equal(status_message(),
                                    "rank 2 has paint red, rank 0 has blue: buy one");
        }
    }
}

static void one_rank_alone_agrees_with_itself(void **state)
{
    struct collective alone;
    struct rank_word word = {.stop = true, .most = -2, .sums = {0.1, 0.2, 0.3, 0.4}};

    (void)state;
    collective_open_alone(&alone);
    assert_int_equal(rank_agree(&alone, STATUS_OK, &word), STATUS_OK);
    assert_true(word.stop && !word.save && word.most == -2);
    assert_true(word.sums[0] == 0.1 && word.sums[3] == 0.4);
    assert_int_equal(rank_compare(&alone, "paint", "blue", "buy one"), STATUS_OK);
    status_set(STATUS_IO, "a full disk");
    assert_int_equal(rank_agree(&alone, STATUS_IO, &word), STATUS_IO);
    assert_string_equal(status_message(), "a full disk");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(all_hear_what_each_has_said, set_up),
        cmocka_unit_test_setup(one_that_fails_ends_all_and_keeps_its_own_reason, set_up),
        cmocka_unit_test_setup(one_that_is_interrupted_ends_all_in_the_same_way, set_up),
        cmocka_unit_test_setup(the_first_rank_that_differs_is_named, set_up),
        cmocka_unit_test(one_rank_alone_agrees_with_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
