/* Weights to use: whatever a --checkpoint option names. A run folder or checkpoint of ours, a full
 * checkpoint of iBOT or DINO, a backbone alone (iBOT, DINO, DeiT, timm), as safetensors or as
 * PyTorch wrote it.
 *
 *   pretrained_open ─> backbone (what network it is) ─> ibot_open ─> pretrained_load ─> close
 *
 * Loading is strict: every tensor of the network must be in the file with its shape, and every
 * tensor of the file's backbone must be wanted. Position embeddings of another resolution are
 * interpolated, as the original does. */
#ifndef IBOT_TRAINER_PRETRAINED_H
#define IBOT_TRAINER_PRETRAINED_H

#include "trainer/architecture.h"
#include "trainer/checkpoint.h"

struct pretrained_options {
    const char *path;
    const char *key;  /* which network, or which key of the file; NULL: see weight_file_group */
    const char *arch; /* NULL: as the file says */
    int32_t n_heads;  /* 0: the same */
    bool names_only;  /* no network will be made: `backbone` stays zeroed where it can't be told */
};

struct pretrained {
    struct weight_file file;
    struct weight_selection selection;
    struct backbone_options backbone;
    int32_t crop_size_px;         /* of the global crops it was trained with */
    bool student;                 /* a student's backbone: it may have a mask token */
    struct checkpoint checkpoint; /* ours: its options and state; else zeroed */
};

enum status pretrained_open(struct pretrained *out,
                            const struct pretrained_options *options) IBOT_WARN_UNUSED;
void pretrained_close(struct pretrained *pretrained);

/* A value of the run that made the file: an option of ours, an argument of the original, metadata
 * of safetensors; as text in `out`. False when it is not known. */
bool pretrained_option(const struct pretrained *pretrained, const char *name, char *out,
                       size_t size);

struct pretrained_report {
    size_t n_loaded, n_missing, n_unexpected;
    size_t n_resized; /* of the loaded ones */
    size_t n_other;   /* not of the backbone: heads, classifiers */
};

/* Where weights go that are no ibot's teacher or student. */
struct pretrained_target {
    const struct state_view *view;
    const char *prefix; /* of the backbone's tensors in it: "teacher.backbone." */
    /* Positions of another resolution are interpolated to their exact size, as where a network is
     * fine-tuned, and not by the factor (size + 0.1) / n of the pre-training's crops. */
    bool exact_positions;
    const char *unused; /* beginning of names that the file may have in vain; NULL: none */
};
enum status pretrained_load_into(const struct pretrained *pretrained,
                                 const struct pretrained_target *target, struct device *device,
                                 struct pretrained_report *report) IBOT_WARN_UNUSED;

/* Copies the backbone into the student's (student true) or the teacher's. Errors: STATUS_MISMATCH
 * names what is missing, unexpected or of another shape; nothing may be used then. */
enum status pretrained_load(const struct pretrained *pretrained, struct ibot *ibot,
                            struct device *device, bool student,
                            struct pretrained_report *report) IBOT_WARN_UNUSED;

/* "'FILE' key 'teacher': 42 tensors loaded, 0 missing, 0 unexpected, 10 of the head left out".
 * Returns `out`. */
const char *pretrained_describe(const struct pretrained *pretrained,
                                const struct pretrained_report *report, char *out, size_t size);

#endif
