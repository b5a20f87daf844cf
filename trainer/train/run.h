/* A training run: everything `ibot-train` holds while it works. */
#ifndef IBOT_TRAINER_TRAIN_RUN_H
#define IBOT_TRAINER_TRAIN_RUN_H

#include <stdatomic.h>

#include "trainer/backend.h"
#include "trainer/checkpoint.h"
#include "trainer/event_file.h"
#include "trainer/metrics.h"
#include "trainer/progress.h"
#include "trainer/receiver.h"
#include "trainer/train/run_options.h"

struct run {
    const struct run_options *options; /* borrowed */
    const struct options *parsed;      /* borrowed: texts, digest */
    const atomic_int *stop;            /* borrowed: 1 after a first signal */
    struct backend backend;
    struct receiver receiver;
    struct ibot *ibot;
    struct dataset_info dataset;
    struct data_spec spec;
    struct schedule schedule;
    struct metrics metrics;
    struct progress progress;
    struct event_file *events;
    FILE *digests;
    int64_t step;               /* steps done */
    int64_t micro_per_epoch;    /* batches of the stream in an epoch */
    int32_t *labels, *clusters; /* of the epoch under way, this rank's; planned at start */
    int64_t n_clusters, cluster_capacity;
    int64_t n_bad_images;             /* in all */
    struct checkpoint_option *stored; /* the options as they go into checkpoints */
    size_t n_stored;
    bool warned_collapse; /* in this epoch */
    bool sheet_drawn;
};

/* Opens all of it, resumes or initialises, writes the run file. */
enum status run_open(struct run *run, const struct run_options *options,
                     const struct options *parsed, const atomic_int *stop) IBOT_WARN_UNUSED;

/* Trains to the end. Errors: STATUS_INTERRUPTED (after a checkpoint), STATUS_NOT_FINITE, … */
enum status run_train(struct run *run) IBOT_WARN_UNUSED;
void run_close(struct run *run);

/* One optimizer step from as many batches as it takes; *loss is this rank's, *stop whether any rank
 * was asked to stop. A rank that fails takes all with it before any weight has moved. */
enum status run_step(struct run *run, double *loss, bool *stop) IBOT_WARN_UNUSED;

/* Closes the epoch that ends with `step`: scores, log line, events, plot; empties the meters. */
enum status run_end_epoch(struct run *run) IBOT_WARN_UNUSED;

/* Meters and clusters of the epoch under way, of all ranks: totals, labels, clusters (memory_alloc,
 * the caller's, on failure too). Every rank calls it. */
enum status run_gather(struct run *run, struct checkpoint_state *state) IBOT_WARN_UNUSED;

/* Rank 0 saves; the others wait. */
enum status run_save(struct run *run) IBOT_WARN_UNUSED;

/* A path in the run folder. */
const char *run_path(const struct run *run, char *out, size_t size, const char *name);

#endif
