/* Fixture of the op tests. */
#include "tests/support/op_fixture.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "ops/half_float.h"
#include "proto/base/memory.h"
#include "tests/support/tolerances.h"

/* ------------------------------------------------------------------------------ backends */

struct op_backend {
    const char *name;
    const struct op_table *table;
    enum status (*open)(struct device *);
};

static enum status open_cpu(struct device *out)
{
    return device_open_cpu(out, 2);
}

static enum status open_accelerator(struct device *out)
{
    return kernels_device_open(out, 0);
}

static struct op_backend chosen;
static enum dtype chosen_dtype;
static enum attention_maker chosen_attention;

/* The CPU, or the accelerator that this program is linked with ("cuda", "cuda_emulated"); says why
 * there is none. */
static bool choose(const char *name)
{
    const struct op_table *accelerator;

    if (strcmp(name, op_table_cpu.name) == 0) {
        chosen = (struct op_backend){op_table_cpu.name, &op_table_cpu, open_cpu};
        return true;
    }
    if (kernels_op_table(&accelerator) != STATUS_OK) {
        fprintf(stderr, "backend '%s' is not to be had here: %s\n", name, status_message());
        return false;
    }
    if (strcmp(name, accelerator->name) != 0) {
        fprintf(stderr, "backend '%s' is not in this build, '%s' is\n", name, accelerator->name);
        return false;
    }
    chosen = (struct op_backend){accelerator->name, accelerator, open_accelerator};
    return true;
}

static bool choose_variant(const char *word)
{
    if (strcmp(word, "bf16") == 0)
        chosen_dtype = DTYPE_BF16;
    else if (strcmp(word, "own") == 0)
        chosen_attention = ATTENTION_BY_OWN;
    else if (strcmp(word, "cudnn") == 0)
        chosen_attention = ATTENTION_BY_CUDNN;
    else if (strcmp(word, "former") == 0)
        chosen_attention = ATTENTION_BY_FORMER;
    else
        return strcmp(word, "f32") == 0;
    return true;
}

int op_backend_choose(int argc, char **argv)
{
    struct device device = {0};
    bool known = argc >= 2;

    chosen_dtype = DTYPE_F32;
    for (int i = 2; i < argc; i++)
        known = known && choose_variant(argv[i]);
    if (!known) {
        fprintf(stderr, "usage: %s BACKEND [f32|bf16] [own|former|cudnn]\n", argv[0]);
        return 2;
    }
    if (!choose(argv[1]))
        return OP_TEST_SKIPPED;
    enum status status = chosen.open(&device);
    device_close(&device);
    if (status != STATUS_OK) {
        fprintf(stderr, "backend '%s' can't be opened here: %s\n", argv[1], status_message());
        return OP_TEST_SKIPPED;
    }
    return 0;
}

void op_fixture_open(struct op_fixture *f, uint32_t seed)
{
    memset(f, 0, sizeof(*f));
    f->ops = chosen.table;
    f->dtype = chosen_dtype;
    f->condition = 1.0;
    f->rng = rng_open((struct rng_key){.seed = seed, .purpose = RNG_TEST});
    op_run(chosen.open(&f->device));
    if (f->device.kind != DEVICE_CPU)
        op_run(kernels_attention_by(&f->device, chosen_attention));
}

void op_fixture_close(struct op_fixture *f)
{
    for (int i = 0; i < f->n_host; i++)
        memory_free(f->host[i]);
    for (int i = 0; i < f->n_on_device; i++)
        f->device.free(&f->device, f->on_device[i]);
    device_close(&f->device);
}

void op_run(enum status status)
{
    if (status != STATUS_OK)
        fail_msg("%s: %s", status_name(status), status_message());
}

/* ------------------------------------------------------------------------------ values */

double op_round(enum dtype dtype, double value)
{
    switch (dtype) {
    case DTYPE_BF16:
        return (double)half_float_from_bf16(half_float_to_bf16((float)value));
    case DTYPE_F16:
        return (double)half_float_from_f16(half_float_to_f16((float)value));
    default:
        return dtype == DTYPE_F64 ? value : (double)(float)value;
    }
}

static void *host_memory(struct op_fixture *f, size_t bytes)
{
    void *pointer;

    assert_true(f->n_host < OP_FIXTURE_MAX);
    op_run(memory_alloc(&pointer, bytes, 1, "test values"));
    return f->host[f->n_host++] = pointer;
}

double *op_zeros(struct op_fixture *f, int64_t n)
{
    return host_memory(f, (size_t)n * sizeof(double));
}

double *op_random(struct op_fixture *f, enum dtype dtype, int64_t n, double scale)
{
    double *values = op_zeros(f, n);

    for (int64_t i = 0; i < n; i++)
        values[i] = op_round(dtype, scale * rng_normal(&f->rng));
    return values;
}

static struct tensor make_tensor(struct op_fixture *f, enum dtype dtype, int64_t n, int64_t m)
{
    struct tensor tensor = m == 0 ? tensor_1d(NULL, dtype, n) : tensor_2d(NULL, dtype, n, m);

    assert_true(f->n_on_device < OP_FIXTURE_MAX);
    op_run(f->device.alloc(&f->device, &tensor.data, tensor_size_bytes(&tensor), "test tensor"));
    f->on_device[f->n_on_device++] = tensor.data;
    return tensor;
}

struct tensor op_upload(struct op_fixture *f, enum dtype dtype, const double *values, int64_t n,
                        int64_t m)
{
    struct tensor tensor = make_tensor(f, dtype, n, m);
    int64_t count = tensor_n_elements(&tensor);
    char *bytes = host_memory(f, tensor_size_bytes(&tensor));

    for (int64_t i = 0; i < count; i++)
        switch (dtype) {
        case DTYPE_F32:
            ((float *)bytes)[i] = (float)values[i];
            break;
        case DTYPE_BF16:
            ((uint16_t *)bytes)[i] = half_float_to_bf16((float)values[i]);
            break;
        case DTYPE_F16:
            ((uint16_t *)bytes)[i] = half_float_to_f16((float)values[i]);
            break;
        case DTYPE_F64:
            ((double *)bytes)[i] = values[i];
            break;
        case DTYPE_I32:
            ((int32_t *)bytes)[i] = (int32_t)values[i];
            break;
        case DTYPE_U8:
            ((uint8_t *)bytes)[i] = (uint8_t)values[i];
            break;
        default:
            fail_msg("no test values of dtype %d", (int)dtype);
        }
    op_run(f->device.copy_in(&f->device, tensor.data, bytes, tensor_size_bytes(&tensor)));
    op_run(f->device.synchronize(&f->device));
    return tensor;
}

struct tensor op_output(struct op_fixture *f, enum dtype dtype, int64_t n, int64_t m)
{
    struct tensor tensor = make_tensor(f, dtype, n, m);
    char *bytes = host_memory(f, tensor_size_bytes(&tensor));

    memset(bytes, 0xff, tensor_size_bytes(&tensor));
    op_run(f->device.copy_in(&f->device, tensor.data, bytes, tensor_size_bytes(&tensor)));
    op_run(f->device.synchronize(&f->device));
    return tensor;
}

double *op_download(struct op_fixture *f, struct tensor tensor)
{
    int64_t n = tensor_n_elements(&tensor);
    double *values = op_zeros(f, n);
    char *bytes = host_memory(f, tensor_size_bytes(&tensor));

    op_run(f->device.copy_out(&f->device, bytes, tensor.data, tensor_size_bytes(&tensor)));
    op_run(f->device.synchronize(&f->device));
    for (int64_t i = 0; i < n; i++)
        values[i] =
            tensor.dtype == DTYPE_F32    ? (double)((const float *)bytes)[i]
            : tensor.dtype == DTYPE_BF16 ? (double)half_float_from_bf16(((uint16_t *)bytes)[i])
            : tensor.dtype == DTYPE_F16  ? (double)half_float_from_f16(((uint16_t *)bytes)[i])
            : tensor.dtype == DTYPE_F64  ? ((const double *)bytes)[i]
            : tensor.dtype == DTYPE_I32  ? (double)((const int32_t *)bytes)[i]
                                         : (double)((const uint8_t *)bytes)[i];
    return values;
}

/* ------------------------------------------------------------------------------ comparison */

double op_tolerance(const char *op, enum dtype dtype)
{
    for (size_t i = 0; i < sizeof(tolerances) / sizeof(tolerances[0]); i++)
        if (strcmp(tolerances[i].op, op) == 0)
            return dtype == DTYPE_BF16 ? tolerances[i].bf16 : tolerances[i].f32;
    fail_msg("op '%s' has no row in tests/support/tolerances.h", op);
    return 0.0;
}

static double greatest(const double *values, int64_t n)
{
    double top = 1e-30;
    for (int64_t i = 0; i < n; i++)
        top = fmax(top, fabs(values[i]));
    return top;
}

void op_expect_values(const char *op, const char *what, const double *got, const double *want,
                      int64_t n, double tolerance)
{
    double scale = greatest(want, n), worst = 0.0;
    int64_t at = -1;

    for (int64_t i = 0; i < n; i++) {
        double error = fabs(got[i] - want[i]) / scale;
        if (!(error <= worst)) { /* a NaN is the worst error */
            worst = error;
            at = i;
        }
        if (isnan(error))
            break;
    }
    if (getenv("IBOT_TEST_ERRORS") != NULL)
        printf("%s %s: error %.2g of %.2g\n", op, what, worst, tolerance);
    if (!(worst <= tolerance))
        fail_msg("%s: %s[%lld] of %lld: got %.9g, wanted %.9g; error %.3g, allowed %.3g", op, what,
                 (long long)at, (long long)n, got[at], want[at], worst, tolerance);
}

void op_expect(struct op_fixture *f, const char *op, const char *what, struct tensor got,
               const double *want)
{
    op_expect_values(op, what, op_download(f, got), want, tensor_n_elements(&got),
                     f->condition * op_tolerance(op, f->dtype));
}

static double slope(double *values, const double *saved, const double *direction, int64_t n,
                    double step, double (*loss)(void *), void *context)
{
    double side[2];

    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < n; i++)
            values[i] = saved[i] + (k == 0 ? -step : step) * direction[i];
        side[k] = loss(context);
    }
    memcpy(values, saved, (size_t)n * sizeof(double));
    return (side[1] - side[0]) / (2.0 * step);
}

void op_expect_gradient(struct op_fixture *f, const char *op, const char *what,
                        struct tensor gradient, const double *before, double *values,
                        double (*loss)(void *context), void *context)
{
    enum { MOST_ELEMENTS = 96, SOME_ELEMENTS = 12, DIRECTIONS = 3 };
    int64_t n = tensor_n_elements(&gradient);
    int64_t n_elements = n <= MOST_ELEMENTS ? n : SOME_ELEMENTS;
    double *got = op_download(f, gradient), *saved = op_zeros(f, n), *direction = op_zeros(f, n);
    double *elements = op_zeros(f, n_elements), *differences = op_zeros(f, n_elements);
    double step = 1e-5 * fmin(greatest(values, n), 1.0),
           tolerance = f->condition * op_tolerance(op, f->dtype);

    step = step < 1e-7 ? 1e-5 : step; /* all zero */
    memcpy(saved, values, (size_t)n * sizeof(double));
    for (int64_t i = 0; i < n && before != NULL; i++)
        got[i] -= before[i];
    for (int64_t k = 0; k < n_elements; k++) {
        int64_t i = n_elements == n ? k : (int64_t)rng_below(&f->rng, (uint32_t)n);
        direction[i] = 1.0;
        differences[k] = slope(values, saved, direction, n, step, loss, context);
        direction[i] = 0.0;
        elements[k] = got[i];
    }
    double scale = greatest(got, n);
    /* errors count against the greatest gradient of the array, seen or not */
    double sampled = greatest(differences, n_elements);
    op_expect_values(op, what, elements, differences, n_elements,
                     tolerance * fmax(scale / sampled, 1.0) + 1e-9);
    for (int d = 0; d < DIRECTIONS; d++) {
        double along = 0.0, squares = 0.0;
        for (int64_t i = 0; i < n; i++) {
            direction[i] = rng_uniform(&f->rng) < 0.5 ? -1.0 : 1.0;
            along += direction[i] * got[i];
            squares += got[i] * got[i];
        }
        double want = slope(values, saved, direction, n, step, loss, context);
        double error = fabs(along - want) / (sqrt(squares) + scale);
        if (!(error <= 2.0 * tolerance + 1e-8))
            fail_msg("%s: %s along direction %d: got %.9g, wanted %.9g; error %.3g, allowed %.3g",
                     op, what, d, along, want, error, 2.0 * tolerance + 1e-8);
    }
    (void)loss(context); /* what it derives from the values is that of the values again */
}
