/* Log lines and the status line, under one lock so that they never mix. */
#include "proto/base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

static const char *program_name = "ibot";
static enum log_level least_level = LOG_INFO;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool status_line_shown; /* guarded by lock */

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARNING] = "warning", [LOG_ERROR] = "error"};

void log_start(const char *program, enum log_level level)
{
    const char *wanted = getenv("IBOT_LOG_LEVEL");

    program_name = program;
    least_level = level;
    for (int i = LOG_DEBUG; wanted != NULL && i <= LOG_ERROR; i++)
        if (strcasecmp(wanted, level_names[i]) == 0)
            least_level = (enum log_level)i;
}

void log_write(enum log_level level, const char *format, ...)
{
    char text[2048], stamp[32];
    struct tm local;
    time_t now = time(NULL);
    va_list arguments;

    if (level < least_level)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    localtime_r(&now, &local);
    strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &local);

    pthread_mutex_lock(&lock);
    fprintf(stderr, "%s%s %s[%d] %s: %s\n", status_line_shown ? "\r\033[K" : "", stamp,
            program_name, (int)getpid(), level_names[level], text);
    status_line_shown = false;
    fflush(stderr);
    pthread_mutex_unlock(&lock);
}

void log_status_line(const char *text)
{
    if (least_level > LOG_INFO || !isatty(STDERR_FILENO))
        return;
    pthread_mutex_lock(&lock);
    if (text != NULL)
        fprintf(stderr, "\r\033[K%s", text);
    else if (status_line_shown)
        fputs("\r\033[K", stderr);
    status_line_shown = text != NULL;
    fflush(stderr);
    pthread_mutex_unlock(&lock);
}
