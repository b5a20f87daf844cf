/* What a run tells about itself over HTTP: its numbers, whether it lives, whether loaders may come.
 * Each rank has a server of its own, at the port of --metrics plus its rank. */
#ifndef IBOT_TRAINER_TRAIN_RUN_MONITOR_H
#define IBOT_TRAINER_TRAIN_RUN_MONITOR_H

#include <pthread.h>
#include <stdatomic.h>

#include "proto/monitor/monitor.h"
#include "proto/wire/consumer.h"

/* One step that was made. */
struct run_monitor_step {
    int64_t step; /* done, in all */
    int32_t epoch;
    int64_t n_images;
    double loss;
    int64_t step_ns, waited_ns;
};

struct run_monitor {
    struct monitor *monitor;       /* NULL: nobody watches, and everything here does nothing */
    atomic_int_least64_t alive_ns; /* when the training thread gave its last sign of life */
    pthread_mutex_t lock;
    /* guarded by lock */
    struct consumer *consumer; /* borrowed */
    struct run_monitor_step last;
    uint64_t n_steps, n_waiting_steps, n_images; /* since the start of this process */
    int64_t n_steps_planned, slowest_ns;
    struct histogram steps, waits;
    int64_t checkpoint_step;
    double checkpoint_time, checkpoint_seconds; /* since 1970; spent in saving, in all */
    uint64_t n_checkpoints;
};

/* Starts the server of this rank. Errors: those of monitor_open. */
enum status run_monitor_open(struct run_monitor *monitor, const char *listen,
                             int rank) IBOT_WARN_UNUSED;

/* Loaders may come to this consumer, which is borrowed until close. */
void run_monitor_listening(struct run_monitor *monitor, struct consumer *consumer);

/* The run will have so many steps, the newest checkpoint is that of `step`, now. */
void run_monitor_start(struct run_monitor *monitor, int64_t n_steps_planned, int64_t step);

void run_monitor_note_step(struct run_monitor *monitor, const struct run_monitor_step *step);
void run_monitor_note_checkpoint(struct run_monitor *monitor, int64_t step, int64_t spent_ns);

/* Before the consumer is closed. */
void run_monitor_close(struct run_monitor *monitor);

#endif
