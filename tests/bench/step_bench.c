/* step_bench: one training step on random data, timed. Prints images/s, peak memory and where the
 * time goes (one row for each op of the table, from a table of timing wrappers around the backend).
 * scripts/bench_torch_step.py runs the same step in plain PyTorch. */
#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "ops/collective.h"
#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/base/rng.h"
#include "trainer/model/ibot.h"

/* ------------------------------------------------------------------------------ timing wrappers */

/* Every op that a step calls: slot and the name of its arguments' struct. */
#define STEP_OPS(X)                                                                                \
    X(patchify, patchify_args)                                                                     \
    X(tokens_forward, tokens_args)                                                                 \
    X(tokens_backward, tokens_backward_args)                                                       \
    X(position_interpolate, position_interpolate_args)                                             \
    X(position_interpolate_backward, position_interpolate_backward_args)                           \
    X(rows_gather, rows_gather_args)                                                               \
    X(rows_scatter, rows_scatter_args)                                                             \
    X(rows_add, rows_add_args)                                                                     \
    X(linear_forward, linear_args)                                                                 \
    X(linear_backward, linear_backward_args)                                                       \
    X(residual_layernorm_forward, residual_layernorm_args)                                         \
    X(residual_layernorm_backward, residual_layernorm_backward_args)                               \
    X(attention_forward, attention_args)                                                           \
    X(attention_backward, attention_backward_args)                                                 \
    X(unit_norm_forward, unit_norm_args)                                                           \
    X(unit_norm_backward, unit_norm_backward_args)                                                 \
    X(weight_norm_forward, weight_norm_args)                                                       \
    X(weight_norm_backward, weight_norm_backward_args)                                             \
    X(distill_loss, distill_loss_args)                                                             \
    X(centre_update, centre_update_args)                                                           \
    X(gradient_norms, gradient_norms_args)                                                         \
    X(optimizer_step, optimizer_step_args)                                                         \
    X(rows_mean, rows_mean_args)                                                                   \
    X(rows_argmax, rows_argmax_args)                                                               \
    X(region_mask, region_mask_args)                                                               \
    X(region_mask_backward, region_mask_backward_args)                                             \
    X(patch_merge, patch_merge_args)                                                               \
    X(patch_merge_backward, patch_merge_backward_args)                                             \
    X(region_mean, region_mean_args)                                                               \
    X(region_mean_backward, region_mean_backward_args)                                             \
    X(window_attention_forward, window_attention_args)                                             \
    X(window_attention_backward, window_attention_backward_args)

#define OP_NUMBER(slot, args) OP_##slot,
enum step_op { STEP_OPS(OP_NUMBER) N_STEP_OPS };

#define OP_NAME(slot, args) #slot,
static const char *const op_names[N_STEP_OPS] = {STEP_OPS(OP_NAME)};

static double op_seconds[N_STEP_OPS];

static double now(void)
{
    return (double)clock_monotonic_ns() * 1e-9;
}

#define OP_WRAPPER(slot, type)                                                                     \
    static enum status timed_##slot(struct device *device, const struct type *args)                \
    {                                                                                              \
        double start = now();                                                                      \
        enum status status = op_table_cpu.slot(device, args);                                      \
        op_seconds[OP_##slot] += now() - start;                                                    \
        return status;                                                                             \
    }
STEP_OPS(OP_WRAPPER)

static struct op_table timed_table(void)
{
    struct op_table table = op_table_cpu;
#define OP_REPLACE(slot, args) table.slot = timed_##slot;
    STEP_OPS(OP_REPLACE)
    return table;
}

/* ------------------------------------------------------------------------------ options */

struct bench_options {
    const char *arch;
    int32_t patch_size, window_size, out_dim, batch_size, n_local, threads, steps, warmup;
    float drop_path;
    bool json;
};

enum option_key {
    KEY_ARCH = 256,
    KEY_PATCH,
    KEY_WINDOW,
    KEY_OUT,
    KEY_BATCH,
    KEY_LOCAL,
    KEY_DROP,
    KEY_THREADS,
    KEY_STEPS,
    KEY_WARMUP,
    KEY_JSON
};

static const struct argp_option option_table[] = {
    {"arch", KEY_ARCH, "NAME", 0,
     "vit_tiny, vit_small (default), vit_base, vit_large, swin_tiny, …", 0},
    {"patch_size", KEY_PATCH, "PX", 0, "side of a ViT's patch (16)", 0},
    {"window_size", KEY_WINDOW, "N", 0, "side of a Swin's windows (7)", 0},
    {"out_dim", KEY_OUT, "K", 0, "prototypes (8192)", 0},
    {"batch_size_per_gpu", KEY_BATCH, "N", 0, "images in a step (8)", 0},
    {"local_crops_number", KEY_LOCAL, "N", 0, "local crops of 96 px (10)", 0},
    {"drop_path", KEY_DROP, "RATE", 0, "stochastic depth of the last block (0.1)", 0},
    {"threads", KEY_THREADS, "N", 0, "threads (all cores)", 0},
    {"steps", KEY_STEPS, "N", 0, "timed steps (5)", 0},
    {"warmup", KEY_WARMUP, "N", 0, "steps before them (2)", 0},
    {"json", KEY_JSON, NULL, 0, "print one JSON object", 0},
    {0},
};

static int32_t whole(struct argp_state *state, const char *text, int32_t least)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < least || value > 1000000)
        argp_error(state, "got '%s', wanted a whole number from %d to 1000000", text, least);
    return (int32_t)value;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct bench_options *o = state->input;

    switch (key) {
    case KEY_ARCH:
        o->arch = text;
        return 0;
    case KEY_PATCH:
        o->patch_size = whole(state, text, 1);
        return 0;
    case KEY_WINDOW:
        o->window_size = whole(state, text, 1);
        return 0;
    case KEY_OUT:
        o->out_dim = whole(state, text, 1);
        return 0;
    case KEY_BATCH:
        o->batch_size = whole(state, text, 1);
        return 0;
    case KEY_LOCAL:
        o->n_local = whole(state, text, 0);
        return 0;
    case KEY_DROP:
        o->drop_path = strtof(text, NULL);
        return 0;
    case KEY_THREADS:
        o->threads = whole(state, text, 0);
        return 0;
    case KEY_STEPS:
        o->steps = whole(state, text, 1);
        return 0;
    case KEY_WARMUP:
        o->warmup = whole(state, text, 0);
        return 0;
    case KEY_JSON:
        o->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* ------------------------------------------------------------------------------ the bench */

struct bench {
    struct bench_options options;
    struct ibot_options model_options;
    struct op_table table;
    struct device device;
    struct collective collective;
    struct ibot *ibot;
    uint8_t *globals, *locals, *masks;
    double *seconds; /* of each timed step */
    struct ibot_result result;
};

/* The published mixture: half of the crops unmasked, the others between 0.1 and 0.5 of the cells.
 */
static void fill_masks(struct bench *bench, int64_t n_images, int64_t cells)
{
    struct rng rng = rng_open((struct rng_key){.seed = 1, .purpose = RNG_TEST});

    for (int64_t i = 0; i < n_images; i++) {
        double ratio = rng_uniform(&rng) < 0.5 ? 0.0 : rng_range(&rng, 0.1, 0.5);
        for (int64_t j = 0; j < cells; j++)
            bench->masks[i * cells + j] = rng_uniform(&rng) < ratio;
    }
}

static enum status make_input(struct bench *bench, struct ibot_input *input)
{
    const struct ibot_options *o = &bench->model_options;
    int64_t globals = (int64_t)o->n_global * o->batch_size,
            locals = (int64_t)o->n_local * o->batch_size;
    int64_t side = o->global_size_px, small = o->local_size_px;
    int64_t grid = backbone_grid(&o->backbone, o->global_size_px);
    struct rng rng = rng_open((struct rng_key){.seed = 2, .purpose = RNG_TEST});

    TRY(memory_alloc(&bench->globals, (size_t)(globals * side * side * 3), 1, "global crops"));
    TRY(memory_alloc(&bench->locals, (size_t)(locals * small * small * 3), 1, "local crops"));
    TRY(memory_alloc(&bench->masks, (size_t)(globals * grid * grid), 1, "masks"));
    for (int64_t i = 0; i < globals * side * side * 3; i++)
        bench->globals[i] = (uint8_t)rng_u32(&rng);
    for (int64_t i = 0; i < locals * small * small * 3; i++)
        bench->locals[i] = (uint8_t)rng_u32(&rng);
    fill_masks(bench, globals, grid * grid);
    *input = (struct ibot_input){
        .globals = {bench->globals, DTYPE_U8, 4, {globals, side, side, 3}},
        .masks = bench->masks,
        .keep_seed = 3,
    };
    if (locals > 0)
        input->locals = (struct tensor){bench->locals, DTYPE_U8, 4, {locals, small, small, 3}};
    return STATUS_OK;
}

static enum status open_model(struct bench *bench)
{
    const struct bench_options *o = &bench->options;
    struct ibot_options *m = &bench->model_options;

    TRY(backbone_options_for(&m->backbone, o->arch));
    if (m->backbone.n_stages == 0)
        m->backbone.patch_size_px = o->patch_size;
    m->backbone.window_size = o->window_size;
    m->backbone.drop_path = o->drop_path;
    m->head = (struct head_options){
        .hidden_dim = 2048,
        .bottleneck_dim = 256,
        .out_dim = o->out_dim,
        .patch_out_dim = o->out_dim,
        .shared_student = true,
        .shared_teacher = true,
        .activation = ACTIVATION_GELU,
    };
    m->batch_size = o->batch_size;
    m->n_global = 2;
    m->global_size_px = 224;
    m->n_local = o->n_local;
    m->local_size_px = 96;
    m->masked_im_modeling = true;
    m->lambda1 = m->lambda2 = 1.0f;
    m->accumulation_steps = 1;
    bench->table = timed_table();
    TRY(device_open_cpu(&bench->device, o->threads));
    collective_open_alone(&bench->collective);
    TRY(ibot_open(&bench->ibot, &bench->device, &bench->table, &bench->collective, m));
    return ibot_initialise(bench->ibot, 0);
}

static enum status run_step(struct bench *bench, struct ibot_input *input, int32_t step)
{
    struct step_control control = {
        .lr = 1e-4f,
        .weight_decay = 0.04f,
        .teacher_momentum = 0.996f,
        .student_temp = 0.1f,
        .teacher_temp = 0.04f,
        .teacher_patch_temp = 0.04f,
        .centre_momentum = 0.9f,
        .centre_patch_momentum = 0.9f,
        .clip_grad = 3.0f,
        .step = step,
        .last_layer_step = step,
    };

    input->step = step;
    TRY(ibot_zero_gradients(bench->ibot));
    TRY(ibot_accumulate(bench->ibot, input, &control));
    TRY(ibot_result(bench->ibot, &bench->result));
    return ibot_update(bench->ibot);
}

static enum status run(struct bench *bench)
{
    const struct bench_options *o = &bench->options;
    struct ibot_input input;

    TRY(open_model(bench));
    TRY(make_input(bench, &input));
    TRY(memory_alloc(&bench->seconds, (size_t)o->steps, sizeof(double), "times"));
    for (int32_t step = 0; step < o->warmup + o->steps; step++) {
        if (step == o->warmup)
            memset(op_seconds, 0, sizeof(op_seconds));
        double start = now();
        TRY(run_step(bench, &input, step));
        if (step >= o->warmup)
            bench->seconds[step - o->warmup] = now() - start;
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ report */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(struct bench *bench)
{
    const struct bench_options *o = &bench->options;
    struct rusage usage;
    double other = 0.0;

    for (int32_t i = 0; i < o->steps; i++)
        other += bench->seconds[i] / o->steps;
    qsort(bench->seconds, (size_t)o->steps, sizeof(double), ascending);
    double median = bench->seconds[o->steps / 2];
    getrusage(RUSAGE_SELF, &usage);
    const char *pair = o->json ? ", \"%s\": %.6g" : "%s: %.6g\n";
    printf(o->json ? "{\"what\": \"step_bench\", \"arch\": \"%s\"" : "arch: %s\n", o->arch);
    printf(pair, "threads", (double)bench->device.n_threads);
    printf(pair, "batch_size_per_gpu", (double)o->batch_size);
    printf(pair, "seconds_per_step", median);
    printf(pair, "images_per_second", o->batch_size / median);
    printf(pair, "peak_memory_mib", (double)usage.ru_maxrss / 1024.0);
    printf(pair, "planned_memory_mib", (double)ibot_device_bytes(bench->ibot) / 1048576.0);
    printf(pair, "masked_patches", (double)bench->result.n_masked);
    printf(pair, "loss", bench->result.loss);
    printf(o->json ? ", \"phases\": {" : "seconds in a step:\n");
    for (int i = 0; i < N_STEP_OPS; i++) {
        double seconds = op_seconds[i] / o->steps;
        other -= seconds;
        if (seconds == 0.0) /* not of this architecture */
            continue;
        if (o->json)
            printf("\"%s\": %.6f, ", op_names[i], seconds);
        else
            printf("  %-30s %8.4f\n", op_names[i], seconds);
    }
    printf(o->json ? "\"other\": %.6f}}\n" : "  other                          %8.4f\n", other);
}

int main(int argc, char **argv)
{
    static const struct argp argp = {
        option_table, parse, NULL, "Times one iBOT training step on random data.",
        NULL,         NULL,  NULL};
    struct bench bench = {.options = {.arch = "vit_small",
                                      .patch_size = 16,
                                      .window_size = 7,
                                      .out_dim = 8192,
                                      .batch_size = 8,
                                      .n_local = 10,
                                      .steps = 5,
                                      .warmup = 2,
                                      .drop_path = 0.1f}};

    argp_parse(&argp, argc, argv, 0, NULL, &bench.options);
    enum status status = run(&bench);
    if (status == STATUS_OK)
        report(&bench);
    else
        fprintf(stderr, "step_bench: %s\n", status_message());
    ibot_close(&bench.ibot);
    device_close(&bench.device);
    memory_free(bench.globals);
    memory_free(bench.locals);
    memory_free(bench.masks);
    memory_free(bench.seconds);
    return status_exit_code(status);
}
