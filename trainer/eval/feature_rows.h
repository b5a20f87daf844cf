/* Features in the making: a row for each image, in order, kept now and then, so that who is stopped
 * or killed goes on where he was. FOLDER/NAME.safetensors holds "values" [rows so far, dim] F32,
 * and as metadata what they are of. */
#ifndef IBOT_TRAINER_EVAL_FEATURE_ROWS_H
#define IBOT_TRAINER_EVAL_FEATURE_ROWS_H

#include <stdatomic.h>

#include "proto/base/status.h"
#include "trainer/checkpoint.h"

struct feature_rows {
    float *values; /* [n, dim] */
    int64_t n, done, kept;
    int64_t kept_ns; /* when */
    int32_t dim;
    const char *name, *identity;    /* borrowed */
    char path[CHECKPOINT_MAX_PATH]; /* "": nothing is kept */
};

/* Makes the folder of kept features; NULL: there is none. Errors: STATUS_IO. */
enum status feature_rows_folder(const char *folder) IBOT_WARN_UNUSED;

/* folder: is there; NULL: nothing is kept. identity: a text, of all that the values depend on.
 * Errors: STATUS_MISMATCH (the file is of something else), STATUS_CORRUPT, those of
 * safetensors_open. */
enum status feature_rows_open(struct feature_rows *out, const char *folder, const char *name,
                              const char *identity, int64_t n, int32_t dim) IBOT_WARN_UNUSED;

/* n more rows are there: checked, and kept when it is time. A stop keeps them. stop: NULL: never.
 * Errors: STATUS_NOT_FINITE, STATUS_INTERRUPTED, those of safetensors_write. */
enum status feature_rows_add(struct feature_rows *rows, int64_t n,
                             const atomic_int *stop) IBOT_WARN_UNUSED;
void feature_rows_close(struct feature_rows *rows);

#endif
