#include "trainer/eval/class_names.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer/utf8_text.h"

/* The text between the spaces around it, whose end is written over. */
static char *trimmed(char *line, size_t n)
{
    while (n > 0 && isspace((unsigned char)line[n - 1]))
        n--;
    line[n] = '\0';
    while (isspace((unsigned char)*line))
        line++;
    return line;
}

static enum status add(struct class_names *names, const char *name, const char *path, int32_t line)
{
    if (name[0] == '\0' || strlen(name) >= CLASS_NAME_BYTES)
        FAIL(STATUS_INVALID, "'%s', line %d: wanted the name of a class, of 1 to %d bytes, got %zu",
             path, line, CLASS_NAME_BYTES - 1, strlen(name));
    utf8_text(names->text[names->n++], CLASS_NAME_BYTES, name);
    return STATUS_OK;
}

/* An empty line is an error only when another one follows. */
static enum status read_lines(struct class_names *names, FILE *file, const char *path, char **line)
{
    int32_t number = 0, empty = 0;
    size_t capacity = 0;
    ssize_t n;

    while (number <= SEGMENT_MAX_CLASSES && (n = getline(line, &capacity, file)) >= 0) {
        const char *name = trimmed(*line, (size_t)n);
        number++;
        if (name[0] == '\0' && empty == 0)
            empty = number;
        if (name[0] == '\0')
            continue;
        if (empty > 0)
            return add(names, "", path, empty);
        if (names->n == SEGMENT_MAX_CLASSES)
            FAIL(STATUS_INVALID, "'%s' has more than %d lines", path, SEGMENT_MAX_CLASSES);
        TRY(add(names, name, path, number));
    }
    if (ferror(file))
        FAIL(STATUS_IO, "'%s' can't be read: %s", path, strerror(errno));
    return STATUS_OK;
}

enum status class_names_read(struct class_names *out, const char *path, int32_t n_classes)
{
    FILE *file = fopen(path, "rb");
    char *line = NULL;

    *out = (struct class_names){0};
    if (file == NULL)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "'%s' can't be opened: %s", path,
             strerror(errno));
    enum status status = read_lines(out, file, path, &line);
    free(line);
    fclose(file);
    if (status == STATUS_OK && out->n != n_classes)
        FAIL(STATUS_MISMATCH, "'%s' names %d classes, and there are %d: wanted one a line", path,
             out->n, n_classes);
    return status;
}
