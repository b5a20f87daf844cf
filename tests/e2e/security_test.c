/* Who may come to a trainer, as its user sees it: keys and their files, loaders that are not fit
 * and come first, the rights of local sockets. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/e2e/scene.h"

static void keygen(struct scene *scene, const char *name)
{
    struct command command =
        command_of("ibot-stream", "keygen", scene_path(scene, "%s", name), NULL);
    struct process process;

    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
}

/* A trainer that waits for loaders, with three more words; its address, from its log. */
static void start_trainer(struct scene *scene, struct process *process, const char *run,
                          const struct command *more, char *endpoint, size_t size)
{
    struct command command =
        command_of("ibot-train", "--config", scene->recipe, "--listen", "tcp://127.0.0.1:0",
                   "--output_dir", scene_path(scene, "%s", run), NULL);

    for (int i = 0; more != NULL && i < more->n; i++)
        command_add(&command, more->words[i], NULL);
    process_start(process, &command);
    size_t at = process_expect(process, "listening on ", 0, SCENE_SECONDS);
    process_expect(process, "\n", at, SCENE_SECONDS);
    snprintf(endpoint, size, "%.*s", (int)strcspn(process->text + at, " \n"), process->text + at);
}

static struct command loader_of(const char *data, const char *endpoint)
{
    return command_of("ibot-loader", "--data", data, "--connect", endpoint, "--threads", "1", NULL);
}

/* A refused loader names itself in the trainer's log: "loader HOST:PID at 127.0.0.1". */
static void expect_named(struct process *trainer, const struct process *loader, const char *reason)
{
    char name[32];

    snprintf(name, sizeof(name), ":%d at 127.0.0.1: ", (int)loader->pid);
    size_t at = process_expect(trainer, "refused: loader ", 0, SCENE_SECONDS);
    at = process_expect(trainer, name, at, SCENE_SECONDS);
    process_expect(trainer, reason, at, SCENE_SECONDS);
}

static uint64_t calm_digest(struct scene *scene)
{
    struct command command = scene_train(scene, "calm", "1");
    struct process process;

    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    return scene_final_digest(scene, "calm");
}

/* The digest of the index, as ibot-index prints it. */
static void index_digest(struct scene *scene, const char *data, char *out, size_t size)
{
    struct command command =
        command_of("ibot-index", data, "--output", scene_path(scene, "index"), NULL);
    struct process process;

    process_run(&process, &command, 0, SCENE_SECONDS);
    const char *at = strstr(process.text, "digest ");
    assert_non_null(at);
    snprintf(out, size, "%.16s", at + strlen("digest "));
    process_release(&process);
}

static void a_loader_with_the_wrong_images_that_comes_first_ends_nothing(void **state)
{
    struct scene *scene = *state;
    const char *other = scene_path(scene, "other");
    uint64_t wanted = calm_digest(scene);
    struct process trainer, wrong, right;
    char endpoint[128], digest[32];

    scene_images(other, SCENE_IMAGES, 99);
    index_digest(scene, scene->data, digest, sizeof(digest));
    for (int resumed = 0; resumed < 2; resumed++) {
        /* first by --index_digest, then by what the run folder says */
        struct command more =
            resumed ? command_of("--stop_at_step", "18", NULL)
                    : command_of("--index_digest", digest, "--stop_at_step", "7", NULL);
        start_trainer(scene, &trainer, "run", &more, endpoint, sizeof(endpoint));
        struct command command = loader_of(other, endpoint);
        process_run(&wrong, &command, 3, SCENE_SECONDS);
        assert_non_null(strstr(wrong.text, digest)); /* which one is wanted */
        expect_named(&trainer, &wrong, "its data set");
        command = loader_of(scene->data, endpoint);
        process_start(&right, &command);
        process_finish(&trainer, 0, SCENE_SECONDS);
        process_release(&wrong);
        process_release(&right);
        process_release(&trainer);
    }
    assert_true(scene_final_digest(scene, "run") == wanted);
}

static void local_loaders_with_the_wrong_images_end_it_clearly(void **state)
{
    struct scene *scene = *state;
    const char *other = scene_path(scene, "other");
    struct command command = scene_train(scene, "run", "2");
    struct process process;

    scene_images(other, SCENE_IMAGES, 99);
    command_add(&command, "--stop_at_step", "7", NULL);
    process_run(&process, &command, 0, SCENE_SECONDS);
    process_release(&process);
    command = scene_train(scene, "run", "2");
    command_add(&command, "--data", other, NULL);
    process_run(&process, &command, 3, SCENE_SECONDS);
    assert_non_null(strstr(process.text, "give every loader the same files"));
    process_release(&process);
}

static void a_key_that_is_not_in_the_list_waits_and_others_serve(void **state)
{
    struct scene *scene = *state;
    uint64_t wanted = calm_digest(scene);
    struct process trainer, stranger, friend;
    char endpoint[128], *hex, *friend_hex;

    keygen(scene, "trainer");
    keygen(scene, "friend");
    keygen(scene, "stranger");
    const char *allowed = scene_path(scene, "allowed");
    hex = scene_read(scene_path(scene, "stranger.public"));
    friend_hex = scene_read(scene_path(scene, "friend.public"));
    scene_write(allowed, friend_hex);
    struct command more =
        command_of("--key", scene_path(scene, "trainer.secret"), "--allow", allowed, NULL);
    start_trainer(scene, &trainer, "run", &more, endpoint, sizeof(endpoint));
    process_expect(&trainer, "encrypted; open to the keys in", 0, SCENE_SECONDS);
    struct command command = loader_of(scene->data, endpoint);
    command_add(&command, "--key", scene_path(scene, "stranger.secret"), "--server_key",
                scene_path(scene, "trainer.public"), NULL);
    process_start(&stranger, &command);
    hex[64] = '\0';
    process_expect(&stranger, hex, 0, SCENE_SECONDS);
    size_t at =
        process_expect(&trainer, "refused: a loader at 127.0.0.1: its key ", 0, SCENE_SECONDS);
    process_expect(&trainer, hex, at, SCENE_SECONDS);
    command = loader_of(scene->data, endpoint);
    command_add(&command, "--key", scene_path(scene, "friend.secret"), "--server_key",
                scene_path(scene, "trainer.public"), NULL);
    process_start(&friend, &command);
    process_finish(&trainer, 0, SCENE_SECONDS);
    assert_true(scene_final_digest(scene, "run") == wanted);
    process_release(&trainer);
    process_release(&stranger);
    process_release(&friend);
    free(hex);
    free(friend_hex);
}

/* Who looks into a trainer's stream needs a key of the list, as loaders do. */
static void looking_into_a_stream_takes_a_key_of_the_list(void **state)
{
    struct scene *scene = *state;
    static const char *const names[] = {"trainer", "friend", "stranger"};
    static const char *const looks[] = {"watch", "inspect"};
    struct process trainer, loader, viewer;
    char endpoint[128];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        keygen(scene, names[i]);
    const char *server = scene_path(scene, "trainer.public");
    const char *known = scene_path(scene, "friend.secret");
    const char *unknown = scene_path(scene, "stranger.secret");
    struct command more =
        command_of("--key", scene_path(scene, "trainer.secret"), "--allow",
                   scene_path(scene, "friend.public"), "--epochs", "100000", NULL);
    start_trainer(scene, &trainer, "run", &more, endpoint, sizeof(endpoint));
    struct command command = loader_of(scene->data, endpoint);
    command_add(&command, "--key", known, "--server_key", server, NULL);
    process_start(&loader, &command);
    process_expect(&trainer, "steps in each of", 0, SCENE_SECONDS);
    for (int look = 0; look < 2; look++) {
        struct command plain = command_of("ibot-stream", looks[look], endpoint, NULL);
        if (look == 0)
            command_add(&plain, "--count", "1", NULL);
        process_run(&viewer, &plain, 1, SCENE_SECONDS);
        assert_non_null(strstr(viewer.text, "--key, --server_key"));
        process_release(&viewer);
        command = plain;
        command_add(&command, "--key", unknown, "--server_key", server, NULL);
        process_run(&viewer, &command, 1, SCENE_SECONDS);
        assert_non_null(strstr(viewer.text, "--allow"));
        process_release(&viewer);
        command = plain;
        command_add(&command, "--key", known, "--server_key", server, NULL);
        process_run(&viewer, &command, 0, SCENE_SECONDS);
        assert_non_null(strstr(viewer.text, look == 0 ? " 1 loader;" : "n_local 2"));
        process_release(&viewer);
    }
    process_release(&trainer);
    process_release(&loader);
}

static void keys_come_from_the_environment_and_the_run_file_too(void **state)
{
    struct scene *scene = *state;
    const char *folder = getenv("IBOT_BIN");
    struct process trainer, loader;
    char endpoint[128], key[256], server[256], program[512], text[1024];

    assert_non_null(folder);
    keygen(scene, "trainer");
    keygen(scene, "loader");
    const char *recipe = scene_path(scene, "keys.yaml");
    char *tiny = scene_read(scene->recipe);
    snprintf(text, sizeof(text), "%skey: %s\nallow: %s\n", tiny,
             scene_path(scene, "trainer.secret"), scene_path(scene, "loader.public"));
    scene_write(recipe, text);
    free(tiny);
    struct command command =
        command_of("ibot-train", "--config", recipe, "--listen", "tcp://0.0.0.0:0", "--output_dir",
                   scene_path(scene, "run"), NULL); /* with keys, without --insecure */
    process_start(&trainer, &command);
    size_t at = process_expect(&trainer, "listening on tcp://0.0.0.0:", 0, SCENE_SECONDS);
    process_expect(&trainer, "\n", at, SCENE_SECONDS);
    snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.1:%d", atoi(trainer.text + at));
    char *hex = scene_read(scene_path(scene, "trainer.public"));
    snprintf(key, sizeof(key), "IBOT_KEY=%s", scene_path(scene, "loader.secret"));
    snprintf(server, sizeof(server), "IBOT_SERVER_KEY=%.64s", hex);
    snprintf(program, sizeof(program), "%s/ibot-loader", folder);
    command = command_of("env", key, server, program, "--data", scene->data, "--connect", endpoint,
                         "--threads", "1", NULL);
    process_start(&loader, &command);
    process_expect(&loader, "serving, encrypted", 0, SCENE_SECONDS);
    process_finish(&trainer, 0, SCENE_SECONDS);
    process_release(&trainer);
    process_release(&loader);
    free(hex);
}

static void expect_error(const struct command *command, int exit_status, const char *text)
{
    struct process process;

    process_run(&process, command, exit_status, SCENE_SECONDS);
    if (strstr(process.text, text) == NULL)
        fail_msg("no '%s' in:\n%s", text, process.text);
    process_release(&process);
}

static void what_is_wrong_with_keys_is_said(void **state)
{
    struct scene *scene = *state;
    struct stat info;

    keygen(scene, "trainer");
    keygen(scene, "loader");
    const char *secret = scene_path(scene, "trainer.secret");
    const char *allowed = scene_path(scene, "loader.public");
    assert_int_equal(stat(secret, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0600);
    struct command command =
        command_of("ibot-stream", "keygen", scene_path(scene, "trainer"), NULL);
    expect_error(&command, 2, "--force");
    command_add(&command, "--force", NULL);
    expect_error(&command, 0, "trainer.secret");
#define TRAIN                                                                                      \
    "ibot-train", "--config", scene->recipe, "--output_dir", scene_path(scene, "run"), "--listen", \
        "tcp://127.0.0.1:0"
    command = command_of(TRAIN, "--key", secret, NULL);
    expect_error(&command, 2, "--allow");
    command = command_of(TRAIN, "--allow", allowed, NULL);
    expect_error(&command, 2, "--key");
    command = command_of(TRAIN, "--key", allowed, "--allow", allowed, NULL);
    assert_int_equal(chmod(allowed, 0600), 0);
    expect_error(&command, 2, "no secret key");
    command = command_of(TRAIN, "--key", secret, "--allow", secret, NULL);
    expect_error(&command, 2, "a secret key, where public ones are wanted");
    command = command_of(TRAIN, "--key", secret, "--allow", scene_path(scene, "nowhere"), NULL);
    expect_error(&command, 1, "nowhere");
    command = command_of(TRAIN, "--index_digest", "xyz", NULL);
    expect_error(&command, 2, "--index_digest 'xyz'");
    assert_int_equal(chmod(secret, 0644), 0);
    command = command_of(TRAIN, "--key", secret, "--allow", allowed, NULL);
    expect_error(&command, 2, "chmod 600");
    command = command_of(TRAIN, "--listen", "tcp://0.0.0.0:0", NULL);
    expect_error(&command, 2, "--insecure");
#define LOADER "ibot-loader", "--data", scene->data, "--connect", "tcp://127.0.0.1:9"
    command = command_of(LOADER, "--key", secret, NULL);
    expect_error(&command, 2, "--server_key");
    command = command_of(LOADER, "--key", secret, "--server_key", allowed, NULL);
    expect_error(&command, 2, "chmod 600");
    assert_int_equal(chmod(secret, 0440), 0); /* as Kubernetes hands out secrets */
    command = command_of(LOADER, "--key", secret, "--server_key", "abcd", NULL);
    expect_error(&command, 1, "'abcd'");
}

/* The socket of local loaders: in a folder, and of a mode, for its user alone. */
static void local_sockets_are_their_users_alone(void **state)
{
    struct scene *scene = *state;
    struct command command = scene_train(scene, "run", "1");
    struct process trainer;
    char path[64], words[2048], folder[256];
    pid_t loader;
    struct stat info;

    command_add(&command, "--epochs", "10000", NULL);
    process_start(&trainer, &command);
    process_expect(&trainer, "steps in each", 0, SCENE_SECONDS);
    assert_int_equal(process_children(&trainer, &loader, 1), 1);
    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)loader);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(words, 1, sizeof(words) - 1, file);
    fclose(file);
    for (size_t i = 0; i < n; i++)
        words[i] = words[i] == '\0' ? ' ' : words[i];
    words[n] = '\0';
    const char *at = strstr(words, "ipc://");
    assert_non_null(at);
    snprintf(folder, sizeof(folder), "%.*s", (int)strcspn(at + 6, " "), at + 6);
    assert_int_equal(stat(folder, &info), 0);
    assert_true(S_ISSOCK(info.st_mode));
    assert_int_equal(info.st_mode & 0777, 0600);
    *strrchr(folder, '/') = '\0';
    assert_int_equal(stat(folder, &info), 0);
    assert_int_equal(info.st_mode & 07777, 0700);
    process_signal(&trainer, SIGTERM);
    process_finish(&trainer, 75, SCENE_SECONDS);
    assert_false(scene_exists(folder));
    process_release(&trainer);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)
    const struct CMUnitTest tests[] = {
        TEST(a_loader_with_the_wrong_images_that_comes_first_ends_nothing),
        TEST(local_loaders_with_the_wrong_images_end_it_clearly),
        TEST(a_key_that_is_not_in_the_list_waits_and_others_serve),
        TEST(looking_into_a_stream_takes_a_key_of_the_list),
        TEST(keys_come_from_the_environment_and_the_run_file_too),
        TEST(what_is_wrong_with_keys_is_said),
        TEST(local_sockets_are_their_users_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
