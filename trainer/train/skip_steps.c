#include "trainer/train/skip_steps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const int64_t max_step = INT64_C(1) << 62;

/* Digits alone: no sign, no blank. */
static bool read_number(const char **at, int64_t *out)
{
    char *end;

    if (**at < '0' || **at > '9')
        return false;
    errno = 0;
    *out = strtoll(*at, &end, 10);
    *at = end;
    return errno == 0 && *out < max_step;
}

static int by_first(const void *a, const void *b)
{
    const struct step_range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* Sorts, and joins what overlaps or touches. */
static void put_in_order(struct skip_steps *skip)
{
    int32_t n = 0;

    if (skip->n > 1)
        qsort(skip->ranges, (size_t)skip->n, sizeof(skip->ranges[0]), by_first);
    for (int32_t i = 0; i < skip->n; i++) {
        struct step_range range = skip->ranges[i];
        if (n > 0 && range.first <= skip->ranges[n - 1].last + 1) {
            if (range.last > skip->ranges[n - 1].last)
                skip->ranges[n - 1].last = range.last;
        } else {
            skip->ranges[n++] = range;
        }
    }
    skip->n = n;
}

enum status skip_steps_parse(struct skip_steps *out, const char *text)
{
    struct skip_steps skip = {0};

    for (const char *at = text; at != NULL && *at != '\0';) {
        struct step_range range;
        const char *start = at;
        bool good = read_number(&at, &range.first);
        range.last = range.first;
        if (good && *at == '-') {
            at++;
            good = read_number(&at, &range.last) && range.last >= range.first;
        }
        if (good && *at == ',' && at[1] != '\0')
            at++;
        else
            good = good && *at == '\0';
        if (!good)
            FAIL(STATUS_INVALID,
                 "--skip_steps %s: '%s' is not FIRST-LAST or STEP; wanted such as 120-130,400",
                 text, start);
        if (skip.n == SKIP_STEPS_MAX_RANGES)
            FAIL(STATUS_INVALID, "--skip_steps: more than %d ranges", SKIP_STEPS_MAX_RANGES);
        skip.ranges[skip.n++] = range;
    }
    put_in_order(&skip);
    *out = skip;
    return STATUS_OK;
}

const struct step_range *skip_steps_find(const struct skip_steps *skip, int64_t step)
{
    for (int32_t i = 0; i < skip->n; i++)
        if (step >= skip->ranges[i].first && step <= skip->ranges[i].last)
            return &skip->ranges[i];
    return NULL;
}

/* The part of range i below `end`; false when it has none. */
static bool range_below(const struct skip_steps *skip, int32_t i, int64_t end,
                        struct step_range *out)
{
    if (i >= skip->n || skip->ranges[i].first >= end)
        return false;
    *out = skip->ranges[i];
    if (out->last >= end)
        out->last = end - 1;
    return true;
}

bool skip_steps_agree(const struct skip_steps *a, const struct skip_steps *b, int64_t end)
{
    for (int32_t i = 0;; i++) {
        struct step_range x, y;
        bool more = range_below(a, i, end, &x);
        if (more != range_below(b, i, end, &y))
            return false;
        if (!more)
            return true;
        if (x.first != y.first || x.last != y.last)
            return false;
    }
}
