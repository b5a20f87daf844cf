/* Headers of tar archives. Source: POSIX.1-2001 (pax and ustar), the GNU tar manual. */
#include "loader/tar.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* A header block. */
enum {
    NAME = 0,
    NAME_BYTES = 100,
    SIZE = 124,
    NUMBER_BYTES = 12,
    CHECKSUM = 148,
    CHECKSUM_BYTES = 8,
    TYPE = 156,
    MAGIC = 257,
    PREFIX = 345,
    PREFIX_BYTES = 155,
};

enum { MAX_EXTENSION_BYTES = 1 << 20 }; /* of a long name, or of pax records */

struct walk {
    int file;
    uint64_t at, end;
    char name[TAR_MAX_NAME_BYTES]; /* of the next member, from an extension; or "" */
    uint64_t size;                 /* the same */
    bool has_size;
};

enum status tar_read(int file, uint64_t offset, void *out, size_t n_bytes, size_t *n_read)
{
    size_t filled = 0;

    while (filled < n_bytes) {
        ssize_t n = pread(file, (char *)out + filled, n_bytes - filled, (off_t)(offset + filled));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL(STATUS_IO, "can't be read: %s", strerror(errno));
        if (n == 0)
            break;
        filled += (size_t)n;
    }
    *n_read = filled;
    return STATUS_OK;
}

/* Octal digits with blanks around; or, with the top bit set, a binary number. False: neither. */
static bool parse_number(const uint8_t *field, size_t n_bytes, uint64_t *out)
{
    uint64_t value = 0;
    size_t i = 0;

    if (field[0] & 0x80) {
        value = field[0] & 0x7f;
        for (i = 1; i < n_bytes; i++) {
            if (value >> 55 != 0)
                return false;
            value = value << 8 | field[i];
        }
        *out = value;
        return true;
    }
    while (i < n_bytes && field[i] == ' ')
        i++;
    for (; i < n_bytes && field[i] >= '0' && field[i] <= '7'; i++)
        value = value << 3 | (uint64_t)(field[i] - '0'); /* at most 36 bits */
    for (; i < n_bytes; i++)
        if (field[i] != ' ' && field[i] != '\0')
            return false;
    *out = value;
    return true;
}

/* The sum of a header's bytes, its own field counted as blanks; signed in some old archives. */
static bool has_checksum(const uint8_t *header)
{
    uint64_t wanted;
    int64_t sum = 0, signed_sum = 0;

    if (!parse_number(header + CHECKSUM, CHECKSUM_BYTES, &wanted))
        return false;
    for (size_t i = 0; i < TAR_BLOCK_BYTES; i++) {
        bool own = i >= CHECKSUM && i < CHECKSUM + CHECKSUM_BYTES;
        sum += own ? ' ' : header[i];
        signed_sum += own ? ' ' : (int8_t)header[i];
    }
    return (int64_t)wanted == sum || (int64_t)wanted == signed_sum;
}

static bool is_zero(const uint8_t *block)
{
    for (size_t i = 0; i < TAR_BLOCK_BYTES; i++)
        if (block[i] != 0)
            return false;
    return true;
}

static bool starts_with(const uint8_t *bytes, size_t n_bytes, const char *magic, size_t n_magic)
{
    return n_bytes >= n_magic && memcmp(bytes, magic, n_magic) == 0;
}

static bool is_compressed(const uint8_t *bytes, size_t n_bytes)
{
    return starts_with(bytes, n_bytes, "\x1f\x8b", 2) || starts_with(bytes, n_bytes, "BZh", 3) ||
           starts_with(bytes, n_bytes,
                       "\xfd"
                       "7zXZ",
                       5) ||
           starts_with(bytes, n_bytes, "\x28\xb5\x2f\xfd", 4);
}

bool tar_is_archive(const uint8_t *bytes, size_t n_bytes)
{
    return is_compressed(bytes, n_bytes) || (n_bytes >= TAR_BLOCK_BYTES && has_checksum(bytes));
}

/* "length keyword=value\n" records: path and size of the next member. */
static enum status read_pax(struct walk *walk, const char *text, size_t n_bytes)
{
    for (size_t at = 0; at < n_bytes;) {
        size_t length = 0, digits = at;
        while (digits < n_bytes && text[digits] >= '0' && text[digits] <= '9' && length < n_bytes)
            length = length * 10 + (size_t)(text[digits++] - '0');
        if (digits == n_bytes || text[digits] != ' ' || length <= digits + 1 - at ||
            length > n_bytes - at || text[at + length - 1] != '\n')
            FAIL(STATUS_CORRUPT, "byte %llu: a pax record has the wrong length",
                 (unsigned long long)(walk->at + at));
        const char *record = text + digits + 1;
        size_t n = length - (digits + 1 - at) - 1; /* without the line's end */
        if (n > 5 && memcmp(record, "path=", 5) == 0) {
            if (n - 5 >= sizeof(walk->name) || memchr(record, '\0', n) != NULL)
                FAIL(STATUS_CORRUPT, "byte %llu: a name of %zu bytes; wanted less than %zu",
                     (unsigned long long)(walk->at + at), n - 5, sizeof(walk->name));
            memcpy(walk->name, record + 5, n - 5);
            walk->name[n - 5] = '\0';
        } else if (n > 5 && memcmp(record, "size=", 5) == 0) {
            walk->size = 0;
            for (size_t i = 5; i < n && record[i] >= '0' && record[i] <= '9'; i++)
                walk->size = walk->size > UINT64_MAX / 20
                                 ? UINT64_MAX / 2 /* refused below as beyond the end */
                                 : walk->size * 10 + (uint64_t)(record[i] - '0');
            walk->has_size = true;
        }
        at += length;
    }
    return STATUS_OK;
}

/* A member that says something about the next one: a long name (L), pax records (x). */
static enum status read_extension(struct walk *walk, char type, uint64_t size)
{
    char text[MAX_EXTENSION_BYTES / 16];
    size_t n_read = 0;

    if (size > sizeof(text))
        FAIL(STATUS_CORRUPT, "byte %llu: an extension of %llu bytes; wanted at most %zu",
             (unsigned long long)walk->at, (unsigned long long)size, sizeof(text));
    TRY(tar_read(walk->file, walk->at, text, (size_t)size, &n_read));
    if (n_read < size)
        FAIL(STATUS_CORRUPT, "byte %llu: the archive ends in an extension",
             (unsigned long long)walk->at);
    if (type == 'x')
        return read_pax(walk, text, n_read);
    size_t n = strnlen(text, n_read);
    if (n >= sizeof(walk->name))
        FAIL(STATUS_CORRUPT, "byte %llu: a name of %zu bytes; wanted less than %zu",
             (unsigned long long)walk->at, n, sizeof(walk->name));
    memcpy(walk->name, text, n);
    walk->name[n] = '\0';
    return STATUS_OK;
}

/* The name in the header itself: prefix and name, in ustar headers. */
static void header_name(const uint8_t *header, char *out)
{
    size_t n = 0;

    if (memcmp(header + MAGIC, "ustar", 6) == 0 && header[PREFIX] != 0) {
        n = strnlen((const char *)header + PREFIX, PREFIX_BYTES);
        memcpy(out, header + PREFIX, n);
        out[n++] = '/';
    }
    size_t rest = strnlen((const char *)header + NAME, NAME_BYTES);
    memcpy(out + n, header + NAME, rest);
    out[n + rest] = '\0';
}

/* One header and what belongs to it; walk->at is behind it then. */
static enum status take_member(struct walk *walk, const uint8_t *header, tar_visit *visit,
                               void *context)
{
    uint64_t header_at = walk->at, size;
    char type = (char)header[TYPE];

    if (!has_checksum(header) || !parse_number(header + SIZE, NUMBER_BYTES, &size))
        FAIL(STATUS_CORRUPT, "byte %llu: no tar header is here, or it is damaged",
             (unsigned long long)header_at);
    bool extension = type == 'L' || type == 'x' || type == 'K' || type == 'g';
    if (walk->has_size && !extension)
        size = walk->size;
    walk->at += TAR_BLOCK_BYTES;
    if (type >= '1' && type <= '6') /* links, devices, folders: without bytes of their own */
        size = 0;
    if (size > walk->end - walk->at)
        FAIL(
            STATUS_CORRUPT,
            "byte %llu: a member of %llu bytes, but the archive ends after %llu; was it cut short?",
            (unsigned long long)header_at, (unsigned long long)size,
            (unsigned long long)(walk->end - walk->at));
    if (type == 'L' || type == 'x') {
        TRY(read_extension(walk, type, size));
    } else if (!extension) {
        struct tar_member member = {walk->name, walk->at, size};
        if (walk->name[0] == '\0')
            header_name(header, walk->name);
        size_t n = strlen(walk->name);
        bool plain =
            (type == '0' || type == '\0' || type == '7') && n > 0 && walk->name[n - 1] != '/';
        if (plain)
            TRY(visit(context, &member));
        walk->name[0] = '\0';
        walk->has_size = false;
    }
    uint64_t padded = (size + TAR_BLOCK_BYTES - 1) / TAR_BLOCK_BYTES * TAR_BLOCK_BYTES;
    walk->at = padded > walk->end - walk->at ? walk->end : walk->at + padded;
    return STATUS_OK;
}

enum status tar_walk(int file, uint64_t offset, uint64_t size, tar_visit *visit, void *context)
{
    struct walk walk = {.file = file, .at = offset, .end = offset + size};
    uint8_t header[TAR_BLOCK_BYTES];
    size_t n_read = 0;

    while (walk.at < walk.end) {
        size_t wanted =
            walk.end - walk.at < sizeof(header) ? (size_t)(walk.end - walk.at) : sizeof(header);
        TRY(tar_read(file, walk.at, header, wanted, &n_read));
        if (walk.at == offset && is_compressed(header, n_read))
            FAIL(STATUS_UNSUPPORTED, "the archive is compressed, so that nothing in it can be "
                                     "reached by itself; decompress it first");
        if (n_read < sizeof(header))
            FAIL(STATUS_CORRUPT, "byte %llu: the archive ends in a header; was it cut short?",
                 (unsigned long long)walk.at);
        if (is_zero(header))
            return STATUS_OK;
        TRY(take_member(&walk, header, visit, context));
    }
    return STATUS_OK;
}
