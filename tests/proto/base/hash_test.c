/* Hashes: XXH3-64 itself (values of the xxHash library's specification), order and seed matter. */
#include "proto/base/hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void the_empty_block_has_the_published_hash(void **state)
{
    (void)state;
    assert_int_equal(hash_bytes("", 0), 0x2d06800538d394c2u);
}

static void every_bit_matters(void **state)
{
    unsigned char bytes[300] = {0};
    (void)state;

    for (size_t n = 1; n < sizeof(bytes); n += 13) {
        uint64_t before = hash_bytes(bytes, n);
        for (size_t i = 0; i < n; i++) {
            bytes[i] ^= 0x10;
            assert_int_not_equal(hash_bytes(bytes, n), before);
            bytes[i] ^= 0x10;
        }
        assert_int_not_equal(hash_bytes(bytes, n - 1), before);
        assert_int_equal(hash_bytes(bytes, n), before);
    }
}

static void a_chain_depends_on_the_order(void **state)
{
    uint64_t ab = hash_bytes_seeded("b", 1, hash_bytes_seeded("a", 1, 0));
    uint64_t ba = hash_bytes_seeded("a", 1, hash_bytes_seeded("b", 1, 0));
    (void)state;

    assert_int_not_equal(ab, ba);
    assert_int_equal(hash_bytes_seeded("a", 1, 0), hash_bytes("a", 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_empty_block_has_the_published_hash),
        cmocka_unit_test(every_bit_matters),
        cmocka_unit_test(a_chain_depends_on_the_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
