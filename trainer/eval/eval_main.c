/* ibot-eval: evaluations of a trained backbone, one sub-command each. */
#include "ops/collective.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/config/stop.h"
#include "trainer/backend.h"
#include "trainer/eval/command.h"

static const struct eval_command *const commands[] = {
    &knn_command, &linear_command, &cluster_command, &logistic_command, &curve_command};

enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

/* Ranks would all do the same. */
static enum status check_alone(void)
{
    struct collective_environment environment;

    TRY(collective_environment_read(&environment));
    if (environment.world > 1)
        FAIL(STATUS_INVALID,
             "ibot-eval is one process, and here are %d ranks (%s): start it without mpirun, srun "
             "-n or torchrun",
             environment.world, environment.source);
    return STATUS_OK;
}

static enum status run(const struct eval_command *command, int argc, char **argv,
                       const atomic_int *stop)
{
    struct options options = {0};
    void *values = NULL;

    TRY(memory_alloc(&values, 1, command->values_bytes, "options"));
    enum status status = options_parse(&options, command->program, values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = check_alone();
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
    log_start("ibot-eval", LOG_INFO);
    const atomic_int *stop = stop_on_signals();
    for (int i = 0; i < N_COMMANDS; i++)
        programs[i] = commands[i]->program;
    enum status status = options_command(&chosen, "ibot-eval", "Evaluate a trained backbone.",
                                         programs, N_COMMANDS, argc, argv);
    for (int i = 0; i < N_COMMANDS && status == STATUS_OK; i++)
        if (chosen == programs[i])
            status = run(commands[i], argc - 1, argv + 1, stop);
    if (status != STATUS_OK)
        log_error("%s", status_message());
    return status_exit_code(status);
}
