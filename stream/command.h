/* A sub-command of ibot-stream: a table of options and what it does. One file each; stream_main.c
 * has the list. */
#ifndef IBOT_STREAM_COMMAND_H
#define IBOT_STREAM_COMMAND_H

#include <stdatomic.h>

#include "proto/config/options.h"

struct stream_command {
    const struct options_program *program; /* named "ibot-stream WORD" */
    void *values;                          /* what `program` fills */
    /* `options`: the words beside the options. `stop` becomes non-zero when a signal comes. */
    enum status (*run)(const struct options *options, const atomic_int *stop);
};

extern const struct stream_command stream_inspect, stream_keygen, stream_replay, stream_verify,
    stream_watch;

#endif
