/* Prototypes of a head, read from a file: against the head's formula in double, with each norm. */
#include "trainer/eval/prototypes.h"

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
#include "trainer/weights/safetensors.h"

enum { WIDTH = 5, HIDDEN = 9, BOTTLENECK = 3, K = 23, N = 300 };
enum norm { NONE, LAYER, BATCH };

struct values {
    float w0[HIDDEN * WIDTH], b0[HIDDEN], w1[HIDDEN * HIDDEN], b1[HIDDEN];
    float w2[BOTTLENECK * HIDDEN], b2[BOTTLENECK], gain[K], direction[K * BOTTLENECK];
    float gamma[HIDDEN], beta[HIDDEN], mean[HIDDEN], var[HIDDEN], token[WIDTH];
};

static struct values values;
static float features[N * WIDTH];
static struct backend backend;
static char path[64];

static void draw(float *out, size_t n, uint32_t sample, double low, double high)
{
    struct rng rng = rng_open((struct rng_key){.seed = 5, .sample = sample});

    for (size_t i = 0; i < n; i++)
        out[i] = (float)(low + (high - low) * rng_uniform(&rng));
}

static int set_up(void **state)
{
    int file;

    (void)state;
    draw((float *)&values, sizeof(values) / sizeof(float), 1, -1.0, 1.0);
    draw(values.gain, K, 2, 0.8, 1.2);
    draw(values.var, HIDDEN, 3, 0.2, 2.0);
    draw(values.b2, BOTTLENECK, 4, -0.1, 0.1);
    draw(values.gamma, HIDDEN, 6, 1.0, 3.0);
    draw(values.beta, HIDDEN, 7, -0.3, 0.3);
    draw(features, N * WIDTH, 5, -6.0, 6.0);
    snprintf(path, sizeof(path), "/tmp/ibot-prototypes-XXXXXX");
    file = mkstemp(path);
    if (file < 0 || close(file) != 0)
        return -1;
    return backend_open(&backend, BACKEND_CPU, 1, NULL) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    backend_close(&backend);
    return unlink(path);
}

/* The head as the original stores it, or a file without one. */
static void write_head(enum norm norm, bool relu, const char *key, bool with_head)
{
    struct values *v = &values;
    int second = norm == NONE ? 2 : 3, third = norm == NONE ? 4 : 6;
    struct safetensors_item items[16];
    static const char *const activation[] = {"act_in_head", "relu"};
    static char names[16][64];
    size_t n = 0;

#define ADD(tensor, ...)                                                                           \
    do {                                                                                           \
        snprintf(names[n], sizeof(names[n]), __VA_ARGS__);                                         \
        items[n] = (struct safetensors_item){names[n], tensor};                                    \
        n++;                                                                                       \
    } while (0)
    ADD(tensor_1d(v->token, DTYPE_F32, WIDTH), "%s.backbone.cls_token", key);
    if (with_head) {
        ADD(tensor_2d(v->w0, DTYPE_F32, HIDDEN, WIDTH), "%s.head.mlp.0.weight", key);
        ADD(tensor_1d(v->b0, DTYPE_F32, HIDDEN), "%s.head.mlp.0.bias", key);
        ADD(tensor_2d(v->w1, DTYPE_F32, HIDDEN, HIDDEN), "%s.head.mlp.%d.weight", key, second);
        ADD(tensor_1d(v->b1, DTYPE_F32, HIDDEN), "%s.head.mlp.%d.bias", key, second);
        ADD(tensor_2d(v->w2, DTYPE_F32, BOTTLENECK, HIDDEN), "%s.head.mlp.%d.weight", key, third);
        ADD(tensor_1d(v->b2, DTYPE_F32, BOTTLENECK), "%s.head.mlp.%d.bias", key, third);
        ADD(tensor_2d(v->gain, DTYPE_F32, K, 1), "%s.head.last_layer.weight_g", key);
        ADD(tensor_2d(v->direction, DTYPE_F32, K, BOTTLENECK), "%s.head.last_layer.weight_v", key);
    }
    if (norm != NONE) {
        ADD(tensor_1d(v->gamma, DTYPE_F32, HIDDEN), "%s.head.mlp.1.weight", key);
        ADD(tensor_1d(v->beta, DTYPE_F32, HIDDEN), "%s.head.mlp.1.bias", key);
    }
    if (norm == BATCH) {
        ADD(tensor_1d(v->mean, DTYPE_F32, HIDDEN), "%s.head.mlp.1.running_mean", key);
        ADD(tensor_1d(v->var, DTYPE_F32, HIDDEN), "%s.head.mlp.1.running_var", key);
    }
#undef ADD
    assert_int_equal(safetensors_write(path, items, n, activation, relu ? 1 : 0), STATUS_OK);
}

static void layer(double *out, const double *in, const float *w, const float *b, int n, int m)
{
    for (int i = 0; i < n; i++) {
        out[i] = (double)b[i];
        for (int j = 0; j < m; j++)
            out[i] += (double)w[i * m + j] * in[j];
    }
}

static void hidden(double *x, enum norm norm, bool relu)
{
    double mean = 0.0, var = 0.0;

    for (int i = 0; i < HIDDEN; i++)
        mean += x[i] / HIDDEN;
    for (int i = 0; i < HIDDEN; i++)
        var += (x[i] - mean) * (x[i] - mean) / HIDDEN;
    for (int i = 0; i < HIDDEN; i++) {
        double m = norm == BATCH ? (double)values.mean[i] : mean;
        double s = norm == BATCH ? (double)values.var[i] : var;
        if (norm != NONE)
            x[i] = (double)values.gamma[i] * (x[i] - m) / sqrt(s + 1e-5) + (double)values.beta[i];
        x[i] = relu ? fmax(x[i], 0.0) : 0.5 * x[i] * (1.0 + erf(x[i] / sqrt(2.0)));
    }
}

/* Logits of one feature, as the head is defined; the length of the bottleneck changes no order. */
static void plain(double logits[K], const float *feature, enum norm norm, bool relu)
{
    double x[WIDTH], a[HIDDEN], b[HIDDEN], z[BOTTLENECK];

    for (int i = 0; i < WIDTH; i++)
        x[i] = (double)feature[i];
    layer(a, x, values.w0, values.b0, HIDDEN, WIDTH);
    hidden(a, norm, relu);
    layer(b, a, values.w1, values.b1, HIDDEN, HIDDEN);
    hidden(b, norm, relu);
    layer(z, b, values.w2, values.b2, BOTTLENECK, HIDDEN);
    for (int k = 0; k < K; k++) {
        double length = 0.0, dot = 0.0, unit = 0.0;
        for (int j = 0; j < BOTTLENECK; j++) {
            double v = (double)values.direction[k * BOTTLENECK + j];
            length += v * v;
            dot += v * z[j];
            unit += z[j] * z[j];
        }
        logits[k] = (double)values.gain[k] * dot / sqrt(length * unit);
    }
}

static enum status open_head(struct pretrained *pretrained, struct prototypes **prototypes,
                             int32_t width)
{
    const struct pretrained_options options = {.path = path, .names_only = true};

    assert_int_equal(pretrained_open(pretrained, &options), STATUS_OK);
    return prototypes_open(prototypes, &backend, pretrained, width);
}

static void assigned_as_the_formula_says(enum norm norm, bool relu)
{
    struct prototypes *prototypes = NULL;
    struct pretrained pretrained;
    int32_t cluster[N];
    int n_used = 0;
    bool used[K] = {false};

    write_head(norm, relu, relu ? "student" : "teacher", true);
    assert_int_equal(open_head(&pretrained, &prototypes, WIDTH), STATUS_OK);
    assert_int_equal(prototypes_count(prototypes), K);
    assert_int_equal(prototypes_assign(prototypes, features, N, cluster), STATUS_OK);
    for (int i = 0; i < N; i++) {
        double logits[K];
        plain(logits, features + i * WIDTH, norm, relu);
        assert_in_range(cluster[i], 0, K - 1);
        for (int k = 0; k < K; k++) /* rounding may decide between equals */
            if (!(logits[cluster[i]] > logits[k] - 1e-5))
                fail_msg("norm %d, relu %d, feature %d: prototype %d has %g, %d has %g", norm, relu,
                         i, cluster[i], logits[cluster[i]], k, logits[k]);
        n_used += !used[cluster[i]];
        used[cluster[i]] = true;
    }
    if (n_used < 4)
        fail_msg("norm %d, relu %d: %d prototypes alone are used", norm, relu, n_used);
    prototypes_close(&prototypes);
    pretrained_close(&pretrained);
}

static void each_norm_is_as_its_formula_says(void **state)
{
    (void)state;
    for (int relu = 0; relu < 2; relu++) {
        assigned_as_the_formula_says(NONE, relu);
        assigned_as_the_formula_says(LAYER, relu);
        assigned_as_the_formula_says(BATCH, relu);
    }
}

static void a_file_without_this_head_is_refused(void **state)
{
    struct prototypes *prototypes = NULL;
    struct pretrained pretrained;

    (void)state;
    write_head(NONE, false, "teacher", false);
    assert_int_equal(open_head(&pretrained, &prototypes, WIDTH), STATUS_NOT_FOUND);
    assert_null(prototypes);
    assert_non_null(strstr(status_message(), "there is no projection head"));
    pretrained_close(&pretrained);
    write_head(NONE, false, "teacher", true);
    assert_int_equal(open_head(&pretrained, &prototypes, WIDTH + 1), STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "has shape [9, 5], wanted [9, 6]"));
    pretrained_close(&pretrained);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_norm_is_as_its_formula_says),
        cmocka_unit_test(a_file_without_this_head_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
