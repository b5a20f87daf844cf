/* A file that appears whole or not at all: all bytes go to a temporary name in the same folder
 * (PATH.tmp-PID-N), reach the disk, and only then take the name; the folder is synced last, so that
 * the name itself survives a power cut. A crash or a full disk leaves what was there before. */
#ifndef IBOT_TRAINER_WEIGHTS_ATOMIC_FILE_H
#define IBOT_TRAINER_WEIGHTS_ATOMIC_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

struct atomic_file {
    char *path, *temporary; /* temporary NULL: not open */
    int descriptor;
    uint64_t at; /* bytes written */
};

/* Errors of all three: STATUS_IO, with the reason. */
enum status atomic_file_open(struct atomic_file *out, const char *path) IBOT_WARN_UNUSED;
enum status atomic_file_write(struct atomic_file *file, const void *bytes,
                              size_t n_bytes) IBOT_WARN_UNUSED;
/* Writes over what was written already; `at` stays. */
enum status atomic_file_write_at(struct atomic_file *file, const void *bytes, size_t n_bytes,
                                 uint64_t at) IBOT_WARN_UNUSED;
/* Gives the file its name, and closes. */
enum status atomic_file_commit(struct atomic_file *file) IBOT_WARN_UNUSED;

/* Closes; what was not committed is removed. */
void atomic_file_close(struct atomic_file *file);

#endif
