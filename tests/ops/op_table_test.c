/* Every backend has every op, each its own: of the CPU, of the device that queues, and of the
 * kernels that this program is linked with. No device is opened. */
#include <assert.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "tests/support/queued_device.h"

enum { N_SLOTS = (sizeof(struct op_table) - sizeof(const char *)) / sizeof(uintptr_t) };

static_assert(offsetof(struct op_table, patchify) == sizeof(const char *) &&
                  sizeof(struct op_table) == (N_SLOTS + 1) * sizeof(uintptr_t),
              "a name, then slots alone");

static void expect_full(const struct op_table *table)
{
    uintptr_t slots[N_SLOTS];

    assert_non_null(table->name);
    memcpy(slots, (const char *)table + sizeof(const char *), sizeof(slots));
    for (size_t i = 0; i < N_SLOTS; i++) {
        if (slots[i] == 0)
            fail_msg("backend '%s' lacks slot %zu of ops/op_table.h", table->name, i);
        for (size_t j = 0; j < i; j++)
            if (slots[i] == slots[j])
                fail_msg("backend '%s': slots %zu and %zu are the same function", table->name, j,
                         i);
    }
}

static void the_cpu_has_every_op(void **state)
{
    (void)state;
    expect_full(&op_table_cpu);
}

static void the_queued_device_has_every_op(void **state)
{
    (void)state;
    expect_full(&op_table_queued);
}

static void the_kernels_have_every_op(void **state)
{
    const struct op_table *table;

    (void)state;
    if (kernels_op_table(&table) != STATUS_OK)
        skip(); /* a build without them */
    expect_full(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpu_has_every_op),
        cmocka_unit_test(the_queued_device_has_every_op),
        cmocka_unit_test(the_kernels_have_every_op),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
