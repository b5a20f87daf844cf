/* Temporary name, sync, rename, sync of the folder. */
#include "trainer/weights/atomic_file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/memory.h"

enum { MAX_WRITE_BYTES = 1 << 30 /* Linux writes at most 2 GiB at once */ };

enum status atomic_file_open(struct atomic_file *out, const char *path)
{
    struct atomic_file file = {.descriptor = -1};

    TRY(memory_strdup(&file.path, path));
    for (int i = 0; i < 1000; i++) {
        if (asprintf(&file.temporary, "%s.tmp-%ld-%d", path, (long)getpid(), i) < 0) {
            memory_free(file.path);
            FAIL(STATUS_NO_MEMORY, "no memory for a file name");
        }
        file.descriptor = open(file.temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file.descriptor >= 0) {
            *out = file;
            return STATUS_OK;
        }
        int error = errno;
        free(file.temporary);
        if (error == EEXIST)
            continue;
        memory_free(file.path);
        FAIL(STATUS_IO, "weights file '%s' can't be made: %s", path, strerror(error));
    }
    memory_free(file.path);
    FAIL(STATUS_IO, "weights file '%s': a thousand temporary files lie beside it; remove them",
         path);
}

enum status atomic_file_write_at(struct atomic_file *file, const void *bytes, size_t n_bytes,
                                 uint64_t at)
{
    const char *next = bytes;

    while (n_bytes > 0) {
        size_t part = n_bytes < MAX_WRITE_BYTES ? n_bytes : MAX_WRITE_BYTES;
        ssize_t n = pwrite(file->descriptor, next, part, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            FAIL(STATUS_IO,
                 "weights file '%s' can't be written: %s; what was there before is intact",
                 file->path, strerror(errno));
        next += n;
        at += (uint64_t)n;
        n_bytes -= (size_t)n;
    }
    return STATUS_OK;
}

enum status atomic_file_write(struct atomic_file *file, const void *bytes, size_t n_bytes)
{
    TRY(atomic_file_write_at(file, bytes, n_bytes, file->at));
    file->at += n_bytes;
    return STATUS_OK;
}

static enum status folder_sync(const char *path)
{
    enum status status = STATUS_OK;
    char *copy = NULL;
    int descriptor = -1;

    TRY(memory_strdup(&copy, path));
    const char *folder = dirname(copy);
    descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* EINVAL: a file system that knows no such sync keeps names in order by itself */
    if (descriptor < 0 || (fsync(descriptor) != 0 && errno != EINVAL))
        status = status_set(STATUS_IO, "folder '%s' can't be synced to disk: %s", folder,
                            strerror(errno));
    if (descriptor >= 0)
        close(descriptor);
    memory_free(copy);
    return status;
}

enum status atomic_file_commit(struct atomic_file *file)
{
    if (fsync(file->descriptor) != 0)
        FAIL(STATUS_IO, "weights file '%s' can't be synced to disk: %s", file->path,
             strerror(errno));
    int closed = close(file->descriptor);
    file->descriptor = -1;
    if (closed != 0)
        FAIL(STATUS_IO, "weights file '%s' can't be written: %s", file->path, strerror(errno));
    if (rename(file->temporary, file->path) != 0)
        FAIL(STATUS_IO, "'%s' can't be renamed to '%s': %s", file->temporary, file->path,
             strerror(errno));
    free(file->temporary);
    file->temporary = NULL;
    return folder_sync(file->path);
}

void atomic_file_close(struct atomic_file *file)
{
    if (file == NULL || file->path == NULL)
        return;
    if (file->descriptor >= 0)
        close(file->descriptor);
    if (file->temporary != NULL)
        unlink(file->temporary);
    free(file->temporary);
    memory_free(file->path);
    memset(file, 0, sizeof(*file));
}
