/* The files of a recording: their names, their heads, which belong together. */
#include "proto/wire/recording.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/memory.h"
#include "proto/wire/tfrecord.h"

bool recording_path(char *out, size_t size, const char *folder, int32_t rank, int64_t step)
{
    int n = snprintf(out, size, "%s/rank%05d-step%012lld.tfrecord", folder, rank, (long long)step);
    return n > 0 && (size_t)n < size;
}

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
