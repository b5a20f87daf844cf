/* What ranks tell each other before a run and between its steps: whether they were started alike,
 * whether one was asked to stop or has failed, what they measured. Every rank makes the same calls;
 * they go from host to host and wait for no device. One rank alone agrees with itself. */
#ifndef IBOT_TRAINER_RANK_AGREEMENT_H
#define IBOT_TRAINER_RANK_AGREEMENT_H

#include "ops/collective.h"
#include "proto/config/options.h"

enum { RANKS_MOST = 4096, RANK_SUMS = 4 };

/* In: what this rank has to say. Out: what holds for all. */
struct rank_word {
    bool stop;              /* it was asked to; any was */
    bool save;              /* rank 0's */
    int32_t most;           /* the greatest */
    double sums[RANK_SUMS]; /* added in the order of ranks: the same bits on each */
};

/* `status`: how this rank has fared. When one has failed, the run ends on every rank, which
 * ranks->ending says from then on. *word is filled in any case but a failure of the exchange.
 * Errors: `status`, of a rank that failed; STATUS_DEVICE names one that did; STATUS_INTERRUPTED:
 * none did, and one has that status; those of all_gather. */
enum status rank_agree(struct collective *ranks, enum status status,
                       struct rank_word *word) IBOT_WARN_UNUSED;

/* All must have the same text for `what`, else the run ends on every rank. Errors: STATUS_MISMATCH
 * names a rank, what it has and what rank 0 has, and gives the hint; those of all_gather. */
enum status rank_compare(struct collective *ranks, const char *what, const char *text,
                         const char *hint) IBOT_WARN_UNUSED;

/* The same for the options that a result depends on. Errors: STATUS_UNSUPPORTED (more than
 * RANKS_MOST ranks), those of rank_compare. */
enum status rank_compare_options(struct collective *ranks,
                                 const struct options *parsed) IBOT_WARN_UNUSED;

#endif
