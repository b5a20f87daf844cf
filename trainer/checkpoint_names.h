/* Names of checkpoint folders and the digest of their state, for the two halves of checkpoint.h. */
#ifndef IBOT_TRAINER_CHECKPOINT_NAMES_H
#define IBOT_TRAINER_CHECKPOINT_NAMES_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "proto/base/status.h"

static inline void checkpoint_name(char *out, size_t size, const char *folder, int64_t step)
{
    snprintf(out, size, "%s/step_%08lld", folder, (long long)step);
}

/* Of all that is in state.json but this digest itself. Errors: STATUS_NO_MEMORY. */
enum status checkpoint_json_digest(const json_t *json, uint64_t *out) IBOT_WARN_UNUSED;

/* Steps of the checkpoints in a folder, newest first; *steps is the caller's (memory_free). A
 * missing folder has none. */
enum status checkpoint_steps(const char *folder, int64_t **steps, size_t *n) IBOT_WARN_UNUSED;

#endif
