#include "trainer/eval/feature_rows.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "trainer/eval/features.h"

static const int64_t keep_every_ns = 60 * (int64_t)1000000000;

enum status feature_rows_folder(const char *folder)
{
    if (folder != NULL && mkdir(folder, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", folder, strerror(errno));
    return STATUS_OK;
}

static enum status take_kept(struct feature_rows *rows, const struct safetensors *file)
{
    const struct safetensors_entry *values = safetensors_find(file, "values");
    const char *of = safetensors_metadata(file, "of");

    if (values == NULL || of == NULL || values->tensor.dtype != DTYPE_F32 ||
        values->file_rank != 2 || values->file_shape[0] < 1)
        FAIL(STATUS_CORRUPT, "'%s': wanted 'values' [n, dim] F32 and what they are of; remove it",
             rows->path);
    if (strcmp(of, rows->identity) != 0 || values->file_shape[1] != rows->dim ||
        values->file_shape[0] > rows->n)
        FAIL(STATUS_MISMATCH,
             "'%s' has %lld rows of %lld of another run (%s), this one (%s) makes %lld of %d: give "
             "another --output_dir, or the same options",
             rows->path, (long long)values->file_shape[0], (long long)values->file_shape[1], of,
             rows->identity, (long long)rows->n, rows->dim);
    if (!features_are_finite(values->tensor.data, values->file_shape[0] * rows->dim))
        FAIL(STATUS_NOT_FINITE, "'%s': 'values' has some that are not finite; remove it",
             rows->path);
    memcpy(rows->values, values->tensor.data, values->n_bytes);
    rows->done = rows->kept = values->file_shape[0];
    return STATUS_OK;
}

enum status feature_rows_open(struct feature_rows *out, const char *folder, const char *name,
                              const char *identity, int64_t n, int32_t dim)
{
    struct safetensors file;
    enum status status = STATUS_OK;

    *out = (struct feature_rows){
        .n = n, .dim = dim, .name = name, .identity = identity, .kept_ns = clock_monotonic_ns()};
    TRY(memory_alloc(&out->values, (size_t)n * (size_t)dim, sizeof(float), "features"));
    if (folder == NULL)
        return STATUS_OK;
    int length = snprintf(out->path, sizeof(out->path), "%s/%s.safetensors", folder, name);
    if (length < 0 || (size_t)length >= sizeof(out->path))
        FAIL_OUT(STATUS_INVALID, "--output_dir %s: the path is too long", folder);
    if (access(out->path, F_OK) != 0)
        return STATUS_OK;
    TRY_OUT(safetensors_open(&file, out->path));
    status = take_kept(out, &file);
    safetensors_release(&file);
    if (status == STATUS_OK && out->done < n)
        log_info("%s: goes on after %lld of %lld images", name, (long long)out->done, (long long)n);
out:
    if (status != STATUS_OK)
        feature_rows_close(out);
    return status;
}

static enum status keep(struct feature_rows *rows)
{
    const struct safetensors_item item = {
        "values", tensor_2d(rows->values, DTYPE_F32, rows->done, rows->dim)};
    const char *metadata[] = {"of", rows->identity};

    rows->kept_ns = clock_monotonic_ns();
    if (rows->path[0] == '\0' || rows->kept == rows->done)
        return STATUS_OK;
    TRY(safetensors_write(rows->path, &item, 1, metadata, 1));
    rows->kept = rows->done;
    return STATUS_OK;
}

enum status feature_rows_add(struct feature_rows *rows, int64_t n, const atomic_int *stop)
{
    char line[160];

    CHECK(n >= 0 && rows->done + n <= rows->n);
    for (int64_t i = 0; i < n; i++)
        if (!features_are_finite(rows->values + (rows->done + i) * rows->dim, rows->dim))
            FAIL(STATUS_NOT_FINITE,
                 "%s: the features of image %lld are not finite: the weights are broken, or too "
                 "large for --precision",
                 rows->name, (long long)(rows->done + i));
    rows->done += n;
    snprintf(line, sizeof(line), "%s: %lld of %lld images", rows->name, (long long)rows->done,
             (long long)rows->n);
    log_status_line(rows->done < rows->n ? line : NULL);
    bool stopped = stop != NULL && atomic_load(stop) != 0 && rows->done < rows->n;
    if (stopped || rows->done == rows->n || clock_monotonic_ns() - rows->kept_ns > keep_every_ns)
        TRY(keep(rows));
    if (!stopped)
        return STATUS_OK;
    log_status_line(NULL);
    FAIL(STATUS_INTERRUPTED, "%s: interrupted after %lld of %lld images%s", rows->name,
         (long long)rows->done, (long long)rows->n,
         rows->path[0] != '\0' ? "; the same command goes on" : "");
}

void feature_rows_close(struct feature_rows *rows)
{
    if (rows == NULL)
        return;
    memory_free(rows->values);
    *rows = (struct feature_rows){0};
}
