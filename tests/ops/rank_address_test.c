/* Where rank 0 is and which key the run has, by what launchers set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/rank_monitor.h"

static const int64_t ms_ns = 1000000;

static const char *const variables[] = {
    "IBOT_RANKS_AT",  "IBOT_RANK_DEADLINE",           "MASTER_ADDR",
    "MASTER_PORT",    "TORCHELASTIC_USE_AGENT_STORE", "SLURM_STEP_NODELIST",
    "SLURM_JOB_ID",   "OMPI_COMM_WORLD_SIZE",         "OMPI_COMM_WORLD_LOCAL_SIZE",
    "PMIX_NAMESPACE", "IBOT_RANK_JOIN_DEADLINE",      "IBOT_RANKS_KEY",
    "SLURM_STEP_ID",  "TORCHELASTIC_RUN_ID"};

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

static void the_key_is_the_jobs_or_the_users(void **state)
{
    struct rank_monitor_options one, same, other;
    const char *key = "00112233445566778899aabbccddeeFF00112233445566778899aabbccddeeff";

    (void)state;
    assert_int_equal(
        read_with(&one, "torchrun", "MASTER_ADDR", "a", "TORCHELASTIC_RUN_ID", "7", NULL),
        STATUS_OK);
    assert_int_equal(
        read_with(&same, "torchrun", "MASTER_ADDR", "b", "TORCHELASTIC_RUN_ID", "7", NULL),
        STATUS_OK);
    assert_memory_equal(one.key, same.key, sizeof(one.key));
    assert_int_equal(
        read_with(&other, "torchrun", "MASTER_ADDR", "a", "TORCHELASTIC_RUN_ID", "8", NULL),
        STATUS_OK);
    assert_memory_not_equal(one.key, other.key, sizeof(one.key));
    assert_int_equal(read_with(&one, "torchrun", "MASTER_ADDR", "a", "IBOT_RANKS_KEY", key,
                               "IBOT_RANK_JOIN_DEADLINE", "9", NULL),
                     STATUS_OK);
    assert_int_equal(one.join_ns, 9000 * ms_ns);
    assert_int_equal(one.key[1], 0x11);
    assert_int_equal(one.key[15], 0xff);
    assert_int_equal(
        read_with(&one, "torchrun", "MASTER_ADDR", "a", "IBOT_RANKS_KEY", key + 1, NULL),
        STATUS_INVALID);
    assert_int_equal(
        read_with(&one, "torchrun", "MASTER_ADDR", "a", "IBOT_RANK_JOIN_DEADLINE", "soon", NULL),
        STATUS_INVALID);
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
        cmocka_unit_test(rank_0_is_where_the_launcher_says),
        cmocka_unit_test(the_key_is_the_jobs_or_the_users),
        cmocka_unit_test(an_address_that_is_none_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
