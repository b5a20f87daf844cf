#include "tests/bench/step_bench_options.h"

#include <argp.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/step_work.h"

enum option_key {
    KEY_ARCH = 256,
    KEY_GELU,
    KEY_GRAPH,
    KEY_STREAM,
    KEY_RECOMPUTE,
    KEY_ATTENTION,
    KEY_WEIGHTS,
    KEY_WINDOW,
    KEY_SKIP,
    KEY_BOTTLENECK,
    KEY_BATCH,
    KEY_BEST,
    KEY_DROP,
    KEY_STEPS,
    KEY_WARMUP,
    KEY_PROFILE,
    KEY_CEILINGS,
    KEY_UPLOAD
};

enum { MUCH = 1000000 };

static const struct argp_option option_table[] = {
    {"arch", KEY_ARCH, "NAME", 0,
     "vit_test, vit_tiny, vit_small (default), vit_base, vit_large, swin_tiny, …", 0},
    {"gelu", KEY_GELU, "FORM", 0, "erf or tanh (f32: erf, bf16: tanh)", 0},
    {"cuda_graph", KEY_GRAPH, "on|off", 0, "record steps on an accelerator (on)", 0},
    {"residual_stream", KEY_STREAM, "TYPE", 0,
     "f32 (default), or bf16 with --precision bf16: of the stream between blocks", 0},
    {"recompute", KEY_RECOMPUTE, "WHAT", 0,
     "none (default), gelu, norms or blocks: made again in the backward, not kept", 0},
    {"attention", KEY_ATTENTION, "WHOSE", 0, "auto (default), own or cudnn, as in ibot-train", 0},
    {"weight_gradient_branch", KEY_WEIGHTS, "on|off", 0,
     "gradients of weights beside the rest of the backward (off; never while each op is timed)", 0},
    {"skip_dropped", KEY_SKIP, "on|off", 0,
     "leave out what stochastic depth drops, as in ibot-train (cpu: on, else off)", 0},
    {"window_size", KEY_WINDOW, "N", 0, "side of a Swin's windows (7)", 0},
    {"bottleneck_dim", KEY_BOTTLENECK, "D", 0, "width of the head's bottleneck (256)", 0},
    {"batch_size_per_gpu", KEY_BATCH, "N,…", 0, "images in a step; one or more, by turns (8)", 0},
    {"best_batch", KEY_BEST, NULL, 0,
     "after these twice the last and so on, while the rate grows by 2 % and memory lasts", 0},
    {"drop_path", KEY_DROP, "RATE", 0, "stochastic depth of the last block (0.1)", 0},
    {"steps", KEY_STEPS, "N", 0, "timed steps (cpu: 5, else 50)", 0},
    {"warmup", KEY_WARMUP, "N", 0, "steps before them (cpu: 2, else 10)", 0},
    {"profile", KEY_PROFILE, "N", 0,
     "then N steps call by call, nothing beside anything else, to time each op (2); 0: none", 0},
    {"ceilings", KEY_CEILINGS, "on|off", 0, "measure what the hardware can do at best (on)", 0},
    {"upload", KEY_UPLOAD, NULL, 0,
     "each step's crops come from the host (pinned) beside the step before, as in training", 0},
    {0},
};

/* As in ibot-train. */
static const char *const recomputes[] = {"none", "gelu", "norms", "blocks", NULL};
static const char *const makers[] = {"auto", "own", "cudnn", NULL}; /* enum attention_maker */

static bool is_on(struct argp_state *state, const char *text)
{
    static const char *const names[] = {"on", "off", NULL};
    return bench_choice(state, text, names) == 0;
}

static void read_batches(struct step_bench_options *o, const char *text, struct argp_state *state)
{
    for (o->n_batches = 0;; text = strchr(text, ',') + 1) {
        const char *end = strchr(text, ',');
        if (o->n_batches == STEP_BENCH_BATCHES)
            argp_error(state, "more than %d batch sizes", STEP_BENCH_BATCHES);
        o->batches[o->n_batches++] = bench_number(state, text, end, 1, MUCH);
        if (end == NULL)
            return;
    }
}

const char *step_bench_attention(enum attention_maker maker)
{
    return makers[maker];
}

const char *step_bench_recompute(enum recompute recompute)
{
    return recomputes[recompute];
}

struct reading {
    struct step_bench_options *options;
    int gelu; /* 1: tanh; -1: as the precision says */
    int skip; /* -1: as the backend says */
};

static float read_rate(struct argp_state *state, const char *text)
{
    char *end;
    float rate = strtof(text, &end);

    if (*text == '\0' || *end != '\0' || !(rate >= 0.0f && rate < 1.0f))
        argp_error(state, "drop_path: got '%s', wanted 0 <= rate < 1", text);
    return rate;
}

static error_t parse_more(int key, char *text, struct argp_state *state,
                          struct step_bench_options *o)
{
    switch (key) {
    case KEY_DROP:
        o->drop_path = read_rate(state, text);
        return 0;
    case KEY_BATCH:
        read_batches(o, text, state);
        return 0;
    case KEY_BEST:
        o->best_batch = true;
        return 0;
    case KEY_STEPS:
        o->steps = bench_number(state, text, NULL, 1, MUCH);
        return 0;
    case KEY_WARMUP:
        o->warmup = bench_number(state, text, NULL, 0, MUCH);
        return 0;
    case KEY_PROFILE:
        o->profile_steps = bench_number(state, text, NULL, 0, MUCH);
        return 0;
    case KEY_CEILINGS:
        o->ceilings = is_on(state, text);
        return 0;
    case KEY_UPLOAD:
        o->upload = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const gelus[] = {"erf", "tanh", NULL};
    static const char *const streams[] = {"f32", "bf16", NULL}; /* enum ibot_precision */
    struct reading *reading = state->input;
    struct step_bench_options *o = reading->options;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->bench;
        return 0;
    case KEY_ARCH:
        o->arch = text;
        return 0;
    case KEY_GELU:
        reading->gelu = bench_choice(state, text, gelus);
        return 0;
    case KEY_GRAPH:
        o->model.record_steps = is_on(state, text);
        return 0;
    case KEY_STREAM:
        o->model.residual_stream = (enum ibot_precision)bench_choice(state, text, streams);
        return 0;
    case KEY_RECOMPUTE:
        o->model.recompute = (enum recompute)bench_choice(state, text, recomputes);
        return 0;
    case KEY_ATTENTION:
        o->bench.backend.attention = (enum attention_maker)bench_choice(state, text, makers);
        return 0;
    case KEY_WEIGHTS:
        o->model.weights_apart = is_on(state, text);
        return 0;
    case KEY_SKIP:
        reading->skip = is_on(state, text);
        return 0;
    case KEY_WINDOW:
        o->window_size = bench_number(state, text, NULL, 1, MUCH);
        return 0;
    case KEY_BOTTLENECK:
        o->model.head.bottleneck_dim = bench_number(state, text, NULL, 1, MUCH);
        return 0;
    default:
        return parse_more(key, text, state, o);
    }
}

static void complete(struct step_bench_options *o, int gelu, int skip)
{
    const struct bench_options *bench = &o->bench;
    bool cpu = bench_options_on_cpu(bench), half = bench_options_half(bench);

    o->model.precision = half ? PRECISION_BF16 : PRECISION_F32;
    o->model.gelu_tanh = gelu < 0 ? half : gelu;
    o->model.skip_dropped = skip < 0 ? cpu : skip;
    o->model.global_size_px = bench->global_size_px;
    o->model.local_size_px = bench->local_size_px;
    o->model.n_local = bench->n_local;
    o->model.head.hidden_dim = bench->head_hidden_dim;
    o->model.head.out_dim = o->model.head.patch_out_dim = bench->out_dim;
    if (o->steps == 0)
        o->steps = cpu ? 5 : 50;
    if (o->warmup < 0)
        o->warmup = cpu ? 2 : 10;
}

void step_bench_options_parse(struct step_bench_options *out, int argc, char **argv)
{
    static const struct argp_child children[] = {{&bench_argp, 0, "Backend, crops and head:", 1},
                                                 {0}};
    static const struct argp argp = {.options = option_table,
                                     .parser = parse,
                                     .doc = "Times one iBOT training step on random data.",
                                     .children = children};
    struct reading reading = {out, -1, -1};

    *out = (struct step_bench_options){
        .arch = "vit_small",
        .bench = bench_options_default(0),
        .batches = {8},
        .n_batches = 1,
        .window_size = 7,
        .drop_path = 0.1f,
        .warmup = -1,
        .profile_steps = 2,
        .ceilings = true,
        .model = step_work_published(),
    };
    out->model.record_steps = true;
    argp_parse(&argp, argc, argv, 0, NULL, &reading);
    complete(out, reading.gelu, reading.skip);
}
