/* ops_bench: each op of the CPU column at the shapes of a ViT-S/16 step (2x224 + 10x96 crops of
 * BATCH images), or of another width. Prints the best of some repeats: milliseconds, GFLOP/s of
 * what the definition needs, GB/s of what must be read and written once. With one thread the time
 * is that of the processor, so that other programs on the machine matter little.
 *
 *   ops_bench [BATCH [THREADS [WIDTH [ONLY]]]]      defaults 4 1 384, all ops */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ops/op_table.h"
#include "ops/workspace.h"
#include "proto/base/clock.h"
#include "proto/base/rng.h"

enum { REPEATS = 5, HEAD_DIM = 64 };

struct bench {
    struct device device;
    struct workspace memory;
    int64_t n, width; /* rows of the packed token buffer */
    int threads;
    const char *only;
    struct tensor x, stream, sum, wide, wide_pre, qkv, d_qkv, out, lse, row, row2, column, column2;
    struct tensor weight, d_weight, bias, scale, sample;
    struct attention_group groups[2];
};

static double seconds(const struct bench *b)
{
    struct timespec now;

    if (b->threads > 1)
        return (double)clock_monotonic_ns() * 1e-9;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* flop and bytes per call */
static void report(struct bench *b, const char *name, enum status (*run)(struct bench *),
                   double flop, double bytes)
{
    double best = INFINITY;

    if (b->only != NULL && strstr(name, b->only) == NULL)
        return;
    for (int i = 0; i < REPEATS; i++) {
        double start = seconds(b);
        enum status status = run(b);
        if (status != STATUS_OK) {
            fprintf(stderr, "ops_bench: %s: %s\n", name, status_message());
            exit(status_exit_code(status));
        }
        best = fmin(best, seconds(b) - start);
    }
    printf("%-30s %9.3f ms %8.1f GFLOP/s %7.1f GB/s\n", name, best * 1e3, flop / best * 1e-9,
           bytes / best * 1e-9);
    fflush(stdout);
}

static struct tensor slice(struct tensor tensor, int64_t rows, int64_t columns)
{
    return tensor_2d(tensor.data, tensor.dtype, rows, columns);
}

/* ------------------------------------------------------------------------------ the ops */

static enum status linear(struct bench *b, int64_t n_in, int64_t n_out, enum activation activation)
{
    bool widens = n_out > b->width;
    struct linear_args args = {.x = slice(n_in > b->width ? b->wide : b->x, b->n, n_in),
                               .weight = slice(b->weight, n_out, n_in),
                               .bias = tensor_1d(b->bias.data, DTYPE_F32, n_out),
                               .y = slice(widens ? b->wide : b->out, b->n, n_out),
                               .activation = activation};
    if (activation != ACTIVATION_NONE)
        args.pre = slice(b->wide_pre, b->n, n_out);
    return op_table_cpu.linear_forward(&b->device, &args);
}

static enum status run_qkv(struct bench *b)
{
    return linear(b, b->width, 3 * b->width, ACTIVATION_NONE);
}
static enum status run_proj(struct bench *b)
{
    return linear(b, b->width, b->width, ACTIVATION_NONE);
}
static enum status run_fc1(struct bench *b)
{
    return linear(b, b->width, 4 * b->width, ACTIVATION_GELU);
}
static enum status run_fc2(struct bench *b)
{
    return linear(b, 4 * b->width, b->width, ACTIVATION_NONE);
}

static enum status linear_backward(struct bench *b, int64_t n_in, int64_t n_out, bool data,
                                   bool weight, enum activation activation)
{
    struct linear_backward_args args = {
        .d_y = slice(n_out > b->width ? b->wide : b->x, b->n, n_out),
        .x = slice(n_in > b->width ? b->wide_pre : b->out, b->n, n_in),
        .weight = slice(b->weight, n_out, n_in),
        .activation = activation};
    if (data)
        args.d_x = slice(n_in > b->width ? b->wide : b->out, b->n, n_in);
    if (activation != ACTIVATION_NONE)
        args.pre = slice(b->wide_pre, b->n, n_in);
    if (weight) {
        args.d_weight = slice(b->d_weight, n_out, n_in);
        args.d_bias = tensor_1d(b->bias.data, DTYPE_F32, n_out);
    }
    return op_table_cpu.linear_backward(&b->device, &args);
}

static enum status run_fc1_data(struct bench *b)
{
    return linear_backward(b, b->width, 4 * b->width, true, false, ACTIVATION_NONE);
}
static enum status run_fc1_weight(struct bench *b)
{
    return linear_backward(b, b->width, 4 * b->width, false, true, ACTIVATION_NONE);
}
static enum status run_fc2_data(struct bench *b)
{
    return linear_backward(b, 4 * b->width, b->width, true, false, ACTIVATION_GELU);
}

static enum status run_gelu(struct bench *b)
{
    struct activation_args args = {b->wide_pre, b->wide, ACTIVATION_GELU};
    return op_table_cpu.activation_forward(&b->device, &args);
}
static enum status run_gelu_backward(struct bench *b)
{
    struct activation_backward_args args = {b->wide, b->wide_pre, b->wide, ACTIVATION_GELU};
    return op_table_cpu.activation_backward(&b->device, &args);
}

static enum status run_residual(struct bench *b)
{
    struct residual_layernorm_args args = {.x = b->stream,
                                           .branch = b->x,
                                           .scale = b->scale,
                                           .sample = b->sample,
                                           .sum = b->sum,
                                           .gamma = b->column,
                                           .beta = b->column,
                                           .y = b->out,
                                           .mean = b->row,
                                           .rstd = b->row2,
                                           .eps = 1e-6f};
    return op_table_cpu.residual_layernorm_forward(&b->device, &args);
}
static enum status run_residual_backward(struct bench *b)
{
    struct residual_layernorm_backward_args args = {.d_y = b->x,
                                                    .d_sum = b->stream,
                                                    .sum = b->sum,
                                                    .mean = b->row,
                                                    .rstd = b->row2,
                                                    .gamma = b->column,
                                                    .scale = b->scale,
                                                    .sample = b->sample,
                                                    .d_sum_out = b->stream,
                                                    .d_branch = b->out,
                                                    .d_gamma = b->column2,
                                                    .d_beta = b->column2};
    return op_table_cpu.residual_layernorm_backward(&b->device, &args);
}

static enum status attention(struct bench *b, int first, int n_groups)
{
    struct attention_args args = {.qkv = b->qkv,
                                  .out = b->out,
                                  .lse = b->lse,
                                  .n_groups = n_groups,
                                  .n_heads = (int32_t)(b->width / HEAD_DIM)};
    memcpy(args.groups, b->groups + first, (size_t)n_groups * sizeof(b->groups[0]));
    return op_table_cpu.attention_forward(&b->device, &args);
}
static enum status run_attention_global(struct bench *b)
{
    return attention(b, 0, 1);
}
static enum status run_attention_local(struct bench *b)
{
    return attention(b, 1, 1);
}
static enum status attention_backward(struct bench *b, int first, int n_groups)
{
    struct attention_backward_args args = {.d_out = b->x,
                                           .qkv = b->qkv,
                                           .out = b->out,
                                           .lse = b->lse,
                                           .d_qkv = b->d_qkv,
                                           .n_groups = n_groups,
                                           .n_heads = (int32_t)(b->width / HEAD_DIM)};
    memcpy(args.groups, b->groups + first, (size_t)n_groups * sizeof(b->groups[0]));
    return op_table_cpu.attention_backward(&b->device, &args);
}
static enum status run_attention_backward_global(struct bench *b)
{
    return attention_backward(b, 0, 1);
}
static enum status run_attention_backward_local(struct bench *b)
{
    return attention_backward(b, 1, 1);
}

static enum status run_unit_norm(struct bench *b)
{
    struct unit_norm_args args = {b->x, b->out, b->row, 1e-12f};
    return op_table_cpu.unit_norm_forward(&b->device, &args);
}

/* ------------------------------------------------------------------------------ set-up */

static enum status reserve(struct bench *b, struct tensor *tensor, int64_t n, int64_t m)
{
    *tensor = m == 0 ? tensor_1d(NULL, DTYPE_F32, n) : tensor_2d(NULL, DTYPE_F32, n, m);
    return workspace_reserve(&b->memory, &tensor->data, tensor_size_bytes(tensor));
}

static void fill(struct tensor *tensor, uint32_t seed, float scale)
{
    struct rng rng = rng_open((struct rng_key){.seed = seed, .purpose = RNG_TEST});
    float *values = tensor->data, block[4096];

    for (int i = 0; i < 4096; i++)
        block[i] = scale * (float)rng_normal(&rng);
    for (int64_t i = 0; i < tensor_n_elements(tensor); i++)
        values[i] = block[(i + i / 4096 * 7) % 4096];
}

static enum status open_bench(struct bench *b, int64_t batch)
{
    int64_t n = batch * (2 * 197 + 10 * 37), d = b->width;

    b->n = n;
    b->groups[0] = (struct attention_group){0, 2 * batch, 197};
    b->groups[1] = (struct attention_group){2 * batch * 197, 10 * batch, 37};
    TRY(device_open_cpu(&b->device, b->threads));
    TRY(reserve(b, &b->x, n, d));
    TRY(reserve(b, &b->stream, n, d));
    TRY(reserve(b, &b->sum, n, d));
    TRY(reserve(b, &b->out, n, d));
    TRY(reserve(b, &b->wide, n, 4 * d));
    TRY(reserve(b, &b->wide_pre, n, 4 * d));
    TRY(reserve(b, &b->qkv, n, 3 * d));
    TRY(reserve(b, &b->d_qkv, n, 3 * d));
    TRY(reserve(b, &b->lse, d / HEAD_DIM, n));
    TRY(reserve(b, &b->row, n, 0));
    TRY(reserve(b, &b->row2, n, 0));
    TRY(reserve(b, &b->column, d, 0));
    TRY(reserve(b, &b->column2, d, 0));
    TRY(reserve(b, &b->weight, 4 * d, d));
    TRY(reserve(b, &b->d_weight, 4 * d, d));
    TRY(reserve(b, &b->bias, 4 * d, 0));
    TRY(reserve(b, &b->scale, 12 * batch, 0));
    TRY(reserve(b, &b->sample, n, 0));
    TRY(workspace_commit(&b->memory, &b->device, "benchmark"));
    b->sample.dtype = DTYPE_I32; /* all zero */
    struct tensor *filled[] = {&b->x,   &b->stream, &b->wide_pre, &b->qkv,
                               &b->sum, &b->column, &b->scale};
    for (size_t i = 0; i < sizeof(filled) / sizeof(filled[0]); i++)
        fill(filled[i], (uint32_t)i, 1.0f);
    fill(&b->weight, 99, 0.02f);
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    struct bench b = {.threads = argc > 2 ? atoi(argv[2]) : 1,
                      .width = argc > 3 ? atoi(argv[3]) : 384,
                      .only = argc > 4 ? argv[4] : NULL};
    int64_t batch = argc > 1 ? atoi(argv[1]) : 4;

    if (batch < 1 || b.threads < 1 || b.width < HEAD_DIM || b.width % HEAD_DIM != 0) {
        fprintf(stderr, "usage: %s [BATCH [THREADS [WIDTH [ONLY]]]]; WIDTH a multiple of %d\n",
                argv[0], HEAD_DIM);
        return 2;
    }
    enum status status = open_bench(&b, batch);
    if (status != STATUS_OK) {
        fprintf(stderr, "ops_bench: %s\n", status_message());
        return status_exit_code(status);
    }
    double n = (double)b.n, d = (double)b.width, nd = 4.0 * n * d; /* bytes of one [N, D] */
    double global = 2.0 * (double)batch * 197.0 * 197.0 * d;
    double local = 10.0 * (double)batch * 37.0 * 37.0 * d;
    double global_nd = nd * 394.0 / 764.0, local_nd = nd - global_nd;
    report(&b, "linear_forward qkv", run_qkv, 6.0 * n * d * d, 4.0 * nd);
    report(&b, "linear_forward proj", run_proj, 2.0 * n * d * d, 2.0 * nd);
    report(&b, "linear_forward fc1+gelu", run_fc1, 8.0 * n * d * d, 9.0 * nd);
    report(&b, "linear_forward fc2", run_fc2, 8.0 * n * d * d, 5.0 * nd);
    report(&b, "linear_backward fc2 d_x+gelu", run_fc2_data, 8.0 * n * d * d, 9.0 * nd);
    report(&b, "linear_backward fc1 d_x", run_fc1_data, 8.0 * n * d * d, 5.0 * nd);
    report(&b, "linear_backward fc1 d_w", run_fc1_weight, 8.0 * n * d * d, 5.0 * nd);
    report(&b, "activation_forward gelu", run_gelu, 4.0 * n * d, 8.0 * nd);
    report(&b, "activation_backward gelu", run_gelu_backward, 4.0 * n * d, 12.0 * nd);
    report(&b, "residual_layernorm_forward", run_residual, 8.0 * n * d, 4.0 * nd);
    report(&b, "residual_layernorm_backward", run_residual_backward, 12.0 * n * d, 5.0 * nd);
    report(&b, "attention_forward 197", run_attention_global, 4.0 * global, 4.0 * global_nd);
    report(&b, "attention_forward 37", run_attention_local, 4.0 * local, 4.0 * local_nd);
    report(&b, "attention_backward 197", run_attention_backward_global, 8.0 * global,
           8.0 * global_nd);
    report(&b, "attention_backward 37", run_attention_backward_local, 8.0 * local, 8.0 * local_nd);
    report(&b, "unit_norm_forward", run_unit_norm, 3.0 * n * d, 2.0 * nd);
    workspace_release(&b.memory);
    device_close(&b.device);
    return 0;
}
