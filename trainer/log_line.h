/* Lines of JSON, one object each, as log.txt holds them: built key by key, added with one write. */
#ifndef IBOT_TRAINER_LOG_LINE_H
#define IBOT_TRAINER_LOG_LINE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

/* One line in the making; zeroed: empty. Numbers are printed so that they read back
 * exactly; one that is not finite becomes null, which JSON has. Keys are written as they come. */
enum { LOG_LINE_BYTES = 32768 };
struct log_line {
    char text[LOG_LINE_BYTES];
    size_t n;
    bool overflow;
};

void log_line_number(struct log_line *line, const char *key, double value);
void log_line_integer(struct log_line *line, const char *key, int64_t value);
void log_line_string(struct log_line *line, const char *key, const char *value);

/* Adds the line to the file with one write, so that readers never see half of one, and empties it.
 * Errors: STATUS_IO, STATUS_INVALID (longer than LOG_LINE_BYTES). */
enum status log_line_append(struct log_line *line, const char *path) IBOT_WARN_UNUSED;

/* Before a resumed run writes epoch `epoch` again: drops the lines of that epoch and later ones,
 * and a torn last line, by replacing the file as a whole. No file: nothing to do. Errors:
 * STATUS_IO. */
enum status log_file_rewind(const char *path, int32_t epoch) IBOT_WARN_UNUSED;

#endif
