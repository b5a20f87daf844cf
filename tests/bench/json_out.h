/* Writing one JSON object to a stream, member by member. Names and texts are plain: quotes,
 * backslashes and control characters of texts are escaped. Numbers that are not finite become
 * null. */
#ifndef IBOT_TESTS_BENCH_JSON_OUT_H
#define IBOT_TESTS_BENCH_JSON_OUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { JSON_OUT_DEPTH = 16 };

struct json_out {
    FILE *file;
    int depth;
    bool any[JSON_OUT_DEPTH];   /* a member has been written at this depth */
    char close[JSON_OUT_DEPTH]; /* what ends it */
};

/* name NULL: the outermost object, or an element of a list. */
void json_object(struct json_out *json, const char *name);
void json_list(struct json_out *json, const char *name);
void json_end(struct json_out *json); /* the innermost object or list */

void json_number(struct json_out *json, const char *name, double value);
void json_integer(struct json_out *json, const char *name, int64_t value);
void json_bool(struct json_out *json, const char *name, bool value);
void json_text(struct json_out *json, const char *name, const char *value); /* NULL: null */

#endif
