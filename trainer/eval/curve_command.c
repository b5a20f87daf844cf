/* ibot-eval curve. */
#include <string.h>

#include "trainer/eval/commands.h"
#include "trainer/plot.h"

struct curve_options {
    const char *log, *out;
};

#define AT(field) .offset = offsetof(struct curve_options, field)

static const struct option_spec specs[] = {
    {.name = "log",
     .type = OPTION_STRING,
     AT(log),
     .flags = OPTION_REQUIRED,
     .argument = "FILE",
     .help = "one JSON object per line: run, epoch, minutes, and one or both of knn_top1 and "
             "linear_top1; other lines are passed over"},
    {.name = "out",
     .type = OPTION_STRING,
     AT(out),
     .flags = OPTION_REQUIRED,
     .argument = "FILE",
     .help = "the picture: .svg, or .png"},
};

static const struct options_program program = {
    .name = "ibot-eval curve",
    .summary = "Draw accuracies against epochs and minutes, a curve for each run of a log.",
    .epilogue = "  ibot-eval curve --log runs/learn/learn.jsonl --out runs/learn/learn.png",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

static enum status curve(void *values, const struct options *parsed, const atomic_int *stop)
{
    const struct curve_options *o = values;
    size_t n = strlen(o->out);

    (void)parsed;
    (void)stop;
    if (n > 4 && strcmp(o->out + n - 4, ".png") == 0) {
        char svg[4096];
        if ((size_t)snprintf(svg, sizeof(svg), "%.*s.svg", (int)(n - 4), o->out) >= sizeof(svg))
            FAIL(STATUS_INVALID, "--out '%s' is too long", o->out);
        TRY(plot_accuracies(svg, o->log));
        return plot_png(o->out, svg);
    }
    if (n <= 4 || strcmp(o->out + n - 4, ".svg") != 0)
        FAIL(STATUS_INVALID, "--out '%s': wanted a name that ends in .svg or .png", o->out);
    return plot_accuracies(o->out, o->log);
}

const struct program_command curve_command = {
    .program = &program,
    .values_bytes = sizeof(struct curve_options),
    .run = curve,
};
