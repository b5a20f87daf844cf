/* A small table of texts, and an allowance that fills with time. */
#include "proto/wire/refusals.h"

#include <stdio.h>
#include <string.h>

static const int64_t repeat_ns = 60000000000; /* the same text again */
static const int64_t refill_ns = 3000000000;  /* one more text */

/* Whether this entry has something to say now. */
static bool is_due(const struct refusal *one, int64_t now_ns)
{
    return one->text[0] != '\0' && one->n_new > 0 &&
           (one->told_ns == 0 || now_ns - one->told_ns >= repeat_ns);
}

/* A place for a new text: an empty one, else the one told and not heard of for longest. NULL when
 * all wait to be told. */
static struct refusal *find_place(struct refusals *refusals)
{
    struct refusal *best = NULL;

    for (int i = 0; i < REFUSALS_KEPT; i++) {
        struct refusal *one = &refusals->kept[i];
        if (one->text[0] == '\0')
            return one;
        if (one->told_ns != 0 && (best == NULL || one->noted_ns < best->noted_ns))
            best = one;
    }
    return best;
}

void refusals_note(struct refusals *refusals, const char *text, int64_t now_ns)
{
    for (int i = 0; i < REFUSALS_KEPT; i++) {
        struct refusal *one = &refusals->kept[i];
        if (strncmp(one->text, text, sizeof(one->text) - 1) != 0)
            continue;
        one->n_new++;
        one->noted_ns = now_ns;
        return;
    }
    struct refusal *place = find_place(refusals);
    if (place == NULL) {
        refusals->n_unnamed++;
        return;
    }
    refusals->n_unnamed += place->n_new; /* of the former text, if it had more to say */
    *place = (struct refusal){.n_new = 1, .noted_ns = now_ns};
    snprintf(place->text, sizeof(place->text), "%s", text);
}

/* Takes one text's worth of the allowance, if there is that much. */
static bool may_speak(struct refusals *refusals, int64_t now_ns)
{
    int64_t from = now_ns - (REFUSALS_BURST - 1) * refill_ns;

    if (refusals->credit_ns > now_ns)
        return false;
    refusals->credit_ns = (refusals->credit_ns > from ? refusals->credit_ns : from) + refill_ns;
    return true;
}

bool refusals_take(struct refusals *refusals, char *out, size_t out_bytes, int64_t now_ns)
{
    struct refusal *next = NULL;

    for (int i = 0; i < REFUSALS_KEPT; i++) {
        struct refusal *one = &refusals->kept[i];
        if (is_due(one, now_ns) && (next == NULL || one->noted_ns < next->noted_ns))
            next = one;
    }
    bool unnamed = next == NULL && refusals->n_unnamed > 0 &&
                   (refusals->unnamed_ns == 0 || now_ns - refusals->unnamed_ns >= repeat_ns);
    if ((next == NULL && !unnamed) || !may_speak(refusals, now_ns))
        return false;
    if (unnamed) {
        snprintf(out, out_bytes, "%llu more that are not named",
                 (unsigned long long)refusals->n_unnamed);
        refusals->n_unnamed = 0;
        refusals->unnamed_ns = now_ns;
        return true;
    }
    if (next->n_new > 1)
        snprintf(out, out_bytes, "%s (%llu times)", next->text, (unsigned long long)next->n_new);
    else
        snprintf(out, out_bytes, "%s", next->text);
    next->n_new = 0;
    next->told_ns = now_ns;
    return true;
}
