/* Scenes read by a few threads: training crops in the order of a run, and whole pictures for
 * evaluation. */
#ifndef IBOT_TRAINER_EVAL_SCENE_READER_H
#define IBOT_TRAINER_EVAL_SCENE_READER_H

#include "trainer/eval/label_image.h"
#include "trainer/eval/scene_crop.h"
#include "trainer/eval/scene_data.h"

/* Labels of files and classes. */
struct scene_labels {
    int32_t n_classes;
    bool reduce_zero_label; /* 0 is ignored, and 1 the first class */
};

/* A class as the files have it. */
uint8_t scene_label_of_class(const struct scene_labels *labels, uint8_t class);

struct scene_reader; /* opaque: called by one thread, reads with several */

/* data: borrowed. n_threads 0: one per core. */
enum status scene_reader_open(struct scene_reader **out, const struct scene_data *data,
                              const struct scene_labels *labels, int n_threads) IBOT_WARN_UNUSED;
void scene_reader_close(struct scene_reader **reader);

/* Crops of places first .. first + n - 1 of a run: each epoch has all scenes in a random order of
 * its own. pixels [n, 3, crop, crop] and labels [n, crop, crop] out. Errors: those of picture_read
 * and label_image_read; STATUS_MISMATCH (labels of another size), STATUS_INVALID (a label that is
 * no class); each names the file. */
enum status scene_reader_crops(struct scene_reader *reader, float *pixels, uint8_t *labels,
                               int64_t first, int32_t n,
                               const struct scene_crop_options *options) IBOT_WARN_UNUSED;

enum { SCENE_MAX_SIZES = 8 };

struct scene_sizes {
    int32_t n, px[SCENE_MAX_SIZES];
};

/* Zeroed is valid and empty. */
struct scene {
    struct picture whole, resized[SCENE_MAX_SIZES];
    struct label_image truth; /* of the size of `whole`; empty where there are no labels */
};
/* Scenes first .. first + n - 1 of the data, resized as scene_size_within does to each of `sizes`
 * and SCENE_ELONGATION times that. Errors: the same. */
enum status scene_reader_scenes(struct scene_reader *reader, struct scene *scenes, int64_t first,
                                int32_t n, const struct scene_sizes *sizes) IBOT_WARN_UNUSED;
void scene_release(struct scene *scene);

#endif
