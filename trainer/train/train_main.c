/* ibot-train: parse, open, train, close. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/base/log.h"
#include "trainer/train/run.h"

static atomic_int stop_asked;

/* The first time: finish the step, save, end. The second time: end at once. */
static void ask_to_stop(int signal_number)
{
    atomic_store(&stop_asked, 1);
    signal(signal_number, SIG_DFL);
}

static enum status train(struct run_options *values, const struct options *parsed)
{
    static struct run run;

    run_options_settle(values, parsed);
    TRY(run_options_check(values));
    if (values->check)
        return options_dump(parsed, stdout);
    enum status status = run_open(&run, values, parsed, &stop_asked);
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
    signal(SIGINT, ask_to_stop);
    signal(SIGTERM, ask_to_stop);
    signal(SIGUSR1, ask_to_stop);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file size limit is a full disk: an error of write */
    enum status status = options_parse(&options, &run_program, &values, argc, argv);
    if (status == STATUS_OK && !options.finished)
        status = train(&values, &options);
    if (status == STATUS_INTERRUPTED)
        log_warning("%s", status_message());
    else if (status != STATUS_OK)
        log_error("%s", status_message());
    options_release(&options);
    return status_exit_code(status);
}
