#include "tests/bench/ops_bench_options.h"

#include <argp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------ shapes */

struct shapes ops_bench_shapes(const struct ops_bench_options *o, const char *arch)
{
    static const struct {
        const char *arch;
        int64_t width, n_heads;
        int32_t patch; /* 0: as asked for */
        int64_t n_backbone;
    } known[] = {
        {"vit_test", 96, 3, 0, 0},     {"vit_tiny", 192, 3, 0, 0},
        {"vit_small", 384, 6, 0, 0},   {"vit_base", 768, 12, 0, 0},
        {"vit_large", 1024, 16, 0, 0}, {"swin_tiny", 96, 3, 4, 27519354},
    };
    struct shapes s = {.dtype = o->f32 ? DTYPE_F32 : DTYPE_BF16,
                       .batch = o->batch,
                       .n_local = o->n_local,
                       .patch = o->patch,
                       .prototypes = o->prototypes,
                       .head_hidden = o->head_hidden,
                       .bottleneck = 256};
    size_t n = sizeof(known) / sizeof(known[0]), i = 0;
    int64_t depth = 12, backbone = 0;

    while (i < n && strcmp(known[i].arch, arch) != 0)
        i++;
    if (i < n) {
        s.width = known[i].width;
        s.n_heads = known[i].n_heads;
        s.patch = known[i].patch > 0 ? known[i].patch : o->patch;
        backbone = known[i].n_backbone;
        depth = strcmp(arch, "vit_large") == 0 ? 24 : strcmp(arch, "vit_test") == 0 ? 3 : 12;
    } else {
        s.width = o->width;
        s.n_heads = o->width / 64;
    }
    snprintf(s.arch, sizeof(s.arch), "%s", arch);
    s.hidden = 4 * s.width;
    s.global_side = o->global_px / s.patch;
    s.local_side = o->local_px / s.patch;
    int64_t cells = (int64_t)s.global_side * s.global_side, d = s.width, h = s.head_hidden;
    s.global_tokens = 2 * s.batch * (cells + 1);
    s.tokens = s.global_tokens + s.n_local * s.batch * ((int64_t)s.local_side * s.local_side + 1);
    s.masked = (int64_t)ceil(0.146 * (double)(2 * s.batch * cells)); /* of the published masks */
    s.needed = s.batch * (2 + s.n_local) + s.masked;
    if (backbone == 0)
        backbone = depth * (12 * d * d + 13 * d) + (3 * (int64_t)s.patch * s.patch + 1) * d +
                   (cells + 1) * d + 4 * d;
    int64_t features = s.patch == 4 && i < n && known[i].patch == 4 ? 8 * d : d;
    s.n_parameters = backbone + features * h + h + h * h + h + h * 256 + 256 + 257 * s.prototypes;
    return s;
}

struct shapes ops_bench_last_stage(const struct shapes *s)
{
    struct shapes last = *s;
    int64_t side = s->global_side, small = s->local_side;

    for (int stage = 0; stage < 3; stage++) {
        side = (side + 1) / 2;
        small = (small + 1) / 2;
    }
    last.width = 8 * s->width;
    last.global_tokens = 2 * s->batch * (side * side + 1);
    last.tokens = last.global_tokens + s->n_local * s->batch * (small * small + 1);
    last.masked = (int64_t)ceil(0.146 * (double)(2 * s->batch * side * side));
    last.needed = s->batch * (2 + s->n_local) + last.masked;
    return last;
}

/* ------------------------------------------------------------------------------ options */

enum option_key {
    KEY_ARCH = 256,
    KEY_WIDTH,
    KEY_BACKEND,
    KEY_PRECISION,
    KEY_BATCH,
    KEY_LOCAL,
    KEY_GLOBAL_PX,
    KEY_LOCAL_PX,
    KEY_PATCH,
    KEY_OUT,
    KEY_TUNE,
    KEY_CACHE,
    KEY_HIDDEN,
    KEY_THREADS,
    KEY_REPEATS,
    KEY_ONLY,
    KEY_JSON
};

static const struct argp_option option_table[] = {
    {"arch", KEY_ARCH, "NAME,…", 0,
     "vit_test, vit_tiny, vit_small (default), vit_base, vit_large, swin_tiny", 0},
    {"width", KEY_WIDTH, "D", 0, "a ViT of this width, with heads of 64, in place of --arch", 0},
    {"backend", KEY_BACKEND, "NAME", 0,
     "cpu (default), cuda; ops_bench_emulated: cuda_emulated, whose times mean nothing", 0},
    {"precision", KEY_PRECISION, "TYPE", 0, "f32 or bf16 (cpu: f32, else bf16)", 0},
    {"matmul_tune", KEY_TUNE, "MODE", 0,
     "off, kept or on (default): products' algorithms by measurement, as in ibot-train", 0},
    {"matmul_cache", KEY_CACHE, "FILE", 0, "what was measured before, and is kept (none)", 0},
    {"batch_size_per_gpu", KEY_BATCH, "N", 0, "images in a step (cpu: 4, else 64)", 0},
    {"local_crops_number", KEY_LOCAL, "N", 0, "local crops (10)", 0},
    {"global_size", KEY_GLOBAL_PX, "PX", 0, "side of the two global crops (224)", 0},
    {"local_size", KEY_LOCAL_PX, "PX", 0, "side of local crops (96)", 0},
    {"patch_size", KEY_PATCH, "PX", 0, "side of a ViT's patch (16)", 0},
    {"out_dim", KEY_OUT, "K", 0, "prototypes (8192)", 0},
    {"head_hidden_dim", KEY_HIDDEN, "D", 0, "width of the head (2048)", 0},
    {"threads", KEY_THREADS, "N", 0, "threads of the CPU backend (1)", 0},
    {"repeats", KEY_REPEATS, "N", 0, "timed calls of each case (cpu: 5, else 20)", 0},
    {"only", KEY_ONLY, "TEXT", 0, "cases whose row has this text", 0},
    {"json", KEY_JSON, NULL, 0, "print one JSON object", 0},
    {0},
};

static int32_t whole(struct argp_state *state, const char *text, int32_t least, int32_t most)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < least || value > most)
        argp_error(state, "got '%s', wanted a whole number from %d to %d", text, least, most);
    return (int32_t)value;
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct ops_bench_options *o = state->input;
    static const int32_t much = 1000000;

    switch (key) {
    case KEY_ARCH:
        o->archs = text;
        return 0;
    case KEY_WIDTH:
        o->width = whole(state, text, 64, 65536);
        if (o->width % 64 != 0)
            argp_error(state, "width: got %d, wanted a multiple of 64", o->width);
        return 0;
    case KEY_BACKEND:
        o->backend.name = text;
        return 0;
    case KEY_PRECISION:
        if (strcmp(text, "f32") != 0 && strcmp(text, "bf16") != 0)
            argp_error(state, "precision: got '%s', wanted f32 or bf16", text);
        o->precision = text;
        return 0;
    case KEY_TUNE:
        if (!bench_tuning_mode(&o->backend.tuning.mode, text))
            argp_error(state, "matmul_tune: got '%s', wanted off, kept or on", text);
        return 0;
    case KEY_CACHE:
        o->backend.tuning.cache = text;
        return 0;
    case KEY_BATCH:
        o->batch = whole(state, text, 1, much);
        return 0;
    case KEY_LOCAL:
        o->n_local = whole(state, text, 0, 62);
        return 0;
    case KEY_GLOBAL_PX:
        o->global_px = whole(state, text, 1, much);
        return 0;
    case KEY_LOCAL_PX:
        o->local_px = whole(state, text, 1, much);
        return 0;
    case KEY_PATCH:
        o->patch = whole(state, text, 1, much);
        return 0;
    case KEY_OUT:
        o->prototypes = whole(state, text, 1, much);
        return 0;
    case KEY_HIDDEN:
        o->head_hidden = whole(state, text, 1, much);
        return 0;
    case KEY_THREADS:
        o->backend.threads = whole(state, text, 0, 1024);
        return 0;
    case KEY_REPEATS:
        o->repeats = whole(state, text, 1, OPS_BENCH_REPEATS);
        return 0;
    case KEY_ONLY:
        o->only = text;
        return 0;
    case KEY_JSON:
        o->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static bool is_known(const char *arch)
{
    static const char *const names[] = {"vit_test", "vit_tiny",  "vit_small",
                                        "vit_base", "vit_large", "swin_tiny"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i], arch) == 0)
            return true;
    return false;
}

static void check_archs(const char *archs)
{
    char names[256], *rest = names, *arch;

    snprintf(names, sizeof(names), "%s", archs);
    while ((arch = strsep(&rest, ",")) != NULL)
        if (!is_known(arch)) {
            fprintf(stderr, "ops_bench: --arch: no shapes for '%s'; --help lists the names\n",
                    arch);
            exit(2);
        }
}

static void complete(struct ops_bench_options *o)
{
    bool cpu = strcmp(o->backend.name, "cpu") == 0;

    check_archs(o->archs);
    o->f32 = o->precision == NULL ? cpu : strcmp(o->precision, "f32") == 0;
    if (cpu && !o->f32) {
        fprintf(stderr, "ops_bench: --precision bf16: the CPU has f32 alone\n");
        exit(2);
    }
    if (o->batch == 0)
        o->batch = cpu ? 4 : 64;
    if (o->repeats == 0)
        o->repeats = cpu ? 5 : 20;
}

void ops_bench_options_parse(struct ops_bench_options *out, int argc, char **argv)
{
    static const struct argp argp = {
        option_table, parse, NULL, "Times every op at the shapes of a training step.",
        NULL,         NULL,  NULL};

    *out = (struct ops_bench_options){
        .archs = "vit_small",
        .backend = {.name = "cpu", .threads = 1, .tuning = {.mode = DEVICE_TUNING_ON}},
        .n_local = 10,
        .patch = 16,
        .global_px = 224,
        .local_px = 96,
        .prototypes = 8192,
        .head_hidden = 2048};
    argp_parse(&argp, argc, argv, 0, NULL, out);
    complete(out);
}
