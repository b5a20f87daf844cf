/* Checkpoints: everything a run needs to go on as if it had not stopped.
 *
 *   FOLDER/step_00001250/model.safetensors   student, teacher, moments, centres; the epoch's
 * clusters state.json          step, data position, meters, options, digests of the model and of
 * itself
 *
 * Written under a temporary name, synced, renamed, the folder synced: what bears its name is whole.
 * A checkpoint whose digest does not fit is passed over for the one before it. */
#ifndef IBOT_TRAINER_CHECKPOINT_H
#define IBOT_TRAINER_CHECKPOINT_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "trainer/metrics.h"
#include "trainer/model/ibot.h"
#include "trainer/state_file.h"
#include "trainer/weights/safetensors.h"

enum { CHECKPOINT_FORMAT = 2, CHECKPOINT_MAX_PATH = 4096 };

/* Sums of the teacher's entropy over the epoch: [CLS] and its count, patches and their count. */
enum { CHECKPOINT_ENTROPIES = 4 };

enum { CHECKPOINT_OPTION_BYTES = 256 }; /* of an option's text, with its end */

/* Where a run stands, besides the tensors of the model. */
struct checkpoint_state {
    int64_t step; /* steps done */
    int64_t steps_per_epoch;
    uint64_t index_digest, n_samples, spec_digest;
    int32_t world;
    /* Steps of the run less those that Adam counts: not 0 for a run that began elsewhere (see
     * official_checkpoint.h). */
    int64_t optimizer_lag, last_layer_lag;
    uint64_t run_digest;           /* of the options */
    double totals[METRICS_TOTALS]; /* of the epoch under way, all ranks' sum */
    double entropies[CHECKPOINT_ENTROPIES];
    int64_t n_bad_images, n_clusters;
    int32_t *labels, *clusters; /* [n_clusters] of the epoch under way; borrowed when saving,
                                   owned (memory_alloc) after loading */
};

/* One option as text, for comparing runs and for rebuilding the model. */
struct checkpoint_option {
    const char *name;
    char text[CHECKPOINT_OPTION_BYTES];
    bool digest; /* changes results: must be equal on resume */
};

/* An opened checkpoint. */
struct checkpoint {
    char path[CHECKPOINT_MAX_PATH];
    struct safetensors model;
    json_t *json;
};

/* Saves step_N into `folder`. Errors: STATUS_IO (disk full: older ones are intact; nothing of this
 * one is left). */
enum status checkpoint_save(const char *folder, struct ibot *ibot, struct device *device,
                            const struct checkpoint_state *state,
                            const struct checkpoint_option *options,
                            size_t n_options) IBOT_WARN_UNUSED;

/* Removes all but the newest `keep_last` up to `step`, step 0 and every multiple of keep_every (0:
 * none), and what a killed process did not finish. Those beyond `step`, which the run has yet to
 * make again, were passed over as damaged when it began: they count as none, and stay. */
enum status checkpoint_prune(const char *folder, int64_t step, int32_t keep_last,
                             int64_t keep_every) IBOT_WARN_UNUSED;

/* The newest good checkpoint of a folder, opened. Bad ones are passed over with a warning in the
 * log. *found is false (and OK returned) when there is none at all. Errors: STATUS_CORRUPT when
 * there are only bad ones. */
enum status checkpoint_open_latest(struct checkpoint *out, const char *folder,
                                   bool *found) IBOT_WARN_UNUSED;

/* A checkpoint folder, a folder of them (the newest), or a run folder. Errors: STATUS_NOT_FOUND,
 * STATUS_CORRUPT. */
enum status checkpoint_open(struct checkpoint *out, const char *path) IBOT_WARN_UNUSED;

/* NULL when the run had no such option. Borrowed. */
const char *checkpoint_option(const struct checkpoint *checkpoint, const char *name);

enum status checkpoint_state(const struct checkpoint *checkpoint,
                             struct checkpoint_state *out) IBOT_WARN_UNUSED;

/* Copies the tensors whose state names start with `prefix` ("" for all) into the model, strictly:
 * every one must be there with its shape. Errors: STATUS_MISMATCH names the first. */
enum status checkpoint_restore(const struct checkpoint *checkpoint, struct ibot *ibot,
                               struct device *device, const char *prefix,
                               struct state_counts *counts) IBOT_WARN_UNUSED;

void checkpoint_close(struct checkpoint *checkpoint);

#endif
