/* A training run: everything `ibot-train` holds while it works.
 *
 *   run.c         opens it, resumes, loops over steps        step.c        one step, over all ranks
 *   run_source.c  where it begins
 *   run_state.c   to and from checkpoints                    run_folder.c  what lies in the folder
 */
#ifndef IBOT_TRAINER_TRAIN_RUN_H
#define IBOT_TRAINER_TRAIN_RUN_H

#include <stdatomic.h>
#include <stdio.h>

#include "ops/rank_monitor.h"
#include "proto/config/ranges.h"
#include "trainer/backend.h"
#include "trainer/checkpoint.h"
#include "trainer/event_file.h"
#include "trainer/metrics.h"
#include "trainer/official_checkpoint.h"
#include "trainer/progress.h"
#include "trainer/receiver.h"
#include "trainer/train/run_monitor.h"
#include "trainer/train/run_options.h"

struct run {
    const struct run_options *options; /* borrowed */
    const struct options *parsed;      /* borrowed: texts, digest */
    const atomic_int *stop;            /* borrowed: 1 after a first signal */
    struct notify notify;              /* the manager of this service, if there is one */
    struct run_monitor monitor;        /* whoever watches over HTTP */
    struct backend backend;
    struct receiver receiver;
    struct ibot *ibot;
    struct dataset_info dataset;
    struct data_spec spec;
    struct schedule schedule;

    int64_t step;                          /* steps done */
    int64_t optimizer_lag, last_layer_lag; /* see checkpoint_state */
    int64_t micro_per_epoch;               /* batches of the stream in an epoch */
    int64_t n_to_skip;                     /* of them, before the next step: the rest of an epoch */
    struct ranges skip;                    /* steps to leave out */
    struct metrics metrics;                /* of the epoch under way, this rank's */
    double entropies[CHECKPOINT_ENTROPIES];
    int32_t *labels, *clusters; /* the same; planned at start */
    int64_t n_clusters, cluster_capacity;
    int64_t n_bad_images; /* in all */
    double loss;          /* of the newest step whose numbers are known, this rank's; NAN: none */
    bool unread;          /* the numbers of the last step are still to be read */
    bool warned_collapse; /* in this epoch */
    bool said_left_out;   /* of the range of steps under way */

    struct progress progress;
    struct event_file *events; /* rank 0 */
    FILE *digests;
    int lock; /* file that keeps other trainers out of the run folder; 0: none */
    bool sheet_drawn;
    struct checkpoint_option *stored; /* the options as they go into checkpoints */
    size_t n_stored;
    int64_t saved_step, saved_ns; /* of the newest checkpoint; rank 0's clock */
    bool save_due;                /* by that clock: agreed on by all ranks */
};

/* Opens all of it, resumes or initialises, writes the run file. A batch size that was left open
 * (auto) is filled in: `parsed` has it too then. */
enum status run_open(struct run *run, struct run_options *options, const struct options *parsed,
                     const atomic_int *stop) IBOT_WARN_UNUSED;

/* Trains to the end. Errors: STATUS_INTERRUPTED (after a checkpoint), STATUS_NOT_FINITE, … */
enum status run_train(struct run *run) IBOT_WARN_UNUSED;
void run_close(struct run *run);

/* One optimizer step from as many batches as it takes; *left_out: one that --skip_steps names,
 * *stop: whether any rank was asked to stop. A rank that fails takes all with it before any weight
 * has moved. An accelerator may be a step behind: run->loss is the newest that is known. Errors:
 * STATUS_INTERRUPTED (a rank was asked to stop while it waited for data: nobody made the step),
 * STATUS_NOT_FINITE (of this step or the one before), those of the receiver. */
enum status run_step(struct run *run, bool *left_out, bool *stop) IBOT_WARN_UNUSED;

/* Waits for the last step and notes its numbers: before meters and weights are saved. */
enum status run_settle(struct run *run) IBOT_WARN_UNUSED;

/* Tells whoever watches the ranks what this one is about to do: a constant string. */
static inline void run_tell_progress(struct run *run, const char *doing)
{
    struct collective *ranks = &run->backend.collective;
    ranks->progress(ranks, run->step, doing);
}

/* ---- run_state.c: every rank calls these together ---- */

/* Meters and clusters of the epoch under way, of all ranks: totals, entropies, labels, clusters
 * (memory_alloc, the caller's, on failure too). */
enum status run_gather(struct run *run, struct checkpoint_state *state) IBOT_WARN_UNUSED;

/* Rank 0 saves; the others go on. */
enum status run_save(struct run *run) IBOT_WARN_UNUSED;

/* The options as text, in run->stored. */
enum status run_store_options(struct run *run) IBOT_WARN_UNUSED;

/* A resumed run must be asked for the same thing. Errors: STATUS_MISMATCH names what differs. */
enum status run_compare_options(const struct run *run,
                                const struct checkpoint *checkpoint) IBOT_WARN_UNUSED;

/* Weights, step and meters of a checkpoint; of the meters and clusters rank 0 takes all. */
enum status run_take_checkpoint(struct run *run,
                                const struct checkpoint *checkpoint) IBOT_WARN_UNUSED;

/* ---- run_source.c ---- */

struct run_source {
    bool found;    /* else the run begins at step 0 */
    bool own;      /* it is of this run folder, not of --load_from */
    bool official; /* it is `file`, else `checkpoint` */
    struct checkpoint checkpoint;
    struct official_checkpoint file;
};

/* The newest good checkpoint of the run folder, else what --load_from names. Errors:
 * STATUS_MISMATCH (a run is there and must not be), STATUS_INVALID (--load_from). */
enum status run_source_find(const struct run *run, struct run_source *out) IBOT_WARN_UNUSED;

/* The same command goes on; other options need --load_from to be said, and get a warning. */
enum status run_source_compare(const struct run *run,
                               const struct run_source *source) IBOT_WARN_UNUSED;

/* The micro-batch of the run that goes on; 0: none goes on, or it is not said. */
int32_t run_source_batch_size(const struct run_source *source);

/* Fills the model and the step. */
enum status run_source_take(struct run *run, const struct run_source *source) IBOT_WARN_UNUSED;
void run_source_close(struct run_source *source);

/* ---- run_folder.c ---- */

/* Makes the folder and locks it. Errors: STATUS_IO (also: another trainer works in it). */
enum status run_folder_open(struct run *run) IBOT_WARN_UNUSED;

/* Opens log, events and digests for going on at run->step; writes run.yaml. */
enum status run_folder_start(struct run *run) IBOT_WARN_UNUSED;

/* Closes the epoch that ends with run->step: scores, log line, events, plot; empties the meters. */
enum status run_end_epoch(struct run *run) IBOT_WARN_UNUSED;

/* For each batch: its digest, bad images, and of the first one the contact sheet. */
void run_note_batch(struct run *run, const struct batch *batch);

/* The batch that gave a loss which is not finite, for looking at it later. */
void run_dump_batch(const struct run *run, const struct batch *batch);

void run_folder_close(struct run *run);

/* A path in the run folder. */
const char *run_path(const struct run *run, char *out, size_t size, const char *name);

#endif
