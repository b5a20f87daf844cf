/* One kind of product, described to cuBLASLt, and the algorithm it is done with. For the files
 * matmul*.c. */
#ifndef IBOT_KERNELS_MATMUL_PLAN_H
#define IBOT_KERNELS_MATMUL_PLAN_H

#include "kernels/cuda_device.h"
#include "kernels/matmul.h"
#include "kernels/matmul_cache.h"

/* All that a plan depends on; compared as bytes, so that it is zeroed before it is filled. */
struct matmul_key {
    int64_t m, n, k, lda, ldb, ldd, ld_aux;
    int32_t a_transposed, b_transposed, operand, result, bias_type, epilogue, beta;
    int32_t align_a, align_b, align_d, align_bias, align_aux;
};

/* An algorithm of the library's for a plan. */
struct matmul_candidate {
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
};

enum { MATMUL_MOST_CANDIDATES = 48 };

struct matmul_plan {
    struct matmul_key key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, d;
    bool supported;
    bool settled; /* the choice is final: kept in the file, measured, or not to be measured */
    struct matmul_candidate choice;
    int64_t n, k;     /* that the layouts say now: a product of fewer rows may have been the last */
    bool way_settled; /* the same of the way it is done with what goes with it */
    enum matmul_way way;
};

/* How choices are made, and what is known of them. */
struct matmul_tuning {
    enum device_tuning_mode mode;
    char *cache; /* NULL: no file */
    struct matmul_choices known;
    char device[MATMUL_DEVICE_TEXT];
    bool told; /* that products are being measured */
};

/* Fills the key and the descriptors of a zeroed plan; and releases them. */
enum status matmul_describe(struct matmul_plan *plan, const struct matmul *m) IBOT_WARN_UNUSED;
void matmul_plan_release(struct matmul_plan *plan);

/* What the file calls a product. */
void matmul_name(char *out, size_t size, const struct matmul_key *key);

/* What cuBLASLt offers for a plan, its own first choice first, each once, all deterministic; none:
 * it has no algorithm. `most` up to MATMUL_MOST_CANDIDATES. */
enum status matmul_candidates(const struct cuda_device *cuda, const struct matmul_plan *plan,
                              struct matmul_candidate *out, int most, int *n) IBOT_WARN_UNUSED;

/* Queues the product by an algorithm, on the branch in use. The library's answer is given back. */
cublasStatus_t matmul_launch(struct cuda_device *cuda, const struct matmul_plan *plan,
                             const struct matmul *m, const struct matmul_candidate *candidate);

/* Turns tuning on or off, and reads the file; what is wrong with it is logged. */
enum status matmul_tuning_set(struct matmul_tuning *tuning, const struct cuda_device *cuda,
                              const struct device_tuning *options) IBOT_WARN_UNUSED;
void matmul_tuning_release(struct matmul_tuning *tuning);
/* The device's. */
enum status matmul_tuning_of(struct device *device, struct matmul_tuning **out) IBOT_WARN_UNUSED;

/* The choice of the file for a new plan, if it has one that will do. */
enum status matmul_recall(const struct matmul_tuning *tuning, const struct cuda_device *cuda,
                          struct matmul_plan *plan) IBOT_WARN_UNUSED;

/* Settles a plan: measures its candidates with the matrices of `m`, of which only what the product
 * writes anew is written, and keeps the fastest in the file. Waits for the device. Not in a
 * capture.
 */
enum status matmul_tune(struct matmul_tuning *tuning, struct device *device,
                        struct matmul_plan *plan, const struct matmul *m) IBOT_WARN_UNUSED;

#endif
