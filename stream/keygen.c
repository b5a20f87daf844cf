/* ibot-stream keygen: makes the keys that trainers and loaders know each other by. */
#include <stdio.h>

#include "proto/base/log.h"
#include "proto/wire/key.h"
#include "stream/command.h"

struct keygen_options {
    bool force;
};

static struct keygen_options values;

static const struct option_spec specs[] = {
    {.name = "force",
     .type = OPTION_BOOL,
     .offset = offsetof(struct keygen_options, force),
     .text = "off",
     .help = "replace keys that are there already"},
};

static const struct options_program program = {
    .name = "ibot-stream keygen",
    .summary = "Make a pair of keys for an encrypted, authenticated stream.",
    .epilogue =
        "NAME.secret stays with its owner (mode 0600); NAME.public goes to the other side. "
        "Prints the public key.\n\n"
        "  ibot-stream keygen trainer; ibot-stream keygen loader\n"
        "  cat loader.public >> allowed_keys\n"
        "  ibot-train  --key trainer.secret --allow allowed_keys --listen tcp://0.0.0.0:5550 "
        "…\n"
        "  ibot-loader --key loader.secret --server_key trainer.public --connect "
        "tcp://trainer:5550 …",
    .specs = specs,
    .n_specs = sizeof(specs) / sizeof(specs[0]),
    .positional = "NAME",
    .min_positional = 1,
    .max_positional = 1,
};

static enum status run(const struct options *options, const atomic_int *stop)
{
    const char *path = options->positional[0];
    char hex[KEY_TEXT_BYTES];
    struct key_pair pair;

    (void)stop;
    TRY(key_pair_generate(&pair));
    key_format(&pair.public_half, hex);
    enum status status = key_pair_write(&pair, path, values.force);
    key_pair_wipe(&pair);
    if (status != STATUS_OK)
        return status;
    log_info("'%s.secret' is for its owner alone, '%s.public' for the other side", path, path);
    printf("%s\n", hex);
    return STATUS_OK;
}

const struct stream_command stream_keygen = {&program, &values, run};
