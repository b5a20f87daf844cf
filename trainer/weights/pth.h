/* PyTorch files, read without Python.
 *
 *   since 1.6   a zip archive, entries stored as they are: NAME/data.pkl (the object, a pickle),
 *               NAME/data/KEY (the bytes of one storage each), NAME/byteorder, NAME/version
 *   before      five pickles in a row (magic number, protocol, sizes of C types, the object, the
 *               keys of its storages), then for each key a count and the bytes
 *
 * Opening reads the object alone, through the restricted machine of pickle.h, and checks that each
 * storage is there with its size. Tensors are read one at a time, wherever the caller wants them.
 */
#ifndef IBOT_TRAINER_WEIGHTS_PTH_H
#define IBOT_TRAINER_WEIGHTS_PTH_H

#include "trainer/weights/pickle.h"

struct pth_place {     /* of a storage's bytes */
    uint64_t entry;    /* of the archive */
    const void *bytes; /* in the map of an old file */
};

struct pth {
    char *path;
    struct pickle object;
    struct pth_place *places; /* of object.storages */
    struct zip *archive;      /* NULL: an old file */
    void *map;                /* an old file */
    size_t map_bytes;
    bool legacy;
};

/* Whether the first bytes of a file look like a PyTorch file, so that pth_open can say more. */
bool pth_looks_like(const void *bytes, size_t n_bytes);
enum { PTH_MAGIC_BYTES = 16 }; /* as many as the question wants */

/* Errors: STATUS_NOT_FOUND, STATUS_IO, STATUS_CORRUPT (which rule), STATUS_UNSUPPORTED (a refused
 * name, TorchScript, compressed entries, big-endian data). */
enum status pth_open(struct pth *out, const char *path) IBOT_WARN_UNUSED;

/* All elements of a tensor in C order, little-endian, into out (n_elements times the type's size).
 * Checks the sum of the archive when the tensor is its whole storage. Errors: STATUS_IO,
 * STATUS_CORRUPT, STATUS_NO_MEMORY. */
enum status pth_read(struct pth *file, const struct pickle_tensor *tensor,
                     void *out) IBOT_WARN_UNUSED;

void pth_release(struct pth *file);

#endif
