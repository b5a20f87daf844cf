/* Results as JSON: an object in each line of stdout. */
#ifndef IBOT_TRAINER_ANALYSIS_JSON_LINE_H
#define IBOT_TRAINER_ANALYSIS_JSON_LINE_H

#include <jansson.h>

#include "proto/base/status.h"

/* Takes json; NULL, where making it failed, is an error. Errors: STATUS_IO. */
enum status json_line_print(json_t *json) IBOT_WARN_UNUSED;

/* A path as JSON; null when its bytes are no UTF-8, which JSON can't hold. The caller's. */
json_t *json_line_path(const char *path);

#endif
