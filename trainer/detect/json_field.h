/* Fields of JSON objects whose absence or kind is an error that says where it is. */
#ifndef IBOT_TRAINER_DETECT_JSON_FIELD_H
#define IBOT_TRAINER_DETECT_JSON_FIELD_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "trainer/detect/run_length_mask.h"

/* An entry of a list of a file, for error texts: "'PATH': LIST[N]". */
struct json_place {
    const char *path, *list;
    size_t n;
};

/* The root of a file, or of a text: json_decref. Errors: STATUS_NOT_FOUND, STATUS_IO,
 * STATUS_CORRUPT: line and column. */
enum status json_root_read(json_t **out, const char *path) IBOT_WARN_UNUSED;
enum status json_root_parse(json_t **out, const char *text, size_t n_bytes,
                            const char *path) IBOT_WARN_UNUSED;

/* A list of the root. Errors of all that follow: STATUS_CORRUPT. */
enum status json_field_list(json_t **out, const json_t *root, const char *list, size_t most,
                            const char *path) IBOT_WARN_UNUSED;
enum status json_field_integer(int64_t *out, const json_t *entry, const char *name,
                               const struct json_place *place) IBOT_WARN_UNUSED;
/* A finite number. */
enum status json_field_number(double *out, const json_t *entry, const char *name,
                              const struct json_place *place) IBOT_WARN_UNUSED;
enum status json_field_text(const char **out, const json_t *entry, const char *name,
                            const struct json_place *place) IBOT_WARN_UNUSED;
/* [x, y, width, height] */
enum status json_field_box(struct mask_box *out, const json_t *entry, const char *name,
                           const struct json_place *place) IBOT_WARN_UNUSED;
/* "segmentation" of a picture of height x width: polygons, or {"size": [h, w], "counts": runs or
 * their text}. */
enum status json_field_mask(struct run_length_mask *out, const json_t *entry, const char *name,
                            int32_t height, int32_t width,
                            const struct json_place *place) IBOT_WARN_UNUSED;

#endif
