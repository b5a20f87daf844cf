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

static const int64_t ms_ns = 1000000;

/* ---- tries ---- */

enum { TRIES = 5 };

static struct {
    int n;
    bool right;
} tries;

/* A rank that the machine does not run for a second is as late as one that is stuck: a scene is
 * played up to five times, and comes out right once. */
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
    atomic_int broken;     /* the rank whose device fails; 0: none */
    char text[RANKS][512]; /* of the failure that each rank was told */
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
        .join_ns = 8000 * ms_ns,
        .silent_ns = 1000 * ms_ns,
        .late_ns = 1400 * ms_ns,
        .fail = note_failure,
        .look = scene->devices ? look_at_device : NULL,
        .context = context,
    };

    snprintf(options.host, sizeof(options.host), "127.0.0.1");
    *context = (struct rank_context){scene, rank};
    if (rank == 0)
        snprintf(secret, sizeof(secret), "the bytes of rank 0");
    TRY(rank_monitor_open(monitor, &options, secret, sizeof(secret)));
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
        if (join(scene, &context, rank, RANKS, port, &monitor) != STATUS_OK) {
            fprintf(stderr, "rank %d: %s\n", rank, status_message());
            _exit(9);
        }
        int result = act(scene, monitor, rank);
        rank_monitor_close(&monitor);
        _exit(result);
    }
}

static void expect_exits(const pid_t pids[RANKS], const int wanted[RANKS])
{
    char what[96];

    for (int rank = 0; rank < RANKS; rank++) {
        int status;
        assert_int_equal(waitpid(pids[rank], &status, 0), pids[rank]);
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

static int make_progress(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)rank;
    for (int step = 0; step < 60; step++) { /* longer than it takes to be late or silent */
        rank_monitor_progress(monitor, step, "computes");
        usleep(30000);
    }
    return atomic_load(&scene->n_failed) == 0 ? 0 : 1;
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
            expect_told(scene, rank, "rank 2 is late");
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
        start(scene, pids, die_if_one);
        expect_exits(pids, (const int[RANKS]){4, -SIGKILL, 4});
        expect_told(scene, 0, "rank 1 has not been heard of");
        expect_told(scene, 2, "rank 1 has not been heard of");
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
        start(scene, pids, die_if_zero);
        expect_exits(pids, (const int[RANKS]){-SIGKILL, 4, 4});
        expect_told(scene, 1, "rank 0 has not been heard of");
    }
}

/* All wait for data for longer than a late rank may take: that is how runs wait for loaders. */
static int wait_for_data(struct scene *scene, struct rank_monitor *monitor, int rank)
{
    (void)rank;
    rank_monitor_progress(monitor, 5, RANK_WAITS_FOR_DATA);
    usleep(2200000);
    return atomic_load(&scene->n_failed) == 0 ? 0 : 1;
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
            expect_told(scene, rank, "rank 1 is late: ");
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
            expect_told(scene, rank, "rank 2: its network card is gone");
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
        expect_told(scene, 0, "rank 1 ended: its disk is full");
        expect_told(scene, 2, "rank 1 ended: its disk is full");
        expect(scene->text[1][0] == '\0', "rank 1 is told its own reason");
    }
}

static void who_has_not_come_is_named(void **state)
{
    struct rank_monitor *monitor = NULL;
    struct rank_monitor_options options = {
        .rank = 0, .world = 3, .host = "127.0.0.1", .port = free_port(), .join_ns = 50 * ms_ns};
    char byte = 0;

    (void)state;
    assert_int_equal(rank_monitor_open(&monitor, &options, &byte, 1), STATUS_TIMEOUT);
    assert_non_null(strstr(status_message(), "1 of 3 ranks"));
    assert_non_null(strstr(status_message(), "1, 2"));
    assert_null(monitor);
}

/* ------------------------------------------------------------------------------ addresses */

static const char *const variables[] = {
    "IBOT_RANKS_AT", "IBOT_RANK_DEADLINE",           "MASTER_ADDR",
    "MASTER_PORT",   "TORCHELASTIC_USE_AGENT_STORE", "SLURM_STEP_NODELIST",
    "SLURM_JOB_ID",  "OMPI_COMM_WORLD_SIZE",         "OMPI_COMM_WORLD_LOCAL_SIZE",
    "PMIX_NAMESPACE"};

/* name, value, name, value, …, NULL */
static enum status read_with(struct rank_monitor_options *out, const char *source, ...)
{
    struct collective_environment ranks = {.rank = 1, .world = 4, .source = source};
    va_list list;

    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++)
        unsetenv(variables[i]);
    va_start(list, source);
    for (const char *name; (name = va_arg(list, const char *)) != NULL;)
        setenv(name, va_arg(list, const char *), 1);
    va_end(list);
    return rank_monitor_options_read(out, &ranks);
}

static void rank_0_is_where_the_launcher_says(void **state)
{
    struct rank_monitor_options o;

    (void)state;
    assert_int_equal(read_with(&o, "torchrun", "IBOT_RANKS_AT", "a.b:123", "MASTER_ADDR", "x",
                               "IBOT_RANK_DEADLINE", "7", NULL),
                     STATUS_OK);
    assert_string_equal(o.host, "a.b");
    assert_int_equal(o.port, 123);
    assert_int_equal(o.rank, 1);
    assert_int_equal(o.world, 4);
    assert_int_equal(o.late_ns, 7000 * ms_ns);
    assert_int_equal(o.silent_ns, 3500 * ms_ns);
    assert_int_equal(read_with(&o, "torchrun", "MASTER_ADDR", "node1", "MASTER_PORT", "2000", NULL),
                     STATUS_OK);
    assert_string_equal(o.host, "node1");
    assert_int_equal(o.port, 2000);
    assert_int_equal(o.late_ns, 1800000 * ms_ns);
    assert_int_equal(o.silent_ns, 30000 * ms_ns);
    assert_int_equal(read_with(&o, "torchrun", "MASTER_ADDR", "node1", "MASTER_PORT", "2000",
                               "TORCHELASTIC_USE_AGENT_STORE", "True", NULL),
                     STATUS_OK);
    assert_int_equal(o.port, 2001);
    assert_int_equal(read_with(&o, "Slurm", "SLURM_STEP_NODELIST", "gpu[07-09,12],x[1-2]",
                               "SLURM_JOB_ID", "20005", NULL),
                     STATUS_OK);
    assert_string_equal(o.host, "gpu07");
    assert_int_equal(o.port, 20005);
    assert_int_equal(read_with(&o, "Slurm", "SLURM_STEP_NODELIST", "left,right", NULL), STATUS_OK);
    assert_string_equal(o.host, "left");
    assert_int_equal(read_with(&o, "Open MPI", "OMPI_COMM_WORLD_SIZE", "4",
                               "OMPI_COMM_WORLD_LOCAL_SIZE", "4", "PMIX_NAMESPACE", "77", NULL),
                     STATUS_OK);
    assert_string_equal(o.host, "127.0.0.1");
}

static void an_address_that_is_none_is_an_error(void **state)
{
    struct rank_monitor_options o;

    (void)state;
    assert_int_equal(read_with(&o, "torchrun", NULL), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "MASTER_ADDR"));
    assert_int_equal(read_with(&o, "torchrun", "IBOT_RANKS_AT", "host", NULL), STATUS_INVALID);
    assert_int_equal(read_with(&o, "torchrun", "IBOT_RANKS_AT", ":5", NULL), STATUS_INVALID);
    assert_int_equal(read_with(&o, "torchrun", "IBOT_RANKS_AT", "h:70000", NULL), STATUS_INVALID);
    assert_int_equal(read_with(&o, "torchrun", "MASTER_ADDR", "h", "MASTER_PORT", "x", NULL),
                     STATUS_INVALID);
    assert_int_equal(read_with(&o, "Open MPI", "OMPI_COMM_WORLD_SIZE", "4",
                               "OMPI_COMM_WORLD_LOCAL_SIZE", "2", NULL),
                     STATUS_INVALID);
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
        cmocka_unit_test(who_has_not_come_is_named),
        cmocka_unit_test(rank_0_is_where_the_launcher_says),
        cmocka_unit_test(an_address_that_is_none_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
