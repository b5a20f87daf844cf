#include "proto/wire/stream_rows.h"

#include "proto/wire/key.h"

static const struct option_spec serve_specs[] = {
    {.name = "connect",
     .type = OPTION_STRING_LIST,
     .offset = offsetof(struct serve_options, connect),
     .count_offset = offsetof(struct serve_options, n_connect),
     .capacity = PRODUCER_MAX_ENDPOINTS,
     .flags = OPTION_REQUIRED,
     .argument = "ENDPOINT",
     .help = "trainers to serve, or whoever asks for samples: tcp://host:port, "
             "tcp://host:first-last for several ranks, or ipc://path; they may come and go"},
    {.name = "exit_when_done",
     .type = OPTION_BOOL,
     .offset = offsetof(struct serve_options, exit_when_done),
     .text = "off",
     .help = "end when each of them that was reached has all it wanted"},
};
const struct option_part rows_serve = {serve_specs, sizeof(serve_specs) / sizeof(serve_specs[0])};

static const struct option_spec key_specs[] = {
    {.name = "key",
     .type = OPTION_STRING,
     .offset = offsetof(struct key_options, key),
     .argument = "FILE",
     .help = "own secret key (ibot-stream keygen), for trainers that ask for one: tcp is "
             "encrypted, ipc is not"},
    {.name = "server_key",
     .type = OPTION_STRING,
     .offset = offsetof(struct key_options, server_key),
     .argument = "KEY",
     .help = "the trainers' public key, with --key: 64 hex digits, or the .public file"},
};
const struct option_part rows_keys = {key_specs, sizeof(key_specs) / sizeof(key_specs[0])};
