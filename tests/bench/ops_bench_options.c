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
    struct shapes s = {.dtype = bench_options_half(&o->bench) ? DTYPE_BF16 : DTYPE_F32,
                       .batch = o->batch,
                       .n_local = o->bench.n_local,
                       .patch = o->bench.patch_size_px,
                       .prototypes = o->bench.out_dim,
                       .head_hidden = o->bench.head_hidden_dim,
                       .bottleneck = 256};
    size_t n = sizeof(known) / sizeof(known[0]), i = 0;
    int64_t depth = 12, backbone = 0;

    while (i < n && strcmp(known[i].arch, arch) != 0)
        i++;
    if (i < n) {
        s.width = known[i].width;
        s.n_heads = known[i].n_heads;
        s.patch = known[i].patch > 0 ? known[i].patch : o->bench.patch_size_px;
        backbone = known[i].n_backbone;
        depth = strcmp(arch, "vit_large") == 0 ? 24 : strcmp(arch, "vit_test") == 0 ? 3 : 12;
    } else {
        s.width = o->width;
        s.n_heads = o->width / 64;
    }
    snprintf(s.arch, sizeof(s.arch), "%s", arch);
    s.hidden = 4 * s.width;
    s.global_side = o->bench.global_size_px / s.patch;
    s.local_side = o->bench.local_size_px / s.patch;
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

enum option_key { KEY_ARCH = 256, KEY_WIDTH, KEY_BATCH, KEY_REPEATS, KEY_ONLY };

static const struct argp_option option_table[] = {
    {"arch", KEY_ARCH, "NAME,…", 0,
     "vit_test, vit_tiny, vit_small (default), vit_base, vit_large, swin_tiny", 0},
    {"width", KEY_WIDTH, "D", 0, "a ViT of this width, with heads of 64, in place of --arch", 0},
    {"batch_size_per_gpu", KEY_BATCH, "N", 0, "images in a step (cpu: 4, else 64)", 0},
    {"repeats", KEY_REPEATS, "N", 0, "timed calls of each case (cpu: 5, else 20)", 0},
    {"only", KEY_ONLY, "TEXT", 0, "cases whose row has this text", 0},
    {0},
};

static error_t parse(int key, char *text, struct argp_state *state)
{
    struct ops_bench_options *o = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &o->bench;
        return 0;
    case KEY_ARCH:
        o->archs = text;
        return 0;
    case KEY_WIDTH:
        o->width = bench_number(state, text, NULL, 64, 65536);
        if (o->width % 64 != 0)
            argp_error(state, "width: got %d, wanted a multiple of 64", o->width);
        return 0;
    case KEY_BATCH:
        o->batch = bench_number(state, text, NULL, 1, 1000000);
        return 0;
    case KEY_REPEATS:
        o->repeats = bench_number(state, text, NULL, 1, OPS_BENCH_REPEATS);
        return 0;
    case KEY_ONLY:
        o->only = text;
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
    bool cpu = bench_options_on_cpu(&o->bench);

    check_archs(o->archs);
    if (cpu && bench_options_half(&o->bench)) {
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
    static const struct argp_child children[] = {{&bench_argp, 0, "Backend, crops and head:", 1},
                                                 {0}};
    static const struct argp argp = {.options = option_table,
                                     .parser = parse,
                                     .doc = "Times every op at the shapes of a training step.",
                                     .children = children};

    *out = (struct ops_bench_options){.archs = "vit_small", .bench = bench_options_default(1)};
    argp_parse(&argp, argc, argv, 0, NULL, out);
    complete(out);
}
