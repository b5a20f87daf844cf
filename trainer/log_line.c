/* The lines of log.txt: built by hand, since each is one flat object in a fixed order, and read
 * back with jansson where a resumed run takes epochs away. */
#include "trainer/log_line.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/memory.h"

static void IBOT_PRINTF(2, 3) put(struct log_line *line, const char *format, ...)
{
    size_t room = sizeof(line->text) - line->n;
    va_list arguments;

    va_start(arguments, format);
    int n = vsnprintf(line->text + line->n, room, format, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= room)
        line->overflow = true;
    else
        line->n += (size_t)n;
}

static void put_string(struct log_line *line, const char *text)
{
    put(line, "\"");
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            put(line, "\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            put(line, "\\u%04x", (unsigned)*text);
        else
            put(line, "%c", *text);
    }
    put(line, "\"");
}

static void put_key(struct log_line *line, const char *key)
{
    put(line, line->n == 0 ? "{" : ", ");
    put_string(line, key);
    put(line, ": ");
}

void log_line_number(struct log_line *line, const char *key, double value)
{
    char text[40];

    put_key(line, key);
    if (!isfinite(value)) {
        put(line, "null");
        return;
    }
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    /* A point, so that readers take it for a real number. */
    put(line, strpbrk(text, ".e") != NULL ? "%s" : "%s.0", text);
}

void log_line_integer(struct log_line *line, const char *key, int64_t value)
{
    put_key(line, key);
    put(line, "%" PRId64, value);
}

void log_line_string(struct log_line *line, const char *key, const char *value)
{
    put_key(line, key);
    put_string(line, value);
}

enum status log_line_append(struct log_line *line, const char *path)
{
    enum status status = STATUS_OK;
    ssize_t n;

    put(line, line->n == 0 ? "{}\n" : "}\n");
    if (line->overflow) {
        *line = (struct log_line){.n = 0};
        FAIL(STATUS_INVALID, "'%s': a line of more than %d bytes", path, LOG_LINE_BYTES);
    }
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (file < 0)
        FAIL(STATUS_IO, "'%s': %s", path, strerror(errno));
    off_t end = lseek(file, 0, SEEK_END);
    do
        n = write(file, line->text, line->n);
    while (n < 0 && errno == EINTR);
    if (n > 0 && (size_t)n < line->n)
        (void)!ftruncate(file, end); /* no half line for the next one to end */
    if (n < 0)
        status = status_set(STATUS_IO, "'%s': %s", path, strerror(errno));
    else if ((size_t)n < line->n)
        status = status_set(STATUS_IO, "'%s': wrote %zd of %zu bytes; is the disk full?", path, n,
                            line->n);
    if (close(file) != 0 && status == STATUS_OK)
        status = status_set(STATUS_IO, "'%s': %s", path, strerror(errno));
    *line = (struct log_line){.n = 0};
    return status;
}

/* Whether a whole line belongs to an epoch before `epoch`. Lines without one stay. */
static bool line_stays(const char *text, size_t n, int32_t epoch)
{
    json_t *object = json_loadb(text, n, 0, NULL);
    if (object == NULL)
        return false;
    json_t *found = json_object_get(object, "epoch");
    bool stays = !json_is_integer(found) || json_integer_value(found) < epoch;
    json_decref(object);
    return stays;
}

/* The whole file; *bytes is NULL when there is none. */
static enum status read_whole(const char *path, char **bytes, size_t *n_bytes)
{
    enum status status = STATUS_OK;
    struct stat info;

    *bytes = NULL;
    *n_bytes = 0;
    FILE *file = fopen(path, "rb");
    if (file == NULL && errno == ENOENT)
        return STATUS_OK;
    if (file == NULL)
        FAIL(STATUS_IO, "'%s': %s", path, strerror(errno));
    if (fstat(fileno(file), &info) != 0 || !S_ISREG(info.st_mode))
        FAIL_OUT(STATUS_IO, "'%s' is not a file", path);
    TRY_OUT(memory_alloc(bytes, (size_t)info.st_size, 1, "log file"));
    *n_bytes = fread(*bytes, 1, (size_t)info.st_size, file);
    if (ferror(file))
        FAIL_OUT(STATUS_IO, "'%s': %s", path, strerror(errno));
out:
    fclose(file);
    if (status != STATUS_OK) {
        memory_free(*bytes);
        *bytes = NULL;
    }
    return status;
}

/* Temporary name, sync, rename: the old file or the new one is there at any moment. */
static enum status replace_file(const char *path, const char *bytes, size_t n_bytes)
{
    char temporary[4200];
    bool written = false;

    if (snprintf(temporary, sizeof(temporary), "%s.new", path) >= (int)sizeof(temporary))
        FAIL(STATUS_IO, "'%s': the path is too long", path);
    FILE *file = fopen(temporary, "wb");
    if (file != NULL) {
        written = fwrite(bytes, 1, n_bytes, file) == n_bytes && fflush(file) == 0 &&
                  fsync(fileno(file)) == 0;
        written = fclose(file) == 0 && written;
    }
    if (!written || rename(temporary, path) != 0) {
        int error = errno;
        unlink(temporary);
        FAIL(STATUS_IO, "'%s': %s", path, strerror(error));
    }
    return STATUS_OK;
}

enum status log_file_rewind(const char *path, int32_t epoch)
{
    enum status status = STATUS_OK;
    size_t n_bytes, n_kept = 0;
    char *bytes;

    TRY(read_whole(path, &bytes, &n_bytes));
    for (size_t at = 0; at < n_bytes;) {
        const char *end = memchr(bytes + at, '\n', n_bytes - at);
        if (end == NULL)
            break; /* torn */
        size_t length = (size_t)(end + 1 - (bytes + at));
        if (line_stays(bytes + at, length - 1, epoch)) {
            memmove(bytes + n_kept, bytes + at, length);
            n_kept += length;
        }
        at += length;
    }
    if (n_kept < n_bytes)
        status = replace_file(path, bytes, n_kept);
    memory_free(bytes);
    return status;
}
