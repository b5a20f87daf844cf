/* A trainer whose port is open to others than loaders: random bytes, half-open connections, letters
 * one by one, lengths of 2 GiB, frames that are too long, floods of introductions and of nonsense,
 * wrong keys, and what a genuine loader said, once more. It trains on, to the same bits as a calm
 * run, and holds neither more memory nor more files.
 *
 *   IBOT_HOSTILE_EPOCHS   length of each run; default 140; 1000 is a minute or more
 *
 * The trainer's memory is told every ten seconds. It may grow by 16 MiB from a quarter of the
 * attack on: what waits in ZeroMQ's queues at one moment, of some hundred connections, and the
 * arenas of malloc that have once been that large. */
#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/wire/key.h"
#include "tests/e2e/proxy.h"
#include "tests/e2e/scene.h"
#include "tests/e2e/watch.h"

enum {
    STEPS_PER_EPOCH = SCENE_IMAGES / SCENE_BATCH,
    MAX_ATTACKERS = 16,
    CALM = 60,               /* batches before the attack */
    OVERHEARD = 40,          /* of these, with somebody who listens */
    REST = SCENE_AHEAD + 50, /* after it: the trainer lives while its files are counted */
    CHUNK = 20,              /* batches between looks */
    PATIENCE = 60,           /* seconds for a few batches */
    MEMORY_KIB = 16 << 10,   /* by which a trainer under attack may grow */
    CONNECTIONS = 150 * 2,   /* that attackers hold open on purpose */
    OTHER_CONNECTIONS = 600, /* of the quick ones that are not over yet */
};

struct attack {
    struct scene *scene;
    struct process trainer, loader, attackers[MAX_ATTACKERS];
    int n_attackers, n_steps;
    char endpoint[128], epochs[16];
    const char *keys; /* folder of keys; NULL: plain */
    struct watch watch;
};

static int count_files(pid_t pid)
{
    char path[64];
    int n = 0;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *folder = opendir(path);
    assert_non_null(folder);
    while (readdir(folder) != NULL)
        n++;
    closedir(folder);
    return n;
}

/* ---- the two sides that are no enemies ---- */

static void calm_run(struct attack *attack)
{
    struct scene *scene = attack->scene;
    const char *path = scene_path(scene, "calm.digests");
    struct command command = scene_train(scene, "calm", "1");
    struct process process;

    command_add(&command, "--epochs", attack->epochs, "--log_digests", path, NULL);
    process_run(&process, &command, 0, 10 * SCENE_SECONDS);
    process_release(&process);
    char *text = scene_read(path);
    watch_open(&attack->watch, scene_path(scene, "attacked.digests"), text);
    free(text);
}

static void start_trainer(struct attack *attack)
{
    struct scene *scene = attack->scene;
    struct command command =
        command_of("ibot-train", "--config", scene->recipe, "--listen", "tcp://127.0.0.1:0",
                   "--output_dir", scene_path(scene, "attacked"), "--epochs", attack->epochs,
                   "--log_digests", scene_path(scene, "attacked.digests"), NULL);

    if (attack->keys != NULL)
        command_add(&command, "--key", scene_path(scene, "trainer.secret"), "--allow",
                    scene_path(scene, "loader.public"), NULL);
    process_start(&attack->trainer, &command);
    size_t at = process_expect(&attack->trainer, "listening on ", 0, SCENE_SECONDS);
    process_expect(&attack->trainer, "\n", at, SCENE_SECONDS);
    snprintf(attack->endpoint, sizeof(attack->endpoint), "%.*s",
             (int)strcspn(attack->trainer.text + at, " \n"), attack->trainer.text + at);
}

static void start_loader(struct attack *attack, struct process *process, const char *endpoint)
{
    struct scene *scene = attack->scene;
    struct command command = command_of("ibot-loader", "--data", scene->data, "--connect", endpoint,
                                        "--threads", "1", NULL);

    if (attack->keys != NULL)
        command_add(&command, "--key", scene_path(scene, "loader.secret"), "--server_key",
                    scene_path(scene, "trainer.public"), NULL);
    process_start(process, &command);
}

/* Lets a second loader serve for a while, and keeps what it said. */
static const char *overhear(struct attack *attack)
{
    const char *path = scene_path(attack->scene, "overheard");
    struct proxy *proxy = proxy_open(attack->endpoint, 1);
    struct process loader;

    proxy_keep(proxy, path);
    start_loader(attack, &loader, proxy_endpoint(proxy));
    process_expect(&loader, "serving", 0, SCENE_SECONDS);
    watch_lines(&attack->watch, &attack->trainer, OVERHEARD, PATIENCE);
    process_signal(&loader, SIGKILL);
    process_release(&loader);
    proxy_close(&proxy);
    return path;
}

/* ---- enemies ---- */

static void start_attacker(struct attack *attack, const char *kind, const char *file)
{
    struct command command =
        command_of("attacker", attack->endpoint + strlen("tcp://"), kind, file, NULL);

    assert_true(attack->n_attackers < MAX_ATTACKERS);
    process_start(&attack->attackers[attack->n_attackers++], &command);
}

static void start_attackers(struct attack *attack, const char *overheard)
{
    static const char *const kinds[] = {"random_bytes", "half_open", "slow_loris", "huge_length",
                                        "oversized",    "hellos",    "messages",   "keys"};
    static char server_key[41];
    struct key key;

    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        start_attacker(attack, kinds[i], NULL);
    start_attacker(attack, "replay", overheard);
    if (attack->keys == NULL)
        return;
    /* the trainer's public key is no secret */
    assert_int_equal(key_read_public(&key, scene_path(attack->scene, "trainer.public")), STATUS_OK);
    assert_non_null(zmq_z85_encode(server_key, key.bytes, KEY_BYTES));
    start_attacker(attack, "keys", server_key);
}

static void stop_attackers(struct attack *attack)
{
    for (int i = 0; i < attack->n_attackers; i++) {
        struct process *attacker = &attack->attackers[i];
        process_look(attacker);
        if (attacker->ended) /* else it attacked nobody */
            fail_msg("attacker %d has ended with %d: %s", i, attacker->exit_status, attacker->text);
        process_signal(attacker, SIGKILL);
        process_release(attacker);
    }
    attack->n_attackers = 0;
}

/* Whether it has at most, or at least, so many files open. Its batches stay where they are: in the
 * end it waits for somebody to take their lines, and does not come to its end meanwhile. */
static void expect_files(struct attack *attack, int least, int most)
{
    int64_t deadline_ns = clock_monotonic_ns() + (int64_t)SCENE_SECONDS * 1000000000;
    int n;

    while ((n = count_files(attack->trainer.pid)) < least || n > most) {
        process_wait_ms(&attack->trainer, 5);
        assert_false(attack->trainer.ended);
        if (clock_monotonic_ns() > deadline_ns)
            fail_msg("%d files are open, wanted %d to %d", n, least, most);
    }
}

/* ---- the attack ---- */

static int lines_with(const char *text, const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)) != NULL; at += strlen(what))
        n++;
    return n;
}

static void attacked_run(struct attack *attack)
{
    struct process *trainer = &attack->trainer;
    pid_t pid = trainer->pid;
    int64_t begin_ns;
    int most_files = 0;

    watch_lines(&attack->watch, trainer, CALM - OVERHEARD, PATIENCE);
    const char *overheard = overhear(attack);
    int files = count_files(pid);
    start_attackers(attack, overheard);
    expect_files(attack, files + CONNECTIONS / 4, INT32_MAX); /* they did come, */
    process_expect(trainer, "refused: ", 0, SCENE_SECONDS);   /* and said something */
    watch_mark(&attack->watch);
    begin_ns = clock_monotonic_ns();
    int n = (attack->n_steps - CALM - REST) / CHUNK;
    long before = 0, most = 0;
    int64_t told_ns = begin_ns;
    for (int i = 0; i < n; i++) {
        assert_int_equal(watch_lines(&attack->watch, trainer, CHUNK, PATIENCE), CHUNK);
        long now = watch_memory_kib(pid, "VmRSS:");
        int now_files = count_files(pid);
        if (i <= n / 4) /* until then it may take what it needs */
            before = now;
        most = now > most ? now : most;
        most_files = now_files > most_files ? now_files : most_files;
        if (clock_monotonic_ns() - told_ns >= 10 * 1000000000LL) {
            told_ns = clock_monotonic_ns();
            print_message("%4d s: %.1f MiB, %d files\n", (int)((told_ns - begin_ns) / 1000000000),
                          (double)now / 1024.0, now_files);
        }
    }
    double seconds = 1e-9 * (double)(clock_monotonic_ns() - begin_ns);
    print_message("%s: attacked for %.1f s: memory %.1f MiB, then at most %.1f MiB; %d files, then "
                  "at most %d; longest wait for a batch %.2f s\n",
                  attack->keys != NULL ? "keys" : "plain", seconds, (double)before / 1024.0,
                  (double)most / 1024.0, files, most_files,
                  1e-9 * (double)attack->watch.longest_ns);
    assert_true(most < before + MEMORY_KIB);
    assert_true(most_files < files + CONNECTIONS + OTHER_CONNECTIONS);
    stop_attackers(attack);
    expect_files(attack, 0, files + 4); /* every one of them is closed */
    while (watch_lines(&attack->watch, trainer, 1000, 10 * SCENE_SECONDS) > 0)
        continue;
    process_finish(trainer, 0, 10 * SCENE_SECONDS);
    process_look(&attack->loader); /* whom a replay makes say again who it is */
    assert_true(lines_with(attack->loader.text, "\n") <= 20 + seconds / 6);
    int n_lines = lines_with(trainer->text, "refused: ");
    if (n_lines > 20 + seconds / 2)
        fail_msg("%d lines about refused loaders:\n%s", n_lines, trainer->text);
}

static void train_under_attack(struct scene *scene, bool keys)
{
    const char *epochs = getenv("IBOT_HOSTILE_EPOCHS");
    struct attack *attack = calloc(1, sizeof(*attack));

    assert_non_null(attack);
    attack->scene = scene;
    attack->keys = keys ? scene->folder : NULL;
    attack->n_steps = (epochs != NULL ? atoi(epochs) : 140) * STEPS_PER_EPOCH;
    assert_true(attack->n_steps >= CALM + REST + 4 * CHUNK);
    snprintf(attack->epochs, sizeof(attack->epochs), "%d", attack->n_steps / STEPS_PER_EPOCH);
    calm_run(attack);
    start_trainer(attack);
    start_loader(attack, &attack->loader, attack->endpoint);
    attacked_run(attack);
    assert_true(scene_final_digest(scene, "calm") == scene_final_digest(scene, "attacked"));
    process_release(&attack->loader);
    process_release(&attack->trainer);
    watch_close(&attack->watch);
    free(attack);
}

static void a_plain_port_under_attack_changes_no_bit(void **state)
{
    train_under_attack(*state, false);
}

static void a_port_with_keys_under_attack_changes_no_bit(void **state)
{
    struct scene *scene = *state;
    static const char *const names[] = {"trainer", "loader"};

    for (int i = 0; i < 2; i++) {
        struct command command =
            command_of("ibot-stream", "keygen", scene_path(scene, "%s", names[i]), NULL);
        struct process process;
        process_run(&process, &command, 0, SCENE_SECONDS);
        process_release(&process);
    }
    train_under_attack(scene, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_plain_port_under_attack_changes_no_bit, scene_open,
                                        scene_close),
        cmocka_unit_test_setup_teardown(a_port_with_keys_under_attack_changes_no_bit, scene_open,
                                        scene_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
