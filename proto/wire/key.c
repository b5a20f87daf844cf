/* Keys as hex, and their files. */
#include "proto/wire/key.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/base/memory.h"

static const char secret_word[] = "secret:";
enum { OTHERS_BITS = 037, Z85_BYTES = 41 };

/* ---- hex ---- */

const char *key_format(const struct key *key, char out[KEY_TEXT_BYTES])
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < KEY_BYTES; i++) {
        out[2 * i] = digits[key->bytes[i] >> 4];
        out[2 * i + 1] = digits[key->bytes[i] & 15];
    }
    out[KEY_TEXT_BYTES - 1] = '\0';
    return out;
}

static int digit_value(char digit)
{
    if (digit >= '0' && digit <= '9')
        return digit - '0';
    if (digit >= 'a' && digit <= 'f')
        return digit - 'a' + 10;
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

bool key_parse(struct key *out, const char *text, size_t n_bytes)
{
    struct key key;

    if (n_bytes != KEY_TEXT_BYTES - 1)
        return false;
    for (size_t i = 0; i < KEY_BYTES; i++) {
        int high = digit_value(text[2 * i]), low = digit_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *out = key;
    explicit_bzero(&key, sizeof(key));
    return true;
}

/* ---- pairs ---- */

static enum status has_curve(void)
{
    if (zmq_has("curve") == 0)
        FAIL(STATUS_UNSUPPORTED, "this ZeroMQ was built without CURVE (libsodium): keys can't be "
                                 "used; install the distribution's libzmq5");
    return STATUS_OK;
}

/* The public half that belongs to pair->secret_half. */
static enum status complete_pair(struct key_pair *pair)
{
    char secret_text[Z85_BYTES], public_text[Z85_BYTES];

    TRY(has_curve());
    CHECK(zmq_z85_encode(secret_text, pair->secret_half.bytes, KEY_BYTES) != NULL);
    int failed = zmq_curve_public(public_text, secret_text);
    explicit_bzero(secret_text, sizeof(secret_text));
    if (failed != 0 || zmq_z85_decode(pair->public_half.bytes, public_text) == NULL)
        FAIL(STATUS_UNSUPPORTED, "ZeroMQ made no public key: %s", zmq_strerror(errno));
    return STATUS_OK;
}

enum status key_pair_generate(struct key_pair *out)
{
    char secret_text[Z85_BYTES], public_text[Z85_BYTES];

    TRY(has_curve());
    if (zmq_curve_keypair(public_text, secret_text) != 0)
        FAIL(STATUS_UNSUPPORTED, "ZeroMQ made no keys: %s", zmq_strerror(errno));
    zmq_z85_decode(out->public_half.bytes, public_text);
    zmq_z85_decode(out->secret_half.bytes, secret_text);
    explicit_bzero(secret_text, sizeof(secret_text));
    return STATUS_OK;
}

void key_pair_wipe(struct key_pair *pair)
{
    explicit_bzero(pair, sizeof(*pair));
}

/* ---- writing ---- */

/* A whole file under its final name, or none. */
static enum status write_file(const char *path, const char *text, mode_t mode, bool force)
{
    char temporary[PATH_MAX + 32];
    enum status status = STATUS_OK;

    snprintf(temporary, sizeof(temporary), "%s.tmp%d", path, (int)getpid());
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (file < 0)
        FAIL(STATUS_IO, "cannot write '%s': %s", temporary, strerror(errno));
    size_t n_bytes = strlen(text);
    if (fchmod(file, mode) != 0 || write(file, text, n_bytes) != (ssize_t)n_bytes ||
        fsync(file) != 0)
        status = status_set(STATUS_IO, "cannot write '%s': %s", temporary, strerror(errno));
    close(file);
    if (status == STATUS_OK && force && rename(temporary, path) != 0)
        status = status_set(STATUS_IO, "cannot rename '%s': %s", temporary, strerror(errno));
    if (status == STATUS_OK && !force && link(temporary, path) != 0)
        status = errno == EEXIST
                     ? status_set(STATUS_INVALID,
                                  "'%s' is there already; --force replaces it, and whoever knows "
                                  "the old key must be given the new one",
                                  path)
                     : status_set(STATUS_IO, "cannot make '%s': %s", path, strerror(errno));
    if (status != STATUS_OK || !force)
        unlink(temporary);
    return status;
}

/* What a list may have as a name: visible characters, none of them #. */
static bool is_name(const char *text, size_t n_bytes)
{
    if (n_bytes == 0 || n_bytes >= KEY_NAME_BYTES)
        return false;
    for (size_t i = 0; i < n_bytes; i++)
        if (text[i] <= ' ' || text[i] > '~' || text[i] == '#')
            return false;
    return true;
}

enum status key_pair_write(const struct key_pair *pair, const char *path, bool force)
{
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    char secret_path[PATH_MAX], public_path[PATH_MAX], text[256], hex[KEY_TEXT_BYTES];
    struct stat info;

    if (!is_name(name, strlen(name)) || strlen(path) + sizeof(".secret") > PATH_MAX)
        FAIL(STATUS_INVALID,
             "'%s' is no name for a key: wanted up to %d visible characters other than # after the "
             "folder",
             path, KEY_NAME_BYTES - 1);
    snprintf(secret_path, sizeof(secret_path), "%s.secret", path);
    snprintf(public_path, sizeof(public_path), "%s.public", path);
    if (!force && lstat(public_path, &info) == 0)
        FAIL(STATUS_INVALID, "'%s' is there already; --force replaces it and its secret",
             public_path);
    snprintf(text, sizeof(text), "%s%s\n", secret_word, key_format(&pair->secret_half, hex));
    enum status status = write_file(secret_path, text, 0600, force);
    explicit_bzero(text, sizeof(text));
    explicit_bzero(hex, sizeof(hex));
    if (status != STATUS_OK)
        return status;
    snprintf(text, sizeof(text), "%s %s\n", key_format(&pair->public_half, hex), name);
    status = write_file(public_path, text, 0644, force);
    if (status != STATUS_OK && !force)
        unlink(secret_path); /* made a moment ago: of no use alone */
    return status;
}

/* ---- reading ---- */

/* The whole file as text, ended by NUL; the caller wipes and frees it. */
static enum status read_file(char **out, size_t *n_bytes, const char *path, bool secret)
{
    enum status status = STATUS_OK;
    struct stat info;
    char *text = NULL;
    size_t n = 0;
    ssize_t got = 0;
    /* O_NONBLOCK: a FIFO would wait for a writer */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (file < 0)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "key file '%s': %s", path,
             strerror(errno));
    if (fstat(file, &info) != 0)
        FAIL_OUT(STATUS_IO, "key file '%s': %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size > KEY_FILE_MAX_BYTES)
        FAIL_OUT(STATUS_INVALID, "'%s' is no key file: wanted a regular file of at most %d bytes",
                 path, KEY_FILE_MAX_BYTES);
    if (secret && (info.st_mode & OTHERS_BITS) != 0)
        FAIL_OUT(STATUS_INVALID,
                 "secret key '%s' has mode %04o: others could read or change it; run: chmod 600 "
                 "'%s', and make a new key if others had access",
                 path, (unsigned)(info.st_mode & 07777), path);
    TRY_OUT(memory_alloc(&text, KEY_FILE_MAX_BYTES + 1, 1, "key file"));
    do {
        got = read(file, text + n, KEY_FILE_MAX_BYTES - n);
        n += got > 0 ? (size_t)got : 0;
    } while (got > 0 || (got < 0 && errno == EINTR));
    if (got < 0)
        FAIL_OUT(STATUS_IO, "key file '%s': %s", path, strerror(errno));
    *out = text;
    *n_bytes = n;
    text = NULL;
out:
    memory_free(text);
    close(file);
    return status;
}

enum status key_pair_read(struct key_pair *out, const char *path)
{
    const size_t n_word = sizeof(secret_word) - 1;
    enum status status = STATUS_OK;
    struct key_pair pair;
    char *text = NULL;
    size_t n = 0;

    TRY(read_file(&text, &n, path, true));
    size_t length = n;
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == '\r'))
        length--;
    if (length < n_word || memcmp(text, secret_word, n_word) != 0 ||
        !key_parse(&pair.secret_half, text + n_word, length - n_word))
        FAIL_OUT(STATUS_INVALID,
                 "'%s' is no secret key: wanted one line %s<64 hex digits>, as ibot-stream keygen "
                 "writes it into NAME.secret",
                 path, secret_word);
    TRY_OUT(complete_pair(&pair));
    *out = pair;
out:
    explicit_bzero(text, n);
    key_pair_wipe(&pair);
    memory_free(text);
    return status;
}

enum status key_read_public(struct key *out, const char *text_or_path)
{
    struct key_list list = {0};
    enum status status = STATUS_OK;

    if (key_parse(out, text_or_path, strlen(text_or_path)))
        return STATUS_OK;
    TRY(key_list_read(&list, text_or_path));
    if (list.n == 1)
        *out = list.keys[0].key;
    else
        status = status_set(STATUS_INVALID, "'%s' has %zu public keys; wanted one", text_or_path,
                            list.n);
    key_list_release(&list);
    return status;
}

enum status key_read_options(bool *used, struct key_pair *own, struct key *server,
                             const struct key_options *options)
{
    if ((options->key != NULL) != (options->server_key != NULL))
        FAIL(STATUS_INVALID, "--key (the own secret key) and --server_key (the trainers' public "
                             "key) belong together: give both or none");
    *used = options->key != NULL;
    if (!*used)
        return STATUS_OK;
    TRY(key_read_public(server, options->server_key));
    return key_pair_read(own, options->key);
}

/* ---- lists ---- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* One line without its end. Errors: STATUS_INVALID, STATUS_NO_MEMORY. */
static enum status parse_line(struct key_list *list, const char *line, size_t n, const char *path,
                              size_t number)
{
    const char *comment = memchr(line, '#', n);
    struct named_key entry = {.name = ""};
    size_t n_key = 0;

    n = comment != NULL ? (size_t)(comment - line) : n;
    for (; n > 0 && is_blank(line[0]); n--)
        line++;
    while (n > 0 && is_blank(line[n - 1]))
        n--;
    if (n == 0)
        return STATUS_OK;
    if (n >= sizeof(secret_word) - 1 && memcmp(line, secret_word, sizeof(secret_word) - 1) == 0)
        FAIL(STATUS_INVALID,
             "%s:%zu: a secret key, where public ones are wanted: give NAME.public, and keep "
             "NAME.secret where it is",
             path, number);
    while (n_key < n && !is_blank(line[n_key]))
        n_key++;
    if (!key_parse(&entry.key, line, n_key))
        FAIL(STATUS_INVALID, "%s:%zu: wanted 64 hex digits and a name, as in NAME.public", path,
             number);
    for (line += n_key, n -= n_key; n > 0 && is_blank(line[0]); n--)
        line++;
    if (n > 0 && !is_name(line, n))
        FAIL(STATUS_INVALID, "%s:%zu: after the key comes one name of up to %d visible characters",
             path, number, KEY_NAME_BYTES - 1);
    memcpy(entry.name, line, n);
    if (list->n == KEY_LIST_MAX)
        FAIL(STATUS_INVALID, "%s:%zu: more than %d keys", path, number, KEY_LIST_MAX);
    TRY(memory_grow(&list->keys, &list->capacity, list->n + 1, sizeof(entry), "keys"));
    list->keys[list->n++] = entry;
    return STATUS_OK;
}

enum status key_list_parse(struct key_list *out, const char *text, size_t n_bytes, const char *path)
{
    struct key_list list = {0};
    enum status status = STATUS_OK;
    size_t number = 1;

    for (const char *end = text + n_bytes; text < end && status == STATUS_OK; number++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        size_t n = stop != NULL ? (size_t)(stop - text) : (size_t)(end - text);
        status = parse_line(&list, text, n, path, number);
        text += n + (stop != NULL);
    }
    if (status != STATUS_OK) {
        key_list_release(&list);
        return status;
    }
    key_list_release(out);
    *out = list;
    return STATUS_OK;
}

enum status key_list_read(struct key_list *out, const char *path)
{
    char *text = NULL;
    size_t n = 0;

    TRY(read_file(&text, &n, path, false));
    enum status status = key_list_parse(out, text, n, path);
    memory_free(text);
    return status;
}

void key_list_release(struct key_list *list)
{
    if (list == NULL)
        return;
    memory_free(list->keys);
    *list = (struct key_list){0};
}

const struct named_key *key_list_find(const struct key_list *list, const struct key *key)
{
    for (size_t i = 0; i < list->n; i++)
        if (memcmp(list->keys[i].key.bytes, key->bytes, KEY_BYTES) == 0)
            return &list->keys[i];
    return NULL;
}
