/* ibot-eval logistic. */
#include <stdio.h>

#include "proto/base/log.h"
#include "proto/config/rows.h"
#include "trainer/backend_options.h"
#include "trainer/eval/commands.h"
#include "trainer/eval/features.h"
#include "trainer/eval/logistic.h"

enum { MAX_LAMBDAS = 16 };

struct logistic_options {
    const char *load_features;
    float lambd[MAX_LAMBDAS];
    int32_t n_lambd, max_iterations;
    double tolerance;
    struct backend_options backend;
    bool json;
};

#define AT(field) .offset = offsetof(struct logistic_options, field)

static const struct option_spec specs[] = {
    {.name = "load_features",
     .type = OPTION_STRING,
     AT(load_features),
     .flags = OPTION_REQUIRED,
     .argument = "DIR",
     .group = "Data",
     .help = "features of both splits, as ibot-eval knn --dump_features DIR keeps them"},
    {.name = "lambd",
     .type = OPTION_FLOAT_LIST,
     AT(lambd),
     .count_offset = offsetof(struct logistic_options, n_lambd),
     .capacity = MAX_LAMBDAS,
     .text = "0.001 0.0001 1e-05 1e-06",
     .minimum = 1e-12,
     .maximum = 1e6,
     .group = "Classifier",
     .help = "weights of the penalty, half the sum of squares; one classifier for each, each "
             "starting where the one before ended: from strong to weak is fastest (the original's "
             "are given by hand, such as 0.1 0.01)"},
    {.name = "tolerance",
     .type = OPTION_DOUBLE,
     AT(tolerance),
     .text = "0.0001",
     .minimum = 1e-9,
     .maximum = 1,
     .help = "a classifier is done when its gradient is this share of the one at the start"},
    {.name = "max_iterations",
     .type = OPTION_INT32,
     AT(max_iterations),
     .text = "1000",
     .minimum = 1,
     .maximum = 1000000,
     .help = "or after this many steps, which is said in the log"},
    {.part = &row_json, AT(json)},
    {.part = &rows_backend, AT(backend), .group = "Process"},
};

static const struct options_program program = {
    .name = "ibot-eval logistic",
    .summary = "Multinomial logistic regression on frozen features: their linear accuracy.",
    .epilogue = "  ibot-eval knn --checkpoint runs/small --train DIR/train --test DIR/val "
                "--dump_features features\n"
                "  ibot-eval logistic --load_features features",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
};

static void print(const struct logistic_options *o, const struct logistic_result *r)
{
    if (r->gradient_norm > o->tolerance)
        log_warning("lambda %g: after %d steps the gradient is %.2g of that at the start, wanted "
                    "%g: %s",
                    r->lambda, r->n_iterations, r->gradient_norm, o->tolerance,
                    r->n_iterations < o->max_iterations
                        ? "float32 shows no lower point; the result is good to about as much"
                        : "raise --max_iterations or --tolerance");
    printf(o->json ? "{\"lambda\": %g, \"top1\": %.4f, \"top5\": %.4f, \"loss\": %.6f, "
                     "\"iterations\": %d}\n"
                   : "lambda %g: Top1: %.4f, Top5: %.4f (loss %.6f, %d steps)\n",
           r->lambda, r->top1, r->top5, r->loss, r->n_iterations);
}

static enum status logistic(void *values, const struct options *parsed, const atomic_int *stop)
{
    struct logistic_options *o = values;
    struct logistic_result results[MAX_LAMBDAS];
    struct features train = {0}, test = {0};
    struct backend backend = {0};
    enum status status;

    backend_options_settle(&o->backend, NULL, parsed);
    TRY(backend_options_check(&o->backend, NULL));
    TRY_OUT(backend_options_open(&backend, &o->backend, NULL));
    TRY_OUT(features_read_both(&train, &test, o->load_features));
    TRY_OUT(features_check_both(&train, &test));
    for (int32_t i = 0; i < o->n_lambd; i++)
        results[i].lambda = (double)o->lambd[i];
    struct logistic_args args = {
        .train = train.values,
        .test = test.values,
        .train_labels = train.labels,
        .test_labels = test.labels,
        .n_train = train.n,
        .n_test = test.n,
        .dim = train.dim,
        .n_classes = train.n_classes,
        .max_iterations = o->max_iterations,
        .n_results = o->n_lambd,
        .tolerance = o->tolerance,
        .results = results,
        .stop = stop,
    };
    TRY_OUT(logistic_classify(&backend.device, backend.ops, &args));
    for (int32_t i = 0; i < o->n_lambd; i++)
        print(o, &results[i]);
out:
    features_release(&train);
    features_release(&test);
    backend_close(&backend);
    return status;
}

const struct program_command logistic_command = {
    .program = &program,
    .values_bytes = sizeof(struct logistic_options),
    .run = logistic,
};
