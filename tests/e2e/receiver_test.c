/* The trainer's end of the stream with real local loaders: where pixels end up, and what ends the
 * wait for them. */
#include "trainer/receiver.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/cpus.h"
#include "proto/base/hash.h"
#include "proto/base/log.h"
#include "tests/e2e/scene.h"
#include "tests/support/queued_device.h"

enum { B = 4 };

static struct receiver_options small_options(const struct scene *scene)
{
    struct receiver_options options = {
        .spec = data_spec_default(),
        .batch_size = B,
        .slice_size = 3,
        .prefetch = 2,
        .world = 1,
        .drop_last = true,
        .data = scene->data,
        .n_loaders = 1,
        .loader_threads = 1,
    };
    options.spec.global_size_px = 32;
    options.spec.local_size_px = 16;
    options.spec.n_local = 3;
    options.spec.mask_cell_px = 8;
    return options;
}

/* Hash of all pixels of two epochs as the model would see them. `copied`: whether they must lie
 * outside the slots. */
static uint64_t hash_stream(struct scene *scene, struct device *device, const struct op_table *ops,
                            bool copied, enum photometric_place photometric)
{
    struct receiver_options options = small_options(scene);
    struct receiver receiver;
    struct dataset_info dataset;
    uint64_t hash = 0;
    int n = 0;

    options.ops = ops;
    options.spec.photometric = photometric;
    assert_int_equal(receiver_open(&receiver, device, &options, NULL), STATUS_OK);
    assert_int_equal(receiver_dataset(&receiver, &dataset), STATUS_OK);
    assert_int_equal(dataset.n_samples, SCENE_IMAGES);
    assert_int_equal(consumer_start(receiver.consumer, 0, 2), STATUS_OK);
    for (;; n++) {
        struct ibot_input input = {0};
        struct batch *batch;
        enum status status = receiver_next(&receiver, &batch, &input);
        if (status == STATUS_CLOSED)
            break;
        if (status != STATUS_OK)
            fail_msg("%s", status_message());
        assert_int_equal(input.globals.shape[0], 2 * B);
        assert_int_equal(input.locals.shape[0], 3 * B);
        assert_int_equal(input.globals.data != batch->globals, copied);
        assert_int_equal(input.locals.data != batch->locals, copied);
        assert_ptr_equal(input.masks, batch->masks);
        assert_int_equal(device->synchronize(device), STATUS_OK);
        hash = hash_bytes_seeded(input.globals.data, tensor_size_bytes(&input.globals), hash);
        hash = hash_bytes_seeded(input.locals.data, tensor_size_bytes(&input.locals), hash);
    }
    assert_int_equal(n, 2 * SCENE_IMAGES / B);
    receiver_close(&receiver);
    return hash;
}

static void pixels_are_the_slot_on_the_cpu_and_copies_elsewhere(void **state)
{
    struct scene *scene = *state;
    const struct op_table *ops = &op_table_cpu, *queued = &op_table_queued;
    struct device cpu, other;

    assert_int_equal(device_open_cpu(&cpu, 1), STATUS_OK);
    assert_int_equal(queued_device_open(&other, 1), STATUS_OK);
    uint64_t wanted = hash_stream(scene, &cpu, ops, false, PHOTOMETRIC_BY_LOADER);
    assert_true(hash_stream(scene, &other, queued, true, PHOTOMETRIC_BY_LOADER) == wanted);
    assert_true(hash_stream(scene, &cpu, ops, false, PHOTOMETRIC_BY_TRAINER) == wanted);
    assert_true(hash_stream(scene, &other, queued, true, PHOTOMETRIC_BY_TRAINER) == wanted);
    device_close(&other);
    device_close(&cpu);
}

static void a_stop_ends_the_wait_for_loaders(void **state)
{
    struct receiver_options options = small_options(*state);
    struct receiver receiver;
    struct dataset_info dataset;
    struct device cpu;
    atomic_int stop = 1;

    assert_int_equal(device_open_cpu(&cpu, 1), STATUS_OK);
    options.n_loaders = 0;
    options.listen = "tcp://127.0.0.1:0";
    assert_int_equal(receiver_open(&receiver, &cpu, &options, &stop), STATUS_OK);
    assert_int_equal(receiver_dataset(&receiver, &dataset), STATUS_INTERRUPTED);
    receiver_close(&receiver);
    receiver_close(&receiver);
    device_close(&cpu);
}

/* The value of an argument of a process that runs. */
static int argument_of(pid_t pid, const char *name)
{
    char path[64], text[4096];

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
    FILE *file = fopen(path, "re");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[n] = '\0';
    for (const char *word = text; word < text + n; word += strlen(word) + 1)
        if (strcmp(word, name) == 0 && word + strlen(word) + 1 < text + n)
            return atoi(word + strlen(word) + 1);
    fail_msg("process %d has no argument %s", (int)pid, name);
    return -1;
}

static void local_loaders_take_all_processors_and_let_the_trainer_go_first(void **state)
{
    struct receiver_options options = small_options(*state);
    struct receiver receiver;
    struct dataset_info dataset;
    struct device cpu;
    int least = getpriority(PRIO_PROCESS, 0) + LOADER_PROCESS_NICE;

    assert_int_equal(device_open_cpu(&cpu, 1), STATUS_OK);
    options.loader_threads = 0;
    assert_int_equal(receiver_open(&receiver, &cpu, &options, NULL), STATUS_OK);
    assert_int_equal(receiver_dataset(&receiver, &dataset), STATUS_OK); /* so it runs */
    pid_t loader = receiver.loaders.pids[0];
    assert_int_equal(argument_of(loader, "--threads"), cpus_usable());
    assert_int_equal(getpriority(PRIO_PROCESS, (id_t)loader), least < 19 ? least : 19);
    receiver_close(&receiver);

    setenv("RANK", "0", 1);
    setenv("WORLD_SIZE", "200000", 1);
    setenv("LOCAL_WORLD_SIZE", "100000", 1); /* more than there are processors */
    options.n_loaders = 2;
    assert_int_equal(receiver_open(&receiver, &cpu, &options, NULL), STATUS_OK);
    assert_int_equal(receiver.loaders.threads_each, 1);
    receiver_close(&receiver);
    unsetenv("RANK");
    unsetenv("WORLD_SIZE");
    unsetenv("LOCAL_WORLD_SIZE");
    device_close(&cpu);
}

static void the_end_of_all_local_loaders_ends_the_wait_with_their_exit_status(void **state)
{
    struct scene *scene = *state;
    struct receiver_options options = small_options(scene);
    struct receiver receiver;
    struct dataset_info dataset;
    struct device cpu;

    assert_int_equal(device_open_cpu(&cpu, 1), STATUS_OK);
    options.data = scene_path(scene, "empty");
    options.n_loaders = 2;
    mkdir(options.data, 0777);
    assert_int_equal(receiver_open(&receiver, &cpu, &options, NULL), STATUS_OK);
    assert_int_equal(receiver_dataset(&receiver, &dataset), STATUS_CLOSED);
    assert_non_null(strstr(status_message(), "all 2 local loaders have ended"));
    assert_non_null(strstr(status_message(), "exit status"));
    receiver_close(&receiver);
    device_close(&cpu);
}

static void a_loader_that_is_always_killed_is_given_up_in_the_end(void **state)
{
    struct scene *scene = *state;
    struct loader_processes loaders;
    enum status status = STATUS_OK;
    int n_kills = 0;

    assert_int_equal(loader_processes_prepare(&loaders), STATUS_OK);
    assert_int_equal(loader_processes_start(&loaders, 1, 1, scene->data, NULL, loaders.endpoint),
                     STATUS_OK);
    while (status == STATUS_OK) {
        siginfo_t info;
        kill(loaders.pids[0], SIGKILL);
        waitid(P_PID, (id_t)loaders.pids[0], &info, WEXITED | WNOWAIT);
        n_kills++;
        status = loader_processes_check(&loaders);
    }
    assert_int_equal(status, STATUS_CLOSED);
    assert_non_null(strstr(status_message(), "signal 9"));
    assert_int_equal(n_kills, 1 + LOADER_PROCESS_MAX_RESTARTS);
    loader_processes_stop(&loaders);
    assert_false(scene_exists(loaders.endpoint + strlen("ipc://")));
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)
    const struct CMUnitTest tests[] = {
        TEST(pixels_are_the_slot_on_the_cpu_and_copies_elsewhere),
        TEST(a_stop_ends_the_wait_for_loaders),
        TEST(local_loaders_take_all_processors_and_let_the_trainer_go_first),
        TEST(the_end_of_all_local_loaders_ends_the_wait_with_their_exit_status),
        TEST(a_loader_that_is_always_killed_is_given_up_in_the_end),
    };
    log_start("receiver_test", LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
