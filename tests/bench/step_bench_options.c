#include "tests/bench/step_bench_options.h"

#include <argp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum option_key {
    KEY_ARCH = 256,
    KEY_BACKEND,
    KEY_PRECISION,
    KEY_GELU,
    KEY_GRAPH,
    KEY_RECOMPUTE,
    KEY_ATTENTION,
    KEY_WEIGHTS,
    KEY_TUNE,
    KEY_CACHE,
    KEY_PATCH,
    KEY_WINDOW,
    KEY_OUT,
    KEY_HIDDEN,
    KEY_BOTTLENECK,
    KEY_BATCH,
    KEY_BEST,
    KEY_GLOBAL,
    KEY_LOCAL,
    KEY_N_LOCAL,
    KEY_DROP,
    KEY_THREADS,
    KEY_STEPS,
    KEY_WARMUP,
    KEY_PROFILE,
    KEY_CEILINGS,
    KEY_UPLOAD,
    KEY_JSON
};

static const struct argp_option option_table[] = {
    {"arch", KEY_ARCH, "NAME", 0,
     "vit_test, vit_tiny, vit_small (default), vit_base, vit_large, swin_tiny, …", 0},
    {"backend", KEY_BACKEND, "NAME", 0,
     "cpu (default), cuda; step_bench_emulated: cuda_emulated, whose times mean nothing", 0},
    {"precision", KEY_PRECISION, "TYPE", 0, "f32 or bf16 (cpu: f32, else bf16)", 0},
    {"gelu", KEY_GELU, "FORM", 0, "erf or tanh (f32: erf, bf16: tanh)", 0},
    {"cuda_graph", KEY_GRAPH, "on|off", 0, "record steps on an accelerator (on)", 0},
    {"recompute", KEY_RECOMPUTE, "WHAT", 0,
     "none (default), gelu, norms or blocks: made again in the backward, not kept", 0},
    {"attention", KEY_ATTENTION, "WHOSE", 0, "auto (default), own or cudnn, as in ibot-train", 0},
    {"matmul_tune", KEY_TUNE, "MODE", 0,
     "off, kept or on (default): products' algorithms by measurement, as in ibot-train", 0},
    {"matmul_cache", KEY_CACHE, "FILE", 0, "what was measured before, and is kept (none)", 0},
    {"weight_gradient_branch", KEY_WEIGHTS, "on|off", 0,
     "gradients of weights beside the rest of the backward (off; never while each op is timed)", 0},
    {"patch_size", KEY_PATCH, "PX", 0, "side of a ViT's patch (16)", 0},
    {"window_size", KEY_WINDOW, "N", 0, "side of a Swin's windows (7)", 0},
    {"out_dim", KEY_OUT, "K", 0, "prototypes (8192)", 0},
    {"head_hidden_dim", KEY_HIDDEN, "D", 0, "width of the head (2048)", 0},
    {"bottleneck_dim", KEY_BOTTLENECK, "D", 0, "width of its bottleneck (256)", 0},
    {"batch_size_per_gpu", KEY_BATCH, "N,…", 0, "images in a step; one or more, by turns (8)", 0},
    {"best_batch", KEY_BEST, NULL, 0,
     "after these twice the last and so on, while the rate grows by 2 % and memory lasts", 0},
    {"global_size", KEY_GLOBAL, "PX", 0, "side of the two global crops (224)", 0},
    {"local_size", KEY_LOCAL, "PX", 0, "side of local crops (96)", 0},
    {"local_crops_number", KEY_N_LOCAL, "N", 0, "local crops (10)", 0},
    {"drop_path", KEY_DROP, "RATE", 0, "stochastic depth of the last block (0.1)", 0},
    {"threads", KEY_THREADS, "N", 0, "threads of the CPU backend (all cores)", 0},
    {"steps", KEY_STEPS, "N", 0, "timed steps (cpu: 5, else 50)", 0},
    {"warmup", KEY_WARMUP, "N", 0, "steps before them (cpu: 2, else 10)", 0},
    {"profile", KEY_PROFILE, "N", 0,
     "then N steps call by call, nothing beside anything else, to time each op (2); 0: none", 0},
    {"ceilings", KEY_CEILINGS, "on|off", 0, "measure what the hardware can do at best (on)", 0},
    {"upload", KEY_UPLOAD, NULL, 0,
     "each step's crops come from the host (pinned) beside the step before, as in training", 0},
    {"json", KEY_JSON, NULL, 0, "print one JSON object", 0},
    {0},
};

static int32_t whole(struct argp_state *state, const char *text, const char *until, int32_t least)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == '\0' || end != until || value < least || value > 1000000)
        argp_error(state, "got '%s', wanted a whole number from %d to 1000000", text, least);
    return (int32_t)value;
}

static int32_t number(struct argp_state *state, const char *text, int32_t least)
{
    return whole(state, text, text + strlen(text), least);
}

static bool either(struct argp_state *state, const char *text, const char *yes, const char *no)
{
    if (strcmp(text, yes) != 0 && strcmp(text, no) != 0)
        argp_error(state, "got '%s', wanted %s or %s", text, yes, no);
    return strcmp(text, yes) == 0;
}

static void read_batches(struct step_bench_options *o, const char *text, struct argp_state *state)
{
    for (o->n_batches = 0;; text = strchr(text, ',') + 1) {
        const char *end = strchr(text, ',');
        if (o->n_batches == STEP_BENCH_BATCHES)
            argp_error(state, "more than %d batch sizes", STEP_BENCH_BATCHES);
        o->batches[o->n_batches++] = whole(state, text, end != NULL ? end : strchr(text, '\0'), 1);
        if (end == NULL)
            return;
    }
}

/* As in ibot-train. */
static const char *const recomputes[] = {"none", "gelu", "norms", "blocks"};

static enum recompute read_recompute(const char *text, struct argp_state *state)
{
    for (int i = 0; i < 4; i++)
        if (strcmp(text, recomputes[i]) == 0)
            return (enum recompute)i;
    argp_error(state, "recompute: got '%s', wanted none, gelu, norms or blocks", text);
    return RECOMPUTE_NONE;
}

static const char *const makers[] = {"auto", "own", "cudnn"}; /* enum attention_maker */

static enum attention_maker read_maker(const char *text, struct argp_state *state)
{
    for (int i = 0; i < 3; i++)
        if (strcmp(text, makers[i]) == 0)
            return (enum attention_maker)i;
    argp_error(state, "attention: got '%s', wanted auto, own or cudnn", text);
    return ATTENTION_BY_CHOICE;
}

const char *step_bench_attention(enum attention_maker maker)
{
    return makers[maker];
}

const char *step_bench_recompute(enum recompute recompute)
{
    return recomputes[recompute];
}

/* What depends on the backend: -1 until it is known. */
struct unset {
    int precision, gelu;
};

static error_t parse_more(int key, char *text, struct argp_state *state,
                          struct step_bench_options *o)
{
    switch (key) {
    case KEY_DROP: {
        char *end;
        o->drop_path = strtof(text, &end);
        if (*text == '\0' || *end != '\0' || !(o->drop_path >= 0.0f && o->drop_path < 1.0f))
            argp_error(state, "drop_path: got '%s', wanted 0 <= rate < 1", text);
        return 0;
    }
    case KEY_BATCH:
        read_batches(o, text, state);
        return 0;
    case KEY_BEST:
        o->best_batch = true;
        return 0;
    case KEY_GRAPH:
        o->model.record_steps = either(state, text, "on", "off");
        return 0;
    case KEY_ATTENTION:
        o->backend.attention = read_maker(text, state);
        return 0;
    case KEY_TUNE:
        if (!bench_tuning_mode(&o->backend.tuning.mode, text))
            argp_error(state, "matmul_tune: got '%s', wanted off, kept or on", text);
        return 0;
    case KEY_CACHE:
        o->backend.tuning.cache = text;
        return 0;
    case KEY_RECOMPUTE:
        o->model.recompute = read_recompute(text, state);
        return 0;
    case KEY_WEIGHTS:
        o->model.weights_apart = either(state, text, "on", "off");
        return 0;
    case KEY_CEILINGS:
        o->ceilings = either(state, text, "on", "off");
        return 0;
    case KEY_UPLOAD:
        o->upload = true;
        return 0;
    case KEY_JSON:
        o->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

struct reading {
    struct step_bench_options *options;
    struct unset unset;
};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct reading *reading = state->input;
    struct step_bench_options *o = reading->options;

    switch (key) {
    case KEY_ARCH:
        o->arch = text;
        return 0;
    case KEY_BACKEND:
        o->backend.name = text;
        return 0;
    case KEY_PRECISION:
        reading->unset.precision = either(state, text, "bf16", "f32");
        return 0;
    case KEY_GELU:
        reading->unset.gelu = either(state, text, "tanh", "erf");
        return 0;
    case KEY_PATCH:
        o->patch_size = number(state, text, 1);
        return 0;
    case KEY_WINDOW:
        o->window_size = number(state, text, 1);
        return 0;
    case KEY_OUT:
        o->model.head.out_dim = number(state, text, 1);
        return 0;
    case KEY_HIDDEN:
        o->model.head.hidden_dim = number(state, text, 1);
        return 0;
    case KEY_BOTTLENECK:
        o->model.head.bottleneck_dim = number(state, text, 1);
        return 0;
    case KEY_GLOBAL:
        o->model.global_size_px = number(state, text, 1);
        return 0;
    case KEY_LOCAL:
        o->model.local_size_px = number(state, text, 1);
        return 0;
    case KEY_N_LOCAL:
        o->model.n_local = number(state, text, 0);
        return 0;
    case KEY_THREADS:
        o->backend.threads = number(state, text, 0);
        return 0;
    case KEY_STEPS:
        o->steps = number(state, text, 1);
        return 0;
    case KEY_WARMUP:
        o->warmup = number(state, text, 0);
        return 0;
    case KEY_PROFILE:
        o->profile_steps = number(state, text, 0);
        return 0;
    default:
        return parse_more(key, text, state, o);
    }
}

static void complete(struct step_bench_options *o, const struct unset *unset)
{
    bool cpu = strcmp(o->backend.name, "cpu") == 0,
         half = unset->precision < 0 ? !cpu : unset->precision;

    o->model.precision = half ? PRECISION_BF16 : PRECISION_F32;
    o->model.gelu_tanh = unset->gelu < 0 ? half : unset->gelu;
    o->model.head.patch_out_dim = o->model.head.out_dim;
    if (o->steps == 0)
        o->steps = cpu ? 5 : 50;
    if (o->warmup < 0)
        o->warmup = cpu ? 2 : 10;
}

void step_bench_options_parse(struct step_bench_options *out, int argc, char **argv)
{
    static const struct argp argp = {
        option_table, parse, NULL, "Times one iBOT training step on random data.",
        NULL,         NULL,  NULL};
    struct reading reading = {out, {-1, -1}};

    *out = (struct step_bench_options){
        .arch = "vit_small",
        .backend = {.name = "cpu", .tuning = {.mode = DEVICE_TUNING_ON}},
        .batches = {8},
        .n_batches = 1,
        .patch_size = 16,
        .window_size = 7,
        .drop_path = 0.1f,
        .warmup = -1,
        .profile_steps = 2,
        .ceilings = true,
        .model = {.head = {.hidden_dim = 2048,
                           .bottleneck_dim = 256,
                           .out_dim = 8192,
                           .shared_student = true,
                           .shared_teacher = true,
                           .activation = ACTIVATION_GELU},
                  .n_global = 2,
                  .global_size_px = 224,
                  .n_local = 10,
                  .local_size_px = 96,
                  .masked_im_modeling = true,
                  .lambda1 = 1.0f,
                  .lambda2 = 1.0f,
                  .accumulation_steps = 1,
                  .record_steps = true},
    };
    argp_parse(&argp, argc, argv, 0, NULL, &reading);
    complete(out, &reading.unset);
}
