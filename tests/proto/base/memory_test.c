/* Memory: zeroed, aligned, and sizes that overflow are errors. */
#include "proto/base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void memory_is_zeroed_and_aligned(void **state)
{
    (void)state;
    for (size_t n = 0; n < 300; n += 7) {
        unsigned char *bytes;
        assert_int_equal(memory_alloc(&bytes, n, 3, "test"), STATUS_OK);
        assert_int_equal((uintptr_t)bytes % MEMORY_ALIGNMENT, 0);
        for (size_t i = 0; i < 3 * n; i++)
            assert_int_equal(bytes[i], 0);
        memset(bytes, 0xff, 3 * n);
        memory_free(bytes);
    }
}

static void sizes_that_overflow_are_refused(void **state)
{
    void *pointer = &pointer;
    size_t capacity = 0;
    (void)state;

    assert_int_equal(memory_alloc(&pointer, SIZE_MAX / 2, 3, "planes"), STATUS_NO_MEMORY);
    assert_non_null(strstr(status_message(), "planes"));
    assert_int_equal(memory_alloc(&pointer, SIZE_MAX, 1, "planes"), STATUS_NO_MEMORY);
    assert_int_equal(memory_alloc(&pointer, SIZE_MAX / 64, 32, "planes"), STATUS_NO_MEMORY);
    assert_ptr_equal(pointer, &pointer);
    pointer = NULL;
    assert_int_equal(memory_grow(&pointer, &capacity, SIZE_MAX, 8, "list"), STATUS_NO_MEMORY);
    assert_int_equal(memory_grow(&pointer, &capacity, SIZE_MAX / 8, 64, "list"), STATUS_NO_MEMORY);
    assert_null(pointer);
    assert_int_equal(capacity, 0);
}

static void a_grown_array_keeps_its_content_and_is_zero_beyond(void **state)
{
    int *numbers = NULL;
    size_t capacity = 0;
    (void)state;

    for (size_t n = 0; n < 1000; n++) {
        size_t before = capacity;
        assert_int_equal(memory_grow(&numbers, &capacity, n + 1, sizeof(*numbers), "numbers"),
                         STATUS_OK);
        assert_true(capacity >= n + 1);
        for (size_t i = before; i < capacity; i++)
            assert_int_equal(numbers[i], 0);
        numbers[n] = (int)n;
    }
    for (size_t n = 0; n < 1000; n++)
        assert_int_equal(numbers[n], n);
    memory_free(numbers);
}

static void a_string_is_copied(void **state)
{
    char text[] = "abc", *copy;
    (void)state;

    assert_int_equal(memory_strdup(&copy, text), STATUS_OK);
    text[0] = 'x';
    assert_string_equal(copy, "abc");
    memory_free(copy);
    memory_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_zeroed_and_aligned),
        cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(a_grown_array_keeps_its_content_and_is_zero_beyond),
        cmocka_unit_test(a_string_is_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
