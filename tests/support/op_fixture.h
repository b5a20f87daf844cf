/* What tests of ops share: a backend named on the command line, tensors made from doubles, and
 * comparison with doubles and with finite differences. A test body names no backend; ctest runs the
 * same program once for each (ops.linear.cpu, ops.linear.cuda, …).
 *
 *   op_fixture_open(&f, seed);
 *   double *x = op_random(&f, f.dtype, n, scale);         // rounded to the type, so exact in it
 *   struct tensor in = op_upload(&f, f.dtype, x, rows, columns), out = op_output(&f, …);
 *   op_run(f.ops->some_op(&f.device, &args));
 *   op_expect(&f, "some_op", "y", out, want);
 *   op_fixture_close(&f);                                   // frees all that was made
 */
#ifndef IBOT_TESTS_SUPPORT_OP_FIXTURE_H
#define IBOT_TESTS_SUPPORT_OP_FIXTURE_H

#include "ops/op_table.h"
#include "proto/base/rng.h"

enum { OP_FIXTURE_MAX = 512, OP_TEST_SKIPPED = 77 };

struct op_fixture {
    const struct op_table *ops;
    struct device device;
    enum dtype dtype; /* of activations and weights in this run */
    double condition; /* 1; greater where a problem magnifies rounding: multiplies tolerances */
    struct rng rng;
    void *host[OP_FIXTURE_MAX], *on_device[OP_FIXTURE_MAX];
    int n_host, n_on_device;
};

/* PROGRAM BACKEND [f32|bf16] [own|former|cudnn], the last being who computes attention: returns 0,
 * or the exit status to leave with at once: 77 (skipped) when the backend is not in this build or
 * has no device here, 2 for a wrong name. */
int op_backend_choose(int argc, char **argv);

void op_fixture_open(struct op_fixture *f, uint32_t seed);
void op_fixture_close(struct op_fixture *f);

/* Fails the test with the text of the failure unless OK. */
void op_run(enum status status);

/* n doubles, all zero. */
double *op_zeros(struct op_fixture *f, int64_t n);
/* What the type makes of a value. */
double op_round(enum dtype dtype, double value);
/* Normal deviates times scale, rounded to the type. */
double *op_random(struct op_fixture *f, enum dtype dtype, int64_t n, double scale);
/* A tensor [n, m], or [n] when m is 0, on the device. */
struct tensor op_upload(struct op_fixture *f, enum dtype dtype, const double *values, int64_t n,
                        int64_t m);
/* The same, every byte 0xff (NaN), so that an element that nobody writes is seen. */
struct tensor op_output(struct op_fixture *f, enum dtype dtype, int64_t n, int64_t m);
double *op_download(struct op_fixture *f, struct tensor tensor);

double op_tolerance(const char *op, enum dtype dtype);
/* Every element within the tolerance of the op (tests/support/tolerances.h). */
void op_expect(struct op_fixture *f, const char *op, const char *what, struct tensor got,
               const double *want);
void op_expect_values(const char *op, const char *what, const double *got, const double *want,
                      int64_t n, double tolerance);

/* The gradient of loss(context) with respect to `values`, which loss reads, against central
 * differences: all elements of a small array, some of a large one, and along random directions
 * that cover all. `before` is what the gradient held before the op added to it; NULL: nothing. */
void op_expect_gradient(struct op_fixture *f, const char *op, const char *what,
                        struct tensor gradient, const double *before, double *values,
                        double (*loss)(void *context), void *context);

#endif
