/* Ranks as processes of this machine that gather what each has to say. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "ops/rank_exchange.h"
#include "proto/base/clock.h"
#include "proto/base/memory.h"

enum { RANKS = 3, ROUNDS = 300, MOST_EACH = RANK_EXCHANGE_MOST_BYTES / RANKS };

static const int64_t second_ns = 1000000000;

static const unsigned char key[RANK_KEY_BYTES] = "thirty-two bytes, of which one 0";

static struct rank_exchange_options options_of(int rank, int64_t deadline_ns)
{
    return (struct rank_exchange_options){
        .rank = rank, .world = RANKS, .host = "127.0.0.1", .key = key, .deadline_ns = deadline_ns};
}

static unsigned char byte_of(int rank, int round, size_t i)
{
    return (unsigned char)(37 * rank + 11 * round + (int)(i % 251));
}

/* Sizes from one byte to the most that goes through, and 0 when all came from where it should. */
static int gather_rounds(struct rank_exchange *exchange, int rank)
{
    unsigned char *own = NULL, *all = NULL;
    int result = 0;

    if (memory_alloc(&own, MOST_EACH, 1, "own") != STATUS_OK ||
        memory_alloc(&all, RANKS * (size_t)MOST_EACH, 1, "all") != STATUS_OK)
        return 9;
    for (int round = 0; round < ROUNDS && result == 0; round++) {
        size_t bytes = round % 100 == 99 ? MOST_EACH : 1 + (size_t)round * 7 % 4000;
        for (size_t i = 0; i < bytes; i++)
            own[i] = byte_of(rank, round, i);
        if (rank_exchange_all_gather(exchange, all, own, bytes) != STATUS_OK) {
            fprintf(stderr, "rank %d, round %d: %s\n", rank, round, status_message());
            result = 1;
        }
        for (size_t at = 0; at < RANKS * bytes && result == 0; at++)
            result = all[at] == byte_of((int)(at / bytes), round, at % bytes) ? 0 : 2;
    }
    memory_free(own);
    memory_free(all);
    return result;
}

static int differ_in_size(struct rank_exchange *exchange, int rank)
{
    char own[16] = "", all[16 * RANKS];
    size_t bytes = rank == 2 ? 8 : 16;

    /* rank 2 never hears: it has its deadline */
    enum status status = rank_exchange_all_gather(exchange, all, own, bytes);
    if (rank != 0)
        return status == STATUS_TIMEOUT ? 0 : 1;
    return status == STATUS_MISMATCH &&
                   strstr(status_message(), "rank 2 has 8 bytes, rank 0 has 16") != NULL
               ? 0
               : 2;
}

/* Rank 1 ends without a word. */
static int lose_one(struct rank_exchange *exchange, int rank)
{
    char own = 'x', all[RANKS];

    if (rank == 1)
        return 0;
    enum status status = rank_exchange_all_gather(exchange, all, &own, 1);
    const char *wanted = rank == 0 ? "what rank 1 has to say" : "what rank 0 has to say";
    return status == STATUS_TIMEOUT && strstr(status_message(), wanted) != NULL ? 0 : 1;
}

/* Processes that run `act`, each with its end of the exchange; 0 is expected of all. `port` is told
 * to `beside`, which runs before the others connect. */
static void run_ranks(int (*act)(struct rank_exchange *, int rank), int64_t deadline_ns,
                      int64_t others_ns, void (*beside)(int port))
{
    struct rank_exchange *exchange = NULL;
    int ends[RANKS][2], port = 0, status;
    pid_t pids[RANKS];

    for (int rank = RANKS - 1; rank >= 0; rank--) {
        assert_int_equal(pipe(ends[rank]), 0);
        pids[rank] = fork();
        assert_true(pids[rank] >= 0);
        if (pids[rank] != 0)
            continue;
        alarm(100); /* later than any deadline here: an error is told rather than this */
        struct rank_exchange_options o = options_of(rank, rank == 0 ? deadline_ns : others_ns);
        if (rank == 0) {
            if (rank_exchange_listen(&exchange, &o, &port) != STATUS_OK)
                _exit(8);
            if (beside != NULL)
                beside(port);
            for (int other = 1; other < RANKS; other++)
                if (write(ends[other][1], &port, sizeof(port)) != sizeof(port))
                    _exit(8);
        } else if (read(ends[rank][0], &port, sizeof(port)) != sizeof(port) ||
                   rank_exchange_connect(&exchange, &o, port) != STATUS_OK) {
            _exit(8);
        }
        int result = act(exchange, rank);
        rank_exchange_close(&exchange);
        _exit(exchange == NULL ? result : 7);
    }
    for (int rank = 0; rank < RANKS; rank++) {
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            fail_msg("rank %d ended with %x", rank, (unsigned)status);
        close(ends[rank][0]);
        close(ends[rank][1]);
    }
}

static void every_rank_gets_what_all_have(void **state)
{
    (void)state;
    run_ranks(gather_rounds, 50 * second_ns, 50 * second_ns, NULL);
}

static void another_size_is_an_error(void **state)
{
    (void)state;
    run_ranks(differ_in_size, 50 * second_ns, 5 * second_ns, NULL);
}

static void who_does_not_come_is_named(void **state)
{
    (void)state;
    run_ranks(lose_one, second_ns, second_ns, NULL);
}

/* Somebody who is no rank connects first and says things. */
static void send_garbage(int port)
{
    static const char *const names[] = {"rank 9", "rank -1", "somebody", "rank 0"};
    char address[64], bytes[64];
    void *context = zmq_ctx_new();
    int linger_ms = 5000;

    snprintf(address, sizeof(address), "tcp://127.0.0.1:%d", port);
    memset(bytes, 0x32, sizeof(bytes));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        void *socket = zmq_socket(context, ZMQ_DEALER);
        zmq_setsockopt(socket, ZMQ_ROUTING_ID, names[i], strlen(names[i]));
        zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
        assert_int_equal(zmq_connect(socket, address), 0);
        for (size_t n = 0; n <= sizeof(bytes); n += 8)
            assert_true(zmq_send(socket, bytes, n, 0) >= 0);
        assert_true(zmq_send(socket, bytes, 8, ZMQ_SNDMORE) >= 0);
        assert_true(zmq_send(socket, bytes, 8, 0) >= 0);
        zmq_close(socket);
    }
    zmq_ctx_term(context);
}

static void what_is_not_a_ranks_is_passed_over(void **state)
{
    (void)state;
    run_ranks(gather_rounds, 50 * second_ns, 50 * second_ns, send_garbage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_what_all_have),
        cmocka_unit_test(another_size_is_an_error),
        cmocka_unit_test(who_does_not_come_is_named),
        cmocka_unit_test(what_is_not_a_ranks_is_passed_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
