#include "trainer/eval/network_identity.h"

#include <stdio.h>
#include <sys/stat.h>

#include "trainer/utf8_text.h"

void network_identity(char out[NETWORK_IDENTITY_BYTES], const struct inference *network,
                      const char *key, const struct network_options *options, const char *what)
{
    char weights[CHECKPOINT_MAX_PATH], text[256];
    struct stat info = {0};

    (void)stat(network->weights, &info); /* zeros where there is none any more */
    snprintf(out, NETWORK_IDENTITY_BYTES,
             "weights %s of %lld bytes of time %lld, key %s, %s, precision %d, gelu %d, "
             "attention %d: %s",
             utf8_text(weights, sizeof(weights), network->weights), (long long)info.st_size,
             (long long)info.st_mtime, key != NULL ? utf8_text(text, sizeof(text), key) : "-",
             network->backend->ops->name, options->precision, options->gelu, options->attention,
             what);
}
