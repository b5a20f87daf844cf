/* One network of a weight file, under our names. Files call the same tensor differently:
 *
 *   module.backbone.blocks.0.norm1.weight   iBOT, DINO: student (wrapped for many GPUs)
 *   backbone.blocks.0.norm1.weight          iBOT, DINO: teacher; our checkpoints
 *   blocks.0.norm1.weight                   backbones alone; DeiT, timm
 *   layers.1.downsample.norm.weight         timm's Swin; the original's is layers.0.downsample
 *
 * A tensor of the backbone is called as in the last two lines here, with the original's downsample.
 * Whatever else there is (heads, classifiers) keeps its name, and is told apart. */
#ifndef IBOT_TRAINER_WEIGHTS_WEIGHT_SELECTION_H
#define IBOT_TRAINER_WEIGHTS_WEIGHT_SELECTION_H

#include "trainer/weights/weight_file.h"

enum { WEIGHT_MAX_NAME = 160 };

struct weight_selected {
    const struct weight_entry *entry;
    char name[WEIGHT_MAX_NAME];
    bool backbone;
};

struct weight_selection {
    const struct weight_file *file; /* borrowed */
    const char *key;                /* the group, borrowed from the file; "" of a flat file */
    struct weight_selected *tensors;
    size_t n, n_backbone;
};

/* key: as weight_file_group. Errors: those, STATUS_CORRUPT (two tensors of one name). */
enum status weight_selection_open(struct weight_selection *out, const struct weight_file *file,
                                  const char *key) IBOT_WARN_UNUSED;
void weight_selection_release(struct weight_selection *selection);

/* A tensor of the backbone; NULL when there is none. */
const struct weight_selected *weight_selection_find(const struct weight_selection *selection,
                                                    const char *name);

/* Tables that follow from the architecture, which some files store: no weights. */
bool weight_name_is_derived(const char *name);

/* What timm calls a tensor of the backbone (layers.N.downsample one later), in out. */
void weight_name_timm(const char *name, char out[WEIGHT_MAX_NAME]);

#endif
