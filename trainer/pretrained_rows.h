/* --checkpoint, --checkpoint_key, --arch, --num_heads: rows of the option tables of programs that
 * take weights, into a struct pretrained_options. */
#ifndef IBOT_TRAINER_PRETRAINED_ROWS_H
#define IBOT_TRAINER_PRETRAINED_ROWS_H

#include "proto/config/options.h"

extern const struct option_part rows_pretrained;

#endif
