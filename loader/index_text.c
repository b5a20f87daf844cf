/* Lists of images: a path in each line, and perhaps a class number. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "loader/index_internal.h"
#include "proto/base/memory.h"

enum { MAX_CLASS = 1000000 };

struct list {
    struct index_builder *builder;
    char folder[INDEX_MAX_PATH_BYTES]; /* of the list, "/…" when paths start at / */
    long line_number;
    int64_t n_labelled, highest; /* lines with a class number; the largest */
    int64_t n_there;             /* files that exist */
    long unlabelled_line;        /* the first line without; 0: none */
};

/* Parts "path 12"; *label -1: the line ends in no number. */
static void part_line(char *line, int64_t *label)
{
    char *blank = strrchr(line, ' '), *tab = strrchr(line, '\t'), *end;

    *label = -1;
    if (tab != NULL && (blank == NULL || tab > blank))
        blank = tab;
    if (blank == NULL || blank[1] < '0' || blank[1] > '9')
        return;
    errno = 0;
    long long value = strtoll(blank + 1, &end, 10);
    if (*end != '\0' || errno != 0 || value >= MAX_CLASS)
        return;
    *label = value;
    while (blank > line && (*blank == ' ' || *blank == '\t'))
        *blank-- = '\0';
}

/* The path as the index keeps it; its file's size, 0 when there is none: then it is a bad image. */
static enum status add_line(struct list *list, const char *path, int64_t label)
{
    struct index_entry entry = {.label = (uint32_t)label};
    char full[INDEX_MAX_PATH_BYTES];
    bool from_file_system = list->builder->base == INDEX_AT_FILE_SYSTEM;
    struct stat info;

    if (path[0] == '/')
        snprintf(full, sizeof(full), "%s", path);
    else
        TRY(index_join(full, sizeof(full), list->folder, path));
    if (stat(full, &info) == 0 && S_ISREG(info.st_mode)) {
        entry.size = (uint64_t)info.st_size;
        list->n_there++;
    }
    TRY(index_add_string(list->builder, from_file_system ? full + 1 : path, &entry.path));
    TRY(index_note_progress(list->builder, 1));
    return index_add_entry(list->builder, &entry);
}

static bool leads_up(const char *path)
{
    for (const char *part = path; part != NULL;) {
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return true;
        part = strchr(part, '/');
        part = part != NULL ? part + 1 : NULL;
    }
    return false;
}

/* Calls `visit` for every line that is not empty. */
static enum status each_line(struct list *list, FILE *file,
                             enum status (*visit)(struct list *list, char *line))
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t n;
    enum status status = STATUS_OK;

    rewind(file);
    list->line_number = 0;
    while (status == STATUS_OK && (n = getline(&line, &capacity, file)) >= 0) {
        list->line_number++;
        if (memchr(line, '\0', (size_t)n) != NULL || n >= INDEX_MAX_PATH_BYTES) {
            status = status_set(STATUS_INVALID, "line %ld is no path: %s", list->line_number,
                                n >= INDEX_MAX_PATH_BYTES ? "too long" : "it has a zero byte");
            break;
        }
        while (n > 0 && (line[n - 1] == '\n' || line[n - 1] == '\r'))
            line[--n] = '\0';
        if (n > 0)
            status = visit(list, line);
    }
    if (status == STATUS_OK && ferror(file))
        status = status_set(STATUS_IO, "can't be read: %s", strerror(errno));
    free(line);
    return status;
}

/* First reading: are there class numbers, do paths start at /? */
static enum status look_at(struct list *list, char *line)
{
    int64_t label;

    if (leads_up(line))
        FAIL(STATUS_INVALID, "line %ld: '%.200s' leads up with '..'; write it from / on",
             list->line_number, line);
    if (line[0] == '/')
        list->builder->base = INDEX_AT_FILE_SYSTEM;
    part_line(line, &label);
    if (label < 0 && list->unlabelled_line == 0)
        list->unlabelled_line = list->line_number;
    list->n_labelled += label >= 0;
    list->highest = label > list->highest ? label : list->highest;
    return STATUS_OK;
}

static enum status take_labelled(struct list *list, char *line)
{
    int64_t label;

    part_line(line, &label);
    return add_line(list, line, label);
}

static enum status take_unlabelled(struct list *list, char *line)
{
    return add_line(list, line, 0);
}

/* Where relative paths start: made absolute when others are. */
static enum status find_folder(struct list *list, char **name)
{
    struct index_builder *builder = list->builder;

    if (builder->base != INDEX_AT_FILE_SYSTEM)
        return index_split(builder->root, list->folder, name);
    char *real = realpath(builder->root, NULL);
    if (real == NULL)
        FAIL(STATUS_IO, "can't be found: %s", strerror(errno));
    enum status status = index_split(real, list->folder, name);
    free(real);
    return status;
}

static enum status read_lines(struct list *list, FILE *file)
{
    struct index_builder *builder = list->builder;
    char *name, path[INDEX_MAX_PATH_BYTES];
    struct stat info;

    builder->base = INDEX_BESIDE_ROOT;
    TRY(each_line(list, file, look_at));
    if (list->n_labelled == 0 && list->unlabelled_line == 0)
        FAIL(STATUS_INVALID, "it is empty; wanted a path of an image in each line");
    TRY(find_folder(list, &name));
    if (fstat(fileno(file), &info) != 0)
        FAIL(STATUS_IO, "can't be read: %s", strerror(errno));
    snprintf(path, sizeof(path), "%s", name);
    if (builder->base == INDEX_AT_FILE_SYSTEM)
        TRY(index_join(path, sizeof(path), list->folder[1] == '\0' ? "" : list->folder + 1, name));
    TRY(index_add_folder(builder, path, index_settled_time(&info)));
    if (list->n_labelled > 0 && list->unlabelled_line != 0)
        FAIL(STATUS_INVALID,
             "line %ld has no class number, though others have; wanted one in each line or in none",
             list->unlabelled_line);
    if (list->n_labelled > 0)
        TRY(index_add_numbered_classes(builder, list->highest + 1));
    else
        TRY(index_add_class(builder, "."));
    TRY(each_line(list, file, list->n_labelled > 0 ? take_labelled : take_unlabelled));
    if (list->n_there == 0)
        FAIL(STATUS_INVALID, "none of its %zu lines is the path of a file; the first one: '%.200s'",
             builder->n_entries, builder->strings + builder->entries[0].path);
    return STATUS_OK;
}

enum status index_read_list(struct index_builder *builder)
{
    struct list list = {.builder = builder};
    FILE *file = fopen(builder->root, "re");

    if (file == NULL)
        FAIL(STATUS_IO, "list '%s' can't be opened: %s", builder->root, strerror(errno));
    enum status status = read_lines(&list, file);
    fclose(file);
    if (status != STATUS_OK && status != STATUS_INTERRUPTED)
        return status_set(status, "list '%s': %s", builder->root, status_message());
    return status;
}
