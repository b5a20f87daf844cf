/* A sample as people look at it: where it stands in the stream, which image it is, and everything
 * that was drawn for its views, which follows from the data_spec without a pixel. (Where a crop
 * lies also depends on the size of the image.) */
#ifndef IBOT_STREAM_SAMPLE_H
#define IBOT_STREAM_SAMPLE_H

#include <jansson.h>
#include <stdio.h>

#include "proto/wire/batch.h"
#include "proto/wire/data_spec.h"

struct sample {
    int64_t step;
    int32_t rank, number; /* in the rank's batch */
    int32_t epoch;
    uint64_t position;
    uint32_t index; /* in the data set: of the image that is used */
    bool made;      /* else it is only known which image comes first, and the next three are not */
    int32_t label;
    uint32_t n_substituted, n_repaired;
    uint64_t hash;                      /* of its record */
    const struct bad_image *bad_images; /* [n_bad_images] borrowed: it takes their place */
    int32_t n_bad_images;
    const char *path;      /* borrowed; NULL: not known */
    int32_t width, height; /* of the image; 0: not known */
};

/* One line, one more for each bad image that is known, and with `parameters` for each view. */
void sample_print(FILE *out, const struct data_spec *spec, const struct sample *sample,
                  bool parameters);

/* The same as an object, masks included; the caller's. NULL: no memory. */
json_t *sample_json(const struct data_spec *spec, const struct sample *sample, bool parameters);

/* What is done to a view, in letters: "FJB1.2": flip, jitter, grey, blur with its radius,
 * solarisation; of RandAugment two for each operation
 * (" ro tx": rotate, translate_x). Returns `out`. */
const char *sample_letters(const struct data_spec *spec, const struct sample *sample, int32_t view,
                           char *out, size_t size);

#endif
