#include "trainer/eval/robustness_book.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/log_line.h"
#include "trainer/utf8_text.h"
#include "trainer/weights/atomic_file.h"

enum { MAX_PATH = 4096, MAX_LINE = LOG_LINE_BYTES };

static const char results[] = "robustness.jsonl", progress[] = "progress.json";

static const char *path_in(const struct robustness_book *book, const char *name,
                           char path[MAX_PATH])
{
    snprintf(path, MAX_PATH, "%s/%s", book->folder, name);
    return path;
}

void book_value(struct book_entry *entry, const char *name, double value)
{
    CHECK(entry->n_values < BOOK_MAX_VALUES);
    entry->values[entry->n_values].name = name;
    entry->values[entry->n_values++].value = value;
}

/* ------------------------------------------------------------------------------ telling */

static void line_of(struct log_line *line, const struct book_entry *entry)
{
    char text[MAX_PATH];

    line->n = 0;
    line->overflow = false;
    log_line_string(line, "test", entry->test);
    log_line_string(line, "setting", utf8_text(text, sizeof(text), entry->setting));
    if (entry->n_images > 0)
        log_line_integer(line, "images", entry->n_images);
    for (int32_t i = 0; i < entry->n_values; i++)
        log_line_number(line, entry->values[i].name, entry->values[i].value);
    if (entry->data != NULL)
        log_line_string(line, "data", utf8_text(text, sizeof(text), entry->data));
}

static void tell(const struct robustness_book *book, const struct book_entry *entry)
{
    struct log_line line;

    if (book->json) {
        line_of(&line, entry);
        printf("%s}\n", line.text);
    } else {
        printf("%-22s %-40s", entry->test, entry->setting);
        for (int32_t i = 0; i < entry->n_values; i++)
            printf(" %s %.4f", entry->values[i].name, entry->values[i].value);
        if (entry->n_images > 0)
            printf(" (%lld images)", (long long)entry->n_images);
        putchar('\n');
    }
    fflush(stdout);
}

/* ------------------------------------------------------------------------------ keeping */

static enum status add_line(struct robustness_book *book, const char *text)
{
    json_error_t error;
    json_t *line = json_loads(text, 0, &error);

    if (line == NULL || !json_is_object(line) || json_array_append_new(book->kept, line) != 0) {
        json_decref(line);
        FAIL(STATUS_CORRUPT,
             "'%s/%s': line %zu is no object of JSON (%s): remove it, or give "
             "another --output_dir",
             book->folder, results, json_array_size(book->kept) + 1, error.text);
    }
    return STATUS_OK;
}

/* What was written while somebody pulled the plug has no end of line: it is written again. */
static enum status read_lines(struct robustness_book *book, FILE *file, char *text, long *whole)
{
    *whole = 0;
    while (fgets(text, MAX_LINE, file) != NULL) {
        if (strchr(text, '\n') == NULL)
            break;
        TRY(add_line(book, text));
        *whole = ftell(file);
    }
    if (ferror(file))
        FAIL(STATUS_IO, "'%s/%s' can't be read: %s", book->folder, results, strerror(errno));
    return STATUS_OK;
}

static enum status read_kept(struct robustness_book *book)
{
    char path[MAX_PATH], *text = NULL;
    FILE *file = fopen(path_in(book, results, path), "rb");
    enum status status;
    long whole;

    if (file == NULL)
        return STATUS_OK;
    TRY_OUT(memory_alloc(&text, MAX_LINE, 1, "results"));
    TRY_OUT(read_lines(book, file, text, &whole));
    if (truncate(path, whole) != 0)
        FAIL_OUT(STATUS_IO, "'%s' can't be written: %s", path, strerror(errno));
out:
    fclose(file);
    memory_free(text);
    return status;
}

static const char *text_of(const json_t *line, const char *key)
{
    const char *text = json_string_value(json_object_get(line, key));

    return text != NULL ? text : "";
}

static enum status check_identity(struct robustness_book *book, const char *identity)
{
    struct log_line line = {.n = 0};
    char path[MAX_PATH];

    if (json_array_size(book->kept) == 0) {
        log_line_string(&line, "run", identity);
        TRY(log_line_append(&line, path_in(book, results, path)));
        json_t *first = json_pack("{s:s}", "run", identity);
        if (first == NULL || json_array_append_new(book->kept, first) != 0)
            FAIL(STATUS_NO_MEMORY, "no memory for results");
        return STATUS_OK;
    }
    const char *there = text_of(json_array_get(book->kept, 0), "run");
    if (strcmp(there, identity) != 0)
        FAIL(STATUS_MISMATCH,
             "'%s' holds another run: it was begun with (%s), this one is (%s): give another "
             "--output_dir, or the same options",
             book->folder, there, identity);
    return STATUS_OK;
}

enum status book_open(struct robustness_book *out, const char *folder, const char *identity,
                      bool json)
{
    *out = (struct robustness_book){.folder = folder, .json = json, .kept = json_array()};
    if (out->kept == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for results");
    if (folder == NULL)
        return STATUS_OK;
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", folder, strerror(errno));
    TRY(read_kept(out));
    return check_identity(out, identity);
}

void book_close(struct robustness_book *book)
{
    json_decref(book->kept);
    *book = (struct robustness_book){0};
}

bool book_find(struct robustness_book *book, struct book_entry *entry)
{
    char setting[MAX_PATH], data[MAX_PATH];
    size_t i;
    json_t *line;

    utf8_text(setting, sizeof(setting), entry->setting);
    utf8_text(data, sizeof(data), entry->data != NULL ? entry->data : "");
    json_array_foreach(book->kept, i, line)
    {
        if (strcmp(text_of(line, "test"), entry->test) != 0 ||
            strcmp(text_of(line, "setting"), setting) != 0 ||
            strcmp(text_of(line, "data"), data) != 0)
            continue;
        const char *key;
        json_t *value;
        entry->n_images = (int64_t)json_integer_value(json_object_get(line, "images"));
        entry->n_values = 0;
        json_object_foreach(line, key, value)
        {
            bool number = json_is_real(value) || json_is_null(value);
            if (number && entry->n_values < BOOK_MAX_VALUES)
                book_value(entry, key, json_is_real(value) ? json_real_value(value) : NAN);
        }
        tell(book, entry);
        return true;
    }
    return false;
}

enum status book_add(struct robustness_book *book, const struct book_entry *entry)
{
    struct log_line line;
    char path[MAX_PATH];

    tell(book, entry);
    line_of(&line, entry);
    if (book->folder == NULL)
        return STATUS_OK;
    TRY(log_line_append(&line, path_in(book, results, path)));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ progress */

enum status book_progress_read(const struct robustness_book *book, const char *name,
                               int64_t *n_done, double *sums, int32_t n_sums)
{
    char path[MAX_PATH];
    json_error_t error;
    json_int_t done;
    const char *part;
    json_t *there;

    *n_done = 0;
    for (int32_t i = 0; i < n_sums; i++)
        sums[i] = 0.0;
    if (book->folder == NULL || access(path_in(book, progress, path), F_OK) != 0)
        return STATUS_OK;
    json_t *json = json_load_file(path, 0, &error);
    if (json_unpack(json, "{s:s, s:I, s:o}", "part", &part, "images", &done, "sums", &there) != 0 ||
        !json_is_array(there) || done < 0) {
        json_decref(json);
        FAIL(STATUS_CORRUPT, "'%s' is not what this program writes: remove it", path);
    }
    if (strcmp(part, name) == 0 && json_array_size(there) == (size_t)n_sums) {
        *n_done = done;
        for (int32_t i = 0; i < n_sums; i++)
            sums[i] = json_real_value(json_array_get(there, (size_t)i));
    }
    json_decref(json);
    return STATUS_OK;
}

enum status book_progress_write(const struct robustness_book *book, const char *name,
                                int64_t n_done, const double *sums, int32_t n_sums)
{
    struct atomic_file file = {0};
    char path[MAX_PATH], *text = NULL;
    json_t *there, *json = NULL;
    enum status status;

    if (book->folder == NULL)
        return STATUS_OK;
    there = json_array();
    for (int32_t i = 0; i < n_sums; i++)
        json_array_append_new(there, json_real(sums[i]));
    json = json_pack("{s:s, s:I, s:o}", "part", name, "images", (json_int_t)n_done, "sums", there);
    text = json != NULL ? json_dumps(json, JSON_REAL_PRECISION(17)) : NULL;
    if (text == NULL)
        FAIL_OUT(STATUS_NO_MEMORY, "no memory for results");
    TRY_OUT(atomic_file_open(&file, path_in(book, progress, path)));
    TRY_OUT(atomic_file_write(&file, text, strlen(text)));
    status = atomic_file_commit(&file);
out:
    atomic_file_close(&file);
    free(text);
    json_decref(json);
    return status;
}
