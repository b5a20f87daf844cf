/* Rows that stand in the tables of several programs (option_spec.part), so that options with one
 * name have one meaning and one text. Those of a single folder's programs live there:
 * proto/wire/stream_rows.h, trainer/backend_options.h. */
#ifndef IBOT_PROTO_CONFIG_ROWS_H
#define IBOT_PROTO_CONFIG_ROWS_H

#include "proto/config/options.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct option_part row_json;           /* --json, a bool: results as JSON lines */
extern const struct option_part row_data;           /* --data, a const char *: for who reads it */
extern const struct option_part row_index;          /* --index, a const char * */
extern const struct option_part row_sample_threads; /* --threads, an int32_t: of loader/pool.h */
extern const struct option_part row_loader_threads; /* --loader_threads, an int32_t: of a child */

#ifdef __cplusplus
}
#endif

#endif
