#include "tests/e2e/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/clock.h"

/* Programs under test that outlive a failed test would hold ports and cores. */
enum { MAX_TEXT = 1 << 22 };

static void add_words(struct command *command, va_list words)
{
    for (const char *word; (word = va_arg(words, const char *)) != NULL;) {
        assert_true(command->n < PROCESS_MAX_ARGUMENTS);
        command->words[command->n++] = word;
    }
}

struct command command_of(const char *program, ...)
{
    struct command command = {.words = {program}, .n = 1};
    va_list words;

    va_start(words, program);
    add_words(&command, words);
    va_end(words);
    return command;
}

void command_add(struct command *command, ...)
{
    va_list words;

    va_start(words, command);
    add_words(command, words);
    va_end(words);
}

__attribute__((noreturn)) static void child(const struct command *command, int output)
{
    const char *folder = getenv("IBOT_BIN");
    char path[4096];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(output, STDOUT_FILENO);
    dup2(output, STDERR_FILENO);
    if (command->max_file_bytes > 0) {
        struct rlimit limit = {(rlim_t)command->max_file_bytes, (rlim_t)command->max_file_bytes};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    snprintf(path, sizeof(path), "%s/%s", folder != NULL ? folder : ".", command->words[0]);
    char *const *words = (char *const *)(uintptr_t)command->words;
    if (access(path, X_OK) == 0)
        execv(path, words);
    else
        execvp(command->words[0], words);
    dprintf(STDERR_FILENO, "cannot start '%s': %s\n", path, strerror(errno));
    _exit(126);
}

void process_start(struct process *process, const struct command *command)
{
    int ends[2];

    memset(process, 0, sizeof(*process));
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    fflush(NULL);
    process->pid = fork();
    assert_true(process->pid >= 0);
    if (process->pid == 0)
        child(command, ends[1]);
    close(ends[1]);
    process->output = ends[0];
    fcntl(process->output, F_SETFL, O_NONBLOCK);
    process->pidfd = (int)syscall(SYS_pidfd_open, process->pid, 0);
    assert_true(process->pidfd >= 0);
    process->capacity = 1 << 16;
    process->text = calloc(1, process->capacity);
    assert_non_null(process->text);
}

/* Takes what is there now. */
static void take_output(struct process *process)
{
    for (;;) {
        if (process->n_text + 1 >= process->capacity) {
            assert_true(process->capacity < MAX_TEXT);
            process->capacity *= 2;
            process->text = realloc(process->text, process->capacity);
            assert_non_null(process->text);
        }
        ssize_t n = read(process->output, process->text + process->n_text,
                         process->capacity - process->n_text - 1);
        if (n <= 0)
            break;
        process->n_text += (size_t)n;
        process->text[process->n_text] = '\0';
    }
}

static void note_end(struct process *process)
{
    int how;

    if (!process->ended && waitpid(process->pid, &how, WNOHANG) == process->pid) {
        process->ended = true;
        process->exit_status = WIFSIGNALED(how) ? 128 + WTERMSIG(how) : WEXITSTATUS(how);
    }
}

/* Waits for output or the end, until the deadline. False when it has passed. */
static bool wait_event(struct process *process, int64_t deadline_ns)
{
    int64_t left = deadline_ns - clock_monotonic_ns();
    struct pollfd events[] = {{process->pidfd, POLLIN, 0}, {process->output, POLLIN, 0}};

    if (left <= 0)
        return false;
    poll(events, 2, (int)(left / 1000000) + 1);
    if (events[1].revents & (POLLHUP | POLLERR)) /* nobody writes any more: the end is near */
        poll(events, 1, (int)(left / 1000000) + 1);
    process_look(process);
    return true;
}

size_t process_expect(struct process *process, const char *text, size_t from, int seconds)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)seconds * 1000000000;

    for (;;) {
        const char *found = strstr(process->text + from, text);
        if (found != NULL)
            return (size_t)(found - process->text) + strlen(text);
        if (process->ended || !wait_event(process, deadline)) {
            print_error("waited for '%s', got:\n%s\n", text, process->text);
            process_release(process);
            fail_msg("'%s' did not come", text);
        }
    }
}

int process_lines(struct process *process, int fifo, int n, int seconds)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)seconds * 1000000000;
    int count = 0;

    while (count < n) {
        int64_t left = deadline - clock_monotonic_ns();
        struct pollfd events[] = {
            {fifo, POLLIN, 0}, {process->pidfd, POLLIN, 0}, {process->output, POLLIN, 0}};
        char byte;
        if (left <= 0) {
            print_error("%d of %d lines after %d s:\n%s\n", count, n, seconds, process->text);
            process_release(process);
            fail_msg("too few lines");
        }
        poll(events, process->ended ? 1 : 3, process->ended ? 0 : (int)(left / 1000000) + 1);
        bool ended = process->ended; /* all that it wrote was there when this poll began */
        process_look(process);
        if (events[0].revents & POLLIN) {
            while (count < n && read(fifo, &byte, 1) == 1)
                count += byte == '\n';
        } else if (ended) {
            break;
        }
    }
    return count;
}

void process_finish_lines(struct process *process, int fifo, int exit_status, int seconds)
{
    while (process_lines(process, fifo, 1000, seconds) > 0)
        continue;
    process_finish(process, exit_status, seconds);
}

/* In this order: what it wrote before its end is there when its end is. */
void process_look(struct process *process)
{
    note_end(process);
    take_output(process);
}

void process_wait_ms(struct process *process, int ms)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)ms * 1000000;

    while (!process->ended && wait_event(process, deadline))
        continue;
}

int process_wait(struct process *process, int seconds)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)seconds * 1000000000;

    while (!process->ended)
        if (!wait_event(process, deadline)) {
            print_error("still running after %d s:\n%s\n", seconds, process->text);
            process_release(process);
            fail_msg("the program did not end");
        }
    return process->exit_status;
}

void process_signal(const struct process *process, int signal_number)
{
    if (!process->ended)
        kill(process->pid, signal_number);
}

/* Bit `signal_number - 1` of a line of /proc/PID/status: SigCgt, SigIgn, SigPnd, ShdPnd. */
static bool has_signal(pid_t pid, const char *name, int signal_number)
{
    char path[64], line[256];
    unsigned long long mask = 0;
    size_t n = strlen(name);

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    while (fgets(line, sizeof(line), file) != NULL)
        if (strncmp(line, name, n) == 0 && sscanf(line + n, ": %llx", &mask) == 1)
            break;
    fclose(file);
    return (mask >> (signal_number - 1) & 1) != 0;
}

bool process_ignores(pid_t pid, int signal_number)
{
    return has_signal(pid, "SigIgn", signal_number);
}

void process_took(struct process *process, int signal_number, int seconds)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)seconds * 1000000000;

    while (!process->ended && (has_signal(process->pid, "SigPnd", signal_number) ||
                               has_signal(process->pid, "ShdPnd", signal_number))) {
        if (clock_monotonic_ns() > deadline) {
            process_release(process);
            fail_msg("signal %d was not taken within %d s", signal_number, seconds);
        }
        process_wait_ms(process, 2);
    }
}

void process_stop(struct process *process, int signal_number, int seconds)
{
    int64_t deadline = clock_monotonic_ns() + (int64_t)seconds * 1000000000;

    while (!process->ended && !has_signal(process->pid, "SigCgt", signal_number)) {
        if (clock_monotonic_ns() > deadline) {
            print_error("no handler for signal %d after %d s:\n%s\n", signal_number, seconds,
                        process->text);
            process_release(process);
            fail_msg("the program does not catch signal %d", signal_number);
        }
        process_wait_ms(process, 2);
    }
    process_signal(process, signal_number);
}

int process_children(const struct process *process, pid_t *pids, int n)
{
    char path[64];
    int count = 0, pid;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)process->pid, (int)process->pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (count < n && fscanf(file, "%d", &pid) == 1)
        pids[count++] = pid;
    fclose(file);
    return count;
}

void process_release(struct process *process)
{
    if (process->pid > 0 && !process->ended) {
        kill(process->pid, SIGKILL);
        waitpid(process->pid, NULL, 0);
    }
    if (process->pid > 0) {
        close(process->pidfd);
        close(process->output);
    }
    free(process->text);
    memset(process, 0, sizeof(*process));
}

void process_finish(struct process *process, int exit_status, int seconds)
{
    int got = process_wait(process, seconds);
    if (got != exit_status) {
        print_error("exit status %d, wanted %d:\n%s\n", got, exit_status, process->text);
        process_release(process);
        fail_msg("exit status %d, wanted %d", got, exit_status);
    }
}

void process_run(struct process *process, const struct command *command, int exit_status,
                 int seconds)
{
    process_start(process, command);
    process_finish(process, exit_status, seconds);
}
