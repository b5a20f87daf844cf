/* The tensors of a model in one safetensors file, and back, from and to whatever device they are
 * on. */
#ifndef IBOT_TRAINER_STATE_FILE_H
#define IBOT_TRAINER_STATE_FILE_H

#include "trainer/model/state_view.h"
#include "trainer/weights/safetensors.h"

struct state_file_options {
    const char *prefix; /* of the names that are written; NULL: all */
    /* The name in the file of one that is written; NULL: as it is. */
    const char *(*rename)(const char *name);
    const struct safetensors_item *extra; /* more items, in host memory */
    size_t n_extra;
    const char *const *metadata; /* n_pairs times name and text */
    size_t n_pairs;
};

/* Errors: STATUS_IO, STATUS_NO_MEMORY, STATUS_DEVICE. */
enum status state_file_write(const char *path, const struct state_view *view, struct device *device,
                             const struct state_file_options *options) IBOT_WARN_UNUSED;

struct state_counts {
    size_t n_loaded, n_missing, n_unexpected;
};

/* Copies the tensors whose names start with `prefix` ("" for all) into the model, strictly: each
 * must be there with its shape, and no other but those named "epoch.…". `path` is for messages.
 * Errors: STATUS_MISMATCH names the first. */
enum status state_file_restore(const struct safetensors *file, const char *path,
                               const struct state_view *view, struct device *device,
                               const char *prefix, struct state_counts *counts) IBOT_WARN_UNUSED;

#endif
