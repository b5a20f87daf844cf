/* ibot-train: parse, open, train, close. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/base/log.h"
#include "proto/config/stop.h"
#include "trainer/train/run.h"

/* When *stop is set: finish the step, save, end. */
static enum status train(struct run_options *values, const struct options *parsed,
                         const atomic_int *stop)
{
    static struct run run;

    run_options_settle(values, parsed);
    TRY(run_options_check(values));
    if (values->check)
        return options_dump(parsed, stdout);
    enum status status = run_open(&run, values, parsed, stop);
    bool opened = status == STATUS_OK;
    int world = run.backend.collective.world;
    if (opened)
        status = run_train(&run);
    if (status == STATUS_OK && run.backend.collective.rank == 0)
        log_info("done: %lld steps, %lld bad images; the run is in '%s'", (long long)run.step,
                 (long long)run.n_bad_images, values->output_dir);
    /* Ranks agree on a stop between steps; whatever else ends one leaves the others waiting. */
    bool agreed = status == STATUS_OK || (status == STATUS_INTERRUPTED && opened);
    if (!agreed && world > 1) {
        log_error("%s", status_message());
        run.backend.collective.abort(&run.backend.collective, status_exit_code(status));
    }
    run_close(&run);
    return status;
}

int main(int argc, char **argv)
{
    struct run_options values;
    struct options options = {0};

    backend_start_process(argv);
    log_start("ibot-train", LOG_INFO);
    const atomic_int *stop = stop_on_signals();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is a full disk: an error of write */
    enum status status = options_parse(&options, &run_program, &values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = train(&values, &options, stop);
    if (status == STATUS_INTERRUPTED)
        log_warning("%s", status_message());
    else if (status != STATUS_OK)
        log_error("%s", status_message());
    options_release(&options);
    return status_exit_code(status);
}
