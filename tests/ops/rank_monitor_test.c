/* Ranks as processes of this machine: they meet, and a late or a dead one is named on all others.
 */
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "ops/rank_monitor.h"
#include "proto/base/clock.h"

enum { RANKS = 3, SECRET = 128 };

/* What these end a process with; scenes use other numbers. */
enum { ADDRESS_SANITIZER = 1, THREAD_SANITIZER = 66 };

static const int64_t ms_ns = 1000000;

/* ---- tries ---- */

enum { TRIES = 5 };

static struct {
    int n;
    bool right;
} tries;

/* A rank that the machine does not run for a second is as late as one that is stuck: a scene is
 * played up to five times, and comes out right once. A rank that crashes is never forgiven. */
static bool again(void)
{
    bool done = tries.n > 0 && tries.right;

    if (!done && tries.n++ < TRIES) {
        tries.right = true;
        return true;
    }
    tries.n = 0;
    if (!done)
        fail_msg("in %d tries", TRIES);
    return false;
}

static void expect(bool condition, const char *what)
{
    if (!condition)
        print_message("try %d: %s\n", tries.n, what);
    tries.right &= condition;
}

/* ---- scenes ---- */

/* What the ranks of one scene share. */
struct scene {
    atomic_int go; /* which act it is */
    atomic_int n_failed, n_met;
    atomic_int begun[RANKS]; /* by the device of each, where `devices` is set */
    bool devices;
    int64_t told_ns;       /* 0: long enough for all */
    int absent, twice;     /* a rank that does not come; one that rank 2 says it is; 0: none */
    char log[64];          /* of rank 0, where it has one */
    bool patient;          /* nobody is late or silent in this scene */
    atomic_int broken;     /* the rank whose device fails; 0: none */
    char text[RANKS][512]; /* of the failure that each rank was told, or that join returned */
    /* What each does between open and join; NULL: nothing. */
    void (*before)(struct scene *, struct rank_monitor *, int rank);
    char secret[RANKS][SECRET];
};

struct rank_context {
    struct scene *scene;
    int rank;
};

static void note_failure(void *context, const char *text)
{
    struct rank_context *rank = context;

    snprintf(rank->scene->text[rank->rank], sizeof(rank->scene->text[0]), "%s", text);
    atomic_fetch_add(&rank->scene->n_failed, 1);
}

static void look_at_device(void *context, struct rank_device *out)
{
    const struct rank_context *rank = context;

    out->begun = atomic_load(&rank->scene->begun[rank->rank]);
    out->done = out->begun - 1;
    if (rank->rank > 0 && atomic_load(&rank->scene->broken) == rank->rank)
        snprintf(out->error, sizeof(out->error), "its network card is gone");
}

static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    close(fd);
    return ntohs(address.sin_port);
}

static struct scene *scene_open(void)
{
    struct scene *scene =
        mmap(NULL, sizeof(*scene), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(scene, MAP_FAILED);
    return scene;
}

/* Waits until `value` has reached `wanted`; false after 40 seconds. */
static bool reached(atomic_int *value, int wanted)
{
    for (int64_t end_ns = clock_monotonic_ns() + 40000 * ms_ns;
         atomic_load(value) < wanted && clock_monotonic_ns() < end_ns;)
        usleep(2000);
    return atomic_load(value) >= wanted;
}

static enum status join(struct scene *scene, struct rank_context *context, int rank, int world,
                        int port, struct rank_monitor **monitor)
{
    char secret[SECRET] = {0};
    struct rank_monitor_options options = {
        .rank = rank,
        .world = world,
        .port = port,
        .join_ns = 40000 * ms_ns,
        .told_ns = scene->told_ns > 0 ? scene->told_ns : 20000 * ms_ns,
        .say_ns = 200 * ms_ns,
        .silent_ns = scene->patient ? 50000 * ms_ns : 1000 * ms_ns,
        .cut_ns = scene->patient ? 1500 * ms_ns : 1000 * ms_ns,
        .late_ns = scene->patient ? 50000 * ms_ns : 1400 * ms_ns,
        .fail = note_failure,
        .context = context,
    };

    snprintf(options.host, sizeof(options.host), "127.0.0.1");
    *context = (struct rank_context){scene, rank};
    if (rank == 0)
        snprintf(secret, sizeof(secret), "the bytes of rank 0");
    TRY(rank_monitor_open(monitor, &options));
    if (scene->devices)
        rank_monitor_look(*monitor, look_at_device, context);
    if (scene->before != NULL)
        scene->before(scene, *monitor, rank);
    TRY(rank_monitor_join(*monitor, secret, sizeof(secret)));
    memcpy(scene->secret[rank], secret, sizeof(secret));
    atomic_fetch_add(&scene->n_met, 1);
    return STATUS_OK;
}

/* Starts the ranks as processes that run `act` and exit with what it returns. */
static void start(struct scene *scene, pid_t pids[RANKS],
                  int (*act)(struct scene *, struct rank_monitor *, int rank))
{
    int port = free_port();

    for (int rank = 0; rank < RANKS; rank++) {
        pids[rank] = fork();
        assert_true(pids[rank] >= 0);
        if (pids[rank] != 0)
            continue;
        struct rank_monitor *monitor = NULL;
        struct rank_context context;
        alarm(60);
        usleep((useconds_t)(RANKS - rank) * 30000); /* rank 0 last: the others wait for it */
        if (rank > 0 && rank == scene->absent)
            _exit(0);
        int told = scene->twice > 0 && rank == 2 ? scene->twice : rank;
        if (join(scene, &context, told, RANKS, port, &monitor) != STATUS_OK) {
            note_failure(&context, status_message());
            rank_monitor_close(&monitor);
            _exit(9);
        }
        int result = act(scene, monitor, rank);
        rank_monitor_close(&monitor);
        _exit(result);
    }
}

/* A crash, or what a sanitizer found: no machine that stands still explains it. */
static bool is_fault(int status)
{
    static const int crashes[] = {SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL};
    bool crashed = false;

    for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
        crashed |= WIFSIGNALED(status) && WTERMSIG(status) == crashes[i];
    return crashed || (WIFEXITED(status) && (WEXITSTATUS(status) == ADDRESS_SANITIZER ||
                                             WEXITSTATUS(status) == THREAD_SANITIZER));
}

static void expect_exits(const pid_t pids[RANKS], const int wanted[RANKS])
{
    char what[96];

    for (int rank = 0; rank < RANKS; rank++) {
        int status;
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
        if (is_fault(status))
            fail_msg("rank %d crashed, with status 0x%x", rank, (unsigned)status);
        int got = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
        snprintf(what, sizeof(what), "rank %d ended with %d, wanted %d", rank, got, wanted[rank]);
        expect(got == wanted[rank], what);
    }
}

/* What a rank was told has all these words. */
static void expect_told(const struct scene *scene, int rank, const char *words)
{
    char what[1200];

    snprintf(what, sizeof(what), "rank %d was told '%s', wanted '%s'", rank, scene->text[rank],
             words);
    expect(strstr(scene->text[rank], words) != NULL, what);
}

/* It begins and (unless NULL) ends with these words. */
static void expect_text(const struct scene *scene, int rank, const char *first, const char *last)
{
    const char *text = scene->text[rank];
    size_t n = strlen(text), n_last = last != NULL ? strlen(last) : 0;

    expect_told(scene, rank, first);
    expect(strncmp(text, first, strlen(first)) == 0, "they do not come first");
    expect(n >= n_last && (last == NULL || strcmp(text + n - n_last, last) == 0),
           "other words come last");
}

static int make_progress(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)rank;
    for (int step = 0; step < 60; step++) { /* longer than it takes to be late or silent */
        rank_monitor_progress(monitor, step, "computes");
        usleep(30000);
    }
    return atomic_load(&scene->n_failed) == 0 ? 0 : 6;
}

static void ranks_meet_and_go_on_while_all_move(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        start(scene, pids, make_progress);
        expect_exits(pids, (const int[RANKS]){0, 0, 0});
        for (int rank = 0; rank < RANKS; rank++)
            expect(strcmp(scene->secret[rank], "the bytes of rank 0") == 0, "another secret");
    }
}

/* Rank 2 stops where it is; the others wait for it in a reduction. */
static int stop_at_seven(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    rank_monitor_progress(monitor, 7, rank == 2 ? "reads a checkpoint" : "computes");
    if (rank != 2)
        rank_monitor_progress(monitor, 7, "reduces");
    return reached(&scene->n_failed, RANKS) ? 4 : 0;
}

static void a_late_rank_is_named_on_every_rank(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        start(scene, pids, stop_at_seven);
        expect_exits(pids, (const int[RANKS]){4, 4, 4});
        for (int rank = 0; rank < RANKS; rank++) {
            expect_told(scene, rank, "rank 2 (");
            expect_told(scene, rank, ") is late: ");
            expect_told(scene, rank, "step 7");
            expect_told(scene, rank, "reads a checkpoint");
        }
    }
}

static int die_if_one(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    rank_monitor_progress(monitor, 3, RANK_WAITS_FOR_DATA);
    if (rank == 1) {
        reached(&scene->n_met, RANKS);
        raise(SIGKILL);
    }
    return reached(&scene->n_failed, RANKS - 1) ? 4 : 0;
}

static void a_killed_rank_is_named_on_the_others(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        scene->patient = true;
        start(scene, pids, die_if_one);
        expect_exits(pids, (const int[RANKS]){4, -SIGKILL, 4});
        expect_text(scene, 0, "rank 1 (", NULL);
        expect_told(scene, 0, ") has ended without a word (step ");
        expect_text(scene, 2, scene->text[0], NULL);
    }
}

static int die_if_zero(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)monitor;
    if (rank == 0) {
        reached(&scene->n_met, RANKS);
        raise(SIGKILL);
    }
    return reached(&scene->n_failed, RANKS - 1) ? 4 : 0;
}

static void the_others_notice_when_rank_0_is_killed(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        scene->patient = true;
        start(scene, pids, die_if_zero);
        expect_exits(pids, (const int[RANKS]){-SIGKILL, 4, 4});
        for (int rank = 1; rank < RANKS; rank++) {
            expect_text(scene, rank, "rank 0 (", NULL);
            expect_told(scene, rank, ") has ended without a word");
        }
    }
}

/* All wait for data for longer than a late rank may take: that is how runs wait for loaders. */
static int wait_for_data(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)rank;
    rank_monitor_progress(monitor, 5, RANK_WAITS_FOR_DATA);
    usleep(2200000);
    return atomic_load(&scene->n_failed) == 0 ? 0 : 6;
}

static void waiting_for_data_together_is_no_failure(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        start(scene, pids, wait_for_data);
        expect_exits(pids, (const int[RANKS]){0, 0, 0});
    }
}

static int all_stand_still(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)rank;
    rank_monitor_progress(monitor, 5, "reduces");
    return reached(&scene->n_failed, RANKS) ? 4 : 0;
}

static void ranks_that_all_stand_still_are_stuck(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        start(scene, pids, all_stand_still);
        expect_exits(pids, (const int[RANKS]){4, 4, 4});
        expect_told(scene, 1, "no rank has moved");
    }
}

static void a_device_that_is_behind_is_named_when_all_hosts_wait(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        scene->devices = true;
        for (int rank = 0; rank < RANKS; rank++)
            atomic_store(&scene->begun[rank], rank == 1 ? 6 : 7);
        start(scene, pids, all_stand_still);
        expect_exits(pids, (const int[RANKS]){4, 4, 4});
        for (int rank = 0; rank < RANKS; rank++)
            expect_text(scene, rank, "rank 1 (", NULL);
        expect_told(scene, 2, ") is late: ");
        expect_told(scene, 2, "its device has not come to collective 7");
    }
}

static int wait_for_failure(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    rank_monitor_progress(monitor, 5, "computes");
    if (rank == 2)
        atomic_store(&scene->broken, 2);
    return reached(&scene->n_failed, RANKS) ? 4 : 0;
}

static void a_device_that_fails_ends_all_ranks(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        scene->devices = true;
        start(scene, pids, wait_for_failure);
        expect_exits(pids, (const int[RANKS]){4, 4, 4});
        for (int rank = 0; rank < RANKS; rank++)
            expect_text(scene, rank, "rank 2 (", "): its network card is gone");
    }
}

/* Rank 1 ends with a reason of its own: it is not told, the others are. */
static int fail_if_one(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    if (rank == 1) {
        rank_monitor_fail(monitor, "its disk is full");
        return 5;
    }
    return reached(&scene->n_failed, RANKS - 1) ? 4 : 0;
}

static void the_reason_of_a_rank_that_ends_reaches_the_others(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        start(scene, pids, fail_if_one);
        expect_exits(pids, (const int[RANKS]){4, 5, 4});
        expect_text(scene, 0, "rank 1 (", ") ended: its disk is full");
        expect_text(scene, 2, "rank 1 (", ") ended: its disk is full");
        expect(scene->text[1][0] == '\0', "rank 1 is told its own reason");
    }
}

/* ------------------------------------------------------------------------------ meeting */

/* What every rank was told, or says itself. */
static void expect_texts(const struct scene *scene, const char *first, const char *last)
{
    for (int rank = 0; rank < RANKS; rank++)
        expect_text(scene, rank, first, last);
}

static int never(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)scene, (void)monitor, (void)rank;
    return 3;
}

static void fail_if_two(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)scene;
    if (rank == 2)
        rank_monitor_fail(monitor, "no CUDA device is to be had");
}

static void a_rank_that_fails_before_all_have_met_is_named(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        scene->patient = true;
        scene->before = fail_if_two;
        start(scene, pids, never);
        expect_exits(pids, (const int[RANKS]){9, 9, 9});
        expect_texts(scene, "rank 2 (", ") ended: no CUDA device is to be had");
    }
}

static void fail_if_zero(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)scene;
    if (rank == 0)
        rank_monitor_fail(monitor, "--data has no images");
}

/* It stays until those that come later have been told. */
static void rank_0_that_fails_before_all_have_met_is_named(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        scene->patient = true;
        scene->before = fail_if_zero;
        start(scene, pids, never);
        expect_exits(pids, (const int[RANKS]){9, 9, 9});
        expect_texts(scene, "rank 0 (", ") ended: --data has no images");
    }
}

static void fail_each(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)scene, (void)rank;
    rank_monitor_fail(monitor, "an option is wrong");
}

static void ranks_that_all_fail_do_not_wait_for_each_other(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        scene->patient = true;
        scene->before = fail_each;
        start(scene, pids, never);
        expect_exits(pids, (const int[RANKS]){9, 9, 9});
        expect_texts(scene, "rank ", ") ended: an option is wrong");
    }
}

/* Waits until a file, which others write, has the text. */
static void wait_for_line(const char *path, const char *text)
{
    char line[2048];

    for (;;) {
        FILE *file = fopen(path, "r");
        while (file != NULL && fgets(line, sizeof(line), file) != NULL)
            if (strstr(line, text) != NULL) {
                fclose(file);
                return;
            }
        if (file != NULL)
            fclose(file);
        usleep(10000);
    }
}

/* Rank 0 says in its log that rank 1 has come and that rank 2 has not: then rank 1 dies. */
static void die_when_seen(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)monitor;
    if (rank == 0 && freopen(scene->log, "w", stderr) == NULL)
        _exit(8);
    if (rank == 1) {
        wait_for_line(scene->log, "rank 2 has not come; rank 1 (");
        raise(SIGKILL);
    }
}

static void a_rank_that_dies_before_all_have_met_is_named(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        snprintf(scene->log, sizeof(scene->log), "/tmp/ibot-rank-monitor-XXXXXX");
        int file = mkstemp(scene->log);
        assert_true(file >= 0);
        close(file);
        scene->patient = true;
        scene->told_ns = 100 * ms_ns; /* rank 2 does not come */
        scene->absent = 2;
        scene->before = die_when_seen;
        start(scene, pids, never);
        expect_exits(pids, (const int[RANKS]){9, -SIGKILL, 0});
        expect_text(scene, 0, "rank 1 (", NULL);
        expect_told(scene, 0, ") has ended without a word (step 0, it starts)");
        unlink(scene->log);
    }
}

/* Rank 2 says that it is rank 1. */
static void two_processes_that_are_one_rank_are_named(void **state)
{
    pid_t pids[RANKS];

    (void)state;
    while (again()) {
        struct scene *scene = scene_open();
        scene->patient = true;
        scene->told_ns = 100 * ms_ns;
        scene->twice = 1;
        start(scene, pids, never);
        expect_exits(pids, (const int[RANKS]){9, 9, 9});
        expect_text(scene, 0, "two processes say that they are rank 1, on ", NULL);
    }
}

static struct rank_monitor_options quick_options(int rank, int world, int port)
{
    struct rank_monitor_options options = {.rank = rank,
                                           .world = world,
                                           .host = "127.0.0.1",
                                           .port = port,
                                           .join_ns = 50 * ms_ns,
                                           .told_ns = 50 * ms_ns,
                                           .say_ns = 20 * ms_ns,
                                           .silent_ns = 300 * ms_ns,
                                           .cut_ns = 300 * ms_ns,
                                           .late_ns = 300 * ms_ns};
    return options;
}

static void who_has_not_come_is_named(void **state)
{
    struct rank_monitor *monitor = NULL;
    struct rank_monitor_options options = quick_options(0, 3, free_port());
    char byte = 0;

    (void)state;
    assert_int_equal(rank_monitor_open(&monitor, &options), STATUS_OK);
    assert_int_equal(rank_monitor_join(monitor, &byte, 1), STATUS_TIMEOUT);
    assert_non_null(strstr(status_message(), "rank 1, rank 2 have not come"));
    assert_non_null(strstr(status_message(), "IBOT_RANK_JOIN_DEADLINE"));
    rank_monitor_close(&monitor);
    assert_null(monitor);
}

static void rank_0_that_does_not_answer_is_named_with_its_address(void **state)
{
    struct rank_monitor *monitor = NULL;
    struct rank_monitor_options options = quick_options(1, 3, free_port());
    char byte = 0, place[64];

    (void)state;
    snprintf(place, sizeof(place), "does not answer at 127.0.0.1:%d", options.port);
    assert_int_equal(rank_monitor_open(&monitor, &options), STATUS_OK);
    assert_int_equal(rank_monitor_join(monitor, &byte, 1), STATUS_TIMEOUT);
    assert_non_null(strstr(status_message(), place));
    rank_monitor_close(&monitor);
    snprintf(options.host, sizeof(options.host), "nowhere.invalid");
    assert_int_equal(rank_monitor_open(&monitor, &options), STATUS_OK);
    assert_int_equal(rank_monitor_join(monitor, &byte, 1), STATUS_TIMEOUT);
    assert_non_null(strstr(status_message(), "'nowhere.invalid' is no host that is known here"));
    rank_monitor_close(&monitor);
}

static bool always(void *context)
{
    (void)context;
    return true;
}

static void the_wait_for_others_can_be_ended(void **state)
{
    struct rank_monitor *monitor = NULL;
    struct rank_monitor_options options = quick_options(0, 3, free_port());
    char byte = 0;

    (void)state;
    options.join_ns = 50000 * ms_ns;
    options.told_ns = 1000000 * ms_ns; /* it does not stay for the others, whom it would tell */
    options.stops = always;
    assert_int_equal(rank_monitor_open(&monitor, &options), STATUS_OK);
    assert_int_equal(rank_monitor_join(monitor, &byte, 1), STATUS_INTERRUPTED);
    rank_monitor_close(&monitor);
}

/* One of two ranks has the key of another run: neither hears the other, and both say so. */
static void a_rank_with_another_key_does_not_come_in(void **state)
{
    char byte = 0;

    (void)state;
    while (again()) { /* three seconds are long enough for a handshake, unless this stands still */
        struct rank_monitor *first = NULL, *second = NULL;
        struct rank_monitor_options options = quick_options(0, 2, free_port());
        assert_int_equal(rank_monitor_open(&first, &options), STATUS_OK);
        options.rank = 1;
        options.key[7] ^= 1;
        options.join_ns = 3000 * ms_ns;
        assert_int_equal(rank_monitor_open(&second, &options), STATUS_OK);
        assert_int_equal(rank_monitor_join(second, &byte, 1), STATUS_TIMEOUT);
        expect(strstr(status_message(), "handshakes have failed") != NULL,
               "rank 1 does not say why");
        assert_int_equal(rank_monitor_join(first, &byte, 1), STATUS_TIMEOUT);
        expect(strstr(status_message(), "rank 1 has not come") != NULL, "rank 1 is not named");
        expect(strstr(status_message(), "handshakes have failed") != NULL,
               "rank 0 does not say why");
        rank_monitor_close(&first);
        rank_monitor_close(&second);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_meet_and_go_on_while_all_move),
        cmocka_unit_test(a_late_rank_is_named_on_every_rank),
        cmocka_unit_test(a_killed_rank_is_named_on_the_others),
        cmocka_unit_test(the_others_notice_when_rank_0_is_killed),
        cmocka_unit_test(waiting_for_data_together_is_no_failure),
        cmocka_unit_test(ranks_that_all_stand_still_are_stuck),
        cmocka_unit_test(a_device_that_is_behind_is_named_when_all_hosts_wait),
        cmocka_unit_test(a_device_that_fails_ends_all_ranks),
        cmocka_unit_test(the_reason_of_a_rank_that_ends_reaches_the_others),
        cmocka_unit_test(a_rank_that_fails_before_all_have_met_is_named),
        cmocka_unit_test(rank_0_that_fails_before_all_have_met_is_named),
        cmocka_unit_test(ranks_that_all_fail_do_not_wait_for_each_other),
        cmocka_unit_test(a_rank_that_dies_before_all_have_met_is_named),
        cmocka_unit_test(two_processes_that_are_one_rank_are_named),
        cmocka_unit_test(who_has_not_come_is_named),
        cmocka_unit_test(rank_0_that_does_not_answer_is_named_with_its_address),
        cmocka_unit_test(the_wait_for_others_can_be_ended),
        cmocka_unit_test(a_rank_with_another_key_does_not_come_in),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
