/* What kept features depend on, as a text: weights and how they are run, and what of. */
#ifndef IBOT_TRAINER_EVAL_NETWORK_IDENTITY_H
#define IBOT_TRAINER_EVAL_NETWORK_IDENTITY_H

#include "trainer/inference.h"

enum { NETWORK_IDENTITY_BYTES = 16384 };

/* key: of the file, or NULL. what: the rest. */
void network_identity(char out[NETWORK_IDENTITY_BYTES], const struct inference *network,
                      const char *key, const struct network_options *options, const char *what);

#endif
