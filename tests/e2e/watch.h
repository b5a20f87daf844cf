/* What a trainer consumes, batch by batch and by the clock: the lines of --log_digests, read from a
 * FIFO and held against those of a calm run. */
#ifndef IBOT_TESTS_E2E_WATCH_H
#define IBOT_TESTS_E2E_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/e2e/process.h"

struct watch {
    int fifo;
    uint64_t *wanted; /* [n_steps] digests of the calm run */
    int64_t n_steps;
    int64_t next_step;  /* that must come; -1: any that was there before (a trainer went back) */
    int64_t last_ns;    /* when the last line came, or watch_mark was called */
    int64_t longest_ns; /* between lines, since watch_mark */
    int64_t n_lines;    /* in all */
    char line[64];
    int n_line;
};

/* `text`: the lines of the calm run, in order from step 0. `path`: where the FIFO is made. */
void watch_open(struct watch *watch, const char *path, const char *text);

/* Measures from now on. */
void watch_mark(struct watch *watch);

/* Takes n lines, fewer when the trainer ends; how many there were. A batch that is not the calm
 * run's, or not the next one, is a failed test. */
int watch_lines(struct watch *watch, struct process *trainer, int n, int seconds);

/* The trainer was killed: takes what it had written; the next one may begin with any step before.
 */
void watch_restart(struct watch *watch);

void watch_close(struct watch *watch);

/* KiB of memory that a process has in use now, or had at most ("VmRSS:", "VmHWM:"); 0 when it is
 * gone. */
long watch_memory_kib(pid_t pid, const char *name);

#endif
