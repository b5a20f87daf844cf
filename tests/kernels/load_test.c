/* Loading the CUDA column from its file: from the first folder that has it; failures, log lines and
 * broken promises cross over; what is missing or does not fit is named. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/column.h"
#include "tests/kernels/column_good.h"

static enum status load_from(const char *folder, const char *driver,
                             const struct kernels_column **out)
{
    const char *const folders[] = {"/nowhere", folder, NULL};
    const struct kernels_place place = {folders, driver};

    return kernels_column_load(out, &place);
}

static const struct kernels_column *good_column(void)
{
    const struct kernels_column *column = NULL;

    if (load_from(FOLDER_GOOD, NULL, &column) != STATUS_OK)
        fail_msg("%s", status_message());
    return column;
}

static void expect_failure(const char *folder, const char *driver, enum status wanted,
                           const char *const *texts)
{
    const struct kernels_column *column = NULL;

    assert_int_equal(load_from(folder, driver, &column), wanted);
    assert_null(column);
    for (; *texts != NULL; texts++)
        if (strstr(status_message(), *texts) == NULL)
            fail_msg("'%s' is not in: %s", *texts, status_message());
}

#define EXPECT_FAILURE(folder, driver, wanted, ...)                                                \
    expect_failure(folder, driver, wanted, (const char *const[]){__VA_ARGS__, NULL})

static void a_column_opens_devices_and_has_ops(void **state)
{
    const struct kernels_column *column = good_column();
    const struct op_table *table = NULL;
    struct collective ranks;
    struct device device;

    (void)state;
    assert_int_equal(column->device_open(&device, COLUMN_OPENS), STATUS_OK);
    assert_int_equal(device.kind, DEVICE_CUDA);
    device_close(&device);
    assert_int_equal(column->op_table(&table), STATUS_OK);
    assert_string_equal(table->name, "of the column");
    assert_int_equal(column->collective_open(&ranks, &device, NULL), STATUS_OK);
    assert_int_equal(ranks.rank, 3);
}

static void it_is_loaded_once(void **state)
{
    (void)state;
    assert_ptr_equal(good_column(), good_column());
}

static void a_failure_in_it_is_one_of_the_program(void **state)
{
    struct device device;

    (void)state;
    assert_int_equal(good_column()->device_open(&device, COLUMN_FAILS), STATUS_DEVICE);
    assert_string_equal(status_message(), "device 1 of the column: the cause (input/output)");
}

/* What a child process writes to stderr while it opens device `ordinal`, and how it ends. */
static int stderr_of_opening(int ordinal, char *text, size_t size)
{
    int ends[2], status = 0;

    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct device device;
        (void)signal(SIGABRT, SIG_DFL);
        (void)dup2(ends[1], STDERR_FILENO);
        (void)!good_column()->device_open(&device, ordinal);
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], text + n, size - 1 - n)) > 0;)
        n += (size_t)got;
    text[n] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void its_log_lines_are_the_program_s(void **state)
{
    char text[4096];

    (void)state;
    assert_int_equal(stderr_of_opening(COLUMN_LOGS, text, sizeof(text)), 0);
    assert_non_null(strstr(text, "load_test"));
    assert_non_null(strstr(text, "error: device 2 says: 100 %\n"));
}

static void its_broken_promises_end_the_program(void **state)
{
    char text[4096];

    (void)state;
    int status = stderr_of_opening(COLUMN_BREAKS_A_PROMISE, text, sizeof(text));
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_non_null(strstr(text, "column_good.c"));
    assert_non_null(strstr(text, "broken promise: ordinal < 0: ordinal 3 of the column\n"));
}

static void without_a_file_the_places_are_named(void **state)
{
    (void)state;
    EXPECT_FAILURE("not/here", NULL, STATUS_UNSUPPORTED, "/nowhere/libibot_cuda.so",
                   "not/here/libibot_cuda.so", "--backend cpu");
}

static void without_a_driver_nothing_is_loaded(void **state)
{
    (void)state;
    EXPECT_FAILURE(FOLDER_GOOD, "libno_such_driver.so.1", STATUS_NOT_FOUND, "no CUDA device",
                   "libno_such_driver.so.1", "--backend cpu");
}

static void a_library_that_is_missing_is_named(void **state)
{
    (void)state;
    EXPECT_FAILURE(FOLDER_LACKING_CUBLAS, NULL, STATUS_NOT_FOUND, "libcublasLt.so.99",
                   "belongs to cuBLAS", "LD_LIBRARY_PATH");
    EXPECT_FAILURE(FOLDER_LACKING_NCCL, NULL, STATUS_NOT_FOUND, "libnccl.so.99", "belongs to NCCL",
                   "LD_LIBRARY_PATH");
    EXPECT_FAILURE(FOLDER_LACKING_UNKNOWN, NULL, STATUS_NOT_FOUND, "libunheard_of.so.99",
                   "LD_LIBRARY_PATH");
}

static void a_column_of_other_sources_is_refused(void **state)
{
    (void)state;
    EXPECT_FAILURE(FOLDER_OTHER, NULL, STATUS_MISMATCH, "0123456789ab", "other sources");
}

static void what_is_no_column_is_refused(void **state)
{
    char folder[] = "/tmp/ibot_load_test_XXXXXX", path[64];

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/libibot_cuda.so", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("this is no shared object", file);
    fclose(file);
    EXPECT_FAILURE(folder, NULL, STATUS_NOT_FOUND, path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(folder), 0);
    EXPECT_FAILURE(FOLDER_EMPTY, NULL, STATUS_MISMATCH, "no symbol 'kernels_column'");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_column_opens_devices_and_has_ops),
        cmocka_unit_test(it_is_loaded_once),
        cmocka_unit_test(a_failure_in_it_is_one_of_the_program),
        cmocka_unit_test(its_log_lines_are_the_program_s),
        cmocka_unit_test(its_broken_promises_end_the_program),
        cmocka_unit_test(without_a_file_the_places_are_named),
        cmocka_unit_test(without_a_driver_nothing_is_loaded),
        cmocka_unit_test(a_library_that_is_missing_is_named),
        cmocka_unit_test(a_column_of_other_sources_is_refused),
        cmocka_unit_test(what_is_no_column_is_refused),
    };
    log_start("load_test", LOG_INFO);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
