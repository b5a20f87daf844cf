/* A restricted pickle machine: it turns the pickles that torch.save writes into plain values and
 * does nothing else. A pickle is a program; this one may build numbers, strings, lists, tuples,
 * dictionaries, namespaces, storages and tensors, and of numpy scalars and rows of numbers (arrays
 * of one dimension, which become lists), from the names in a fixed table. Any other name
 * or operation is refused and named. Nothing is ever looked up, called or executed.
 *
 *   bytes ──> machine (stack, marks, memo) ──> values, all in one arena, freed together
 *
 * Values may be shared and may form cycles, as in Python: walk them with a limit. Memory is in
 * proportion to the number of bytes read, whatever they say. */
#ifndef IBOT_TRAINER_WEIGHTS_PICKLE_H
#define IBOT_TRAINER_WEIGHTS_PICKLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "trainer/weights/weight_dtype.h"

enum { PICKLE_MAX_BYTES = 16 << 20 }; /* a checkpoint of ViT-L takes under one MiB */

enum pickle_kind {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,
    PICKLE_LONG, /* wider than 64 bits: its bytes, little-endian */
    PICKLE_FLOAT,
    PICKLE_STRING,
    PICKLE_BYTES,
    PICKLE_TUPLE,
    PICKLE_LIST,
    PICKLE_DICT,      /* OrderedDict too */
    PICKLE_NAMESPACE, /* argparse.Namespace */
    PICKLE_STORAGE,
    PICKLE_TENSOR,
    PICKLE_GLOBAL,      /* a known name that was not used up */
    PICKLE_NUMPY_DTYPE, /* of a numpy scalar or array, on its way to be one */
    PICKLE_NUMPY_ARRAY, /* on its way: becomes a list of its numbers when its state is known */
};

/* Which names are known. */
enum pickle_global {
    GLOBAL_ORDERED_DICT,
    GLOBAL_NAMESPACE,
    GLOBAL_REBUILD_TENSOR,
    GLOBAL_REBUILD_PARAMETER,
    GLOBAL_SIZE,
    GLOBAL_NUMPY_SCALAR,
    GLOBAL_NUMPY_DTYPE,
    GLOBAL_NUMPY_ARRAY, /* numpy.ndarray, the type */
    GLOBAL_NUMPY_RECONSTRUCT,
    GLOBAL_NUMPY_FROM_BUFFER,
    GLOBAL_ENCODE,
    GLOBAL_BYTES, /* of which there are none: how protocol 2 writes empty bytes */
    GLOBAL_STORAGE,
};

struct pickle_storage {
    enum weight_dtype dtype;
    const char *key; /* where its bytes are: an entry of the archive, or a number */
    int64_t n_elements;
    size_t index; /* of pickle.storages */
};

/* A view into a storage; checked to lie within it. Strides count elements. */
struct pickle_tensor {
    struct pickle_value *storage;
    int64_t offset, n_elements;
    int32_t rank;
    int64_t shape[WEIGHT_MAX_RANK], stride[WEIGHT_MAX_RANK];
};

struct pickle_value {
    enum pickle_kind kind;
    bool visiting; /* for those who walk: on the way down through this value */
    union {
        bool truth;
        int64_t integer;
        double real;
        struct {
            const char *text; /* a NUL follows, others may be within */
            size_t length;
        } string; /* STRING, BYTES, LONG */
        struct {
            struct pickle_value **items; /* DICT, NAMESPACE: key, value, key, value, … */
            size_t n, capacity;
        } sequence; /* TUPLE, LIST, DICT, NAMESPACE */
        struct pickle_storage storage;
        struct pickle_tensor *tensor;
        struct {
            enum pickle_global known;
            enum weight_dtype dtype; /* of GLOBAL_STORAGE and PICKLE_NUMPY_DTYPE */
        } global;
    };
};

struct pickle {
    struct pickle_value *root;
    struct pickle_value **storages; /* one for each mention; the same key may come again */
    size_t n_storages, storages_capacity;
    size_t n_bytes; /* how much of the input was read */
    struct pickle_chunk *chunks;
};

/* Runs one pickle at the start of `bytes`; `name` is for messages. Errors: STATUS_CORRUPT (which
 * rule, at which byte), STATUS_UNSUPPORTED (which name or operation was refused). */
enum status pickle_load(struct pickle *out, const void *bytes, size_t n_bytes,
                        const char *name) IBOT_WARN_UNUSED;
void pickle_release(struct pickle *pickle);

/* The value of a string key in a DICT or NAMESPACE, the last one if it is there twice; NULL: not
 * there, or `value` is neither. */
struct pickle_value *pickle_find(const struct pickle_value *value, const char *key);

/* False unless the value is of the kind: a whole number (BOOL is none), a number, a string without
 * NUL. */
bool pickle_integer(const struct pickle_value *value, int64_t *out);
bool pickle_number(const struct pickle_value *value, double *out);
const char *pickle_text(const struct pickle_value *value);

/* "a list", "the name torch.FloatStorage", … for messages. */
const char *pickle_kind_name(enum pickle_kind kind);

/* A value as Python would print it, cut where the room ends, for people. Returns `out`. */
const char *pickle_print(const struct pickle_value *value, char *out, size_t size);

#endif
