/* Checkpoints: what is saved comes back bit by bit; what is damaged, foreign or unfinished is told
 * apart; old ones go when they should. */
#include "trainer/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "tests/trainer/model_fixture.h"

struct fixture {
    struct model_fixture model;
    char folder[64];
};

static struct checkpoint_option stored[] = {
    {.name = "arch", .text = "vit_test", .digest = true},
    {.name = "data", .text = "/data", .digest = false},
};

static int fixture_open(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct ibot_options options = model_options_small();

    model_fixture_open(&f->model, &options);
    fill_model(f->model.ibot);
    strcpy(f->folder, "/tmp/ibot-checkpoint-XXXXXX");
    assert_non_null(mkdtemp(f->folder));
    log_start("checkpoint_test", LOG_ERROR); /* passing over is what is tested */
    *state = f;
    return 0;
}

static int fixture_close(void **state)
{
    struct fixture *f = *state;
    char command[128];

    model_fixture_close(&f->model);
    snprintf(command, sizeof(command), "rm -rf %s", f->folder);
    int failed = system(command);
    free(f);
    return failed;
}

static void save(struct fixture *f, int64_t step)
{
    struct checkpoint_state state = {.step = step, .steps_per_epoch = 10, .world = 1};

    if (checkpoint_save(f->folder, f->model.ibot, &f->model.device, &state, stored, 2) != STATUS_OK)
        fail_msg("%s", status_message());
}

static bool is_there(const struct fixture *f, const char *name)
{
    char path[256];
    struct stat info;

    snprintf(path, sizeof(path), "%s/%s", f->folder, name);
    return stat(path, &info) == 0;
}

/* Step of the newest good one; -1: none. */
static int64_t newest(const struct fixture *f)
{
    struct checkpoint checkpoint;
    struct checkpoint_state state;
    bool found;

    assert_int_equal(checkpoint_open_latest(&checkpoint, f->folder, &found), STATUS_OK);
    if (!found)
        return -1;
    assert_int_equal(checkpoint_state(&checkpoint, &state), STATUS_OK);
    memory_free(state.labels);
    memory_free(state.clusters);
    checkpoint_close(&checkpoint);
    return state.step;
}

static void state_comes_back_bit_by_bit(void **state)
{
    struct fixture *f = *state;
    int32_t labels[] = {3, 1, 4}, clusters[] = {1, 5, 9};
    struct checkpoint_state saved = {
        .step = 1234,
        .steps_per_epoch = 100,
        .index_digest = 0xfedcba9876543210,
        .n_samples = 1281167,
        .spec_digest = 0x8000000000000001,
        .run_digest = 7,
        .world = 4,
        .n_bad_images = 2,
        .n_clusters = 3,
        .labels = labels,
        .clusters = clusters,
    };
    struct checkpoint_state got;
    struct state_counts counts;
    struct checkpoint checkpoint;
    bool found;

    for (int i = 0; i < METRICS_TOTALS; i++)
        saved.totals[i] = 1.0 / (3.0 + i);
    for (int i = 0; i < CHECKPOINT_ENTROPIES; i++)
        saved.entropies[i] = 0.1 * (i + 1);
    assert_int_equal(checkpoint_save(f->folder, f->model.ibot, &f->model.device, &saved, stored, 2),
                     STATUS_OK);
    size_t n = ibot_n_state(f->model.ibot);
    float **copies = calloc(n, sizeof(*copies));
    for (size_t i = 0; i < n; i++) {
        struct ibot_state_entry entry;
        ibot_state(f->model.ibot, i, &entry);
        size_t bytes = tensor_size_bytes(&entry.tensor);
        copies[i] = malloc(bytes);
        memcpy(copies[i], entry.tensor.data, bytes);
        memset(entry.tensor.data, 0x55, bytes);
    }
    assert_int_equal(checkpoint_open_latest(&checkpoint, f->folder, &found), STATUS_OK);
    assert_true(found);
    assert_int_equal(checkpoint_restore(&checkpoint, f->model.ibot, &f->model.device, "", &counts),
                     STATUS_OK);
    assert_int_equal(counts.n_loaded, n);
    for (size_t i = 0; i < n; i++) {
        struct ibot_state_entry entry;
        ibot_state(f->model.ibot, i, &entry);
        assert_memory_equal(copies[i], entry.tensor.data, tensor_size_bytes(&entry.tensor));
        free(copies[i]);
    }
    free(copies);
    assert_int_equal(checkpoint_state(&checkpoint, &got), STATUS_OK);
    assert_memory_equal(got.labels, labels, sizeof(labels));
    assert_memory_equal(got.clusters, clusters, sizeof(clusters));
    memory_free(got.labels);
    memory_free(got.clusters);
    got.labels = labels;
    got.clusters = clusters;
    assert_memory_equal(got.totals, saved.totals, sizeof(saved.totals));
    assert_memory_equal(got.entropies, saved.entropies, sizeof(saved.entropies));
    assert_true(got.step == saved.step && got.steps_per_epoch == saved.steps_per_epoch);
    assert_true(got.index_digest == saved.index_digest && got.spec_digest == saved.spec_digest);
    assert_true(got.n_samples == saved.n_samples && got.run_digest == saved.run_digest);
    assert_true(got.world == 4 && got.n_bad_images == 2 && got.n_clusters == 3);
    assert_string_equal(checkpoint_option(&checkpoint, "arch"), "vit_test");
    assert_string_equal(checkpoint_option(&checkpoint, "data"), "/data");
    assert_null(checkpoint_option(&checkpoint, "nothing"));
    checkpoint_close(&checkpoint);
}

static void an_empty_or_missing_folder_holds_no_checkpoint(void **state)
{
    struct fixture *f = *state;
    struct checkpoint checkpoint;
    bool found = true;

    assert_int_equal(newest(f), -1);
    assert_int_equal(checkpoint_open_latest(&checkpoint, "/nowhere/at/all", &found), STATUS_OK);
    assert_false(found);
    assert_int_equal(checkpoint_open(&checkpoint, "/nowhere/at/all"), STATUS_NOT_FOUND);
    assert_int_equal(checkpoint_open(&checkpoint, f->folder), STATUS_NOT_FOUND);
    assert_non_null(strstr(status_message(), f->folder));
}

static void a_run_folder_a_folder_of_checkpoints_and_one_of_them_can_be_named(void **state)
{
    struct fixture *f = *state;
    struct checkpoint checkpoint;
    char run[96], inner[128], one[160];

    snprintf(run, sizeof(run), "%s/run", f->folder);
    snprintf(inner, sizeof(inner), "%s/checkpoints", run);
    snprintf(one, sizeof(one), "%s/step_00000003", inner);
    mkdir(run, 0777);
    for (int64_t step = 3; step <= 5; step += 2) {
        struct checkpoint_state at = {.step = step, .steps_per_epoch = 10, .world = 1};
        assert_int_equal(checkpoint_save(inner, f->model.ibot, &f->model.device, &at, stored, 2),
                         STATUS_OK);
    }
    const char *const paths[] = {run, inner, one};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(checkpoint_open(&checkpoint, paths[i]), STATUS_OK);
        int64_t step = json_integer_value(json_object_get(checkpoint.json, "step"));
        assert_int_equal(step, i == 2 ? 3 : 5);
        checkpoint_close(&checkpoint);
    }
}

static void the_newest_by_number_counts_and_more_than_eight_digits_are_fine(void **state)
{
    struct fixture *f = *state;

    save(f, 99);
    save(f, 123456789);
    save(f, 100000000);
    assert_int_equal(newest(f), 123456789);
}

static void every_truncation_and_any_changed_byte_is_noticed(void **state)
{
    static const char *const names[] = {"model.safetensors", "state.json"};
    struct fixture *f = *state;
    struct checkpoint checkpoint;
    char path[160];

    for (int which = 0; which < 2; which++)
        for (int round = 0; round < 24; round++) {
            struct stat info;
            save(f, 5);
            save(f, 9);
            snprintf(path, sizeof(path), "%s/step_00000009/%s", f->folder, names[which]);
            assert_int_equal(stat(path, &info), 0);
            long at = (long)((double)info.st_size * round / 24.0);
            if (round % 2 == 0) {
                FILE *file = fopen(path, "r+b");
                fseek(file, at, SEEK_SET);
                int byte = fgetc(file);
                fseek(file, at, SEEK_SET);
                fputc(byte ^ 1, file);
                fclose(file);
            } else {
                assert_int_equal(truncate(path, at), 0);
            }
            assert_int_equal(newest(f), 5);
            snprintf(path, sizeof(path), "%s/step_00000009", f->folder);
            assert_int_equal(checkpoint_open(&checkpoint, path), STATUS_CORRUPT);
        }
}

static void only_bad_ones_are_an_error_and_not_a_fresh_start(void **state)
{
    struct fixture *f = *state;
    struct checkpoint checkpoint;
    char path[160];
    bool found;

    save(f, 5);
    snprintf(path, sizeof(path), "%s/step_00000005/model.safetensors", f->folder);
    assert_int_equal(truncate(path, 100), 0);
    assert_int_equal(checkpoint_open_latest(&checkpoint, f->folder, &found), STATUS_CORRUPT);
    assert_non_null(strstr(status_message(), "move"));
}

static void another_architecture_is_refused_and_names_the_tensor(void **state)
{
    struct fixture *f = *state;
    struct ibot_options options = model_options_small();
    struct model_fixture other;
    struct state_counts counts;
    struct checkpoint checkpoint;
    bool found;

    save(f, 5);
    assert_int_equal(checkpoint_open_latest(&checkpoint, f->folder, &found), STATUS_OK);
    options.backbone.embed_dim = 64;
    model_fixture_open(&other, &options);
    assert_int_equal(checkpoint_restore(&checkpoint, other.ibot, &other.device, "", &counts),
                     STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "cls_token"));
    model_fixture_close(&other);
    options = model_options_small();
    options.backbone.depth = 3;
    model_fixture_open(&other, &options);
    assert_int_equal(checkpoint_restore(&checkpoint, other.ibot, &other.device, "", &counts),
                     STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "blocks.2"));
    model_fixture_close(&other);
    options.backbone.depth = 1;
    model_fixture_open(&other, &options);
    assert_int_equal(checkpoint_restore(&checkpoint, other.ibot, &other.device, "", &counts),
                     STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "unexpected"));
    model_fixture_close(&other);
    checkpoint_close(&checkpoint);
}

static void old_ones_are_removed_but_the_first_the_newest_and_every_nth(void **state)
{
    struct fixture *f = *state;

    for (int64_t step = 0; step <= 70; step += 10)
        save(f, step);
    assert_int_equal(checkpoint_prune(f->folder, 70, 2, 30), STATUS_OK);
    assert_true(is_there(f, "step_00000000"));
    assert_false(is_there(f, "step_00000010"));
    assert_false(is_there(f, "step_00000020"));
    assert_true(is_there(f, "step_00000030"));
    assert_false(is_there(f, "step_00000040"));
    assert_false(is_there(f, "step_00000050"));
    assert_true(is_there(f, "step_00000060"));
    assert_true(is_there(f, "step_00000070"));
    assert_int_equal(checkpoint_prune(f->folder, 70, 1, 0), STATUS_OK);
    assert_true(is_there(f, "step_00000000"));
    assert_false(is_there(f, "step_00000060"));
    assert_true(is_there(f, "step_00000070"));
}

static void damaged_ones_beyond_the_run_do_not_push_out_good_ones(void **state)
{
    struct fixture *f = *state;
    char path[160];

    for (int64_t step = 10; step <= 40; step += 10)
        save(f, step);
    for (int step = 30; step <= 40; step += 10) {
        snprintf(path, sizeof(path), "%s/step_%08d/state.json", f->folder, step);
        assert_int_equal(truncate(path, 20), 0);
    }
    assert_int_equal(newest(f), 20);
    save(f, 25); /* the run that went on from there */
    assert_int_equal(checkpoint_prune(f->folder, 25, 2, 0), STATUS_OK);
    assert_false(is_there(f, "step_00000010"));
    assert_true(is_there(f, "step_00000020"));
    assert_int_equal(newest(f), 25);
    save(f, 40); /* made again: it counts */
    assert_int_equal(checkpoint_prune(f->folder, 40, 2, 0), STATUS_OK);
    assert_false(is_there(f, "step_00000025"));
    assert_int_equal(newest(f), 40);
}

static void what_a_killed_save_left_is_neither_taken_nor_in_the_way(void **state)
{
    struct fixture *f = *state;
    char path[160];

    snprintf(path, sizeof(path), "%s/step_00000009.tmp", f->folder);
    mkdir(path, 0777);
    assert_int_equal(newest(f), -1); /* nothing that could be good, nor an error */
    save(f, 5);
    snprintf(path, sizeof(path), "%s/step_00000009.tmp/model.safetensors.tmp-77-0", f->folder);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs("half", file);
    fclose(file);
    assert_int_equal(newest(f), 5);
    save(f, 9);
    assert_int_equal(newest(f), 9);
    snprintf(path, sizeof(path), "%s/step_00000011.tmp", f->folder);
    mkdir(path, 0777);
    assert_int_equal(checkpoint_prune(f->folder, 9, 3, 0), STATUS_OK);
    assert_false(is_there(f, "step_00000009.tmp"));
    assert_false(is_there(f, "step_00000011.tmp"));
}

static void a_save_that_fails_leaves_nothing_and_spares_the_older_ones(void **state)
{
    struct fixture *f = *state;
    struct checkpoint_state at = {.step = 9, .steps_per_epoch = 10, .world = 1};
    char path[160];

    save(f, 5);
    snprintf(path, sizeof(path), "%s/step_00000009.tmp", f->folder);
    FILE *file = fopen(path, "wb"); /* a file where the folder should go */
    assert_non_null(file);
    fclose(file);
    assert_int_equal(checkpoint_save(f->folder, f->model.ibot, &f->model.device, &at, stored, 2),
                     STATUS_IO);
    assert_non_null(strstr(status_message(), "older ones are intact"));
    assert_int_equal(newest(f), 5);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_open, fixture_close)
    const struct CMUnitTest tests[] = {
        TEST(state_comes_back_bit_by_bit),
        TEST(an_empty_or_missing_folder_holds_no_checkpoint),
        TEST(a_run_folder_a_folder_of_checkpoints_and_one_of_them_can_be_named),
        TEST(the_newest_by_number_counts_and_more_than_eight_digits_are_fine),
        TEST(every_truncation_and_any_changed_byte_is_noticed),
        TEST(only_bad_ones_are_an_error_and_not_a_fresh_start),
        TEST(another_architecture_is_refused_and_names_the_tensor),
        TEST(old_ones_are_removed_but_the_first_the_newest_and_every_nth),
        TEST(damaged_ones_beyond_the_run_do_not_push_out_good_ones),
        TEST(what_a_killed_save_left_is_neither_taken_nor_in_the_way),
        TEST(a_save_that_fails_leaves_nothing_and_spares_the_older_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
