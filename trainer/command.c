#include "trainer/command.h"

#include "ops/collective.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/stop.h"
#include "trainer/backend.h"

static enum status check_alone(const char *name)
{
    struct collective_environment environment;

    TRY(collective_environment_read(&environment));
    if (environment.world > 1)
        FAIL(STATUS_INVALID,
             "%s is one process, and here are %d ranks (%s): start it without mpirun, srun -n or "
             "torchrun",
             name, environment.world, environment.source);
    return STATUS_OK;
}

static enum status run(const struct program_command *command, const char *name, int argc,
                       char **argv, const atomic_int *stop)
{
    struct options options = {0};
    void *values = NULL;

    TRY(memory_alloc(&values, 1, command->values_bytes, "options"));
    enum status status = options_parse(&options, command->program, values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = check_alone(name);
    if (status == STATUS_OK && !options.finished)
        status = command->run(values, &options, stop);
    options_release(&options);
    memory_free(values);
    return status;
}

int command_main(const struct command_set *commands, int argc, char **argv)
{
    const struct options_program *programs[COMMANDS_MAX], *chosen = NULL;

    CHECK(commands->n <= COMMANDS_MAX);
    backend_start_process(argv);
    log_start(commands->name, LOG_INFO);
    const atomic_int *stop = stop_on_signals();
    for (int i = 0; i < commands->n; i++)
        programs[i] = commands->entries[i]->program;
    enum status status = options_command(&chosen, commands->name, commands->summary, programs,
                                         (size_t)commands->n, argc, argv);
    for (int i = 0; i < commands->n && status == STATUS_OK; i++)
        if (chosen == programs[i])
            status = run(commands->entries[i], commands->name, argc - 1, argv + 1, stop);
    if (status != STATUS_OK)
        log_error("%s", status_message());
    return status_exit_code(status);
}
