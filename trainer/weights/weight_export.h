/* What a network is called in the file that is to be written: our names turned into those of the
 * original's extractor or of timm, tables that others expect added. */
#ifndef IBOT_TRAINER_WEIGHTS_WEIGHT_EXPORT_H
#define IBOT_TRAINER_WEIGHTS_WEIGHT_EXPORT_H

#include "trainer/weights/pth_write.h"
#include "trainer/weights/weight_selection.h"

struct weight_export {
    struct weight_record *records;
    size_t n, capacity;
    void **owned; /* names and tables */
    size_t n_owned, owned_capacity;
};

void weight_export_release(struct weight_export *export);

/* Adds one tensor of a file under a name, which is copied. */
enum status weight_export_add(struct weight_export *export, const struct weight_file *file,
                              const struct weight_entry *entry, const char *name) IBOT_WARN_UNUSED;

/* Adds values that the caller keeps until they are written. */
enum status weight_export_add_values(struct weight_export *export, const float *values,
                                     int32_t rank, const int64_t *shape,
                                     const char *name) IBOT_WARN_UNUSED;

/* Adds a whole number: I64, of no dimensions. */
enum status weight_export_add_number(struct weight_export *export, int64_t value,
                                     const char *name) IBOT_WARN_UNUSED;

/* After "….attn.relative_position_bias_table" of a Swin, the table of indices that the original and
 * older timm keep beside it: [w*w, w*w] I64, of which row i, column j is the row of the bias for
 * query i and key j. Nothing for other names. Errors: STATUS_MISMATCH (no square window). */
enum status weight_export_add_index(struct weight_export *export, const struct weight_entry *table,
                                    const char *name) IBOT_WARN_UNUSED;

/* The names of a shared last layer and of a shared norm under which the original writes them a
 * second time, unless the export has them: last_layer2 of last_layer, mlp.4 of mlp.1. `prefix` is
 * what stands before "head.". */
enum status weight_export_add_head_aliases(struct weight_export *export,
                                           const char *prefix) IBOT_WARN_UNUSED;

/* The backbone under the original's names, mask token included; with_head: all other tensors under
 * the names they have. Errors: STATUS_NOT_FOUND (no backbone). */
enum status weight_export_backbone(struct weight_export *export,
                                   const struct weight_selection *selection,
                                   bool with_head) IBOT_WARN_UNUSED;

/* The backbone as timm's models of num_classes=0 have it: no mask token, no derived tables, timm's
 * numbers of downsample. */
enum status weight_export_timm(struct weight_export *export,
                               const struct weight_selection *selection) IBOT_WARN_UNUSED;

/* Writes PATH.safetensors, or PATH.pth or .pt: there under `key`, or flat when it is NULL. Errors:
 * STATUS_INVALID (another ending), STATUS_IO. */
enum status weight_export_write(const struct weight_export *export, const char *path,
                                const char *key, const char *const *metadata,
                                size_t n_metadata_pairs) IBOT_WARN_UNUSED;

/* The same for a backbone with a linear classifier, which the original's programs take too: beside
 * "state_dict" a .pth has "epoch" and "best_acc" (in percent), which they tell, and the metadata as
 * "args". */
enum status weight_export_write_classifier(const struct weight_export *export, const char *path,
                                           int64_t epoch, double top1, const char *const *metadata,
                                           size_t n_metadata_pairs) IBOT_WARN_UNUSED;

/* Whether a path ends like a PyTorch file. Errors: STATUS_INVALID when it ends like neither. */
enum status weight_export_is_pth(const char *path, bool *pth) IBOT_WARN_UNUSED;

#endif
