/* Rows of the option tables of those who connect to trainers: loaders, and what takes their place
 * or asks how a stream stands (ibot-stream). */
#ifndef IBOT_PROTO_WIRE_STREAM_ROWS_H
#define IBOT_PROTO_WIRE_STREAM_ROWS_H

#include "proto/config/options.h"
#include "proto/wire/producer.h"

/* --connect and --exit_when_done, at a struct serve_options. */
struct serve_options {
    const char *connect[PRODUCER_MAX_ENDPOINTS];
    int32_t n_connect;
    bool exit_when_done;
};
extern const struct option_part rows_serve;

/* --key and --server_key, at a struct key_options: key_read_options. */
extern const struct option_part rows_keys;

#endif
