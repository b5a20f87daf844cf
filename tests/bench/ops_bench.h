/* Cases of ops_bench: a case is an op with its arguments; the memory behind them is taken first and
 * given back together. */
#ifndef IBOT_TESTS_BENCH_OPS_BENCH_H
#define IBOT_TESTS_BENCH_OPS_BENCH_H

#include "kernels/kernels.h"
#include "tests/bench/op_work.h"

enum { OPS_BENCH_TENSORS = 64 };

struct ops_bench; /* the program's */

union op_args {
#define OP_ARGS_MEMBER(slot, type) struct type slot;
    STEP_OPS(OP_ARGS_MEMBER)
};

enum bench_op {
#define BENCH_OP_NUMBER(slot, type) BENCH_##slot,
    STEP_OPS(BENCH_OP_NUMBER) N_BENCH_OPS
};

/* What a step of this network and batch is made of. */
struct shapes {
    char arch[32];
    enum dtype dtype; /* of operands and activations */
    int64_t batch, n_local, width, n_heads, hidden;
    int32_t patch, global_side, local_side; /* in patches */
    int64_t tokens, global_tokens;          /* of the student; of the teacher */
    int64_t masked, needed;                 /* patches; rows that the loss reads */
    int64_t prototypes, head_hidden, bottleneck, n_parameters;
};

/* Times one case, whose name is made like printf's. A slot that the backend lacks, or a name that
 * was not asked for, is passed over; a case that fails is reported with its reason. */
void ops_bench_case(struct ops_bench *bench, enum bench_op op, const union op_args *args,
                    const char *format, ...) IBOT_PRINTF(4, 5);

/* What the cases that follow belong to ("vit_small", "swin_tiny stage 2"), as printf has it. */
void ops_bench_group(struct ops_bench *bench, const char *format, ...) IBOT_PRINTF(2, 3);

/* Who computes attention in the cases that follow; false: who is not in this build. */
bool ops_bench_attention_by(struct ops_bench *bench, enum attention_maker maker);

/* Tensors with random values, until ops_bench_give_back. Ends the program when memory is out. */
struct tensor ops_bench_take(struct ops_bench *bench, enum dtype dtype, int64_t rows,
                             int64_t columns); /* columns 0: a vector */
/* i32 [rows, columns], element i being i * step modulo `below`. */
struct tensor ops_bench_take_indices(struct ops_bench *bench, int64_t rows, int64_t columns,
                                     int64_t step, int64_t below);
/* u8, every third element 1. */
struct tensor ops_bench_take_mask(struct ops_bench *bench, int64_t n);
/* A copy of host memory on the device. */
void *ops_bench_take_copy(struct ops_bench *bench, const void *from, size_t bytes);
void ops_bench_give_back(struct ops_bench *bench);

/* The cases: ops_bench_vit.c, ops_bench_head.c, ops_bench_swin.c. */
void ops_bench_blocks(struct ops_bench *bench, const struct shapes *shapes);
void ops_bench_vit(struct ops_bench *bench, const struct shapes *shapes);
void ops_bench_head(struct ops_bench *bench, const struct shapes *shapes);
void ops_bench_swin(struct ops_bench *bench, const struct shapes *shapes);

#endif
