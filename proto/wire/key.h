/* CURVE keys: pairs, their files, and lists of public keys.
 *
 *   NAME.secret   secret:<64 hex digits>      0600; the public half follows from it
 *   NAME.public   <64 hex digits> NAME        for everybody; one line of a list
 *   list          lines as in NAME.public, blank lines, # comments: cat *.public > allowed_keys
 *
 * Hex rather than ZeroMQ's Z85, whose # and $ need quotes in run files and shells. */
#ifndef IBOT_PROTO_WIRE_KEY_H
#define IBOT_PROTO_WIRE_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum {
    KEY_BYTES = 32,
    KEY_TEXT_BYTES = 2 * KEY_BYTES + 1, /* hex digits and the end */
    KEY_NAME_BYTES = 64,
    KEY_LIST_MAX = 4096,            /* keys in a list */
    KEY_FILE_MAX_BYTES = 512 << 10, /* of any file of keys */
};

struct key {
    uint8_t bytes[KEY_BYTES];
};

/* Who a process is. Wipe it with key_pair_wipe. */
struct key_pair {
    struct key public_half, secret_half;
};

struct named_key {
    struct key key;
    char name[KEY_NAME_BYTES]; /* "" when the list gives none */
};

struct key_list {
    struct named_key *keys; /* owned */
    size_t n, capacity;
};

/* 64 hex digits. Returns `out`. */
const char *key_format(const struct key *key, char out[KEY_TEXT_BYTES]);

/* Reads 64 hex digits, no more and no less; false for anything else. */
bool key_parse(struct key *out, const char *text, size_t n_bytes);

/* Errors: STATUS_UNSUPPORTED (this ZeroMQ was built without CURVE). */
enum status key_pair_generate(struct key_pair *out) IBOT_WARN_UNUSED;
void key_pair_wipe(struct key_pair *pair);

/* Writes NAME.secret and NAME.public (`path` is a folder and NAME); overwrites with `force` alone.
 * Errors: STATUS_INVALID (there are such files, or the name is none), STATUS_IO. */
enum status key_pair_write(const struct key_pair *pair, const char *path,
                           bool force) IBOT_WARN_UNUSED;

/* Reads a secret file. One that others could read or change is refused: any of the mode bits 037
 * (a group may read: that is how Kubernetes hands out secrets). Errors: STATUS_INVALID,
 * STATUS_NOT_FOUND, STATUS_IO. */
enum status key_pair_read(struct key_pair *out, const char *path) IBOT_WARN_UNUSED;

/* A public key: 64 hex digits, or the file that has exactly one. Errors: as above. */
enum status key_read_public(struct key *out, const char *text_or_path) IBOT_WARN_UNUSED;

/* --key and --server_key of a program that connects (stream_rows.h), both or none; *used says
 * which. Errors: those of key_pair_read and key_read_public, STATUS_INVALID. */
struct key_options {
    const char *key, *server_key;
};
enum status key_read_options(bool *used, struct key_pair *own, struct key *server,
                             const struct key_options *options) IBOT_WARN_UNUSED;

/* Parses a list; `path` is for messages. The list is empty or as it was on failure. Errors:
 * STATUS_INVALID (names the line), STATUS_NO_MEMORY. */
enum status key_list_parse(struct key_list *out, const char *text, size_t n_bytes,
                           const char *path) IBOT_WARN_UNUSED;
enum status key_list_read(struct key_list *out, const char *path) IBOT_WARN_UNUSED;
void key_list_release(struct key_list *list);

/* The entry of this key, borrowed, or NULL. */
const struct named_key *key_list_find(const struct key_list *list, const struct key *key);

#endif
