/* The file of choices: bounded parser, and writers that wait for each other. */
#include "kernels/matmul_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/memory.h"

#define FIRST_LINE "ibot matrix products "
#define VERSION    "1"

enum { FIELDS = 8, CHECK_DIGITS = 16, LINE_BYTES = 1024, LOCK_TRIES = 200 };

/* ------------------------------------------------------------------------------ reading */

static int digit_of(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A field of a line: not terminated. */
struct field {
    const char *text;
    size_t n;
};

static bool read_number(uint64_t *out, struct field field, uint64_t most)
{
    uint64_t value = 0;

    if (field.n == 0 || field.n > 18)
        return false;
    for (size_t i = 0; i < field.n; i++) {
        if (field.text[i] < '0' || field.text[i] > '9')
            return false;
        value = 10 * value + (uint64_t)(field.text[i] - '0');
    }
    *out = value;
    return value <= most;
}

static bool read_text(char *out, size_t size, struct field field)
{
    if (field.n == 0 || field.n >= size)
        return false;
    for (size_t i = 0; i < field.n; i++)
        if (field.text[i] < ' ' || field.text[i] > '~')
            return false;
    memcpy(out, field.text, field.n);
    out[field.n] = '\0';
    return true;
}

static bool read_bytes(uint8_t *out, size_t n, struct field field)
{
    if (field.n != 2 * n)
        return false;
    for (size_t i = 0; i < n; i++) {
        int high = digit_of(field.text[2 * i]), low = digit_of(field.text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(16 * high + low);
    }
    return true;
}

/* FNV-1a */
static void check_of(char out[CHECK_DIGITS + 1], const char *text, size_t n)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < n; i++)
        hash = (hash ^ (uint8_t)text[i]) * UINT64_C(0x100000001b3);
    snprintf(out, CHECK_DIGITS + 1, "%016" PRIx64, hash);
}

/* NULL, or what is wrong with the line. */
static const char *read_line(struct matmul_choice *out, const char *line, size_t n)
{
    struct field fields[FIELDS];
    char check[CHECK_DIGITS + 1];
    uint64_t n_candidates;
    int n_fields = 0;

    for (size_t at = 0; at <= n; n_fields++) {
        const char *end = memchr(line + at, '\t', n - at);
        size_t length = end != NULL ? (size_t)(end - line) - at : n - at;
        if (n_fields == FIELDS)
            return "it has more than eight parts";
        fields[n_fields] = (struct field){line + at, length};
        at += length + 1;
    }
    if (n_fields != FIELDS)
        return "it has less than eight parts";
    if (!read_text(out->device, sizeof(out->device), fields[1]) ||
        !read_text(out->product, sizeof(out->product), fields[2]))
        return "device or product are no texts of the right length";
    if (!read_bytes(out->algorithm, sizeof(out->algorithm), fields[3]))
        return "the algorithm is not 128 hex digits";
    if (!read_number(&out->workspace_bytes, fields[4], UINT64_C(1) << 40) ||
        !read_number(&out->time_ns, fields[5], UINT64_MAX) ||
        !read_number(&out->first_ns, fields[6], UINT64_MAX) ||
        !read_number(&n_candidates, fields[7], UINT32_MAX))
        return "workspace, times or candidates are no numbers";
    out->n_candidates = (uint32_t)n_candidates;
    check_of(check, fields[1].text, n - fields[0].n - 1);
    if (fields[0].n != CHECK_DIGITS || memcmp(fields[0].text, check, CHECK_DIGITS) != 0)
        return "its check sum is wrong";
    return NULL;
}

static enum status add(struct matmul_choices *choices, const struct matmul_choice *choice)
{
    TRY(memory_grow(&choices->choices, &choices->capacity, choices->n + 1, sizeof(*choice),
                    "choices of matrix products"));
    choices->choices[choices->n++] = *choice;
    return STATUS_OK;
}

static enum status read_lines(struct matmul_choices *out, const char *bytes, size_t n_bytes)
{
    size_t at = 0;

    for (int number = 1; at < n_bytes; number++) {
        const char *line = bytes + at, *end = memchr(line, '\n', n_bytes - at);
        struct matmul_choice choice = {0};
        if (end == NULL)
            FAIL(STATUS_CORRUPT, "line %d has no end", number);
        size_t n = (size_t)(end - line);
        at += n + 1;
        if (number == 1) {
            if (n < strlen(FIRST_LINE) || memcmp(line, FIRST_LINE, strlen(FIRST_LINE)) != 0)
                FAIL(STATUS_CORRUPT, "it does not begin with '%s'", FIRST_LINE VERSION);
            if (n != strlen(FIRST_LINE VERSION) || memcmp(line, FIRST_LINE VERSION, n) != 0)
                FAIL(STATUS_UNSUPPORTED, "it is of another version, not " VERSION);
            continue;
        }
        const char *wrong = read_line(&choice, line, n);
        if (wrong != NULL)
            FAIL(STATUS_CORRUPT, "line %d: %s", number, wrong);
        if (matmul_choices_find(out, choice.device, choice.product) != NULL)
            FAIL(STATUS_CORRUPT, "line %d: the product is there twice", number);
        if (out->n == MATMUL_CACHE_MOST_CHOICES)
            FAIL(STATUS_CORRUPT, "it has more than %d products", MATMUL_CACHE_MOST_CHOICES);
        TRY(add(out, &choice));
    }
    return n_bytes > 0 ? STATUS_OK : status_set(STATUS_CORRUPT, "it is empty");
}

enum status matmul_choices_parse(struct matmul_choices *out, const char *bytes, size_t n_bytes)
{
    struct matmul_choices read = {0};
    enum status status = read_lines(&read, bytes, n_bytes);

    if (status != STATUS_OK) {
        matmul_choices_release(&read);
        return status;
    }
    matmul_choices_release(out);
    *out = read;
    return STATUS_OK;
}

const struct matmul_choice *matmul_choices_find(const struct matmul_choices *choices,
                                                const char *device, const char *product)
{
    for (size_t i = 0; i < choices->n; i++)
        if (strcmp(choices->choices[i].product, product) == 0 &&
            strcmp(choices->choices[i].device, device) == 0)
            return &choices->choices[i];
    return NULL;
}

void matmul_choices_release(struct matmul_choices *choices)
{
    if (choices == NULL)
        return;
    memory_free(choices->choices);
    memset(choices, 0, sizeof(*choices));
}

/* ------------------------------------------------------------------------------ writing */

/* The line without its check sum, which is of it. */
static size_t format_rest(char *out, size_t size, const struct matmul_choice *choice)
{
    char algorithm[2 * MATMUL_ALGORITHM_BYTES + 1];

    for (int i = 0; i < MATMUL_ALGORITHM_BYTES; i++)
        snprintf(algorithm + 2 * i, 3, "%02x", choice->algorithm[i]);
    int n = snprintf(out, size, "%s\t%s\t%s\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu64 "\t%" PRIu32,
                     choice->device, choice->product, algorithm, choice->workspace_bytes,
                     choice->time_ns, choice->first_ns, choice->n_candidates);
    CHECK(n > 0 && (size_t)n < size);
    return (size_t)n;
}

enum status matmul_choices_format(const struct matmul_choices *choices, char **out, size_t *n_bytes)
{
    size_t size = sizeof(FIRST_LINE VERSION "\n") + choices->n * (LINE_BYTES + CHECK_DIGITS + 2);
    char line[LINE_BYTES], check[CHECK_DIGITS + 1];

    TRY(memory_alloc(out, size, 1, "text of choices of matrix products"));
    size_t n = (size_t)snprintf(*out, size, "%s\n", FIRST_LINE VERSION);
    for (size_t i = 0; i < choices->n; i++) {
        check_of(check, line, format_rest(line, sizeof(line), &choices->choices[i]));
        n += (size_t)snprintf(*out + n, size - n, "%s\t%s\n", check, line);
    }
    *n_bytes = n;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ the file */

static enum status read_all(const char *path, int file, char *bytes, size_t n)
{
    size_t done = 0;

    while (done < n) {
        ssize_t got = read(file, bytes + done, n - done);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            FAIL(STATUS_IO, "'%s' can't be read: %s", path, got < 0 ? strerror(errno) : "cut off");
        done += (size_t)got;
    }
    return STATUS_OK;
}

enum status matmul_cache_read(struct matmul_choices *out, const char *path)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    enum status status = STATUS_OK;
    char *bytes = NULL;
    struct stat about;

    if (file < 0 && errno == ENOENT) {
        matmul_choices_release(out);
        return STATUS_OK;
    }
    if (file < 0 || fstat(file, &about) != 0)
        FAIL_OUT(STATUS_IO, "'%s' can't be opened: %s", path, strerror(errno));
    if (!S_ISREG(about.st_mode) || about.st_size > MATMUL_CACHE_MOST_BYTES)
        FAIL_OUT(STATUS_CORRUPT, "'%s' is no plain file of at most %d bytes", path,
                 MATMUL_CACHE_MOST_BYTES);
    TRY_OUT(memory_alloc(&bytes, (size_t)about.st_size, 1, "choices of matrix products"));
    TRY_OUT(read_all(path, file, bytes, (size_t)about.st_size));
    status = matmul_choices_parse(out, bytes, (size_t)about.st_size);
    if (status != STATUS_OK)
        FAIL_OUT(status, "'%s': %s", path, status_message());
out:
    memory_free(bytes);
    if (file >= 0)
        close(file);
    return status;
}

/* The writers of one file wait for each other at another one beside it, for 2 s at most each. */
static enum status lock(int *out, const char *path)
{
    char name[PATH_MAX];
    struct timespec pause = {0, 10000000};

    if (snprintf(name, sizeof(name), "%s.lock", path) >= (int)sizeof(name))
        FAIL(STATUS_IO, "'%s' is too long a name", path);
    int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0)
        FAIL(STATUS_IO, "'%s' can't be opened: %s", name, strerror(errno));
    for (int i = 0; flock(file, LOCK_EX | LOCK_NB) != 0; i++) {
        if (i == LOCK_TRIES || (errno != EWOULDBLOCK && errno != EINTR)) {
            int error = errno;
            close(file);
            FAIL(STATUS_IO, "'%s' can't be locked: %s", name, strerror(error));
        }
        nanosleep(&pause, NULL);
    }
    *out = file;
    return STATUS_OK;
}

static enum status write_whole(const char *path, const char *bytes, size_t n)
{
    char temporary[PATH_MAX];

    if (snprintf(temporary, sizeof(temporary), "%s.%d", path, (int)getpid()) >=
        (int)sizeof(temporary))
        FAIL(STATUS_IO, "'%s' is too long a name", path);
    FILE *file = fopen(temporary, "we");
    if (file == NULL)
        FAIL(STATUS_IO, "'%s' can't be written: %s", temporary, strerror(errno));
    bool failed = fwrite(bytes, 1, n, file) != n;
    failed = fflush(file) != 0 || fsync(fileno(file)) != 0 || failed;
    failed = fclose(file) != 0 || failed;
    if (failed || rename(temporary, path) != 0) {
        int error = errno;
        (void)unlink(temporary);
        FAIL(STATUS_IO, "'%s' can't be written: %s", path, strerror(error));
    }
    return STATUS_OK;
}

static bool same_algorithm(const struct matmul_choice *a, const struct matmul_choice *b)
{
    return b != NULL && a->workspace_bytes == b->workspace_bytes &&
           memcmp(a->algorithm, b->algorithm, sizeof(a->algorithm)) == 0;
}

/* Puts the choice among those of the file; not changed: there is a good one, which it becomes. */
static enum status settle(struct matmul_choices *choices, struct matmul_choice *choice,
                          const struct matmul_choice *wrong, bool *changed)
{
    const struct matmul_choice *there =
        matmul_choices_find(choices, choice->device, choice->product);

    *changed = there == NULL || same_algorithm(there, wrong);
    if (!*changed) {
        *choice = *there;
        return STATUS_OK;
    }
    if (there != NULL) {
        choices->choices[there - choices->choices] = *choice;
        return STATUS_OK;
    }
    if (choices->n == MATMUL_CACHE_MOST_CHOICES)
        FAIL(STATUS_IO, "%d products are the most that a file has: delete it to begin again",
             MATMUL_CACHE_MOST_CHOICES);
    return add(choices, choice);
}

enum status matmul_cache_keep(const char *path, struct matmul_choice *choice,
                              const struct matmul_choice *wrong)
{
    struct matmul_choices choices = {0};
    enum status status = STATUS_OK;
    char *text = NULL;
    int held = -1;
    bool changed;
    size_t n;

    TRY(lock(&held, path));
    TRY_OUT(matmul_cache_read(&choices, path));
    TRY_OUT(settle(&choices, choice, wrong, &changed));
    if (changed) {
        TRY_OUT(matmul_choices_format(&choices, &text, &n));
        TRY_OUT(write_whole(path, text, n));
    }
out:
    memory_free(text);
    matmul_choices_release(&choices);
    close(held); /* and with it the lock */
    return status;
}
