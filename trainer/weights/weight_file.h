/* A file of weights, whichever it is: safetensors, or PyTorch's (see pth.h). What kind it is, its
 * bytes say, not its name. All tensors are listed; none is read before it is asked for.
 *
 * Where a file holds several dictionaries, each tensor belongs to a group: the keys that lead to
 * its dictionary, as in "student", "ibot_loss" or "optimizer/state/0". A flat file has the group
 * "". In our own checkpoints it is the first word of a name: "teacher" of
 * "teacher.backbone.cls_token".
 */
#ifndef IBOT_TRAINER_WEIGHTS_WEIGHT_FILE_H
#define IBOT_TRAINER_WEIGHTS_WEIGHT_FILE_H

#include "trainer/weights/pth.h"
#include "trainer/weights/safetensors.h"
#include "trainer/weights/weight_record.h"

enum weight_format { WEIGHT_FORMAT_SAFETENSORS, WEIGHT_FORMAT_PTH, WEIGHT_FORMAT_PTH_LEGACY };

struct weight_entry {
    char *group, *name;
    char type[8]; /* "F32", …; of types that we don't know too */
    bool known;   /* whether dtype says it, so that it can be read */
    enum weight_dtype dtype;
    int32_t rank;
    int64_t shape[WEIGHT_MAX_RANK];
    size_t n_bytes;
    const void *source; /* struct safetensors_entry or pickle_tensor */
};

struct weight_file {
    char *path;
    enum weight_format format;
    struct weight_entry *entries; /* in the file's order */
    size_t n_entries;
    struct safetensors safetensors;
    struct pth pth;
};

/* Opens a file, or a checkpoint folder (its model.safetensors). Errors: STATUS_NOT_FOUND,
 * STATUS_IO, STATUS_CORRUPT, STATUS_UNSUPPORTED. */
enum status weight_file_open(struct weight_file *out, const char *path) IBOT_WARN_UNUSED;
void weight_file_release(struct weight_file *file);

const char *weight_format_name(enum weight_format format);

/* NULL when there is none. Borrowed until release. */
const struct weight_entry *weight_file_find(const struct weight_file *file, const char *group,
                                            const char *name);

/* The value of a key of the outermost dictionary of a PyTorch file; NULL when there is none, and
 * of safetensors. */
const struct pickle_value *weight_file_value(const struct weight_file *file, const char *key);

/* What the file says beside its tensors about how they were made, as text in `out`: metadata of
 * safetensors, the arguments ("args") that the original keeps. False when it does not say. */
bool weight_file_option(const struct weight_file *file, const char *name, char *out, size_t size);

/* All bytes of a tensor, in C order. Errors: STATUS_UNSUPPORTED (a type that is not known), those
 * of pth_read. */
enum status weight_file_read(const struct weight_file *file, const struct weight_entry *entry,
                             void *out) IBOT_WARN_UNUSED;

/* The same as float32; real types only. */
enum status weight_file_read_f32(const struct weight_file *file, const struct weight_entry *entry,
                                 float *out) IBOT_WARN_UNUSED;

/* The tensor as something to write, under a name that is borrowed. CHECKs that its type is known.
 */
struct weight_record weight_file_record(const struct weight_file *file,
                                        const struct weight_entry *entry, const char *name);

/* Which group is meant. `wanted` NULL: the first of teacher, state_dict, model, student that is
 * there, or the tensors of a flat file, or the only group there is. Errors: STATUS_NOT_FOUND names
 * the groups there are. *group is borrowed from the file. */
enum status weight_file_group(const struct weight_file *file, const char *wanted,
                              const char **group) IBOT_WARN_UNUSED;

/* "teacher (52 tensors), student (53), …": for messages. Returns `out`. */
const char *weight_file_groups(const struct weight_file *file, char *out, size_t size);

/* XXH3 over group, name, type, shape and bytes of every tensor in the order of names: the same for
 * the same tensors in another container. */
enum status weight_file_digest(const struct weight_file *file, uint64_t *out) IBOT_WARN_UNUSED;

/* "[384, 3, 16, 16]". Returns `out`. */
const char *weight_shape_text(int32_t rank, const int64_t *shape, char *out, size_t size);

#endif
