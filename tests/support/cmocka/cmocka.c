/* The stand-in for cmocka: a failed or skipped test jumps back to the loop that runs them all. */
#include "tests/support/cmocka/cmocka.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum outcome { RUNS, FAILED, SKIPPED };

static jmp_buf back;
static int in_test;

void print_message(const char *format, ...)
{
    va_list list;

    va_start(list, format);
    vprintf(format, list);
    va_end(list);
    fflush(stdout);
}

void cmocka_stand_in_fail(const char *file, int line, const char *format, ...)
{
    va_list list;

    fprintf(stderr, "%s:%d: error: ", file, line);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    if (!in_test)
        exit(1);
    longjmp(back, FAILED);
}

void cmocka_stand_in_skip(void)
{
    if (!in_test)
        exit(1);
    longjmp(back, SKIPPED);
}

void cmocka_stand_in_equal(intmax_t got, intmax_t want, const char *file, int line)
{
    if (got != want)
        cmocka_stand_in_fail(file, line, "%jd != %jd", got, want);
}

void cmocka_stand_in_strings(const char *got, const char *want, int equal, const char *file,
                             int line)
{
    if ((strcmp(got, want) == 0) != (equal != 0))
        cmocka_stand_in_fail(file, line, "\"%s\" %s \"%s\"", got, equal ? "!=" : "==", want);
}

void cmocka_stand_in_memory(const void *got, const void *want, size_t n_bytes, int equal,
                            const char *file, int line)
{
    const unsigned char *a = got, *b = want;
    size_t at = 0;

    while (at < n_bytes && a[at] == b[at])
        at++;
    if (equal && at < n_bytes)
        cmocka_stand_in_fail(file, line, "byte %zu of %zu: 0x%02x != 0x%02x", at, n_bytes, a[at],
                             b[at]);
    if (!equal && at == n_bytes)
        cmocka_stand_in_fail(file, line, "all %zu bytes are equal", n_bytes);
}

static enum outcome run_one(const struct CMUnitTest *test, void *group_state)
{
    void *state = test->initial_state != NULL ? test->initial_state : group_state;
    volatile enum outcome outcome = RUNS;

    if (test->setup_func != NULL && test->setup_func(&state) != 0)
        return FAILED;
    in_test = 1;
    switch (setjmp(back)) {
    case RUNS:
        test->test_func(&state);
        break;
    case SKIPPED:
        outcome = SKIPPED;
        break;
    default:
        outcome = FAILED;
    }
    in_test = 0;
    if (test->teardown_func != NULL && test->teardown_func(&state) != 0)
        return FAILED;
    return outcome;
}

int cmocka_stand_in_run(const char *name, const struct CMUnitTest *tests, size_t n_tests,
                        CMFixtureFunction setup, CMFixtureFunction teardown)
{
    static const char *const words[] = {"      OK", "  FAILED", " SKIPPED"};
    void *state = NULL;
    int count[3] = {0};

    print_message("[==========] %s: Running %zu test(s).\n", name, n_tests);
    if (setup != NULL && setup(&state) != 0) {
        print_message("[  FAILED  ] %s: group setup\n", name);
        return (int)n_tests;
    }
    for (size_t i = 0; i < n_tests; i++) {
        print_message("[ RUN      ] %s\n", tests[i].name);
        enum outcome outcome = run_one(&tests[i], state);
        count[outcome]++;
        print_message("[ %s ] %s\n", words[outcome], tests[i].name);
    }
    if (teardown != NULL && teardown(&state) != 0)
        count[FAILED]++;
    print_message("[==========] %s: %d passed, %d failed, %d skipped.\n", name, count[RUNS],
                  count[FAILED], count[SKIPPED]);
    return count[FAILED];
}
