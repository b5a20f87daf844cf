/* One table with every type of option, for the tests of all sources. */
#ifndef IBOT_TESTS_PROTO_CONFIG_OPTIONS_TEST_H
#define IBOT_TESTS_PROTO_CONFIG_OPTIONS_TEST_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/config/options.h"

enum gait { GAIT_WALK, GAIT_RUN, GAIT_GALLOP };

struct walk_options {
    const char *output_dir;
    int32_t epochs, warmup_epochs;
    int64_t seed;
    float momentum;
    double lr;
    bool shared_head, dry_run;
    enum gait gait;
    float pred_ratio[4];
    int32_t n_pred_ratio;
    const char *connect[4];
    int32_t n_connect;
    int32_t threads, secret;
};

#define WALK(field) offsetof(struct walk_options, field)

static const char *const walk_gaits[] = {
    [GAIT_WALK] = "walk", [GAIT_RUN] = "run", [GAIT_GALLOP] = "gallop", NULL};

static const struct option_spec walk_specs[] = {
    {.name = "output_dir",
     .alias = "out",
     .type = OPTION_STRING,
     .letter = 'o',
     .offset = WALK(output_dir),
     .argument = "DIR",
     .group = "Files",
     .help = "where to put everything",
     .flags = OPTION_OUTSIDE_DIGEST},
    {.name = "epochs",
     .type = OPTION_INT32,
     .letter = 'e',
     .offset = WALK(epochs),
     .text = "100",
     .minimum = 1,
     .maximum = INFINITY,
     .group = "Schedule",
     .help = "number of epochs"},
    {.name = "warmup_epochs",
     .type = OPTION_INT32,
     .offset = WALK(warmup_epochs),
     .text = "10",
     .minimum = 0,
     .maximum = 1000,
     .unit = "epochs"},
    {.name = "seed", .type = OPTION_INT64, .offset = WALK(seed), .text = "0"},
    {.name = "momentum",
     .type = OPTION_FLOAT,
     .offset = WALK(momentum),
     .text = "0.996",
     .maximum = 1},
    {.name = "lr", .type = OPTION_DOUBLE, .offset = WALK(lr), .text = "5e-4", .maximum = 10},
    {.name = "shared_head", .type = OPTION_BOOL, .offset = WALK(shared_head), .text = "on"},
    {.name = "dry_run", .type = OPTION_BOOL, .offset = WALK(dry_run), .text = "off"},
    {.name = "gait",
     .type = OPTION_CHOICE,
     .offset = WALK(gait),
     .choices = walk_gaits,
     .text = "run"},
    {.name = "pred_ratio",
     .type = OPTION_FLOAT_LIST,
     .offset = WALK(pred_ratio),
     .count_offset = WALK(n_pred_ratio),
     .capacity = 4,
     .text = "0 0.3",
     .maximum = 1},
    {.name = "connect",
     .type = OPTION_STRING_LIST,
     .offset = WALK(connect),
     .count_offset = WALK(n_connect),
     .capacity = 4,
     .group = "Wire",
     .flags = OPTION_OUTSIDE_DIGEST},
    {.name = "threads",
     .type = OPTION_INT32,
     .offset = WALK(threads),
     .text = "1",
     .flags = OPTION_COMMAND_LINE_ONLY},
    {.name = "secret",
     .type = OPTION_INT32,
     .offset = WALK(secret),
     .text = "0",
     .flags = OPTION_UNDOCUMENTED},
};

enum { N_WALK_SPECS = sizeof(walk_specs) / sizeof(walk_specs[0]) };

#endif
