/* The sub-commands of ibot-analyze: a table of options each, and what to do with their values. */
#ifndef IBOT_TRAINER_ANALYSIS_COMMAND_H
#define IBOT_TRAINER_ANALYSIS_COMMAND_H

#include <stdatomic.h>
#include <stddef.h>

#include "proto/base/status.h"
#include "proto/config/options.h"

struct analyze_command {
    const struct options_program *program;
    size_t values_bytes; /* of the struct that its table fills */
    enum status (*run)(void *values, const struct options *parsed, const atomic_int *stop);
};

extern const struct analyze_command attention_command, correspondence_command, patterns_command;

#endif
