/* ibot-stream: records of the stream, and the stream itself, for people. */
#include <stdatomic.h>
#include <stdio.h>

#include "proto/base/log.h"
#include "proto/config/stop.h"
#include "stream/command.h"

static const struct stream_command *const commands[] = {
    &stream_inspect, &stream_replay, &stream_verify, &stream_watch, &stream_keygen};

enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static enum status run(int argc, char **argv, struct options *options, const atomic_int *stop)
{
    const struct options_program *programs[N_COMMANDS], *chosen = NULL;

    for (int i = 0; i < N_COMMANDS; i++)
        programs[i] = commands[i]->program;
    TRY(options_command(&chosen, "ibot-stream",
                        "Look into a recording of a run's samples, replay it, check it.", programs,
                        N_COMMANDS, argc, argv));
    for (int i = 0; i < N_COMMANDS; i++) {
        if (chosen != programs[i])
            continue;
        TRY(options_parse(options, chosen, commands[i]->values, argc - 1, argv + 1));
        return options->finished ? STATUS_OK : commands[i]->run(options, stop);
    }
    return STATUS_OK; /* --help or --version was answered */
}

int main(int argc, char **argv)
{
    struct options options = {0};

    log_start("ibot-stream", LOG_INFO);
    enum status status = run(argc, argv, &options, stop_on_signals());
    if (status == STATUS_INTERRUPTED)
        log_info("%s", status_message());
    else if (status != STATUS_OK)
        log_error("%s", status_message());
    options_release(&options);
    return status_exit_code(status);
}
