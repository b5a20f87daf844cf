/* How a stream stands, for people and as JSON. Rates are those between two reports. */
#ifndef IBOT_STREAM_REPORT_H
#define IBOT_STREAM_REPORT_H

#include <stdio.h>

#include "proto/wire/message.h"

/* `before` may be NULL: then rates are missing. */
void report_print(FILE *out, const char *endpoint, const struct message_status *before,
                  const struct message_status *now);

/* Cuts a text, in place, to what a terminal of this size shows without a line that wraps or scrolls
 * away. Returns the number of lines that are left. */
int report_fit(char *text, int columns, int rows);

/* One line. Errors: STATUS_IO. */
enum status report_json(FILE *out, const char *endpoint, const struct message_status *before,
                        const struct message_status *now) IBOT_WARN_UNUSED;

#endif
