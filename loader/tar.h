/* Tar archives (ustar, GNU, pax) as they lie on disk: which members there are, and where their
 * bytes start. Nothing is unpacked. */
#ifndef IBOT_LOADER_TAR_H
#define IBOT_LOADER_TAR_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { TAR_BLOCK_BYTES = 512, TAR_MAX_NAME_BYTES = 4096 };

/* A plain file in an archive. */
struct tar_member {
    const char *name; /* as it is written there; valid during the visit */
    uint64_t offset;  /* of its first byte, in the file */
    uint64_t size;    /* bytes */
};

/* Called for each plain file, in order; a status other than STATUS_OK ends the walk. */
typedef enum status tar_visit(void *context, const struct tar_member *member);

/* Walks the archive that fills [offset, offset + size) of an open file. Folders, links and devices
 * are passed over. Errors: STATUS_CORRUPT (which byte, what is wrong), STATUS_UNSUPPORTED (it is
 * compressed), STATUS_IO, and what `visit` returns. */
enum status tar_walk(int file, uint64_t offset, uint64_t size, tar_visit *visit,
                     void *context) IBOT_WARN_UNUSED;

/* Whether these first bytes of a file look like a tar archive, or a compressed one. */
bool tar_is_archive(const uint8_t *bytes, size_t n_bytes);

/* Up to n_bytes at `offset`; *n_read is smaller only at the end of the file. Errors: STATUS_IO. */
enum status tar_read(int file, uint64_t offset, void *out, size_t n_bytes,
                     size_t *n_read) IBOT_WARN_UNUSED;

#endif
