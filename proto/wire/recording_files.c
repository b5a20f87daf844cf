/* The files of a recording: their names, their heads, which belong together. */
#include "proto/wire/recording.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/wire/tfrecord.h"

bool recording_path(char *out, size_t size, const char *folder, int32_t rank, int64_t step)
{
    int n = snprintf(out, size, "%s/rank%05d-step%012lld.tfrecord", folder, rank, (long long)step);
    return n > 0 && (size_t)n < size;
}

/* ---- locks ---- */

static const int64_t lock_patience_ns = 2000000000; /* with ranks that clear the same folder */

enum status recording_lock(int *out, const char *path, bool shared)
{
    int64_t end_ns = clock_monotonic_ns() + lock_patience_ns;
    const struct timespec pause = {.tv_nsec = 10000000};
    struct stat info;
    char folder[4096];

    *out = -1;
    const char *slash = strrchr(path, '/');
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        snprintf(folder, sizeof(folder), "%s", path);
    else
        snprintf(folder, sizeof(folder), "%.*s", slash != NULL ? (int)(slash - path) + 1 : 1,
                 slash != NULL ? path : ".");
    int file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (file < 0)
        return STATUS_OK; /* what is wrong with it will be told by whoever reads it */
    while (flock(file, (shared ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
        bool busy = errno == EWOULDBLOCK;
        if (busy && clock_monotonic_ns() < end_ns) {
            nanosleep(&pause, NULL);
            continue;
        }
        close(file);
        if (!busy)
            return STATUS_OK; /* no locks here */
        FAIL(STATUS_TIMEOUT, "'%s' is in use", folder);
    }
    *out = file;
    return STATUS_OK;
}

/* ---- names and heads ---- */

static bool is_recording_name(const char *name)
{
    int rank, n = 0;
    long long step;

    return sscanf(name, "rank%d-step%lld.tfrecord%n", &rank, &step, &n) == 2 && n > 0 &&
           name[n] == '\0';
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

enum status recording_list(const char *folder, char ***out, size_t *n)
{
    char path[4096], **paths = NULL;
    size_t n_paths = 0, capacity = 0;
    enum status status = STATUS_OK;
    struct stat info;
    struct dirent *entry;
    DIR *dir = NULL;

    if (stat(folder, &info) != 0)
        FAIL(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "'%s': %s", folder, strerror(errno));
    if (!S_ISDIR(info.st_mode)) {
        TRY_OUT(memory_grow(&paths, &capacity, 1, sizeof(char *), "recorded files"));
        TRY_OUT(memory_strdup(&paths[0], folder));
        n_paths = 1;
    } else {
        dir = opendir(folder);
        if (dir == NULL)
            FAIL_OUT(STATUS_IO, "'%s': %s", folder, strerror(errno));
        while ((entry = readdir(dir)) != NULL) {
            if (!is_recording_name(entry->d_name))
                continue;
            if (n_paths == RECORDING_MAX_FILES)
                FAIL_OUT(STATUS_INVALID, "'%s' has more than %d files", folder,
                         RECORDING_MAX_FILES);
            if ((size_t)snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name) >=
                sizeof(path))
                FAIL_OUT(STATUS_INVALID, "'%s': the path is too long", folder);
            TRY_OUT(memory_grow(&paths, &capacity, n_paths + 1, sizeof(char *), "recorded files"));
            TRY_OUT(memory_strdup(&paths[n_paths], path));
            n_paths++;
        }
        if (n_paths > 0)
            qsort(paths, n_paths, sizeof(char *), by_name);
    }
    *out = paths;
    *n = n_paths;
    paths = NULL;
    n_paths = 0;
out:
    if (dir != NULL)
        closedir(dir);
    for (size_t i = 0; i < n_paths; i++)
        memory_free(paths[i]);
    memory_free(paths);
    return status;
}

enum status recording_head(const char *path, struct message *out, bool *found)
{
    struct tfrecord_reader *reader = NULL;
    struct record record;
    const uint8_t *bytes;
    size_t n_bytes;
    enum status status;

    *found = false;
    TRY(tfrecord_reader_open(&reader, path, MESSAGE_MAX_BYTES));
    status = tfrecord_reader_next(reader, &bytes, &n_bytes);
    if (status == STATUS_CLOSED || (status == STATUS_CORRUPT && tfrecord_reader_torn(reader))) {
        status = STATUS_OK;
        goto out;
    }
    if (status == STATUS_OK)
        status = record_split(&record, bytes, n_bytes, n_bytes);
    if (status == STATUS_OK)
        status = message_unpack(out, record.head, record.n_head);
    if (status == STATUS_CORRUPT || status == STATUS_INVALID) {
        char reason[512];
        snprintf(reason, sizeof(reason), "%s", status_message());
        FAIL_OUT(status, "'%s' is no recording that this program reads: %s", path, reason);
    }
    if (status != STATUS_OK)
        goto out;
    if (out->kind != MESSAGE_RECORDING)
        FAIL_OUT(STATUS_CORRUPT, "'%s' does not begin as a recording does: message kind %d", path,
                 (int)out->kind);
    if (out->recording.version != RECORDING_VERSION)
        FAIL_OUT(STATUS_MISMATCH,
                 "'%s' is a recording of version %u; this program reads version "
                 "%d: use the release that wrote it",
                 path, out->recording.version, RECORDING_VERSION);
    *found = true;
out:
    tfrecord_reader_close(&reader);
    return status;
}

enum { MESSAGE_FINISHED_MAX_BYTES = 64 };

enum status recording_is_whole(const char *path, bool *out)
{
    struct tfrecord_reader *reader = NULL;
    struct message *message = NULL;
    const uint8_t *bytes;
    size_t n_bytes, length;
    int n = 0;
    enum status status;

    *out = false;
    TRY(tfrecord_reader_open(&reader, path, SIZE_MAX / 8));
    TRY_OUT(memory_alloc(&message, 1, sizeof(*message), "message"));
    message->kind = MESSAGE_RECORDING;
    while ((status = tfrecord_reader_skim(reader, MESSAGE_MAX_BYTES, &bytes, &n_bytes, &length)) ==
           STATUS_OK) {
        n++;
        if (length > MESSAGE_FINISHED_MAX_BYTES ||
            message_unpack(message, bytes, n_bytes) != STATUS_OK)
            message->kind = MESSAGE_SLICE;
    }
    *out = status == STATUS_CLOSED && n > 2 && message->kind == MESSAGE_FINISHED;
    if (status == STATUS_CLOSED || status == STATUS_CORRUPT)
        status = STATUS_OK;
out:
    memory_free(message);
    tfrecord_reader_close(&reader);
    return status;
}

enum status recording_compare(const struct message_recording *a, const struct message_recording *b)
{
    const struct {
        const char *name;
        uint64_t a, b;
    } rows[] = {
        {"pixels", a->pixels, b->pixels},
        {"number of ranks", (uint64_t)a->world, (uint64_t)b->world},
        {"batch size", (uint64_t)a->batch_size, (uint64_t)b->batch_size},
        {"images in a record", (uint64_t)a->slice_size, (uint64_t)b->slice_size},
        {"steps in an epoch", (uint64_t)a->steps_per_epoch, (uint64_t)b->steps_per_epoch},
        {"data set's digest", a->index_digest, b->index_digest},
        {"data set's images", a->n_samples, b->n_samples},
        {"data set's classes", (uint64_t)a->n_classes, (uint64_t)b->n_classes},
        {"loaders' self test", a->self_test, b->self_test},
        {"data spec's digest", a->spec_digest, b->spec_digest},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (rows[i].a != rows[i].b)
            FAIL(STATUS_MISMATCH, "%s: %llu and %llu", rows[i].name, (unsigned long long)rows[i].a,
                 (unsigned long long)rows[i].b);
    return STATUS_OK;
}
