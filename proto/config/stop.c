/* One flag for the process: a signal has no other place to leave its word. */
#include "proto/config/stop.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const int signals[] = {SIGINT, SIGTERM, SIGUSR1};
enum { N_SIGNALS = sizeof(signals) / sizeof(signals[0]) };

static atomic_int stop_asked;

static void set_all(void (*action)(int))
{
    for (size_t i = 0; i < N_SIGNALS; i++)
        signal(signals[i], action);
}

static void ask(int signal_number)
{
    atomic_store(&stop_asked, 1);
    if (signal_number == SIGHUP)
        signal(SIGHUP, SIG_DFL);
    else
        set_all(SIG_DFL);
}

const atomic_int *stop_on_signals(void)
{
    set_all(ask);
    return &stop_asked;
}

enum status stop_with_parent(pid_t parent)
{
    set_all(SIG_IGN);
    signal(SIGHUP, ask);
    if (prctl(PR_SET_PDEATHSIG, SIGHUP) != 0)
        FAIL(STATUS_IO, "prctl: %s", strerror(errno));
    if (getppid() != parent)
        FAIL(STATUS_INTERRUPTED, "process %d, which started this one, is gone", (int)parent);
    return STATUS_OK;
}
