/* The side of libibot_cuda.so: its table, and the functions with state, which the program has. */
#include "kernels/column.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/interface.h"

/* Set once, to the same for ever, before anything else is called. */
static const struct kernels_host *host;

static const struct kernels_column column = {
    .interface = KERNELS_INTERFACE,
    .device_open = kernels_device_open,
    .op_table = kernels_op_table,
    .collective_open = kernels_collective_open,
    .attention_by = kernels_attention_by,
};

__attribute__((visibility("default"))) kernels_column_fn kernels_column;

const struct kernels_column *kernels_column(const struct kernels_host *program)
{
    host = program;
    return &column;
}

/* ------------------------------------------------------------------------------ status.h, log.h */

enum { TEXT_BYTES = 1024 };

enum status status_set(enum status code, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    return host->status_set(code, "%s", text);
}

const char *status_message(void)
{
    return host->status_message();
}

const char *status_name(enum status code)
{
    return host->status_name(code);
}

void status_check_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    host->check_failed(file, line, condition, text[1] != '\0' ? "%s" : " ", text);
    abort();
}

void log_write(enum log_level level, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    host->log_write(level, "%s", text);
}
