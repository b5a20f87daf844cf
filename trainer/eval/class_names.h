/* Names of classes, for people who read results: a text file with one a line. */
#ifndef IBOT_TRAINER_EVAL_CLASS_NAMES_H
#define IBOT_TRAINER_EVAL_CLASS_NAMES_H

#include "proto/base/status.h"
#include "trainer/eval/segment_scores.h"

enum { CLASS_NAME_BYTES = 256 };

/* Zeroed is valid and empty. */
struct class_names {
    int32_t n;
    char text[SEGMENT_MAX_CLASSES][CLASS_NAME_BYTES]; /* UTF-8 */
};

/* `n_classes` names, spaces around them left out, as are empty lines at the end. Errors:
 * STATUS_NOT_FOUND, STATUS_IO, STATUS_INVALID (as many, a line without a name or with a longer one,
 * which is named), STATUS_MISMATCH (another number of names). */
enum status class_names_read(struct class_names *out, const char *path,
                             int32_t n_classes) IBOT_WARN_UNUSED;

#endif
