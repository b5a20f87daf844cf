/* What belongs together in a data set of image retrieval: gnd_NAME.pkl of revisited Oxford and
 * Paris, a pickle, which is read by weights/pickle.h and never executed. Of
 *
 *   {"imlist": [name, …], "qimlist": [name, …],
 *    "gnd": [{"easy": [image, …], "hard": […], "junk": […], "bbx": [left, top, right, bottom]}, …]}
 *
 * images are positions in imlist; lists may be tuples or numpy arrays. */
#ifndef IBOT_TRAINER_EVAL_RETRIEVAL_TRUTH_H
#define IBOT_TRAINER_EVAL_RETRIEVAL_TRUTH_H

#include "trainer/image_box.h"
#include "trainer/weights/pickle.h"

enum { RETRIEVAL_MAX_IMAGES = 1 << 24, RETRIEVAL_MAX_QUERIES = 1 << 20 };

enum retrieval_list { RETRIEVAL_EASY, RETRIEVAL_HARD, RETRIEVAL_JUNK, RETRIEVAL_LISTS };

struct retrieval_query {
    int32_t *images[RETRIEVAL_LISTS];
    int32_t n[RETRIEVAL_LISTS];
    struct image_box box; /* of the query that is asked for; width 0: nothing is said */
};

struct retrieval_truth {
    const char **names;       /* [n_images] without folder and ending; borrowed of the pickle */
    const char **query_names; /* [n_queries] */
    struct retrieval_query *queries; /* [n_queries] */
    int32_t n_images, n_queries;
    struct pickle pickle;
};

/* Errors: those of pickle_load and of files; STATUS_CORRUPT says what is not as above. */
enum status retrieval_truth_open(struct retrieval_truth *out, const char *path) IBOT_WARN_UNUSED;
/* The same from memory; `name` is for messages. */
enum status retrieval_truth_parse(struct retrieval_truth *out, const void *bytes, size_t n_bytes,
                                  const char *name) IBOT_WARN_UNUSED;
void retrieval_truth_close(struct retrieval_truth *truth);

#endif
