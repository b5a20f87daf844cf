/* ibot-analyze: what a trained backbone looks at and what it tells apart, one sub-command each. */
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/stop.h"
#include "trainer/analysis/command.h"
#include "trainer/backend.h"

static const struct analyze_command *const commands[] = {
    &attention_command, &correspondence_command, &patterns_command};

enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static enum status run(const struct analyze_command *command, int argc, char **argv,
                       const atomic_int *stop)
{
    struct options options = {0};
    void *values = NULL;

    TRY(memory_alloc(&values, 1, command->values_bytes, "options"));
    enum status status = options_parse(&options, command->program, values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = command->run(values, &options, stop);
    options_release(&options);
    memory_free(values);
    return status;
}

int main(int argc, char **argv)
{
    const struct options_program *programs[N_COMMANDS], *chosen = NULL;

    backend_start_process(argv);
    log_start("ibot-analyze", LOG_INFO);
    const atomic_int *stop = stop_on_signals();
    for (int i = 0; i < N_COMMANDS; i++)
        programs[i] = commands[i]->program;
    enum status status = options_command(&chosen, "ibot-analyze", "Look into a trained backbone.",
                                         programs, N_COMMANDS, argc, argv);
    for (int i = 0; i < N_COMMANDS && status == STATUS_OK; i++)
        if (chosen == programs[i])
            status = run(commands[i], argc - 1, argv + 1, stop);
    if (status != STATUS_OK)
        log_error("%s", status_message());
    return status_exit_code(status);
}
