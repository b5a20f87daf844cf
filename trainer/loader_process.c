/* Children with posix_spawn; ended and waited for with a deadline. */
#include "trainer/loader_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/clock.h"

extern char **environ;

static const int64_t stop_ns = 3000000000; /* then SIGKILL */

enum status loader_processes_prepare(struct loader_processes *p)
{
    memset(p, 0, sizeof(*p));
    snprintf(p->folder, sizeof(p->folder), "/tmp/ibot-XXXXXX");
    if (mkdtemp(p->folder) == NULL) {
        enum status status =
            status_set(STATUS_IO, "cannot make a folder in /tmp: %s", strerror(errno));
        p->folder[0] = '\0';
        return status;
    }
    snprintf(p->endpoint, sizeof(p->endpoint), "ipc://%s/stream", p->folder);
    return STATUS_OK;
}

/* The ibot-loader in this program's own folder. */
static enum status find_program(char *out, size_t size)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    if (n < 0)
        FAIL(STATUS_IO, "/proc/self/exe: %s", strerror(errno));
    out[n] = '\0';
    char *slash = strrchr(out, '/');
    if (slash == NULL || (size_t)(slash - out) + sizeof("/ibot-loader") > size)
        FAIL(STATUS_NOT_FOUND, "no place for ibot-loader beside '%s'", out);
    snprintf(slash, size - (size_t)(slash - out), "/ibot-loader");
    if (access(out, X_OK) != 0)
        FAIL(STATUS_NOT_FOUND,
             "'%s' is not there or can't be run: build and install all programs "
             "together",
             out);
    return STATUS_OK;
}

enum status loader_processes_start(struct loader_processes *p, int n, int threads_each,
                                   const char *data, const char *index, const char *endpoint)
{
    char program[4096], threads[16];
    const char *arguments[] = {"ibot-loader", "--data",
                               data,          "--connect",
                               endpoint,      "--threads",
                               threads,       "--exit-when-done",
                               "on",          "--die-with-parent",
                               "on",          index != NULL ? "--index" : NULL,
                               index,         NULL};

    if (n < 1 || n > LOADER_PROCESS_MAX)
        FAIL(STATUS_INVALID, "--loaders: got %d, wanted 1 to %d", n, LOADER_PROCESS_MAX);
    TRY(find_program(program, sizeof(program)));
    snprintf(threads, sizeof(threads), "%d", threads_each);
    for (int i = 0; i < n; i++) {
        int failed = posix_spawn(&p->pids[i], program, NULL, NULL,
                                 (char *const *)(uintptr_t)arguments, environ);
        if (failed != 0)
            FAIL(STATUS_IO, "cannot start '%s': %s", program, strerror(failed));
        p->n = i + 1;
    }
    return STATUS_OK;
}

enum status loader_processes_check(struct loader_processes *p)
{
    int n_alive = 0, last = 0;

    for (int i = 0; i < p->n; i++) {
        int how;
        if (p->pids[i] != 0 && waitpid(p->pids[i], &how, WNOHANG) == p->pids[i]) {
            p->pids[i] = 0;
            last = how;
        }
        n_alive += p->pids[i] != 0;
    }
    if (p->n == 0 || n_alive > 0)
        return STATUS_OK;
    if (WIFSIGNALED(last))
        FAIL(STATUS_CLOSED, "all %d local loaders have ended, the last one by signal %d", p->n,
             WTERMSIG(last));
    FAIL(STATUS_CLOSED,
         "all %d local loaders have ended, the last one with exit status %d: its "
         "message is above",
         p->n, WEXITSTATUS(last));
}

void loader_processes_stop(struct loader_processes *p)
{
    int64_t deadline = clock_monotonic_ns() + stop_ns;

    if (p == NULL)
        return;
    for (int i = 0; i < p->n; i++)
        if (p->pids[i] != 0)
            kill(p->pids[i], SIGTERM);
    for (int i = 0; i < p->n; i++) {
        while (p->pids[i] != 0) {
            pid_t ended = waitpid(p->pids[i], NULL, WNOHANG);
            if (ended != 0)
                break;
            if (clock_monotonic_ns() > deadline)
                kill(p->pids[i], SIGKILL);
            poll(NULL, 0, 5); /* the only way to wait for a child with a deadline */
        }
        p->pids[i] = 0;
    }
    p->n = 0;
    if (p->folder[0] != '\0') {
        char path[96];
        snprintf(path, sizeof(path), "%s/stream", p->folder);
        unlink(path);
        rmdir(p->folder);
        p->folder[0] = '\0';
    }
}
