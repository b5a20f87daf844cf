/* A program of sub-commands (ibot-eval, ibot-analyze): a table of options each, and what to do with
 * their values. */
#ifndef IBOT_TRAINER_COMMAND_H
#define IBOT_TRAINER_COMMAND_H

#include <stdatomic.h>
#include <stddef.h>

#include "proto/base/status.h"
#include "proto/config/options.h"
#include "trainer/backend_options.h"

struct program_command {
    const struct options_program *program;
    size_t values_bytes; /* of the struct that its table fills */
    enum status (*run)(void *values, const struct options *parsed, const atomic_int *stop);
    /* In place of run, of a command that may be several ranks. It opens the backend, which is
     * zeroed; when it has returned, the other ranks hear of a failure, and the backend is closed.
     */
    enum status (*run_ranks)(void *values, const struct options *parsed, struct backend *backend,
                             const atomic_int *stop);
    size_t backend_at; /* of its struct backend_options among the values */
};

enum { COMMANDS_MAX = 16 };

struct command_set {
    const char *name, *summary;                   /* of the program */
    const struct program_command *const *entries; /* at most COMMANDS_MAX */
    int n;
};

/* All of main: process, log, signals, the command that argv names, errors in the log. Several ranks
 * of a command without run_ranks would all do the same, so that more than one is an error. Of those
 * that are several, rank 0 alone logs what is no warning. Returns the exit status. */
int command_main(const struct command_set *commands, int argc, char **argv);

#endif
