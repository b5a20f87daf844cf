#include "trainer/command.h"

#include "ops/collective.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/stop.h"

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

static enum backend_kind kind_of(const struct program_command *command, const void *values)
{
    const struct backend_options *o = (const void *)((const char *)values + command->backend_at);
    return (enum backend_kind)o->kind;
}

static enum status run_parsed(const struct program_command *command, const char *name, void *values,
                              const struct options *parsed, struct backend *backend,
                              const atomic_int *stop)
{
    if (command->run_ranks != NULL)
        return command->run_ranks(values, parsed, backend, stop);
    TRY(check_alone(name));
    return command->run(values, parsed, stop);
}

static enum status run(const struct program_command *command, const char *name, int argc,
                       char **argv, const atomic_int *stop)
{
    struct options options = {0};
    struct backend backend = {0};
    void *values = NULL;

    TRY(memory_alloc(&values, 1, command->values_bytes, "options"));
    enum status status = options_parse(&options, command->program, values, argc, argv);
    bool parsed = status == STATUS_OK;
    if (parsed && !options.finished)
        status = run_parsed(command, name, values, &options, &backend, stop);
    if (status != STATUS_OK)
        log_error("%s", status_message());
    if (command->run_ranks != NULL)
        backend_leave(&backend, !parsed || kind_of(command, values) == BACKEND_CUDA, status);
    backend_close(&backend);
    options_release(&options);
    memory_free(values);
    return status;
}

/* Of several ranks the first one speaks for all. */
static enum log_level level_of_rank(void)
{
    struct collective_environment ranks;

    return collective_environment_read(&ranks) == STATUS_OK && ranks.rank > 0 ? LOG_WARNING
                                                                              : LOG_INFO;
}

int command_main(const struct command_set *commands, int argc, char **argv)
{
    const struct options_program *programs[COMMANDS_MAX], *chosen = NULL;

    CHECK(commands->n <= COMMANDS_MAX);
    backend_start_process(argv);
    log_start(backend_log_name(commands->name), level_of_rank());
    const atomic_int *stop = stop_on_signals();
    for (int i = 0; i < commands->n; i++)
        programs[i] = commands->entries[i]->program;
    enum status status = options_command(&chosen, commands->name, commands->summary, programs,
                                         (size_t)commands->n, argc, argv);
    if (status != STATUS_OK)
        log_error("%s", status_message());
    for (int i = 0; i < commands->n && status == STATUS_OK; i++)
        if (chosen == programs[i])
            return status_exit_code(
                run(commands->entries[i], commands->name, argc - 1, argv + 1, stop));
    return status_exit_code(status);
}
