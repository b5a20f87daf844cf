/* Matrix products by cuBLASLt. A product is described as cuBLAS sees it, column by column; plans
 * (descriptors and the chosen algorithm) are made once per kind of product and kept with the
 * device, so that a call does nothing but launch. The algorithm is the library's first choice, or
 * the fastest of those it offers, measured when a product is first done (matmul_tune.c) or in a
 * former run (matmul_cache.h). */
#ifndef IBOT_KERNELS_MATMUL_H
#define IBOT_KERNELS_MATMUL_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum matmul_epilogue {
    MATMUL_PLAIN,
    MATMUL_BIAS,          /* + bias[row] */
    MATMUL_GELU_BIAS,     /* gelu by tanh of that */
    MATMUL_GELU_AUX_BIAS, /* the same, and the value before it to aux */
    MATMUL_DGELU,         /* times the derivative of gelu by tanh at aux */
};

/* d [m, n] = op(a) [m, k] op(b) [k, n] + beta d, then the epilogue; column-major, accumulated in
 * float32 (float32 operands without TF32). */
struct matmul {
    int64_t m, n, k;
    bool a_transposed, b_transposed;
    enum dtype operand, result; /* of a and b; of d */
    const void *a, *b;
    void *d;
    int64_t lda, ldb, ldd;
    float beta; /* 0 or 1 */
    enum matmul_epilogue epilogue;
    const void *bias; /* [m] */
    enum dtype bias_type;
    void *aux; /* [m, n], leading dimension ld_aux, of the type of d */
    int64_t ld_aux;
    /* Where n or k is another one at each call: the most it will be, for which algorithms are
     * chosen, and measured if so; 0: n, k. All matrices have memory for that many. */
    int64_t most_n, most_k;
};

/* Does the library have an algorithm for it? The pointers count by their alignment alone. */
enum status matmul_supported(struct device *device, const struct matmul *matmul,
                             bool *out) IBOT_WARN_UNUSED;

/* What an epilogue does may be left to kernels after a plain product, and where more is to be done
 * with the result that can be the faster way: when those kernels do all of it at once. */
enum matmul_way { MATMUL_FUSED, MATMUL_SPLIT, MATMUL_N_WAYS };

/* Product and rest, by one way. It may be run any number of times before the one that counts. */
struct matmul_trial {
    const char *rest; /* what goes with the product, for the file of choices */
    enum status (*run)(void *context, enum matmul_way way);
    void *context;
};

/* Which way is taken for a product with an epilogue: what the file of choices says, else what
 * measuring both says, as long as algorithms are measured; else the epilogue. */
enum status matmul_way_of(struct device *device, const struct matmul *matmul,
                          const struct matmul_trial *trial, enum matmul_way *out) IBOT_WARN_UNUSED;

/* How algorithms are chosen (device.h); to be called before the first product. */
enum status matmul_set_tuning(struct device *device,
                              const struct device_tuning *tuning) IBOT_WARN_UNUSED;

/* Queues the product on the branch in use. Errors: STATUS_UNSUPPORTED (no algorithm),
 * STATUS_DEVICE. */
enum status matmul_run(struct device *device, const struct matmul *matmul) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
