/* Children with posix_spawn; looked after between waits, ended with a deadline. */
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

#include "ops/collective.h"
#include "proto/base/clock.h"
#include "proto/base/cpus.h"
#include "proto/base/log.h"

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

/* Variables that are options (IBOT_NAME) are the trainer's: a loader would take its key or its port
 * for its own. */
static bool is_for_loaders(const char *variable)
{
    return strncmp(variable, "IBOT_", 5) != 0 || strncmp(variable, "IBOT_LOG_LEVEL=", 15) == 0 ||
           strncmp(variable, "IBOT_SIMD=", 10) == 0;
}

/* Ends with NULL; free it. Errors: STATUS_NO_MEMORY. */
static enum status loader_environment(char ***out)
{
    size_t n = 0, kept = 0;

    while (environ[n] != NULL)
        n++;
    char **variables = calloc(n + 1, sizeof(*variables));
    if (variables == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for the environment of a loader");
    for (size_t i = 0; i < n; i++)
        if (is_for_loaders(environ[i]))
            variables[kept++] = environ[i];
    *out = variables;
    return STATUS_OK;
}

/* In a process group of its own: a Ctrl-C is the trainer's to answer, which still wants its data.
 */
static enum status start_one(struct loader_processes *p, int i)
{
    char program[4096], threads[16], nice[16], parent[16];
    const char *arguments[] = {"ibot-loader", "--data",
                               p->data,       "--connect",
                               p->connect,    "--threads",
                               threads,       "--nice",
                               nice,          "--exit-when-done",
                               "on",          "--parent",
                               parent,        p->index != NULL ? "--index" : NULL,
                               p->index,      NULL};
    posix_spawnattr_t attributes;
    char **environment = NULL;

    TRY(find_program(program, sizeof(program)));
    TRY(loader_environment(&environment));
    snprintf(threads, sizeof(threads), "%d", p->threads_each);
    snprintf(nice, sizeof(nice), "%d", LOADER_PROCESS_NICE);
    snprintf(parent, sizeof(parent), "%d", (int)getpid());
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
    int failed = posix_spawn(&p->pids[i], program, NULL, &attributes,
                             (char *const *)(uintptr_t)arguments, environment);
    posix_spawnattr_destroy(&attributes);
    free(environment);
    if (failed != 0) {
        p->pids[i] = 0;
        FAIL(STATUS_IO, "cannot start '%s': %s", program, strerror(failed));
    }
    return STATUS_OK;
}

/* Of n loaders of this rank: its part of the processors, in equal parts. */
static enum status threads_of_each(int *out, int n)
{
    struct collective_environment ranks;

    TRY(collective_environment_read(&ranks));
    int share = cpus_share(ranks.local_world) / n;
    *out = share < 1 ? 1 : share;
    return STATUS_OK;
}

enum status loader_processes_start(struct loader_processes *p, int n, int threads_each,
                                   const char *data, const char *index, const char *endpoint)
{
    if (n < 1 || n > LOADER_PROCESS_MAX)
        FAIL(STATUS_INVALID, "--loaders: got %d, wanted 1 to %d", n, LOADER_PROCESS_MAX);
    p->threads_each = threads_each;
    if (threads_each == 0)
        TRY(threads_of_each(&p->threads_each, n));
    p->data = data;
    p->index = index;
    p->connect = endpoint;
    for (int i = 0; i < n; i++) {
        p->n = i + 1;
        TRY(start_one(p, i));
    }
    return STATUS_OK;
}

/* After a loader has ended: again, or not? */
static enum status after_end(struct loader_processes *p, int i, pid_t pid)
{
    int how = p->last_end;

    if (WIFEXITED(how)) {
        if (WEXITSTATUS(how) != 0)
            log_warning("local loader %d ended with exit status %d", (int)pid, WEXITSTATUS(how));
        return STATUS_OK;
    }
    if (p->n_restarts[i] >= LOADER_PROCESS_MAX_RESTARTS) {
        log_warning("local loader %d was killed by signal %d (%s), for the last time: it was "
                    "started again %d times",
                    (int)pid, WTERMSIG(how), strsignal(WTERMSIG(how)), p->n_restarts[i]);
        return STATUS_OK;
    }
    p->n_restarts[i]++;
    log_warning("local loader %d was killed by signal %d (%s); it is started again", (int)pid,
                WTERMSIG(how), strsignal(WTERMSIG(how)));
    return start_one(p, i);
}

enum status loader_processes_check(struct loader_processes *p)
{
    int n_alive = 0, how;

    for (int i = 0; i < p->n; i++) {
        pid_t pid = p->pids[i];
        if (pid != 0 && waitpid(pid, &how, WNOHANG) == pid) {
            p->pids[i] = 0;
            p->last_end = how;
            TRY(after_end(p, i, pid));
        }
        n_alive += p->pids[i] != 0;
    }
    if (p->n == 0 || n_alive > 0)
        return STATUS_OK;
    if (WIFSIGNALED(p->last_end))
        FAIL(STATUS_CLOSED, "all %d local loaders have ended, the last one by signal %d", p->n,
             WTERMSIG(p->last_end));
    FAIL(STATUS_CLOSED,
         "all %d local loaders have ended, the last one with exit status %d: its message is above",
         p->n, WEXITSTATUS(p->last_end));
}

void loader_processes_stop(struct loader_processes *p)
{
    int64_t deadline = clock_monotonic_ns() + stop_ns;

    if (p == NULL)
        return;
    for (int i = 0; i < p->n; i++)
        if (p->pids[i] != 0)
            kill(p->pids[i], SIGHUP); /* the signal that --parent leaves to us */
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
