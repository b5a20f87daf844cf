/* Ranks as threads: each has its rows, and ends with all of them. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "trainer/rank_rows.h"

enum { MOST = 4 };

struct meeting {
    pthread_barrier_t barrier;
    const void *from[MOST];
};

struct rank {
    struct collective collective;
    pthread_t thread;
    char *rows;
    size_t row_bytes;
    int64_t n;
    int n_gathers;
    enum status status;
};

static enum status gather(struct collective *c, void *to, const void *from, size_t bytes)
{
    struct rank *rank = (struct rank *)c;
    struct meeting *meeting = c->state;

    rank->n_gathers++;
    meeting->from[c->rank] = from;
    pthread_barrier_wait(&meeting->barrier);
    for (int r = 0; r < c->world; r++)
        memcpy((char *)to + (size_t)r * bytes, meeting->from[r], bytes);
    pthread_barrier_wait(&meeting->barrier);
    return STATUS_OK;
}

static void *run_rank(void *context)
{
    struct rank *rank = context;

    rank->status = rank_gather_rows(&rank->collective, rank->rows, rank->row_bytes, rank->n);
    return NULL;
}

static char byte_of(int64_t row, size_t column)
{
    return (char)(row * 31 + (int64_t)column % 251 + 1);
}

/* Returns the number of gathers that it took. */
static int gather_rows(int world, int64_t n, size_t row_bytes)
{
    struct meeting meeting;
    struct rank ranks[MOST] = {0};

    assert_int_equal(pthread_barrier_init(&meeting.barrier, NULL, (unsigned)world), 0);
    for (int r = 0; r < world; r++) {
        ranks[r].collective =
            (struct collective){.rank = r, .world = world, .state = &meeting, .all_gather = gather};
        ranks[r].n = n;
        ranks[r].row_bytes = row_bytes;
        ranks[r].rows = calloc((size_t)n, row_bytes);
        assert_non_null(ranks[r].rows);
        for (int64_t row = r; row < n; row += world)
            for (size_t i = 0; i < row_bytes; i++)
                ranks[r].rows[(size_t)row * row_bytes + i] = byte_of(row, i);
        assert_int_equal(pthread_create(&ranks[r].thread, NULL, run_rank, &ranks[r]), 0);
    }
    for (int r = 0; r < world; r++)
        pthread_join(ranks[r].thread, NULL);
    for (int r = 0; r < world; r++) {
        assert_int_equal(ranks[r].status, STATUS_OK);
        assert_int_equal(ranks[r].n_gathers, ranks[0].n_gathers);
        for (int64_t row = 0; row < n; row++)
            for (size_t i = 0; i < row_bytes; i++)
                assert_true(ranks[r].rows[(size_t)row * row_bytes + i] == byte_of(row, i));
        free(ranks[r].rows);
    }
    pthread_barrier_destroy(&meeting.barrier);
    return ranks[0].n_gathers;
}

static void every_rank_has_all_rows_in_the_end(void **state)
{
    (void)state;
    for (int world = 2; world <= MOST; world++)
        for (int64_t n = 1; n < 20; n++)
            assert_int_equal(gather_rows(world, n, 12), 1);
    assert_int_equal(gather_rows(1, 5, 12), 0);
}

static void what_is_large_goes_in_pieces(void **state)
{
    (void)state;
    assert_int_equal(gather_rows(2, 5, 3 << 20), 3);        /* a row of each at a time */
    assert_int_equal(gather_rows(3, 13, (1 << 20) + 5), 2); /* three, and what is left */
    assert_int_equal(gather_rows(2, 3, 5 << 20), 2);        /* more than a piece */
}

static void shares_are_all_rows_and_none_twice(void **state)
{
    (void)state;
    for (int world = 1; world <= 7; world++)
        for (int64_t n = 0; n < 30; n++) {
            int64_t next = 0;
            for (int r = 0; r < world; r++) {
                const struct collective ranks = {.rank = r, .world = world};
                int64_t first, end;
                rank_share(&ranks, n, &first, &end);
                assert_int_equal(first, next);
                assert_in_range(end - first, n / world, n / world + (n % world != 0));
                next = end;
            }
            assert_int_equal(next, n);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_has_all_rows_in_the_end),
        cmocka_unit_test(what_is_large_goes_in_pieces),
        cmocka_unit_test(shares_are_all_rows_and_none_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
