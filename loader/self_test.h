/* A loader's proof of its arithmetic: a hash over what it makes of a small picture. Consumers
 * refuse loaders with another hash than the first one's, so that one stream has one arithmetic. */
#ifndef IBOT_LOADER_SELF_TEST_H
#define IBOT_LOADER_SELF_TEST_H

#include <stdint.h>

#include "proto/base/status.h"

/* Decodes a JPEG, and passes a synthetic picture through every operation. Takes milliseconds.
 * Errors: STATUS_CORRUPT (libjpeg can't decode it), STATUS_NO_MEMORY. */
enum status self_test_pixels(uint64_t *hash) IBOT_WARN_UNUSED;

#endif
