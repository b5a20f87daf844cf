/* Thread-local error text behind status.h. The new text is formatted aside first, because its
 * arguments may contain the old one. */
#include "proto/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 1024 };

static _Thread_local char message[MESSAGE_BYTES];

enum status status_set(enum status code, const char *format, ...)
{
    char text[MESSAGE_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    memcpy(message, text, sizeof(message));
    return code;
}

const char *status_message(void)
{
    return message;
}

const char *status_name(enum status code)
{
    static const char *const names[STATUS_COUNT] = {
        [STATUS_OK] = "ok",
        [STATUS_INVALID] = "invalid",
        [STATUS_NOT_FOUND] = "not found",
        [STATUS_IO] = "input/output",
        [STATUS_CORRUPT] = "corrupt",
        [STATUS_UNSUPPORTED] = "unsupported",
        [STATUS_MISMATCH] = "mismatch",
        [STATUS_NO_MEMORY] = "out of memory",
        [STATUS_TIMEOUT] = "timeout",
        [STATUS_CLOSED] = "closed",
        [STATUS_INTERRUPTED] = "interrupted",
        [STATUS_NOT_FINITE] = "not finite",
        [STATUS_DEVICE] = "device",
    };
    return (unsigned)code < STATUS_COUNT ? names[code] : "unknown";
}

int status_exit_code(enum status code)
{
    switch (code) {
    case STATUS_OK:
        return 0;
    case STATUS_INVALID:
        return 2;
    case STATUS_MISMATCH:
        return 3;
    case STATUS_INTERRUPTED:
        return 75;
    default:
        return 1;
    }
}

void status_check_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "%s:%d: broken promise: %s", file, line, condition);
    if (format[1] != '\0') {
        fputc(':', stderr);
        va_start(arguments, format);
        vfprintf(stderr, format, arguments);
        va_end(arguments);
    }
    fputc('\n', stderr);
    abort();
}
