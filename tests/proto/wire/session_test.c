/* Lease book-keeping with a clock of our own: single stories, and random ones against a model that
 * knows only sets. */
#include "proto/wire/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/rng.h"

static const int64_t second_ns = 1000000000;

static struct session *open(int32_t window, int64_t timeout_ns)
{
    struct session *session;
    assert_int_equal(session_open(&session, window, timeout_ns), STATUS_OK);
    return session;
}

static void lease_is(struct session *session, int64_t now_ns, int32_t loader, uint64_t slice)
{
    int32_t got_loader = -1;
    uint64_t got_slice = UINT64_MAX;
    assert_true(session_lease(session, &got_loader, &got_slice, now_ns));
    assert_int_equal(got_slice, slice);
    assert_int_equal(got_loader, loader);
}

static void no_lease(struct session *session, int64_t now_ns)
{
    int32_t loader;
    uint64_t slice;
    assert_false(session_lease(session, &loader, &slice, now_ns));
}

static void slices_are_leased_in_order_up_to_the_credit(void **state)
{
    (void)state;
    struct session *session = open(8, second_ns);
    session_start(session, 100);
    no_lease(session, 0);
    int32_t loader = session_join(session, 3);
    assert_int_equal(loader, 0);
    no_lease(session, 0);
    session_allow(session, 108);
    for (uint64_t slice = 100; slice < 103; slice++)
        lease_is(session, 0, loader, slice);
    no_lease(session, 0);
    session_done(session, loader, 101, 1);
    lease_is(session, 1, loader, 103);
    no_lease(session, 1);
    session_close(&session);
    assert_null(session);
}

static void the_least_busy_loader_gets_the_next_slice(void **state)
{
    (void)state;
    struct session *session = open(16, second_ns);
    session_start(session, 0);
    session_allow(session, 16);
    int32_t small = session_join(session, 2), large = session_join(session, 4);
    int32_t n[2] = {0, 0}, loader;
    uint64_t slice;
    for (int i = 0; i < 3; i++) {
        assert_true(session_lease(session, &loader, &slice, 0));
        n[loader]++;
    }
    assert_int_equal(n[small], 1);
    assert_int_equal(n[large], 2);
    for (int i = 0; i < 3; i++)
        assert_true(session_lease(session, &loader, &slice, 0));
    no_lease(session, 0);
    session_close(&session);
}

static void a_loader_that_leaves_frees_its_leases_at_once(void **state)
{
    (void)state;
    struct session *session = open(4, second_ns);
    session_start(session, 0);
    session_allow(session, 4);
    int32_t first = session_join(session, 4);
    for (uint64_t slice = 0; slice < 4; slice++)
        lease_is(session, 0, first, slice);
    session_done(session, first, 2, 0);
    session_leave(session, first);
    no_lease(session, 0);
    int32_t second = session_join(session, 4);
    lease_is(session, 0, second, 0);
    lease_is(session, 0, second, 1);
    lease_is(session, 0, second, 3);
    struct session_counts counts;
    session_count(session, &counts);
    assert_int_equal(counts.n_reissued, 3);
    assert_int_equal(counts.n_leases, 3);
    assert_int_equal(counts.n_loaders, 1);
    session_close(&session);
}

static void a_late_lease_goes_to_another_loader_and_the_first_copy_counts(void **state)
{
    (void)state;
    struct session *session = open(4, second_ns);
    session_start(session, 0);
    session_allow(session, 1);
    int32_t slow = session_join(session, 2), fast = session_join(session, 2);
    lease_is(session, 0, slow, 0);
    no_lease(session, second_ns - 1);
    lease_is(session, second_ns, fast, 0);
    assert_int_equal(session_verdict(session, slow, 0), SESSION_WANTED);
    session_done(session, slow, 0, second_ns + 1);
    assert_int_equal(session_verdict(session, fast, 0), SESSION_DUPLICATE);
    session_drop(session, fast, 0);
    assert_int_equal(session_verdict(session, fast, 0), SESSION_UNKNOWN);
    session_advance(session, 1);
    no_lease(session, second_ns + 2);
    session_close(&session);
}

static void a_copy_that_comes_after_its_batch_is_over_is_a_duplicate(void **state)
{
    (void)state;
    struct session *session = open(2, second_ns);
    session_start(session, 0);
    session_allow(session, 1);
    int32_t slow = session_join(session, 1), fast = session_join(session, 1);
    lease_is(session, 0, slow, 0);
    lease_is(session, second_ns, fast, 0);
    session_done(session, fast, 0, second_ns);
    session_advance(session, 1);
    session_allow(session, 3);
    assert_int_equal(session_verdict(session, slow, 0), SESSION_DUPLICATE);
    session_drop(session, slow, 0);
    lease_is(session, second_ns, fast, 1);
    no_lease(session, second_ns); /* the one that was late rests, and the other will come free */
    session_done(session, fast, 1, second_ns);
    lease_is(session, second_ns, fast, 2);
    session_close(&session);
}

static void a_loader_that_is_late_again_and_again_rests_longer_each_time(void **state)
{
    (void)state;
    struct session *session = open(2, second_ns);
    uint64_t slice = 0;
    int64_t now = 0;
    session_start(session, 0);
    int32_t slow = session_join(session, 1), fast = session_join(session, 1);
    for (int i = 0; i < 10; i++) { /* 2, 4, 8, … seconds, at most 128 */
        int64_t rest_ns = 2 * second_ns << (i < 6 ? i : 6);
        session_allow(session, slice + 2);
        lease_is(session, now, slow, slice);
        lease_is(session, now, fast, slice + 1);
        session_done(session, fast, slice + 1, now);
        now += second_ns;
        lease_is(session, now, fast, slice);
        session_done(session, fast, slice, now);
        session_drop(session, slow, slice); /* its copy comes now */
        slice += 2;
        session_advance(session, slice);
        session_allow(session, slice + 1);
        lease_is(session, now + rest_ns - 1, fast, slice);
        session_done(session, fast, slice, now + rest_ns - 1);
        session_advance(session, ++slice);
        now += rest_ns;
    }
    /* On time once: it is as good as any. */
    session_allow(session, slice + 2);
    lease_is(session, now, slow, slice);
    session_done(session, slow, slice, now + 1);
    lease_is(session, now + 1, fast, slice + 1);
    session_done(session, fast, slice + 1, now + 1);
    session_advance(session, slice += 2);
    session_allow(session, slice + 2);
    lease_is(session, now + 2, slow, slice);
    session_close(&session);
}

/* Its rest is over, its late copy has not come: what is on time goes first, however busy. */
static void a_loader_that_owes_a_late_copy_comes_after_those_on_time(void **state)
{
    struct session *session = open(8, second_ns);

    (void)state;
    session_start(session, 0);
    session_allow(session, 8);
    int32_t late = session_join(session, 4), punctual = session_join(session, 4);
    lease_is(session, 0, late, 0);
    lease_is(session, 0, punctual, 1);
    session_done(session, punctual, 1, 1);
    lease_is(session, second_ns, punctual, 0);
    session_done(session, punctual, 0, second_ns);
    for (uint64_t slice = 2; slice < 6; slice++)
        lease_is(session, 4 * second_ns, punctual, slice);
    lease_is(session, 4 * second_ns, late, 6);
    session_close(&session);
}

static void loaders_that_are_all_late_are_used_all_the_same(void **state)
{
    (void)state;
    struct session *session = open(4, second_ns);
    session_start(session, 0);
    session_allow(session, 2);
    int32_t one = session_join(session, 2), other = session_join(session, 2);
    lease_is(session, 0, one, 0);
    lease_is(session, 0, other, 1);
    lease_is(session, second_ns, other, 0);
    lease_is(session, second_ns, one, 1);
    session_allow(session, 4);
    no_lease(session, second_ns); /* their credit is in use */
    session_done(session, other, 0, second_ns);
    lease_is(session, second_ns, other, 2);
    session_close(&session);
}

static void a_troubled_slice_is_for_loaders_that_have_delivered(void **state)
{
    (void)state;
    struct session *session = open(8, 10 * second_ns);
    session_start(session, 0);
    session_allow(session, 3);
    int32_t known = session_join(session, 1);
    lease_is(session, 0, known, 0);
    session_done(session, known, 0, 0);
    lease_is(session, 0, known, 1);
    for (int i = 0; i < 2; i++) { /* one that comes again and again under another name */
        int32_t stranger = session_join(session, 4);
        lease_is(session, 0, stranger, 2);
        session_drop(session, stranger, 2);
        session_leave(session, stranger);
    }
    int32_t stranger = session_join(session, 4);
    no_lease(session, 0); /* though it is idle */
    session_done(session, known, 1, 0);
    lease_is(session, 0, known, 2);
    session_leave(session, known);
    lease_is(session, 0, stranger, 2); /* alone: who else? */
    session_close(&session);
}

static void the_only_loader_is_not_given_the_same_slice_twice(void **state)
{
    (void)state;
    struct session *session = open(2, second_ns);
    session_start(session, 0);
    session_allow(session, 1);
    int32_t loader = session_join(session, 4);
    lease_is(session, 0, loader, 0);
    no_lease(session, 100 * second_ns);
    session_done(session, loader, 0, 100 * second_ns);
    session_close(&session);
}

static void a_slice_that_failed_goes_to_another_loader_if_there_is_one(void **state)
{
    (void)state;
    struct session *session = open(2, 10 * second_ns);
    session_start(session, 0);
    session_allow(session, 2);
    int32_t bad = session_join(session, 1);
    lease_is(session, 0, bad, 0);
    session_drop(session, bad, 0);
    lease_is(session, 0, bad, 0); /* alone: it may try again */
    session_drop(session, bad, 0);
    int32_t good = session_join(session, 1);
    lease_is(session, 0, good, 0);
    lease_is(session, 0, bad, 1);
    session_drop(session, bad, 1);
    no_lease(session, 0); /* good is busy, but will come free */
    session_done(session, good, 0, 0);
    lease_is(session, 0, good, 1);
    session_close(&session);
}

static void a_slice_held_up_by_a_stalled_loader_is_made_twice_when_others_are_idle(void **state)
{
    (void)state;
    int64_t now = 0;
    struct session *session = open(64, 10 * second_ns);
    session_start(session, 0);
    session_allow(session, 32);
    int32_t stalled = session_join(session, 1), quick = session_join(session, 1);
    lease_is(session, now, stalled, 0);
    for (uint64_t slice = 1; slice < 32; slice++) {
        lease_is(session, now, quick, slice);
        now += second_ns / 20; /* the usual time of a lease */
        session_done(session, quick, slice, now);
    }
    assert_true(now > second_ns);
    lease_is(session, now, quick, 0);
    session_done(session, quick, 0, now);
    assert_int_equal(session_verdict(session, stalled, 0), SESSION_DUPLICATE);
    session_close(&session);
}

static void skipped_slices_are_never_leased(void **state)
{
    (void)state;
    struct session *session = open(4, second_ns);
    session_start(session, 4);
    session_allow(session, 8);
    session_skip(session, 6);
    session_skip(session, 7);
    int32_t loader = session_join(session, 4);
    lease_is(session, 0, loader, 4);
    lease_is(session, 0, loader, 5);
    no_lease(session, 0);
    session_done(session, loader, 5, 0);
    session_done(session, loader, 4, 0);
    session_advance(session, 8);
    session_close(&session);
}

static void there_is_a_limit_to_loaders(void **state)
{
    (void)state;
    struct session *session = open(4, second_ns);
    for (int32_t i = 0; i < SESSION_MAX_LOADERS; i++)
        assert_int_equal(session_join(session, 1), i);
    assert_int_equal(session_join(session, 1), -1);
    session_leave(session, 17);
    assert_int_equal(session_join(session, 1), 17);
    session_close(&session);
}

/* ---- the model ---- */

enum { LOADERS = 6, WINDOW = 12, CREDIT = 4, SLICES = 400 };

struct model {
    struct session *session;
    int64_t now_ns, timeout_ns;
    uint64_t base, allowed;
    bool done[SLICES], joined[LOADERS];
    int32_t credit[LOADERS];
    int64_t issued_ns[LOADERS][SLICES]; /* 0: not held */
    bool late[LOADERS][SLICES];
    int32_t avoid[SLICES]; /* -1: nobody */
    int32_t n_bad[SLICES];
    bool delivered[LOADERS];
    int32_t n_rests[LOADERS];
    int64_t rest_ns[LOADERS];
    int32_t n_done[SLICES];
};

static int32_t held(const struct model *model, int32_t loader)
{
    int32_t n = 0;
    for (int i = 0; i < SLICES; i++)
        n += model->issued_ns[loader][i] != 0;
    return n;
}

static void mark_late(struct model *model)
{
    for (int l = 0; l < LOADERS; l++) {
        bool was_late = false;
        for (int i = 0; i < SLICES; i++)
            if (model->issued_ns[l][i] != 0 && !model->late[l][i] &&
                model->now_ns - model->issued_ns[l][i] >= model->timeout_ns)
                model->late[l][i] = was_late = true;
        if (!was_late)
            continue;
        model->rest_ns[l] = model->now_ns + (2 * second_ns << model->n_rests[l]);
        model->n_rests[l] += model->n_rests[l] < 6;
    }
}

static bool second_choice(const struct model *model, int32_t loader, uint64_t slice)
{
    return model->avoid[slice] == loader || model->now_ns < model->rest_ns[loader] ||
           (model->n_bad[slice] >= 2 && !model->delivered[loader]);
}

static bool in_good_hands(const struct model *model, uint64_t slice)
{
    for (int l = 0; l < LOADERS; l++)
        if (model->issued_ns[l][slice] != 0 && !model->late[l][slice])
            return true;
    return false;
}

/* Whether the loader may be given the slice, apart from reasons to avoid it. */
static bool may_have(const struct model *model, int32_t loader, uint64_t slice)
{
    return model->joined[loader] && held(model, loader) < model->credit[loader] &&
           model->issued_ns[loader][slice] == 0;
}

static void model_lease(struct model *model)
{
    int32_t loader;
    uint64_t slice;
    mark_late(model);
    if (session_lease(model->session, &loader, &slice, model->now_ns)) {
        assert_true(slice >= model->base && slice < model->allowed && !model->done[slice]);
        assert_false(in_good_hands(model, slice));
        assert_true(may_have(model, loader, slice));
        if (second_choice(model, loader, slice))
            for (int l = 0; l < LOADERS; l++)
                assert_true(second_choice(model, l, slice) || !may_have(model, l, slice));
        if (loader == model->avoid[slice])
            for (int l = 0; l < LOADERS; l++)
                assert_true(l == loader || !may_have(model, l, slice));
        for (uint64_t i = model->base; i < slice; i++) /* nothing earlier could be leased */
            for (int l = 0; l < LOADERS && !model->done[i] && !in_good_hands(model, i); l++)
                assert_true(!may_have(model, l, i) || second_choice(model, l, i));
        model->issued_ns[loader][slice] = model->now_ns;
        model->late[loader][slice] = false;
        return;
    }
    for (uint64_t i = model->base; i < model->allowed; i++)
        for (int l = 0; l < LOADERS && !model->done[i] && !in_good_hands(model, i); l++)
            assert_true(!may_have(model, l, i) || second_choice(model, l, i));
}

/* Some lease of some loader; false when there is none. */
static bool pick_lease(const struct model *model, struct rng *rng, int32_t *loader, uint64_t *slice)
{
    for (int tries = 0; tries < 50; tries++) {
        *loader = (int32_t)rng_below(rng, LOADERS);
        uint64_t low = model->base > 40 ? model->base - 40 : 0;
        *slice = low + rng_below(rng, (uint32_t)(model->allowed - low + 1));
        if (*slice < SLICES && model->issued_ns[*loader][*slice] != 0)
            return true;
    }
    return false;
}

static void model_deliver(struct model *model, struct rng *rng, bool good)
{
    int32_t loader;
    uint64_t slice;
    if (!pick_lease(model, rng, &loader, &slice))
        return;
    enum session_verdict want =
        slice < model->base || model->done[slice] ? SESSION_DUPLICATE : SESSION_WANTED;
    assert_int_equal(session_verdict(model->session, loader, slice), want);
    if (want == SESSION_WANTED && good) {
        session_done(model->session, loader, slice, model->now_ns);
        model->done[slice] = true;
        model->n_done[slice]++;
        model->delivered[loader] = true;
        if (!model->late[loader][slice])
            model->rest_ns[loader] = model->n_rests[loader] = 0;
    } else {
        session_drop(model->session, loader, slice);
        model->avoid[slice] = loader;
        model->n_bad[slice]++;
    }
    model->issued_ns[loader][slice] = 0;
    assert_int_equal(session_verdict(model->session, loader, slice), SESSION_UNKNOWN);
}

static void model_come_or_go(struct model *model, struct rng *rng)
{
    int32_t loader = (int32_t)rng_below(rng, LOADERS);
    if (model->joined[loader]) {
        session_leave(model->session, loader);
        memset(model->issued_ns[loader], 0, sizeof(model->issued_ns[loader]));
        for (int i = 0; i < SLICES; i++)
            if (model->avoid[i] == loader)
                model->avoid[i] = -1;
        model->joined[loader] = false;
        return;
    }
    int32_t credit = 1 + (int32_t)rng_below(rng, CREDIT);
    int32_t number = session_join(model->session, credit);
    assert_in_range(number, 0, LOADERS - 1);
    assert_false(model->joined[number]);
    model->joined[number] = true;
    model->delivered[number] = false;
    model->n_rests[number] = 0;
    model->rest_ns[number] = 0;
    model->credit[number] = credit;
}

static void model_advance(struct model *model, struct rng *rng)
{
    uint64_t base = model->base;
    while (base < model->allowed && model->done[base] && rng_below(rng, 4) > 0)
        base++;
    session_advance(model->session, base);
    model->base = base;
    uint64_t most = base + WINDOW < SLICES ? base + WINDOW : SLICES;
    model->allowed += rng_below(rng, (uint32_t)(most - model->allowed + 1));
    session_allow(model->session, model->allowed);
}

static void random_stories_follow_the_model_and_every_slice_is_done_once(void **state)
{
    (void)state;
    static struct model model;
    for (uint32_t seed = 0; seed < 60; seed++) {
        struct rng rng = rng_open((struct rng_key){.seed = seed, .purpose = RNG_TEST});
        memset(&model, 0, sizeof(model));
        memset(model.avoid, -1, sizeof(model.avoid));
        model.now_ns = 1;
        model.timeout_ns = second_ns / 2; /* shorter than any second copy out of impatience */
        model.session = open(WINDOW, model.timeout_ns);
        session_start(model.session, 0);
        int rounds = 0;
        while (model.base < SLICES) {
            assert_true(++rounds < 1000000);
            uint32_t what = rng_below(&rng, 100);
            model.now_ns += rng_below(&rng, 20000000);
            if (what < 40)
                model_lease(&model);
            else if (what < 70)
                model_deliver(&model, &rng, true);
            else if (what < 75)
                model_deliver(&model, &rng, false);
            else if (what < 80)
                model_come_or_go(&model, &rng);
            else
                model_advance(&model, &rng);
            struct session_counts counts;
            int32_t n_leases = 0, n_loaders = 0;
            session_count(model.session, &counts);
            for (int l = 0; l < LOADERS; l++) {
                n_leases += held(&model, l);
                n_loaders += model.joined[l];
            }
            assert_int_equal(counts.n_leases, n_leases);
            assert_int_equal(counts.n_loaders, n_loaders);
        }
        for (int i = 0; i < SLICES; i++)
            assert_int_equal(model.n_done[i], 1);
        session_close(&model.session);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_are_leased_in_order_up_to_the_credit),
        cmocka_unit_test(the_least_busy_loader_gets_the_next_slice),
        cmocka_unit_test(a_loader_that_leaves_frees_its_leases_at_once),
        cmocka_unit_test(a_late_lease_goes_to_another_loader_and_the_first_copy_counts),
        cmocka_unit_test(a_copy_that_comes_after_its_batch_is_over_is_a_duplicate),
        cmocka_unit_test(a_loader_that_is_late_again_and_again_rests_longer_each_time),
        cmocka_unit_test(a_loader_that_owes_a_late_copy_comes_after_those_on_time),
        cmocka_unit_test(loaders_that_are_all_late_are_used_all_the_same),
        cmocka_unit_test(a_troubled_slice_is_for_loaders_that_have_delivered),
        cmocka_unit_test(the_only_loader_is_not_given_the_same_slice_twice),
        cmocka_unit_test(a_slice_that_failed_goes_to_another_loader_if_there_is_one),
        cmocka_unit_test(a_slice_held_up_by_a_stalled_loader_is_made_twice_when_others_are_idle),
        cmocka_unit_test(skipped_slices_are_never_leased),
        cmocka_unit_test(there_is_a_limit_to_loaders),
        cmocka_unit_test(random_stories_follow_the_model_and_every_slice_is_done_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
