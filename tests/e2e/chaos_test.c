/* A run under faults: loaders are killed, stopped, slowed, restarted, doubled, cut off, lie; the
 * trainer is killed and stopped. Not one bit of what it consumes or learns may differ from a calm
 * run's, each image is used once an epoch, the stream goes on within moments, memory stays flat.
 *
 *   IBOT_CHAOS_EPOCHS   length of the run; default 140, of which the last ones are calm; 15000: an
 *                       hour
 *   IBOT_CHAOS_SEED     which faults when; default from the clock, always printed */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/rng.h"
#include "proto/wire/recording.h"
#include "tests/e2e/proxy.h"
#include "tests/e2e/scene.h"
#include "tests/e2e/watch.h"

enum {
    STEPS_PER_EPOCH = SCENE_IMAGES / SCENE_BATCH,
    LOADERS = 4,   /* the last one behind the proxy */
    SPARES = 3,    /* that double the fleet for a while */
    LINES = 20,    /* batches between faults */
    PATIENCE = 60, /* seconds without any batch */
    TRIES = 4,     /* of a fault that took long, as anything does on a machine that stands still */
    RECOVERY = 8,  /* seconds at the best try: less than it takes to declare a silent loader dead;
                      usual is about one */
    ROUNDS = 20    /* all faults, and some once more, in a run of the default length */
};

enum fault {
    LOADER_KILLED,
    LOADER_ENDED,
    LOADER_STOPPED,
    LOADER_SLOWED,
    FLEET_DOUBLED,
    FLEET_KILLED,
    FLEET_PAUSED,
    LINK_DEAD,
    LINK_REFUSED,
    LINK_FLIPS_BITS,
    LIAR_COMES,
    TRAINER_KILLED,
    TRAINER_ENDED,
    N_FAULTS
};

static const char *const fault_names[N_FAULTS] = {
    [LOADER_KILLED] = "loader killed",
    [LOADER_ENDED] = "loader ended by SIGTERM",
    [LOADER_STOPPED] = "loader stopped (SIGSTOP)",
    [LOADER_SLOWED] = "loader slowed to 5 %",
    [FLEET_DOUBLED] = "loaders doubled, then killed",
    [FLEET_KILLED] = "all loaders killed",
    [FLEET_PAUSED] = "all loaders paused for 0.3 s",
    [LINK_DEAD] = "network: nothing moves",
    [LINK_REFUSED] = "network: connections end",
    [LINK_FLIPS_BITS] = "network: bits flip",
    [LIAR_COMES] = "a loader that lies",
    [TRAINER_KILLED] = "trainer killed",
    [TRAINER_ENDED] = "trainer ended by SIGTERM",
};

struct tally {
    int n;
    int64_t sum_ns, best_ns, worst_ns; /* longest wait for a batch after the fault */
};

struct chaos {
    struct scene *scene;
    struct process trainer, loaders[LOADERS + SPARES], liar;
    struct proxy *proxy;
    struct watch watch;
    struct rng rng;
    char endpoint[128];
    const char *digests, *record;
    char epochs[16];
    int n_rounds;   /* at most */
    int stopped;    /* loader that is stopped; -1: none */
    int stopped_at; /* round */
    long trainer_kib, loader_kib;
    struct tally tallies[N_FAULTS];
};

static int draw(struct chaos *chaos, int n)
{
    return (int)rng_below(&chaos->rng, (uint32_t)n);
}

/* ---- processes ---- */

static void start_trainer(struct chaos *chaos)
{
    struct command command = command_of(
        "ibot-train", "--config", chaos->scene->recipe, "--listen",
        chaos->endpoint[0] != '\0' ? chaos->endpoint : "tcp://127.0.0.1:0", "--output_dir",
        scene_path(chaos->scene, "chaos"), "--log_digests", chaos->digests, "--epochs",
        chaos->epochs, "--lr", "0.001", "--checkpoint_every_steps", "5", "--record", chaos->record,
        "--record_kind", "ids", "--prefetch", "2", NULL);

    process_start(&chaos->trainer, &command);
    size_t at = process_expect(&chaos->trainer, "listening on ", 0, SCENE_SECONDS);
    process_expect(&chaos->trainer, "\n", at, SCENE_SECONDS);
    snprintf(chaos->endpoint, sizeof(chaos->endpoint), "%.*s",
             (int)strcspn(chaos->trainer.text + at, " \n"), chaos->trainer.text + at);
}

static void start_loader(struct chaos *chaos, int i)
{
    const char *endpoint = i == LOADERS - 1 ? proxy_endpoint(chaos->proxy) : chaos->endpoint;
    struct command command = command_of("ibot-loader", "--data", chaos->scene->data, "--connect",
                                        endpoint, "--threads", "1", NULL);
    process_start(&chaos->loaders[i], &command);
}

/* The last one may just have been refused once too often, for the bits that flipped on its way. */
static void expect_end(struct chaos *chaos, int i, int exit_status)
{
    struct process *loader = &chaos->loaders[i];

    if (i != LOADERS - 1 || proxy_flipped(chaos->proxy) == 0 ||
        process_wait(loader, SCENE_SECONDS) != 3)
        process_finish(loader, exit_status, SCENE_SECONDS);
    process_release(loader);
}

static void end_loader(struct chaos *chaos, int i, int signal_number, int exit_status)
{
    long kib = watch_memory_kib(chaos->loaders[i].pid, "VmRSS:");

    chaos->loader_kib = kib > chaos->loader_kib ? kib : chaos->loader_kib;
    if (chaos->stopped == i) {
        process_signal(&chaos->loaders[i], SIGCONT);
        chaos->stopped = -1;
    }
    if (signal_number == SIGTERM)
        process_stop(&chaos->loaders[i], SIGTERM, SCENE_SECONDS);
    else
        process_signal(&chaos->loaders[i], signal_number);
    expect_end(chaos, i, exit_status);
}

static void kill_loader(struct chaos *chaos, int i)
{
    end_loader(chaos, i, SIGKILL, 128 + SIGKILL);
}

static void end_trainer(struct chaos *chaos, int signal_number, int exit_status)
{
    process_signal(&chaos->trainer, signal_number);
    while (watch_lines(&chaos->watch, &chaos->trainer, 1000, SCENE_SECONDS) > 0)
        continue; /* it may finish steps, and writes them down */
    /* It may just have reached its end instead: then there is nothing to go on with. */
    if (process_wait(&chaos->trainer, SCENE_SECONDS) != 0)
        assert_int_equal(chaos->trainer.exit_status, exit_status);
    bool done = chaos->trainer.exit_status == 0;
    if (done)
        return;
    process_release(&chaos->trainer);
    watch_restart(&chaos->watch);
    start_trainer(chaos);
}

/* ---- slowing ---- */

/* Lets a process run for 5 of 100 ms. */
struct brake {
    pthread_t thread;
    atomic_int end;
    pid_t pid;
};

static void *brake_main(void *argument)
{
    struct brake *brake = argument;

    while (atomic_load(&brake->end) == 0) {
        kill(brake->pid, SIGSTOP);
        poll(NULL, 0, 95);
        kill(brake->pid, SIGCONT);
        poll(NULL, 0, 5);
    }
    return NULL;
}

/* ---- faults ---- */

/* Batches until the round is over; with a fault that lasts, the wait for the first one counts. */
static void take_batches(struct chaos *chaos)
{
    watch_lines(&chaos->watch, &chaos->trainer, LINES, PATIENCE);
    long kib = watch_memory_kib(chaos->trainer.pid, "VmRSS:");
    chaos->trainer_kib = kib > chaos->trainer_kib ? kib : chaos->trainer_kib;
}

static void slow_one_down(struct chaos *chaos, int i)
{
    struct brake brake = {.pid = chaos->loaders[i].pid};

    assert_int_equal(pthread_create(&brake.thread, NULL, brake_main, &brake), 0);
    take_batches(chaos);
    atomic_store(&brake.end, 1);
    pthread_join(brake.thread, NULL);
}

static void let_a_liar_in(struct chaos *chaos)
{
    char seed[16];

    snprintf(seed, sizeof(seed), "%d", draw(chaos, 1000000));
    struct command command =
        command_of("lying_loader", chaos->scene->data, chaos->endpoint, seed, NULL);
    process_start(&chaos->liar, &command);
    take_batches(chaos);
    process_stop(&chaos->liar, SIGTERM, SCENE_SECONDS);
    process_finish(&chaos->liar, 0, SCENE_SECONDS);
    print_message("  liar: %s", chaos->liar.text);
    process_release(&chaos->liar);
}

static void link_behaves(struct chaos *chaos, enum proxy_manner manner)
{
    struct process *loader = &chaos->loaders[LOADERS - 1];

    proxy_behave(chaos->proxy, manner);
    take_batches(chaos);
    proxy_behave(chaos->proxy, PROXY_PASS);
    process_look(loader);
    if (!loader->ended)
        return;
    /* Its slices were refused once too often. */
    assert_int_equal(manner, PROXY_FLIP);
    assert_int_equal(loader->exit_status, 3);
    process_release(loader);
    start_loader(chaos, LOADERS - 1);
}

static void double_the_fleet(struct chaos *chaos)
{
    for (int i = 0; i < SPARES; i++)
        start_loader(chaos, LOADERS + i);
    take_batches(chaos);
    for (int i = 0; i < SPARES; i++)
        kill_loader(chaos, LOADERS + i);
}

static void signal_all(struct chaos *chaos, int signal_number)
{
    for (int i = 0; i < LOADERS; i++)
        process_signal(&chaos->loaders[i], signal_number);
}

/* One fault and what follows it, until some batches have come. */
static void suffer(struct chaos *chaos, enum fault fault, int round)
{
    int i = draw(chaos, LOADERS - 1);

    if (chaos->stopped >= 0 && round - chaos->stopped_at >= 3) { /* it comes to again */
        process_signal(&chaos->loaders[chaos->stopped], SIGCONT);
        chaos->stopped = -1;
    }
    watch_mark(&chaos->watch);
    switch (fault) {
    case LOADER_KILLED:
        kill_loader(chaos, i);
        start_loader(chaos, i);
        break;
    case LOADER_ENDED:
        if (i == chaos->stopped)
            kill_loader(chaos, i);
        else
            end_loader(chaos, i, SIGTERM, 0);
        start_loader(chaos, i);
        break;
    case LOADER_STOPPED:
        if (chaos->stopped < 0) {
            process_signal(&chaos->loaders[i], SIGSTOP);
            chaos->stopped = i;
            chaos->stopped_at = round;
        }
        break;
    case LOADER_SLOWED:
        slow_one_down(chaos, i == chaos->stopped ? (i + 1) % (LOADERS - 1) : i);
        return;
    case FLEET_DOUBLED:
        double_the_fleet(chaos);
        return;
    case FLEET_KILLED:
        for (int k = 0; k < LOADERS; k++)
            kill_loader(chaos, k);
        for (int k = 0; k < LOADERS; k++)
            start_loader(chaos, k);
        break;
    case FLEET_PAUSED:
        signal_all(chaos, SIGSTOP);
        poll(NULL, 0, 300);
        signal_all(chaos, SIGCONT);
        chaos->stopped = -1;
        break;
    case LINK_DEAD:
        link_behaves(chaos, PROXY_HOLD);
        return;
    case LINK_REFUSED:
        link_behaves(chaos, PROXY_REFUSE);
        return;
    case LINK_FLIPS_BITS:
        link_behaves(chaos, PROXY_FLIP);
        return;
    case LIAR_COMES:
        let_a_liar_in(chaos);
        return;
    case TRAINER_KILLED:
        end_trainer(chaos, SIGKILL, 128 + SIGKILL);
        break;
    case TRAINER_ENDED:
        end_trainer(chaos, SIGTERM, 75);
        break;
    case N_FAULTS:
        break;
    }
    take_batches(chaos);
}

static void note(struct chaos *chaos, enum fault fault)
{
    struct tally *tally = &chaos->tallies[fault];

    if (tally->n++ == 0 || chaos->watch.longest_ns < tally->best_ns)
        tally->best_ns = chaos->watch.longest_ns;
    tally->sum_ns += chaos->watch.longest_ns;
    if (chaos->watch.longest_ns > tally->worst_ns)
        tally->worst_ns = chaos->watch.longest_ns;
}

/* All faults in some order, then all again in another, until the run is over or there were as many
 * as wanted. */
static int suffer_all(struct chaos *chaos)
{
    enum fault order[N_FAULTS];
    int round = 0;

    for (int i = 0; i < N_FAULTS; i++)
        order[i] = (enum fault)i;
    /* A lease that is late is made twice soon once it is known how long they take; not before. */
    take_batches(chaos);
    for (; !chaos->trainer.ended && round < chaos->n_rounds; round++) {
        int k = round % N_FAULTS, other = k + draw(chaos, N_FAULTS - k);
        enum fault fault = order[other];
        order[other] = order[k];
        order[k] = fault;
        for (int try = 0; try < TRIES && !chaos->trainer.ended; try++) {
            suffer(chaos, fault, round);
            if (chaos->trainer.ended)
                break;
            note(chaos, fault);
            if (chaos->watch.longest_ns < RECOVERY * INT64_C(1000000000))
                break;
        }
    }
    while (watch_lines(&chaos->watch, &chaos->trainer, 1000, PATIENCE) > 0)
        continue;
    return round;
}

/* ---- the test ---- */

/* The digests of a run without faults; how much memory it took at most, and how long a batch. */
static char *calm_run(struct chaos *chaos, long *kib, double *ms)
{
    struct scene *scene = chaos->scene;
    const char *path = scene_path(scene, "calm.digests");
    struct command command = scene_train(scene, "calm", "3");
    struct process process;
    int64_t begin_ns = clock_monotonic_ns();

    command_add(&command, "--log_digests", path, "--epochs", chaos->epochs, "--lr", "0.001",
                "--prefetch", "2", NULL);
    process_start(&process, &command);
    *kib = 0;
    while (!process.ended) {
        long now = watch_memory_kib(process.pid, "VmHWM:");
        *kib = now > *kib ? now : *kib;
        struct pollfd event = {process.pidfd, POLLIN, 0};
        poll(&event, 1, 50);
        process_look(&process);
    }
    process_finish(&process, 0, SCENE_SECONDS);
    process_release(&process);
    char *text = scene_read(path);
    *ms = 1e-6 * (double)(clock_monotonic_ns() - begin_ns) / scene_count_lines(text);
    return text;
}

/* Of the recording, which has indices and hashes of what was consumed. */
static void each_image_is_used_once_an_epoch(const char *folder, int n_epochs)
{
    struct recording *recording = NULL;
    uint8_t *n_uses = calloc((size_t)n_epochs * SCENE_IMAGES, 1);

    assert_non_null(n_uses);
    if (recording_open(&recording, folder) != STATUS_OK)
        fail_msg("%s", status_message());
    for (size_t i = 0; i < recording->n_slices; i++) {
        if (recording_read(recording, i) != STATUS_OK)
            fail_msg("%s", status_message());
        const struct message_slice *slice = &recording->message.slice;
        assert_in_range(slice->lease.epoch, 0, n_epochs - 1);
        for (int32_t k = 0; k < slice->lease.n_samples; k++) {
            assert_in_range(slice->index[k], 0, SCENE_IMAGES - 1);
            assert_int_equal(slice->n_substituted[k], 0);
            n_uses[(size_t)slice->lease.epoch * SCENE_IMAGES + slice->index[k]]++;
        }
    }
    for (size_t i = 0; i < (size_t)n_epochs * SCENE_IMAGES; i++)
        assert_int_equal(n_uses[i], 1);
    recording_close(&recording);
    free(n_uses);
}

static void report(const struct chaos *chaos, int rounds, double calm_ms)
{
    print_message("%d faults; a batch of the calm run took %.1f ms. Longest wait for a batch\n",
                  rounds, calm_ms);
    for (int i = 0; i < N_FAULTS; i++)
        if (chaos->tallies[i].n > 0)
            print_message("  %-32s %3d times, mean %6.2f s, worst %6.2f s\n", fault_names[i],
                          chaos->tallies[i].n,
                          1e-9 * (double)chaos->tallies[i].sum_ns / chaos->tallies[i].n,
                          1e-9 * (double)chaos->tallies[i].worst_ns);
}

static void faults_of_every_kind_change_no_bit_of_a_run(void **state)
{
    static struct chaos chaos;
    struct scene *scene = *state;
    const char *epochs = getenv("IBOT_CHAOS_EPOCHS"), *seed = getenv("IBOT_CHAOS_SEED");
    uint64_t number =
        seed != NULL ? strtoull(seed, NULL, 10) : (uint64_t)clock_monotonic_ns() / 1000 % 1000000;
    long calm_kib;
    double calm_ms;

    print_message("IBOT_CHAOS_SEED=%llu\n", (unsigned long long)number);
    chaos = (struct chaos){.scene = scene, .stopped = -1};
    chaos.rng = rng_open((struct rng_key){.seed = number, .purpose = RNG_TEST});
    snprintf(chaos.epochs, sizeof(chaos.epochs), "%s", epochs != NULL ? epochs : "140");
    int n_epochs = (int)strtol(chaos.epochs, NULL, 10);
    chaos.n_rounds = epochs != NULL ? INT32_MAX : ROUNDS;
    chaos.digests = scene_path(scene, "chaos.digests");
    chaos.record = scene_path(scene, "recording");
    char *calm = calm_run(&chaos, &calm_kib, &calm_ms);
    assert_int_equal(scene_count_lines(calm), n_epochs * STEPS_PER_EPOCH);
    watch_open(&chaos.watch, chaos.digests, calm);

    start_trainer(&chaos);
    chaos.proxy = proxy_open(chaos.endpoint, (uint32_t)number);
    for (int i = 0; i < LOADERS; i++)
        start_loader(&chaos, i);
    int rounds = suffer_all(&chaos);
    process_finish(&chaos.trainer, 0, SCENE_SECONDS);
    process_release(&chaos.trainer);
    report(&chaos, rounds, calm_ms);
    print_message("%lld batches in all, %d steps; %llu bits flipped; most memory: trainer %ld MiB "
                  "(calm: %ld), a loader %ld\n",
                  (long long)chaos.watch.n_lines, n_epochs * STEPS_PER_EPOCH,
                  (unsigned long long)proxy_flipped(chaos.proxy), chaos.trainer_kib / 1024,
                  calm_kib / 1024, chaos.loader_kib / 1024);

    for (int i = 0; i < N_FAULTS; i++) {
        assert_true(chaos.tallies[i].n > 0); /* the run was long enough */
        assert_true(chaos.tallies[i].best_ns < RECOVERY * (int64_t)1000000000);
    }
    assert_int_equal(chaos.watch.next_step, chaos.watch.n_steps);
    assert_true(chaos.trainer_kib < calm_kib + (64 << 10));
    assert_true(scene_final_digest(scene, "calm") == scene_final_digest(scene, "chaos"));
    char *calm_log = scene_read(scene_path(scene, "calm/log.txt"));
    char *log = scene_read(scene_path(scene, "chaos/log.txt"));
    assert_string_equal(calm_log, log);
    each_image_is_used_once_an_epoch(chaos.record, n_epochs);
    for (int i = 0; i < LOADERS; i++)
        process_release(&chaos.loaders[i]);
    proxy_close(&chaos.proxy);
    watch_close(&chaos.watch);
    free(calm_log);
    free(calm);
    free(log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(faults_of_every_kind_change_no_bit_of_a_run, scene_open,
                                        scene_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
