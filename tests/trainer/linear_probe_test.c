/* Linear probing against torch.optim.SGD's and LARS' formulas in double, one classifier at a time;
 * what is written and read again goes on as if nothing had been. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "trainer/eval/linear_probe.h"
#include "trainer/weights/safetensors.h"

enum { DIM = 12, CLASSES = 7, BATCH = 16, STEPS = 12, N = 40 };
enum { EACH = CLASSES * DIM, PARAMETERS = EACH + CLASSES };

static const struct linear_classifier classifiers[] = {
    {OPTIMIZER_SGD, 0.1, 0.0},   {OPTIMIZER_SGD, 2.0, 0.0},  {OPTIMIZER_SGD, 0.5, 1e-2},
    {OPTIMIZER_LARS, 0.3, 1e-2}, {OPTIMIZER_LARS, 3.0, 0.0},
};
enum { C = sizeof(classifiers) / sizeof(classifiers[0]) };

static struct device device;
static float features[N * DIM];
static int32_t labels[N];

static int open_device(void **state)
{
    struct rng rng = rng_open((struct rng_key){.seed = 3, .purpose = RNG_TEST});

    (void)state;
    for (int i = 0; i < N; i++) {
        labels[i] = (int32_t)rng_below(&rng, CLASSES);
        for (int d = 0; d < DIM; d++)
            features[i * DIM + d] = (float)(rng_normal(&rng) + 2.0 * (d == labels[i]));
    }
    return device_open_cpu(&device, 2) == STATUS_OK ? 0 : -1;
}

static int close_device(void **state)
{
    (void)state;
    device_close(&device);
    return 0;
}

static struct linear_probe *open_probe(void)
{
    struct linear_probe_options options = {
        .dim = DIM,
        .n_classes = CLASSES,
        .batch_size = BATCH,
        .seed = 5,
        .classifiers = classifiers,
        .n_classifiers = C,
    };
    struct linear_probe *probe;

    assert_int_equal(linear_probe_open(&probe, &device, &op_table_cpu, &options), STATUS_OK);
    return probe;
}

/* Weight, then bias, of one classifier as the probe has it now. */
static void read_classifier(struct linear_probe *probe, int c, double *out)
{
    char path[] = "/tmp/linear_probe_XXXXXX";
    struct safetensors file;

    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    assert_int_equal(linear_probe_write_one(probe, c, path, NULL, 0), STATUS_OK);
    assert_int_equal(safetensors_open(&file, path), STATUS_OK);
    const float *weight = safetensors_find(&file, "linear.weight")->tensor.data;
    const float *bias = safetensors_find(&file, "linear.bias")->tensor.data;
    for (int i = 0; i < EACH; i++)
        out[i] = (double)weight[i];
    for (int i = 0; i < CLASSES; i++)
        out[EACH + i] = (double)bias[i];
    safetensors_release(&file);
    unlink(path);
}

/* ---- the reference ---- */

struct plain {
    double parameter[PARAMETERS], momentum[PARAMETERS];
};

/* Loss of a row; its probabilities. */
static double plain_row(const double *parameter, const float *x, int32_t label, double *p)
{
    double sum = 0.0, logits[CLASSES];

    for (int k = 0; k < CLASSES; k++) {
        logits[k] = parameter[EACH + k];
        for (int d = 0; d < DIM; d++)
            logits[k] += parameter[k * DIM + d] * (double)x[d];
    }
    for (int k = 0; k < CLASSES; k++)
        sum += exp(logits[k]);
    for (int k = 0; k < CLASSES; k++)
        p[k] = exp(logits[k]) / sum;
    return log(sum) - logits[label];
}

static double norm(const double *values, int n)
{
    double sum = 0.0;

    for (int i = 0; i < n; i++)
        sum += values[i] * values[i];
    return sqrt(sum);
}

/* buf = 0.9 buf + g; p -= lr buf. LARS scales the matrix's g first. */
static void plain_update(struct plain *plain, double *g, const struct linear_classifier *c,
                         double lr)
{
    bool lars = c->optimizer == OPTIMIZER_LARS;
    double factor = 1.0;

    for (int i = 0; i < PARAMETERS; i++)
        if (!lars || i < EACH)
            g[i] += c->weight_decay * plain->parameter[i];
    if (lars) {
        double of_weight = norm(plain->parameter, EACH), of_gradient = norm(g, EACH);
        factor = of_weight > 0.0 && of_gradient > 0.0 ? 0.001 * of_weight / of_gradient : 1.0;
    }
    for (int i = 0; i < PARAMETERS; i++) {
        plain->momentum[i] = 0.9 * plain->momentum[i] + g[i] * (i < EACH ? factor : 1.0);
        plain->parameter[i] -= lr * plain->momentum[i];
    }
}

static double plain_step(struct plain *plain, const struct linear_classifier *c, double rate,
                         const float *x, const int32_t *label, int n)
{
    double g[PARAMETERS] = {0}, p[CLASSES], loss = 0.0;

    for (int i = 0; i < n; i++) {
        loss += plain_row(plain->parameter, x + i * DIM, label[i], p);
        p[label[i]] -= 1.0;
        for (int k = 0; k < CLASSES; k++) {
            for (int d = 0; d < DIM; d++)
                g[k * DIM + d] += p[k] * (double)x[i * DIM + d] / n;
            g[EACH + k] += p[k] / n;
        }
    }
    plain_update(plain, g, c, rate * c->lr);
    return loss;
}

/* ---- tests ---- */

/* Batches go round the data; their length changes, as at the end of an epoch. */
static int batch_of(int step, int *first)
{
    *first = step % 3 * BATCH;
    return *first + BATCH <= N ? BATCH : N - *first;
}

static double rate_of(int step)
{
    return step < STEPS / 2 ? 1.0 : 0.25;
}

static void run_steps(struct linear_probe *probe, int from, int to, struct linear_score *scores)
{
    for (int s = from; s < to; s++) {
        int first, n = batch_of(s, &first);
        assert_int_equal(linear_probe_set_rate(probe, rate_of(s)), STATUS_OK);
        assert_int_equal(
            linear_probe_step(probe, features + first * DIM, labels + first, n, scores), STATUS_OK);
    }
}

static void steps_are_those_of_the_formulas(void **state)
{
    struct linear_probe *probe = open_probe();
    struct linear_score scores[C] = {{0}};
    static struct plain plain[C];
    double losses[C] = {0};

    (void)state;
    for (int c = 0; c < C; c++) {
        read_classifier(probe, c, plain[c].parameter);
        double size = norm(plain[c].parameter, EACH) / sqrt(EACH);
        assert_true(size > 0.007 && size < 0.013); /* N(0, 0.01^2) */
        assert_true(norm(plain[c].parameter + EACH, CLASSES) == 0.0);
        assert_true(c == 0 || plain[c].parameter[0] != plain[0].parameter[0]);
    }
    run_steps(probe, 0, STEPS, scores);
    for (int c = 0; c < C; c++) {
        double got[PARAMETERS];
        int rows = 0;
        for (int s = 0; s < STEPS; s++) {
            int first, n = batch_of(s, &first);
            losses[c] += plain_step(&plain[c], &classifiers[c], rate_of(s), features + first * DIM,
                                    labels + first, n);
            rows += n;
        }
        assert_int_equal(scores[c].n, rows);
        assert_true(fabs(scores[c].loss - losses[c]) < 1e-5 * losses[c]);
        read_classifier(probe, c, got);
        double most = norm(plain[c].parameter, PARAMETERS);
        for (int i = 0; i < PARAMETERS; i++)
            assert_true(fabs(got[i] - plain[c].parameter[i]) < 1e-5 * most);
    }
    linear_probe_close(&probe);
}

static void scores_count_the_likeliest_classes(void **state)
{
    struct linear_probe *probe = open_probe();
    struct linear_score scores[C] = {{0}}, steps[C] = {{0}};

    (void)state;
    run_steps(probe, 0, STEPS, steps);
    assert_int_equal(linear_probe_score(probe, features, labels, N, scores), STATUS_OK);
    for (int c = 0; c < C; c++) {
        double parameter[PARAMETERS], p[CLASSES], loss = 0.0;
        int top1 = 0, top5 = 0;
        read_classifier(probe, c, parameter);
        for (int i = 0; i < N; i++) {
            int before = 0;
            loss += plain_row(parameter, features + i * DIM, labels[i], p);
            for (int k = 0; k < CLASSES; k++)
                before += p[k] > p[labels[i]];
            top1 += before < 1;
            top5 += before < 5;
        }
        assert_int_equal(scores[c].n, N);
        assert_int_equal(scores[c].top1, top1);
        assert_int_equal(scores[c].top5, top5);
        assert_true(fabs(scores[c].loss - loss) < 1e-5 * loss);
    }
    assert_true(scores[1].top1 > N / 2); /* it has learnt something */
    linear_probe_close(&probe);
}

static void what_was_written_goes_on(void **state)
{
    struct linear_probe *whole = open_probe(), *first = open_probe(), *second = open_probe();
    struct linear_score scores[C] = {{0}};
    char path[] = "/tmp/linear_probe_XXXXXX";
    double a[PARAMETERS], b[PARAMETERS];

    (void)state;
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    run_steps(whole, 0, STEPS, scores);
    run_steps(first, 0, 5, scores);
    assert_int_equal(linear_probe_write(first, path, NULL, 0), STATUS_OK);
    assert_int_equal(linear_probe_read(second, path), STATUS_OK);
    run_steps(second, 5, STEPS, scores);
    for (int c = 0; c < C; c++) {
        read_classifier(whole, c, a);
        read_classifier(second, c, b);
        assert_memory_equal(a, b, sizeof(a));
    }
    struct linear_probe_options other = {
        .dim = DIM + 1,
        .n_classes = CLASSES,
        .batch_size = BATCH,
        .seed = 5,
        .classifiers = classifiers,
        .n_classifiers = C,
    };
    linear_probe_close(&second);
    assert_int_equal(linear_probe_open(&second, &device, &op_table_cpu, &other), STATUS_OK);
    assert_int_equal(linear_probe_read(second, path), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "5 classifiers of 7 classes and 13 features"));
    unlink(path);
    linear_probe_close(&whole);
    linear_probe_close(&first);
    linear_probe_close(&second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_are_those_of_the_formulas),
        cmocka_unit_test(scores_count_the_likeliest_classes),
        cmocka_unit_test(what_was_written_goes_on),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
