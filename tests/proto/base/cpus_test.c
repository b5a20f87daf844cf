/* Processors that a process may use. */
#include "proto/base/cpus.h"

#include <limits.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static void a_quota_is_rounded_up(void **state)
{
    (void)state;
    assert_int_equal(cpus_of_quota("max 100000\n"), INT_MAX);
    assert_int_equal(cpus_of_quota("800000 100000\n"), 8);
    assert_int_equal(cpus_of_quota("150000 100000\n"), 2);
    assert_int_equal(cpus_of_quota("5000 100000\n"), 1);
    assert_int_equal(cpus_of_quota("9223372036854775807 1\n"), INT_MAX);
    assert_int_equal(cpus_of_quota(""), INT_MAX);
    assert_int_equal(cpus_of_quota("0 100000"), INT_MAX);
    assert_int_equal(cpus_of_quota("100000 0"), INT_MAX);
    assert_int_equal(cpus_of_quota("-1 100000"), INT_MAX);
}

static void the_affinity_counts_and_not_the_machine(void **state)
{
    cpu_set_t all, one;
    size_t cpu = 0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    assert_in_range(cpus_usable(), 1, CPU_COUNT(&all));
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(cpus_usable(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
}

static void processes_of_one_machine_share_what_they_may_use(void **state)
{
    cpu_set_t all, one;
    size_t cpu = 0;
    long n_all = sysconf(_SC_NPROCESSORS_ONLN);

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
    assert_int_equal(cpus_share(0), cpus_usable());
    assert_int_equal(cpus_share(INT_MAX), 1);
    if (CPU_COUNT(&all) == n_all) {
        assert_int_equal(cpus_share(1), cpus_usable());
        assert_int_equal(cpus_share(2), cpus_usable() > 1 ? cpus_usable() / 2 : 1);
    }
    /* each bound to a processor of its own: nobody takes from it */
    while (!CPU_ISSET(cpu, &all))
        cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    assert_int_equal(cpus_share((int)n_all), 1);
    assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quota_is_rounded_up),
        cmocka_unit_test(the_affinity_counts_and_not_the_machine),
        cmocka_unit_test(processes_of_one_machine_share_what_they_may_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
