#include "tests/bench/bench_options.h"

#include <stdlib.h>
#include <string.h>

enum { MUCH = 1000000 };

enum option_key {
    KEY_BACKEND = BENCH_FIRST_KEY,
    KEY_PRECISION,
    KEY_TUNE,
    KEY_CACHE,
    KEY_THREADS,
    KEY_PATCH,
    KEY_GLOBAL,
    KEY_LOCAL,
    KEY_N_LOCAL,
    KEY_OUT,
    KEY_HIDDEN,
    KEY_JSON
};

static const struct argp_option option_table[] = {
    {"backend", KEY_BACKEND, "NAME", 0,
     "cpu (default), cuda; of the program whose name ends in _emulated: cuda_emulated, whose times "
     "mean nothing",
     0},
    {"precision", KEY_PRECISION, "TYPE", 0, "f32 or bf16 (cpu: f32, else bf16)", 0},
    {"matmul_tune", KEY_TUNE, "MODE", 0,
     "off, kept or on (default): products' algorithms by measurement, as in ibot-train", 0},
    {"matmul_cache", KEY_CACHE, "FILE", 0, "what was measured before, and is kept (none)", 0},
    {"threads", KEY_THREADS, "N", 0,
     "threads of the CPU backend; 0: all cores (ops_bench: 1, step_bench: 0)", 0},
    {"patch_size", KEY_PATCH, "PX", 0, "side of a ViT's patch (16)", 0},
    {"global_size", KEY_GLOBAL, "PX", 0, "side of the two global crops (224)", 0},
    {"local_size", KEY_LOCAL, "PX", 0, "side of local crops (96)", 0},
    {"local_crops_number", KEY_N_LOCAL, "N", 0, "local crops (10)", 0},
    {"out_dim", KEY_OUT, "K", 0, "prototypes (8192)", 0},
    {"head_hidden_dim", KEY_HIDDEN, "D", 0, "width of the head (2048)", 0},
    {"json", KEY_JSON, NULL, 0, "print one JSON object", 0},
    {0},
};

int32_t bench_number(struct argp_state *state, const char *text, const char *end, int32_t least,
                     int32_t most)
{
    char *stopped;
    long value = strtol(text, &stopped, 10);

    if (stopped == text || stopped != (end != NULL ? end : strchr(text, '\0')) || value < least ||
        value > most)
        argp_error(state, "got '%s', wanted a whole number from %d to %d", text, least, most);
    return (int32_t)value;
}

int bench_choice(struct argp_state *state, const char *text, const char *const *names)
{
    char wanted[128] = "";

    for (int i = 0; names[i] != NULL; i++) {
        if (strcmp(text, names[i]) == 0)
            return i;
        size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof(wanted) - used, "%s%s",
                 i == 0                 ? ""
                 : names[i + 1] == NULL ? " or "
                                        : ", ",
                 names[i]);
    }
    argp_error(state, "got '%s', wanted %s", text, wanted);
    exit(2);
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const precisions[] = {"f32", "bf16", NULL};
    struct bench_options *o = state->input;

    switch (key) {
    case KEY_BACKEND:
        o->backend.name = text;
        return 0;
    case KEY_PRECISION:
        o->precision =
            (enum bench_precision)(BENCH_PRECISION_F32 + bench_choice(state, text, precisions));
        return 0;
    case KEY_TUNE:
        o->backend.tuning.mode =
            (enum device_tuning_mode)bench_choice(state, text, bench_tuning_modes);
        return 0;
    case KEY_CACHE:
        o->backend.tuning.cache = text;
        return 0;
    case KEY_THREADS:
        o->backend.threads = bench_number(state, text, NULL, 0, 1024);
        return 0;
    case KEY_PATCH:
        o->patch_size_px = bench_number(state, text, NULL, 1, MUCH);
        return 0;
    case KEY_GLOBAL:
        o->global_size_px = bench_number(state, text, NULL, 1, MUCH);
        return 0;
    case KEY_LOCAL:
        o->local_size_px = bench_number(state, text, NULL, 1, MUCH);
        return 0;
    case KEY_N_LOCAL:
        o->n_local = bench_number(state, text, NULL, 0, 62);
        return 0;
    case KEY_OUT:
        o->out_dim = bench_number(state, text, NULL, 1, MUCH);
        return 0;
    case KEY_HIDDEN:
        o->head_hidden_dim = bench_number(state, text, NULL, 1, MUCH);
        return 0;
    case KEY_JSON:
        o->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp bench_argp = {.options = option_table, .parser = parse};

struct bench_options bench_options_default(int32_t threads)
{
    return (struct bench_options){
        .backend = {.name = "cpu", .threads = threads, .tuning = {.mode = DEVICE_TUNING_ON}},
        .patch_size_px = 16,
        .global_size_px = 224,
        .local_size_px = 96,
        .n_local = 10,
        .out_dim = 8192,
        .head_hidden_dim = 2048,
    };
}

bool bench_options_on_cpu(const struct bench_options *o)
{
    return strcmp(o->backend.name, "cpu") == 0;
}

bool bench_options_half(const struct bench_options *o)
{
    return o->precision == BENCH_PRECISION_BF16 ||
           (o->precision == BENCH_PRECISION_BY_BACKEND && !bench_options_on_cpu(o));
}
