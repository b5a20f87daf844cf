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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quota_is_rounded_up),
        cmocka_unit_test(the_affinity_counts_and_not_the_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
