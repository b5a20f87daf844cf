#include "proto/config/ranges.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const int64_t max_number = INT64_C(1) << 62;

/* Digits alone: no sign, no blank. */
static bool read_number(const char **at, int64_t *out)
{
    char *end;

    if (**at < '0' || **at > '9')
        return false;
    errno = 0;
    *out = strtoll(*at, &end, 10);
    *at = end;
    return errno == 0 && *out < max_number;
}

static int by_first(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* Sorts, and joins what overlaps or touches. */
static void put_in_order(struct ranges *ranges)
{
    int32_t n = 0;

    if (ranges->n > 1)
        qsort(ranges->ranges, (size_t)ranges->n, sizeof(ranges->ranges[0]), by_first);
    for (int32_t i = 0; i < ranges->n; i++) {
        struct range range = ranges->ranges[i];
        if (n > 0 && range.first <= ranges->ranges[n - 1].last + 1) {
            if (range.last > ranges->ranges[n - 1].last)
                ranges->ranges[n - 1].last = range.last;
        } else {
            ranges->ranges[n++] = range;
        }
    }
    ranges->n = n;
}

enum status ranges_parse(struct ranges *out, const char *option, const char *text)
{
    struct ranges ranges = {0};

    for (const char *at = text; at != NULL && *at != '\0';) {
        struct range range;
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
                 "%s %s: '%s' is neither FIRST-LAST nor a number; wanted such as 120-130,400",
                 option, text, start);
        if (ranges.n == RANGES_MAX)
            FAIL(STATUS_INVALID, "%s: more than %d ranges", option, RANGES_MAX);
        ranges.ranges[ranges.n++] = range;
    }
    put_in_order(&ranges);
    *out = ranges;
    return STATUS_OK;
}

const struct range *ranges_find(const struct ranges *ranges, int64_t number)
{
    for (int32_t i = 0; i < ranges->n; i++)
        if (number >= ranges->ranges[i].first && number <= ranges->ranges[i].last)
            return &ranges->ranges[i];
    return NULL;
}

/* The part of range i below `end`; false when it has none. */
static bool range_below(const struct ranges *ranges, int32_t i, int64_t end, struct range *out)
{
    if (i >= ranges->n || ranges->ranges[i].first >= end)
        return false;
    *out = ranges->ranges[i];
    if (out->last >= end)
        out->last = end - 1;
    return true;
}

bool ranges_agree(const struct ranges *a, const struct ranges *b, int64_t end)
{
    for (int32_t i = 0;; i++) {
        struct range x, y;
        bool more = range_below(a, i, end, &x);
        if (more != range_below(b, i, end, &y))
            return false;
        if (!more)
            return true;
        if (x.first != y.first || x.last != y.last)
            return false;
    }
}
