/* A program under test: started with its output caught, waited for with a deadline, ended by
 * signals. Every failure is a failed test with the program's output. */
#ifndef IBOT_TESTS_E2E_PROCESS_H
#define IBOT_TESTS_E2E_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { PROCESS_MAX_ARGUMENTS = 96 };

struct process {
    pid_t pid;
    int pidfd, output; /* readable when it ended; stdout and stderr, its children's too */
    char *text;        /* output so far, NUL-terminated */
    size_t n_text, capacity;
    bool ended;
    int exit_status; /* as a shell says it: 128 + signal when killed */
};

/* What to start. Words are borrowed until process_start. */
struct command {
    const char *words[PROCESS_MAX_ARGUMENTS + 1];
    int n;
    long max_file_bytes; /* RLIMIT_FSIZE; 0: none */
};

/* The words of one program of this build ("ibot-train"), or of the system ("mpirun"); NULL ends
 * them. */
struct command command_of(const char *program, ...) __attribute__((sentinel));
void command_add(struct command *command, ...) __attribute__((sentinel));

void process_start(struct process *process, const struct command *command);

/* Reads output until it holds `text` after the first `from` bytes; returns the place behind it. */
size_t process_expect(struct process *process, const char *text, size_t from, int seconds);

/* Takes lines from a FIFO that the process writes to (opened for reading and writing) until there
 * were n, or the process has ended and all are taken; returns how many there were. */
int process_lines(struct process *process, int fifo, int n, int seconds);

/* Takes all that comes through the FIFO, which would hold the process up, until it has ended; fails
 * the test unless it ends with this exit status. */
void process_finish_lines(struct process *process, int fifo, int exit_status, int seconds);

/* Takes output that is there, notices an end; does not wait. */
void process_look(struct process *process);

/* Reads for so long, or until the end. */
void process_wait_ms(struct process *process, int ms);

/* Reads until the end; returns the exit status. */
int process_wait(struct process *process, int seconds);

void process_signal(const struct process *process, int signal_number);

/* Sends a signal that the program catches, once it does: one that was just started does not yet. */
void process_stop(struct process *process, int signal_number, int seconds);

/* Waits until a signal that was sent has been taken: another one like it would be the same one. */
void process_took(struct process *process, int signal_number, int seconds);

/* Whether a process of this number lets this signal pass it by. */
bool process_ignores(pid_t pid, int signal_number);

/* The children of a process (its loaders), at most n; how many there are. */
int process_children(const struct process *process, pid_t *pids, int n);

/* Kills it when it still runs; frees. */
void process_release(struct process *process);

/* Waits; fails the test unless it ends with this exit status. */
void process_finish(struct process *process, int exit_status, int seconds);

/* Starts, waits; fails the test unless it ends with this exit status. */
void process_run(struct process *process, const struct command *command, int exit_status,
                 int seconds);

#endif
