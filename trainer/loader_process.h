/* Local loaders: `--loaders N` starts N ibot-loader processes that connect over ipc:// in a folder
 * that only this user can enter. They end when this process does or says
 * so, and leave other signals to it, which may come to the whole group. One that is killed (no
 * memory, a crash) is started again, a few times: a loader holds no state, so nothing is lost; one
 * that ends by itself said why and stays away. */
#ifndef IBOT_TRAINER_LOADER_PROCESS_H
#define IBOT_TRAINER_LOADER_PROCESS_H

#include <sys/types.h>

#include "proto/base/status.h"

enum {
    LOADER_PROCESS_MAX = 64,
    LOADER_PROCESS_MAX_RESTARTS = 10,
    LOADER_PROCESS_NICE = 5 /* how far loaders let the trainer go first: it waits for nobody */
};

struct loader_processes {
    char folder[64];                    /* temporary, 0700 */
    char endpoint[96];                  /* ipc://folder/stream: what the consumer binds */
    pid_t pids[LOADER_PROCESS_MAX];     /* 0: ended */
    int n_restarts[LOADER_PROCESS_MAX]; /* of each */
    int n, threads_each;
    int last_end;                       /* how the last one ended, as waitpid says it */
    const char *data, *index, *connect; /* borrowed until stop */
};

/* Makes the folder and the endpoint's name. */
enum status loader_processes_prepare(struct loader_processes *processes) IBOT_WARN_UNUSED;

/* Starts n loaders of a data set, found beside this program's own file; `index` may be NULL.
 * threads_each 0: the processors of this rank are shared out. The texts are borrowed until stop.
 * Errors: STATUS_NOT_FOUND (no such program), STATUS_IO, STATUS_INVALID (n; what the environment
 * says of ranks). */
enum status loader_processes_start(struct loader_processes *processes, int n, int threads_each,
                                   const char *data, const char *index,
                                   const char *endpoint) IBOT_WARN_UNUSED;

/* Looks after them: says in the log which has ended, starts killed ones again. STATUS_OK while at
 * least one runs (or none was started); else STATUS_CLOSED with how they ended. */
enum status loader_processes_check(struct loader_processes *processes) IBOT_WARN_UNUSED;

/* Ends them (SIGHUP, then SIGKILL), removes the folder. Twice is fine. */
void loader_processes_stop(struct loader_processes *processes);

#endif
