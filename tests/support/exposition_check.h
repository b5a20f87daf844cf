/* A strict reader of Prometheus' text format: what it accepts, every scraper does. */
#ifndef IBOT_TESTS_SUPPORT_EXPOSITION_CHECK_H
#define IBOT_TESTS_SUPPORT_EXPOSITION_CHECK_H

#include <stdbool.h>
#include <stddef.h>

/* Checks the whole text: lines, names, labels, numbers; each family once, with HELP and TYPE before
 * its samples; counters end in _total and are not negative; histograms have rising buckets up to
 * +Inf, which equals _count. On failure `why` says which line and what. */
bool exposition_check(const char *text, char *why, size_t why_bytes);

/* The value of a sample by its name and labels as they stand in the text, such as
 * `x_total{stage="decode"}`; NAN when it is not there. */
double exposition_value(const char *text, const char *sample);

#endif
