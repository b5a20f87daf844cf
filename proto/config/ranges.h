/* Numbers as people choose them: "120-130,400". Steps to leave out, samples to look at. */
#ifndef IBOT_PROTO_CONFIG_RANGES_H
#define IBOT_PROTO_CONFIG_RANGES_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { RANGES_MAX = 32 };

/* Zeroed is valid: no number at all. */
struct ranges {
    int32_t n;
    struct range {
        int64_t first, last; /* inclusive */
    } ranges[RANGES_MAX];
};

/* `text` may be NULL or "". Ranges come out in order, those that touch joined. `option` is for
 * messages. Errors: STATUS_INVALID shows where the text is wrong. */
enum status ranges_parse(struct ranges *out, const char *option, const char *text) IBOT_WARN_UNUSED;

/* The range that has the number, or NULL. */
const struct range *ranges_find(const struct ranges *ranges, int64_t number);

/* Whether both have the same numbers below `end`. */
bool ranges_agree(const struct ranges *a, const struct ranges *b, int64_t end);

#endif
