#include "trainer/rank_agreement.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/hash.h"
#include "proto/base/memory.h"

enum { TEXT_BYTES = 512 };

/* ------------------------------------------------------------------------------ between steps */

enum outcome { OUTCOME_OK, OUTCOME_INTERRUPTED, OUTCOME_FAILED };

struct note {
    int32_t stop, save, outcome, most;
    double sums[RANK_SUMS];
};

static int32_t outcome_of(enum status status)
{
    return status == STATUS_OK            ? OUTCOME_OK
           : status == STATUS_INTERRUPTED ? OUTCOME_INTERRUPTED
                                          : OUTCOME_FAILED;
}

static void add(struct rank_word *word, const struct note *note)
{
    word->stop = word->stop || note->stop != 0;
    word->most = note->most > word->most ? note->most : word->most;
    for (int i = 0; i < RANK_SUMS; i++)
        word->sums[i] += note->sums[i];
}

enum status rank_agree(struct collective *ranks, enum status status, struct rank_word *word)
{
    static struct note all[RANKS_MOST]; /* of the one thread that trains */
    struct note own = {
        .stop = word->stop, .save = word->save, .outcome = outcome_of(status), .most = word->most};
    int failed = -1, interrupted = -1;

    memcpy(own.sums, word->sums, sizeof(own.sums));
    TRY(ranks->all_gather(ranks, all, &own, sizeof(own)));
    *word = (struct rank_word){.save = all[0].save != 0, .most = all[0].most};
    for (int r = 0; r < ranks->world; r++) {
        add(word, &all[r]);
        if (all[r].outcome == OUTCOME_FAILED)
            failed = r;
        if (all[r].outcome == OUTCOME_INTERRUPTED)
            interrupted = r;
    }
    ranks->ending = ranks->ending || failed >= 0 || interrupted >= 0;
    if (own.outcome == OUTCOME_FAILED || (status != STATUS_OK && failed < 0))
        return status;
    if (failed >= 0)
        FAIL(STATUS_DEVICE, "rank %d failed: it says why itself", failed);
    if (interrupted >= 0)
        FAIL(STATUS_INTERRUPTED, "rank %d was interrupted", interrupted);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ before a run */

/* The first rank that has another text than rank 0, and both; *other is 0 when there is none. */
static enum status find_other(struct collective *ranks, const char *text, int *other,
                              char theirs[TEXT_BYTES], char first[TEXT_BYTES])
{
    char own[TEXT_BYTES] = "", *all = NULL;
    enum status status;

    *other = 0;
    snprintf(own, sizeof(own), "%s", text);
    TRY(memory_alloc(&all, (size_t)ranks->world, TEXT_BYTES, "what ranks have"));
    TRY_OUT(ranks->all_gather(ranks, all, own, sizeof(own)));
    memcpy(first, all, TEXT_BYTES);
    for (int r = 1; r < ranks->world && *other == 0; r++) {
        memcpy(theirs, all + (size_t)r * TEXT_BYTES, TEXT_BYTES);
        *other = strcmp(theirs, first) != 0 ? r : 0;
    }
out:
    memory_free(all);
    return status;
}

enum status rank_compare(struct collective *ranks, const char *what, const char *text,
                         const char *hint)
{
    char theirs[TEXT_BYTES], first[TEXT_BYTES];
    int other;

    TRY(find_other(ranks, text, &other, theirs, first));
    if (other == 0)
        return STATUS_OK;
    ranks->ending = true;
    FAIL(STATUS_MISMATCH, "rank %d has %s %s, rank 0 has %s: %s", other, what, theirs, first, hint);
}

static bool decides(const struct option_spec *spec)
{
    return (spec->flags & OPTION_OUTSIDE_DIGEST) == 0;
}

/* Of all of them together: most runs need no more. */
static void digest_text(const struct options *parsed, char *out, size_t n_bytes)
{
    char text[TEXT_BYTES];
    uint64_t digest = 0;

    for (size_t i = 0; i < parsed->n_specs; i++) {
        if (!decides(&parsed->specs[i]))
            continue;
        options_text(parsed, parsed->specs[i].name, text, sizeof(text));
        digest = hash_bytes_seeded(text, strlen(text) + 1, digest);
    }
    snprintf(out, n_bytes, "%zu options %016llx", parsed->n_specs, (unsigned long long)digest);
}

enum status rank_compare_options(struct collective *ranks, const struct options *parsed)
{
    char text[TEXT_BYTES], theirs[TEXT_BYTES], first[TEXT_BYTES], name[64];
    int other;

    if (ranks->world > RANKS_MOST)
        FAIL(STATUS_UNSUPPORTED, "%d ranks: %d are the most", ranks->world, RANKS_MOST);
    digest_text(parsed, text, sizeof(text));
    TRY(find_other(ranks, text, &other, theirs, first));
    if (other == 0)
        return STATUS_OK;
    snprintf(text, sizeof(text), "%zu options", parsed->n_specs);
    TRY(rank_compare(ranks, "a program of", text, "start the same version on all ranks"));
    for (size_t i = 0; i < parsed->n_specs; i++) {
        if (!decides(&parsed->specs[i]))
            continue;
        snprintf(name, sizeof(name), "--%s", parsed->specs[i].name);
        options_text(parsed, parsed->specs[i].name, text, sizeof(text));
        TRY(rank_compare(ranks, name, text, "start all ranks with the same options"));
    }
    ranks->ending = true;
    FAIL(STATUS_MISMATCH, "rank %d has other options than rank 0: start all with the same", other);
}
