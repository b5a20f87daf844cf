/* What our tests use of cmocka, for builds where it is not found (IBOT_PARTIAL): the same names and
 * the same meaning. Where there is a cmocka, this folder is not looked into. */
#ifndef IBOT_TESTS_SUPPORT_CMOCKA_CMOCKA_H
#define IBOT_TESTS_SUPPORT_CMOCKA_CMOCKA_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*CMUnitTestFunction)(void **state);
typedef int (*CMFixtureFunction)(void **state);

struct CMUnitTest {
    const char *name;
    CMUnitTestFunction test_func;
    CMFixtureFunction setup_func, teardown_func;
    void *initial_state;
};

#define cmocka_unit_test(f)                                                                        \
    {                                                                                              \
#f, f, NULL, NULL, NULL                                                                    \
    }
#define cmocka_unit_test_setup(f, setup)                                                           \
    {                                                                                              \
#f, f, setup, NULL, NULL                                                                   \
    }
#define cmocka_unit_test_teardown(f, teardown)                                                     \
    {                                                                                              \
#f, f, NULL, teardown, NULL                                                                \
    }
#define cmocka_unit_test_setup_teardown(f, setup, teardown)                                        \
    {                                                                                              \
#f, f, setup, teardown, NULL                                                               \
    }

/* The number of tests that failed. */
#define cmocka_run_group_tests(tests, setup, teardown)                                             \
    cmocka_stand_in_run(#tests, tests, sizeof(tests) / sizeof((tests)[0]), setup, teardown)
#define cmocka_run_group_tests_name(name, tests, setup, teardown)                                  \
    cmocka_stand_in_run(name, tests, sizeof(tests) / sizeof((tests)[0]), setup, teardown)
int cmocka_stand_in_run(const char *name, const struct CMUnitTest *tests, size_t n_tests,
                        CMFixtureFunction setup, CMFixtureFunction teardown);

__attribute__((noreturn, format(printf, 3, 4))) void
cmocka_stand_in_fail(const char *file, int line, const char *format, ...);
__attribute__((noreturn)) void cmocka_stand_in_skip(void);
void cmocka_stand_in_equal(intmax_t got, intmax_t want, const char *file, int line);
void cmocka_stand_in_strings(const char *got, const char *want, int equal, const char *file,
                             int line);
void cmocka_stand_in_memory(const void *got, const void *want, size_t n_bytes, int equal,
                            const char *file, int line);
__attribute__((format(printf, 1, 2))) void print_message(const char *format, ...);

#define fail_msg(...) cmocka_stand_in_fail(__FILE__, __LINE__, __VA_ARGS__)
#define fail()        cmocka_stand_in_fail(__FILE__, __LINE__, "failed")
#define skip()        cmocka_stand_in_skip()
#define assert_true(c)                                                                             \
    ((c) ? (void)0 : cmocka_stand_in_fail(__FILE__, __LINE__, "not true: %s", #c))
#define assert_false(c)                                                                            \
    ((c) ? cmocka_stand_in_fail(__FILE__, __LINE__, "not false: %s", #c) : (void)0)
#define assert_null(p)             assert_true((p) == NULL)
#define assert_non_null(p)         assert_true((p) != NULL)
#define assert_ptr_equal(a, b)     assert_true((const void *)(a) == (const void *)(b))
#define assert_ptr_not_equal(a, b) assert_true((const void *)(a) != (const void *)(b))
#define assert_int_equal(a, b)                                                                     \
    cmocka_stand_in_equal((intmax_t)(a), (intmax_t)(b), __FILE__, __LINE__)
#define assert_int_not_equal(a, b)       assert_true((intmax_t)(a) != (intmax_t)(b))
#define assert_string_equal(a, b)        cmocka_stand_in_strings(a, b, 1, __FILE__, __LINE__)
#define assert_string_not_equal(a, b)    cmocka_stand_in_strings(a, b, 0, __FILE__, __LINE__)
#define assert_memory_equal(a, b, n)     cmocka_stand_in_memory(a, b, n, 1, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, n) cmocka_stand_in_memory(a, b, n, 0, __FILE__, __LINE__)

#ifdef __cplusplus
}
#endif

#endif
