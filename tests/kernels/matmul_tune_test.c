/* Algorithms of matrix products, measured and kept, on the emulated device: its cuBLASLt offers
 * several that sum in other orders, and takes whatever time it takes. And the file they are kept
 * in: several writers, and everything that may be wrong with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/cuda_device.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "kernels/matmul_plan.h"
#include "proto/base/memory.h"

enum { M = 24, N = 40, K = 56, MOST = 64 * 64 };

static char folder[64], path[96];

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof(folder), "/tmp/ibot_matmul_test_XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/products", folder);
    return 0;
}

static int remove_folder(void **state)
{
    char lock[128];

    (void)state;
    snprintf(lock, sizeof(lock), "%s.lock", path);
    (void)unlink(lock);
    (void)unlink(path);
    return rmdir(folder); /* fails when something else was left there */
}

/* ------------------------------------------------------------------------------ a device */

struct scene {
    struct device device;
    float *a, *b, *d, *bias;
    float result[MOST];
};

static void scene_open(struct scene *s, enum device_tuning_mode mode, const char *cache)
{
    static float values[MOST];
    struct device_tuning tuning = {mode, cache};
    float **to[] = {&s->a, &s->b, &s->d, &s->bias};

    memset(s, 0, sizeof(*s));
    assert_int_equal(kernels_device_open(&s->device, 0), STATUS_OK);
    assert_int_equal(s->device.tune(&s->device, &tuning), STATUS_OK);
    for (int i = 0; i < MOST; i++)
        values[i] = (float)((i * 7919) % 2003) / 1001.0f - 1.0f;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(s->device.alloc(&s->device, (void **)to[i], sizeof(values), "matrix"),
                         STATUS_OK);
        assert_int_equal(s->device.copy_in(&s->device, *to[i], values, sizeof(values)), STATUS_OK);
    }
}

static void scene_close(struct scene *s)
{
    float *of[] = {s->a, s->b, s->d, s->bias};

    for (int i = 0; i < 4; i++)
        s->device.free(&s->device, of[i]);
    device_close(&s->device);
}

/* [m, n] += a [m, k] b [k, n], or without what is there. */
static struct matmul product_of(const struct scene *s, int64_t m, float beta)
{
    return (struct matmul){.m = m,
                           .n = N,
                           .k = K,
                           .operand = DTYPE_F32,
                           .result = DTYPE_F32,
                           .a = s->a,
                           .b = s->b,
                           .d = s->d,
                           .lda = m,
                           .ldb = K,
                           .ldd = m,
                           .beta = beta};
}

static void run(struct scene *s, const struct matmul *m)
{
    if (matmul_run(&s->device, m) != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(s->device.copy_out(&s->device, s->result, s->d, sizeof(s->result)), STATUS_OK);
    assert_int_equal(s->device.synchronize(&s->device), STATUS_OK);
}

static size_t n_kept(void)
{
    struct matmul_choices choices = {0};
    size_t n;

    assert_int_equal(matmul_cache_read(&choices, path), STATUS_OK);
    n = choices.n;
    matmul_choices_release(&choices);
    return n;
}

/* The result of a product with fresh matrices, by a device of its own. */
static void result_of(float *out, int64_t m, float beta, enum device_tuning_mode mode,
                      const char *cache)
{
    static struct scene s;

    scene_open(&s, mode, cache);
    struct matmul product = product_of(&s, m, beta);
    run(&s, &product);
    memcpy(out, s.result, sizeof(s.result));
    scene_close(&s);
}

/* ------------------------------------------------------------------------------ measuring */

static void expect_near(const float *got, const float *wanted)
{
    for (int i = 0; i < MOST; i++)
        if (!(got[i] - wanted[i] < 1e-4f && wanted[i] - got[i] < 1e-4f))
            fail_msg("%d: %g, wanted %g", i, (double)got[i], (double)wanted[i]);
}

static void a_product_that_is_measured_is_what_it_is(void **state)
{
    static float plain[MOST], measured[MOST];

    (void)state;
    for (int beta = 0; beta < 2; beta++) { /* nothing is added to D while it is measured */
        result_of(plain, M, (float)beta, DEVICE_TUNING_OFF, NULL);
        result_of(measured, M, (float)beta, DEVICE_TUNING_ON, NULL);
        expect_near(measured, plain);
    }
    assert_int_equal(access(path, F_OK), -1);
}

static void each_kind_of_product_is_measured_once(void **state)
{
    static struct scene s;

    (void)state;
    scene_open(&s, DEVICE_TUNING_ON, path);
    struct matmul product = product_of(&s, M, 0.0f), other = product_of(&s, M / 2, 0.0f);
    assert_int_equal(n_kept(), 0);
    run(&s, &product);
    assert_int_equal(n_kept(), 1);
    run(&s, &product);
    assert_int_equal(n_kept(), 1);
    run(&s, &other);
    assert_int_equal(n_kept(), 2);
    product.beta = 1.0f;
    run(&s, &product);
    product.a = s.a + 1; /* another alignment */
    run(&s, &product);
    assert_int_equal(n_kept(), 4);
    scene_close(&s);
}

static void every_epilogue_is_measured(void **state)
{
    static struct scene s;
    float *aux;

    (void)state;
    scene_open(&s, DEVICE_TUNING_ON, path);
    assert_int_equal(s.device.alloc(&s.device, (void **)&aux, MOST * sizeof(*aux), "aux"),
                     STATUS_OK);
    assert_int_equal(s.device.copy_in(&s.device, aux, s.result, sizeof(s.result)), STATUS_OK);
    for (int epilogue = MATMUL_PLAIN; epilogue <= MATMUL_DGELU; epilogue++) {
        struct matmul product = product_of(&s, M, 0.0f);
        bool supported = false;
        product.epilogue = (enum matmul_epilogue)epilogue;
        if (epilogue != MATMUL_PLAIN && epilogue != MATMUL_DGELU)
            product.bias = s.bias;
        if (epilogue == MATMUL_GELU_AUX_BIAS || epilogue == MATMUL_DGELU) {
            product.aux = aux;
            product.ld_aux = M;
        }
        assert_int_equal(matmul_supported(&s.device, &product, &supported), STATUS_OK);
        assert_true(supported);
        run(&s, &product);
    }
    assert_int_equal(n_kept(), MATMUL_DGELU + 1);
    s.device.free(&s.device, aux);
    scene_close(&s);
}

static void all_candidates_sum_in_a_certain_order(void **state)
{
    static struct scene s;
    struct matmul_candidate found[MATMUL_MOST_CANDIDATES];
    struct matmul_plan plan = {0};
    int n = 0, n_parts = 0;

    (void)state;
    scene_open(&s, DEVICE_TUNING_ON, path);
    struct matmul product = product_of(&s, M, 0.0f);
    assert_int_equal(matmul_describe(&plan, &product), STATUS_OK);
    assert_int_equal(
        matmul_candidates(cuda_device_of(&s.device), &plan, found, MATMUL_MOST_CANDIDATES, &n),
        STATUS_OK);
    assert_true(n >= 3);
    for (int i = 0; i < n; i++) {
        uint32_t scheme = 0, parts = 0;
        assert_int_equal(cublasLtMatmulAlgoConfigGetAttribute(&found[i].algorithm,
                                                              CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                              &scheme, sizeof(scheme), NULL),
                         CUBLAS_STATUS_SUCCESS);
        assert_int_equal(cublasLtMatmulAlgoConfigGetAttribute(&found[i].algorithm,
                                                              CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                                                              &parts, sizeof(parts), NULL),
                         CUBLAS_STATUS_SUCCESS);
        assert_int_equal(scheme & CUBLASLT_REDUCTION_SCHEME_INPLACE, 0);
        n_parts += parts > 1;
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(&found[i].algorithm, &found[j].algorithm,
                                    sizeof(found[i].algorithm));
    }
    assert_true(n_parts > 0);
    matmul_plan_release(&plan);
    scene_close(&s);
}

static void nothing_is_measured_in_a_capture(void **state)
{
    static struct scene s;
    struct device_graph *graph = NULL;

    (void)state;
    scene_open(&s, DEVICE_TUNING_ON, path);
    struct matmul product = product_of(&s, M, 0.0f);
    assert_int_equal(s.device.capture_begin(&s.device), STATUS_OK);
    assert_int_equal(matmul_run(&s.device, &product), STATUS_OK);
    assert_int_equal(s.device.capture_end(&s.device, &graph), STATUS_OK);
    assert_int_equal(n_kept(), 0);
    assert_int_equal(s.device.graph_launch(&s.device, graph), STATUS_OK);
    s.device.graph_release(&s.device, &graph);
    run(&s, &product); /* outside of it, it is */
    assert_int_equal(n_kept(), 1);
    scene_close(&s);
}

/* ------------------------------------------------------------------------------ keeping */

/* A file in which the choice for one product is the i-th candidate. */
static void keep_candidate(int i)
{
    static struct scene s;
    struct matmul_candidate found[MATMUL_MOST_CANDIDATES];
    struct matmul_choices choices = {0};
    struct matmul_plan plan = {0};
    char *text;
    size_t n_text;
    int n = 0;

    scene_open(&s, DEVICE_TUNING_ON, path);
    struct matmul product = product_of(&s, M, 1.0f);
    run(&s, &product);
    assert_int_equal(matmul_describe(&plan, &product), STATUS_OK);
    assert_int_equal(
        matmul_candidates(cuda_device_of(&s.device), &plan, found, MATMUL_MOST_CANDIDATES, &n),
        STATUS_OK);
    assert_true(i < n);
    assert_int_equal(matmul_cache_read(&choices, path), STATUS_OK);
    assert_int_equal(choices.n, 1);
    memcpy(choices.choices[0].algorithm, &found[i].algorithm, sizeof(found[i].algorithm));
    assert_int_equal(matmul_choices_format(&choices, &text, &n_text), STATUS_OK);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n_text, file), n_text);
    fclose(file);
    memory_free(text);
    matmul_choices_release(&choices);
    matmul_plan_release(&plan);
    scene_close(&s);
}

static void what_is_kept_decides_on_the_bits(void **state)
{
    static float first[MOST], second[MOST], again[MOST];

    (void)state;
    keep_candidate(0);
    result_of(first, M, 1.0f, DEVICE_TUNING_KEPT, path);
    keep_candidate(1); /* its sum is made in two parts */
    result_of(second, M, 1.0f, DEVICE_TUNING_KEPT, path);
    assert_memory_not_equal(first, second, sizeof(first));
    expect_near(second, first);
    for (int i = 0; i < 3; i++) {
        result_of(again, M, 1.0f, i < 2 ? DEVICE_TUNING_ON : DEVICE_TUNING_KEPT, path);
        assert_memory_equal(again, second, sizeof(second));
    }
    result_of(again, M, 1.0f, DEVICE_TUNING_OFF, path);
    assert_memory_equal(again, first, sizeof(first));
}

static void kept_alone_measures_nothing(void **state)
{
    static float plain[MOST], kept[MOST];

    (void)state;
    result_of(plain, M, 0.0f, DEVICE_TUNING_OFF, NULL);
    result_of(kept, M, 0.0f, DEVICE_TUNING_KEPT, path);
    assert_memory_equal(kept, plain, sizeof(plain));
    assert_int_equal(access(path, F_OK), -1);
}

static void an_algorithm_that_the_library_refuses_is_replaced(void **state)
{
    struct matmul_choices choices = {0};
    static float plain[MOST], got[MOST];
    char *text;
    size_t n_text;

    (void)state;
    keep_candidate(1);
    assert_int_equal(matmul_cache_read(&choices, path), STATUS_OK);
    for (int byte = 0; byte < MATMUL_ALGORITHM_BYTES; byte += 9) {
        choices.choices[0].algorithm[byte] ^= 0x40; /* the line's check sum is right */
        assert_int_equal(matmul_choices_format(&choices, &text, &n_text), STATUS_OK);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        assert_int_equal(fwrite(text, 1, n_text, file), n_text);
        fclose(file);
        memory_free(text);
        result_of(plain, M, 1.0f, DEVICE_TUNING_OFF, NULL);
        result_of(got, M, 1.0f, DEVICE_TUNING_KEPT, path);
        assert_memory_equal(got, plain, sizeof(got));
    }
    result_of(got, M, 1.0f, DEVICE_TUNING_ON, path);
    expect_near(got, plain);
    struct matmul_choice wrong = choices.choices[0];
    assert_int_equal(matmul_cache_read(&choices, path), STATUS_OK);
    assert_int_equal(choices.n, 1);
    assert_memory_not_equal(choices.choices[0].algorithm, wrong.algorithm, sizeof(wrong.algorithm));
    matmul_choices_release(&choices);
}

/* ------------------------------------------------------------------------------ the file */

static struct matmul_choice choice_of(int number)
{
    struct matmul_choice choice = {
        .workspace_bytes = (uint64_t)number, .time_ns = 1000, .first_ns = 1100, .n_candidates = 3};

    snprintf(choice.device, sizeof(choice.device), "chip, library 1");
    snprintf(choice.product, sizeof(choice.product), "product %d", number);
    memset(choice.algorithm, number, sizeof(choice.algorithm));
    return choice;
}

static void a_file_says_what_was_kept(void **state)
{
    struct matmul_choices choices = {0};

    (void)state;
    for (int i = 0; i < 5; i++) {
        struct matmul_choice choice = choice_of(i);
        assert_int_equal(matmul_cache_keep(path, &choice, NULL), STATUS_OK);
    }
    assert_int_equal(matmul_cache_read(&choices, path), STATUS_OK);
    assert_int_equal(choices.n, 5);
    for (int i = 0; i < 5; i++) {
        struct matmul_choice choice = choice_of(i);
        const struct matmul_choice *found =
            matmul_choices_find(&choices, choice.device, choice.product);
        assert_non_null(found);
        assert_memory_equal(found, &choice, sizeof(choice));
        assert_null(matmul_choices_find(&choices, "chip, library 2", choice.product));
    }
    matmul_choices_release(&choices);
}

static void who_comes_later_takes_the_choice_over(void **state)
{
    struct matmul_choice first = choice_of(7), later = choice_of(7), wrong = choice_of(7);

    (void)state;
    assert_int_equal(matmul_cache_keep(path, &first, NULL), STATUS_OK);
    memset(later.algorithm, 99, sizeof(later.algorithm));
    assert_int_equal(matmul_cache_keep(path, &later, NULL), STATUS_OK);
    assert_memory_equal(&later, &first, sizeof(first));
    memset(later.algorithm, 99, sizeof(later.algorithm)); /* unless it was of no use */
    assert_int_equal(matmul_cache_keep(path, &later, &wrong), STATUS_OK);
    assert_int_equal(later.algorithm[0], 99);
    assert_int_equal(matmul_cache_keep(path, &first, &wrong), STATUS_OK);
    assert_int_equal(first.algorithm[0], 99);
    assert_int_equal(n_kept(), 1);
}

static void several_processes_write_at_once(void **state)
{
    enum { PROCESSES = 4, EACH = 12 };
    pid_t children[PROCESSES];

    (void)state;
    for (int p = 0; p < PROCESSES; p++) {
        children[p] = fork();
        assert_true(children[p] >= 0);
        if (children[p] != 0)
            continue;
        int failed = 0;
        for (int i = 0; i < EACH; i++) { /* half of them common to all */
            struct matmul_choice choice = choice_of(i % 2 == 0 ? i : 100 * (p + 1) + i);
            failed |= matmul_cache_keep(path, &choice, NULL) != STATUS_OK;
        }
        _exit(failed);
    }
    for (int p = 0; p < PROCESSES; p++) {
        int status = 1;
        assert_int_equal(waitpid(children[p], &status, 0), children[p]);
        assert_int_equal(status, 0);
    }
    assert_int_equal(n_kept(), EACH / 2 + PROCESSES * EACH / 2);
}

static void expect_refused(const char *bytes, size_t n, enum status wanted, const char *text)
{
    struct matmul_choices choices = {0};
    struct matmul_choice choice = choice_of(1);
    FILE *file = fopen(path, "w");
    static struct scene s;
    static char after[1 << 16];

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
    assert_int_equal(matmul_cache_read(&choices, path), wanted);
    if (strstr(status_message(), text) == NULL || strstr(status_message(), path) == NULL)
        fail_msg("'%s' or the path is not in: %s", text, status_message());
    assert_null(choices.choices);
    assert_int_equal(matmul_cache_keep(path, &choice, NULL), wanted);
    scene_open(&s, DEVICE_TUNING_ON, path); /* goes on without it */
    struct matmul product = product_of(&s, M, 0.0f);
    run(&s, &product);
    scene_close(&s);
    file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fread(after, 1, sizeof(after), file), n);
    fclose(file);
    assert_memory_equal(after, bytes, n);
}

static void a_file_that_is_wrong_is_left_alone(void **state)
{
    struct matmul_choices choices = {0};
    static char text[1 << 14], changed[1 << 14];

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct matmul_choice choice = choice_of(i);
        assert_int_equal(matmul_cache_keep(path, &choice, NULL), STATUS_OK);
    }
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof(text), file), first = strlen("ibot matrix products 1\n");
    fclose(file);
    assert_memory_equal(text, "ibot matrix products 1\n", first);

    expect_refused("", 0, STATUS_CORRUPT, "empty");
    expect_refused("a letter\n", 9, STATUS_CORRUPT, "does not begin");
    expect_refused("ibot matrix products 2\nx", 24, STATUS_UNSUPPORTED, "another version");
    expect_refused(text, n - 1, STATUS_CORRUPT, "line 4 has no end");
    memcpy(changed, text, n);
    memcpy(changed + n, text + first, n - first);
    expect_refused(changed, 2 * n - first, STATUS_CORRUPT, "twice");
    memcpy(changed, text, n);
    memset(changed + n, '\n', 1);
    expect_refused(changed, n + 1, STATUS_CORRUPT, "less than eight");
    for (size_t at = first; at < n; at++) { /* whatever byte, it is noticed */
        memcpy(changed, text, n);
        changed[at] = (char)(changed[at] ^ 1);
        assert_int_equal(matmul_choices_parse(&choices, changed, n), STATUS_CORRUPT);
    }
}

static void a_file_that_can_t_be_written_costs_nothing_but_a_warning(void **state)
{
    static float plain[MOST], got[MOST];
    char nowhere[160];

    (void)state;
    snprintf(nowhere, sizeof(nowhere), "%s/no/such/folder", folder);
    result_of(plain, M, 0.0f, DEVICE_TUNING_OFF, NULL);
    result_of(got, M, 0.0f, DEVICE_TUNING_ON, nowhere);
    expect_near(got, plain);
    result_of(got, M, 0.0f, DEVICE_TUNING_ON, folder); /* which is none */
    expect_near(got, plain);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_product_that_is_measured_is_what_it_is),
        TEST(each_kind_of_product_is_measured_once),
        TEST(every_epilogue_is_measured),
        TEST(all_candidates_sum_in_a_certain_order),
        TEST(nothing_is_measured_in_a_capture),
        TEST(what_is_kept_decides_on_the_bits),
        TEST(kept_alone_measures_nothing),
        TEST(an_algorithm_that_the_library_refuses_is_replaced),
        TEST(a_file_says_what_was_kept),
        TEST(who_comes_later_takes_the_choice_over),
        TEST(several_processes_write_at_once),
        TEST(a_file_that_is_wrong_is_left_alone),
        TEST(a_file_that_can_t_be_written_costs_nothing_but_a_warning),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
