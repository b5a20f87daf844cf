/* How a classifier stands pictures that are not as those it learned from: other backgrounds, lost
 * or displaced parts, natural adversarial examples, corruptions. Data are laid out as the
 * benchmarks' downloads are. Results go into a book; what it has already is not made again.
 *
 * Sources: Xiao et al. 2020 (backgrounds, ImageNet-9), Naseer et al. 2021 (occlusion, shuffling),
 * Hendrycks et al. 2021 (ImageNet-A), Hendrycks and Dietterich 2019 (ImageNet-C). */
#ifndef IBOT_TRAINER_EVAL_ROBUSTNESS_H
#define IBOT_TRAINER_EVAL_ROBUSTNESS_H

#include <stdatomic.h>

#include "trainer/eval/frozen_classifier.h"
#include "trainer/eval/occlusion.h"
#include "trainer/eval/robustness_book.h"
#include "trainer/images.h"

/* What every test needs; all borrowed. */
struct robustness {
    struct frozen_classifier *classifier;
    struct robustness_book *book;
    const atomic_int *stop; /* NULL: never */
    int32_t resize_px;      /* shorter side before the central crop, of ordinary photographs */
    bool bicubic;           /* and how: bilinear otherwise */
    int32_t n_threads;      /* that decode; 0: one per core */
    uint64_t seed;
};

/* ------------------------------------------------------------------------------ passes */

/* A batch of labelled pictures, as they are. */
struct pass_batch {
    const uint8_t *rgb;   /* [n, size, size, 3] */
    const int64_t *which; /* [n] */
    int32_t n;
};

/* One pass over labelled images, each in several settings. Sums are doubles of whole numbers where
 * they count. */
struct pass {
    const char *name; /* tells it apart in the book's progress; NULL: it begins again */
    const char *data;
    struct image_form form;
    int32_t n_classes; /* that the images must have */
    int32_t n_settings;
    int32_t n_sums; /* of each setting */
    double *sums;   /* [n_settings, n_sums] out */
    void *context;
    /* Before the settings of a batch; NULL: nothing is to be done. */
    enum status (*begin)(void *context, const struct pass_batch *batch);
    /* The pictures of a setting, in device memory. NULL: as they are. */
    enum status (*pixels)(void *context, const struct pass_batch *batch, int32_t setting,
                          struct tensor *out);
    /* Adds the answer about image i of the batch to the setting's sums. */
    void (*score)(void *context, const struct pass_batch *batch, int32_t i, int32_t label,
                  int32_t setting, const float *logits, double *sums);
};

/* Errors: STATUS_MISMATCH (other classes), STATUS_INTERRUPTED (the book knows how far it was),
 * those of images_read and frozen_classifier_run. */
enum status pass_run(const struct robustness *r, struct pass *pass,
                     int64_t *n_images) IBOT_WARN_UNUSED;

/* sums[0] counts answers that are the label. */
void score_top1(void *context, const struct pass_batch *batch, int32_t i, int32_t label,
                int32_t setting, const float *logits, double *sums);

/* ------------------------------------------------------------------------------ tests */

/* DIR/VARIANT/val/CLASS/image of nine classes: accuracy on each variant of ImageNet-9. */
enum status test_backgrounds(const struct robustness *r, const char *folder) IBOT_WARN_UNUSED;

/* DIR/only_bg_t/val, DIR/fg_mask/val/CLASS/NAME.npy, DIR/original/val/CLASS/NAME.JPEG: the share of
 * foregrounds that are wrong on at least one of all backgrounds. */
enum status test_background_challenge(const struct robustness *r,
                                      const char *folder) IBOT_WARN_UNUSED;

enum { MAX_GRIDS = 32, MAX_RATIOS = 32 };

struct occlusion_options {
    bool random, salient, non_salient;
    struct cell_grid grid;
    int32_t offset_px;
    int32_t n_tries; /* of what is random */
    float ratios[MAX_RATIOS], masses[MAX_RATIOS];
    int32_t n_ratios, n_masses;
    struct inference *saliency; /* whose attention says what is salient; of the pictures' size */
    int32_t head;               /* of it */
};
enum status test_occlusion(const struct robustness *r, const char *data,
                           const struct occlusion_options *options) IBOT_WARN_UNUSED;

enum status test_shuffling(const struct robustness *r, const char *data,
                           const struct cell_grid *grids, int32_t n_grids,
                           int32_t n_tries) IBOT_WARN_UNUSED;

/* DIR/CLASS/image of the 200 classes. */
enum status test_imagenet_a(const struct robustness *r, const char *folder) IBOT_WARN_UNUSED;

/* DIR/CORRUPTION/SEVERITY/CLASS/image, the corruption's folder also one below. names: of the
 * corruptions; none: all that are there. */
enum status test_imagenet_c(const struct robustness *r, const char *folder,
                            const char *const *names, int32_t n_names) IBOT_WARN_UNUSED;

#endif
