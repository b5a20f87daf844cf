/* A program of sub-commands (ibot-eval, ibot-analyze): a table of options each, and what to do with
 * their values. */
#ifndef IBOT_TRAINER_COMMAND_H
#define IBOT_TRAINER_COMMAND_H

#include <stdatomic.h>
#include <stddef.h>

#include "proto/base/status.h"
#include "proto/config/options.h"

struct program_command {
    const struct options_program *program;
    size_t values_bytes; /* of the struct that its table fills */
    enum status (*run)(void *values, const struct options *parsed, const atomic_int *stop);
};

enum { COMMANDS_MAX = 16 };

struct command_set {
    const char *name, *summary;                   /* of the program */
    const struct program_command *const *entries; /* at most COMMANDS_MAX */
    int n;
};

/* All of main: process, log, signals, the command that argv names, errors in the log. Several ranks
 * would all do the same, so that more than one is an error. Returns the exit status. */
int command_main(const struct command_set *commands, int argc, char **argv);

#endif
