/* What the environment says about ranks, and one rank alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/collective.h"

static const char *const names[] = {
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    "SLURM_NTASKS_PER_NODE",
    "SLURM_STEP_ID",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
};

static int empty_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        unsetenv(names[i]);
    return 0;
}

static void set_three(const char *const variables[3], const char *rank, const char *world,
                      const char *local)
{
    setenv(variables[0], rank, 1);
    setenv(variables[1], world, 1);
    setenv(variables[2], local, 1);
}

static void expect(int rank, int world, int local_rank, const char *source)
{
    struct collective_environment got;

    assert_int_equal(collective_environment_read(&got), STATUS_OK);
    assert_int_equal(got.rank, rank);
    assert_int_equal(got.world, world);
    assert_int_equal(got.local_rank, local_rank);
    assert_string_equal(got.source, source);
}

static void expect_refusal(const char *text)
{
    struct collective_environment got;

    assert_int_equal(collective_environment_read(&got), STATUS_INVALID);
    if (strstr(status_message(), text) == NULL)
        fail_msg("'%s' does not name '%s'", status_message(), text);
}

static const char *const torchrun[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK"};
static const char *const slurm[] = {"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"};
static const char *const open_mpi[] = {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                       "OMPI_COMM_WORLD_LOCAL_RANK"};

static void nothing_means_alone(void **state)
{
    (void)state;
    expect(0, 1, 0, "alone");
    setenv("RANK", "", 1); /* empty counts as not set */
    expect(0, 1, 0, "alone");
}

static void each_launcher_is_known(void **state)
{
    (void)state;
    set_three(torchrun, "5", "8", "1");
    expect(5, 8, 1, "torchrun");
    unsetenv("LOCAL_RANK");
    expect(5, 8, 0, "torchrun");
    set_three(open_mpi, "1", "2", "1"); /* the nearest one wins */
    expect(1, 2, 1, "Open MPI");
}

static void expect_local_world(int local_world)
{
    struct collective_environment got;

    assert_int_equal(collective_environment_read(&got), STATUS_OK);
    assert_int_equal(got.local_world, local_world);
}

static void ranks_on_this_machine_are_told_by_the_launcher_that_is_followed(void **state)
{
    (void)state;
    expect_local_world(1); /* alone */
    setenv("LOCAL_WORLD_SIZE", "4", 1);
    expect_local_world(1); /* not started by torchrun */
    set_three(torchrun, "5", "8", "1");
    expect_local_world(4);
    set_three(open_mpi, "5", "8", "1");
    expect_local_world(1); /* it doesn't say */
    setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "8", 1);
    expect_local_world(8);
    empty_environment(state);
    set_three(slurm, "5", "8", "1");
    setenv("SLURM_STEP_ID", "0", 1);
    setenv("SLURM_NTASKS_PER_NODE", "2", 1);
    expect_local_world(2);
    setenv("SLURM_NTASKS_PER_NODE", "0", 1);
    expect_local_world(1);
    setenv("SLURM_NTASKS_PER_NODE", "many", 1);
    expect_refusal("SLURM_NTASKS_PER_NODE: got 'many'");
}

static void only_srun_starts_ranks(void **state)
{
    (void)state;
    set_three(slurm, "3", "4", "0");
    expect(0, 1, 0, "alone"); /* a batch script */
    setenv("SLURM_STEP_ID", "0", 1);
    expect(3, 4, 0, "Slurm");
}

static void what_cannot_be_is_refused_by_name(void **state)
{
    (void)state;
    set_three(torchrun, "two", "4", "0");
    expect_refusal("RANK: got 'two'");
    set_three(torchrun, "-1", "4", "0");
    expect_refusal("RANK: got '-1'");
    set_three(torchrun, "1", "99999999999999999999", "0");
    expect_refusal("WORLD_SIZE: got '99999999999999999999'");
    set_three(torchrun, "4", "4", "0");
    expect_refusal("RANK=4 is not below WORLD_SIZE=4");
    set_three(torchrun, "0", "0", "0");
    expect_refusal("WORLD_SIZE=0");
    unsetenv("WORLD_SIZE");
    expect_refusal("WORLD_SIZE is not");
    empty_environment(state);
    setenv("WORLD_SIZE", "2", 1);
    expect_refusal("RANK is not");
}

static void a_rank_alone_keeps_what_it_has(void **state)
{
    struct collective alone;
    struct device device;
    float values[3] = {1.0f, -2.0f, 3.5f};
    struct tensor tensor = tensor_1d(values, DTYPE_F32, 3);
    char from[4] = "abc", to[4] = "";

    (void)state;
    assert_int_equal(device_open_cpu(&device, 1), STATUS_OK);
    collective_open_alone(&alone);
    assert_int_equal(alone.rank, 0);
    assert_int_equal(alone.world, 1);
    assert_int_equal(alone.all_reduce(&alone, &device, &tensor), STATUS_OK);
    assert_int_equal(alone.broadcast(&alone, &device, values, sizeof(values)), STATUS_OK);
    assert_true(values[0] == 1.0f && values[1] == -2.0f && values[2] == 3.5f);
    assert_int_equal(alone.all_gather(&alone, to, from, sizeof(from)), STATUS_OK);
    assert_string_equal(to, "abc");
    assert_int_equal(alone.all_gather(&alone, NULL, NULL, 0), STATUS_OK);
    collective_close(&alone);
    collective_close(&alone); /* twice, and NULL, are fine */
    collective_close(NULL);
    device_close(&device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(nothing_means_alone, empty_environment),
        cmocka_unit_test_setup(each_launcher_is_known, empty_environment),
        cmocka_unit_test_setup(ranks_on_this_machine_are_told_by_the_launcher_that_is_followed,
                               empty_environment),
        cmocka_unit_test_setup(only_srun_starts_ranks, empty_environment),
        cmocka_unit_test_setup(what_cannot_be_is_refused_by_name, empty_environment),
        cmocka_unit_test_setup(a_rank_alone_keeps_what_it_has, empty_environment),
    };
    return cmocka_run_group_tests_name("ops.collective", tests, NULL, NULL);
}
