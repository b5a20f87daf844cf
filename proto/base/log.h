/* The log: one line per event on stderr, for people. Programs and thread entry points log; library
 * code returns a status instead. Results go to stdout, metrics to their own files.
 *
 *   2026-03-01 12:00:00 ibot-loader[431] warning: class 'x' has no images
 */
#ifndef IBOT_PROTO_BASE_LOG_H
#define IBOT_PROTO_BASE_LOG_H

#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

/* Names the program in each line and sets the least level that is printed; IBOT_LOG_LEVEL
 * (debug, info, warning, error) overrides it. `program` is borrowed for ever. */
void log_start(const char *program, enum log_level level);

/* Prints one line, whole, whatever other threads do. */
void log_write(enum log_level level, const char *format, ...) IBOT_PRINTF(2, 3);

#define log_debug(...)   log_write(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)    log_write(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_write(LOG_WARNING, __VA_ARGS__)
#define log_error(...)   log_write(LOG_ERROR, __VA_ARGS__)

/* A terminal status line (no newline, redrawn in place with \r) that log lines do not tear: it is
 * cleared before a log line is printed. NULL clears it. Only for a tty, where info lines are
 * printed; does nothing otherwise. */
void log_status_line(const char *text);

#ifdef __cplusplus
}
#endif

#endif
