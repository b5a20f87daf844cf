/* The data set that a stream is made from: for paths and sizes of images, and for making samples
 * again. One thread's. */
#ifndef IBOT_STREAM_SOURCE_H
#define IBOT_STREAM_SOURCE_H

#include "loader/view.h"

/* Zeroed is valid and empty. */
struct source {
    struct index index;
    struct order *order;
    struct view_maker maker;
    bool is_open;
};

/* Opens the data set of a recording as a loader does. Errors: those of index_load; STATUS_MISMATCH:
 * it is another one. With `same` (else NULL) only the number of images has to fit, and *same says
 * whether paths, sizes and labels are those that were recorded. */
enum status source_open(struct source *out, bool *same, const char *data, const char *index,
                        uint64_t index_digest, uint64_t n_samples) IBOT_WARN_UNUSED;

/* "folder/image.jpg", or "archive.tar:image.jpg"; returns `out`. */
const char *source_path(const struct source *source, uint32_t sample, char *out, size_t size);

/* The image of a sample, turned upright if the spec wants that; the source's until the next call.
 * Errors: those of image_read. */
enum status source_image(struct source *source, const struct data_spec *spec, uint32_t sample,
                         const struct image **out) IBOT_WARN_UNUSED;

void source_close(struct source *source);

#endif
