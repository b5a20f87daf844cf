/* The emulator finds what it is for: each case plants one mistake and runs in a process of its own,
 * which must end with the message; beside it stands the right version, which must not. Both run
 * under several seeds. The cases are in planted_*.cpp. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" { /* its header does not say so */
#include <cmocka.h>
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <string>

#include "tests/cuda_emulator/planted.h"

enum { SEEDS = 4 };

static bool with_address_sanitizer()
{
#ifdef __SANITIZE_ADDRESS__
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    return true;
#endif
#endif
    return false;
}

/* The body in a process of its own, under a seed. Returns its exit status, and what it said. */
static int run_apart(void (*body)(), int seed, std::string *said)
{
    int ends[2], status;
    char bytes[4096];

    assert_int_equal(pipe(ends), 0);
    fflush(nullptr);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        setenv("IBOT_EMULATOR_SEED", std::to_string(seed).c_str(), 1);
        body();
        _exit(0);
    }
    close(ends[1]);
    said->clear();
    for (ssize_t n; (n = read(ends[0], bytes, sizeof(bytes))) > 0;)
        said->append(bytes, (size_t)n);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void expect_case(const planted_case &c, int seed)
{
    std::string said;
    int status = run_apart(c.body, seed, &said);
    const char *wanted = with_address_sanitizer() ? c.sanitizer_message : c.message;

    if (wanted == nullptr && status != 0)
        fail_msg("%s, seed %d: ended with %d: %s", c.name, seed, status, said.c_str());
    if (wanted != nullptr && (status == 0 || said.find(wanted) == std::string::npos))
        fail_msg("%s, seed %d: ended with %d, wanted \"%s\", it said: %s", c.name, seed, status,
                 wanted, said.c_str());
}

static void each_planted_mistake_is_found(void **state)
{
    (void)state;
    for (const auto &cases : {memory_cases, thread_cases, stream_cases, product_cases,
                              attention_cases, collective_cases})
        for (const planted_case &c : cases())
            for (int seed = 1; seed <= SEEDS; seed++)
                expect_case(c, seed);
}

static void conversions_round_to_nearest_even(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        __half half = __ushort_as_half((uint16_t)bits);
        __nv_bfloat16 brain = __ushort_as_bfloat16((uint16_t)bits);
        if ((bits & 0x7fff) <= 0x7c00)
            assert_true(__float2half_rn(__half2float(half)).bits == bits);
        if ((bits & 0x7fff) <= 0x7f80)
            assert_true(__float2bfloat16_rn(__bfloat162float(brain)).bits == bits);
        if ((bits & 0x7fff) >= 0x7bff)
            continue;
        /* half way to the next one goes to the even one, a bit more or less to the nearer one */
        float low = __half2float(half), high = __half2float(__ushort_as_half((uint16_t)(bits + 1)));
        float middle = 0.5f * (low + high);
        uint32_t even = bits % 2 == 0 ? bits : bits + 1;
        assert_true(__float2half_rn(middle).bits == even);
        assert_true(__float2half_rn(nextafterf(middle, low)).bits == bits);
        assert_true(__float2half_rn(nextafterf(middle, high)).bits == bits + 1);
    }
    assert_true(__float2half_rn(65520.0f).bits == 0x7c00 &&
                __float2half_rn(65519.0f).bits == 0x7bff);
    assert_true(__float2int_rn(2.5f) == 2 && __float2int_rn(-3e9f) == INT32_MIN);
}

int main()
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_planted_mistake_is_found),
        cmocka_unit_test(conversions_round_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
