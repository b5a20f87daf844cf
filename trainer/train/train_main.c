/* ibot-train: parse, open, train, close. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/base/log.h"
#include "proto/config/stop.h"
#include "trainer/train/run.h"

static void tell_end(const struct run *run)
{
    long long step = run->step, n_steps = run->schedule.steps_per_epoch * run->schedule.epochs;
    long long n_bad = run->n_bad_images;
    const char *folder = run->options->output_dir;

    if (step < n_steps)
        log_info("step %lld of %lld, where --stop_at_step ends it, %lld bad images; the same "
                 "command without it goes on; the run is in '%s'",
                 step, n_steps, n_bad, folder);
    else
        log_info("done: %lld steps, %lld bad images; the run is in '%s'", step, n_bad, folder);
}

/* When *stop is set: finish the step, save, end. The caller closes the run. */
static enum status train(struct run *run, struct run_options *values, const struct options *parsed,
                         const atomic_int *stop)
{
    run_options_settle(values, parsed);
    TRY(run_options_check(values));
    if (values->check)
        return options_dump(parsed, stdout);
    TRY(run_open(run, values, parsed, stop));
    TRY(run_train(run));
    if (run->backend.collective.rank == 0)
        tell_end(run);
    return STATUS_OK;
}

int main(int argc, char **argv)
{
    static struct run run;
    struct run_options values;
    struct options options = {0};

    backend_start_process(argv);
    log_start(backend_log_name("ibot-train"), LOG_INFO);
    const atomic_int *stop = stop_on_signals();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is a full disk: an error of write */
    enum status status = options_parse(&options, &run_program, &values, argc, argv);
    bool parsed = status == STATUS_OK;
    if (parsed && !options.finished)
        status = train(&run, &values, &options, stop);
    if (status == STATUS_INTERRUPTED)
        log_warning("%s", status_message());
    else if (status != STATUS_OK)
        log_error("%s", status_message());
    backend_leave(&run.backend, !parsed || values.backend.kind == BACKEND_CUDA, status);
    run_close(&run);
    options_release(&options);
    return status_exit_code(status);
}
