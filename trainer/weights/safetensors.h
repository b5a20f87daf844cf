/* Safetensors files: an 8-byte little-endian header length, a JSON header, the bytes. Reading maps
 * the file; every rule of the format is enforced (no holes, no overlap, sizes that fit, at most
 * 100 MB of header), so hostile files end in STATUS_CORRUPT. Writing is atomic: temporary name in
 * the same folder, fsync, rename, fsync of the folder.
 *
 * A file that another process cuts short while it is mapped raises SIGBUS on access, as with every
 * mapping; writers that rename, such as ours, never do that. */
#ifndef IBOT_TRAINER_WEIGHTS_SAFETENSORS_H
#define IBOT_TRAINER_WEIGHTS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "ops/tensor.h"
#include "proto/base/status.h"
#include "trainer/weights/weight_record.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SAFETENSORS_MAX_RANK = 8, SAFETENSORS_MAX_HEADER_BYTES = 100000000 };

struct safetensors_entry {
    char *name;
    struct tensor tensor; /* data: into the mapping, read only, aligned for its type. Shape past
                             the rank is 1; of a file rank above 4, the last dimension is the
                             product of the rest */
    int32_t file_rank;    /* as in the file (0..8) */
    int64_t file_shape[SAFETENSORS_MAX_RANK];
    char file_dtype[8]; /* "F32", "I64", …; types that enum dtype lacks have tensor.data NULL */
    size_t offset, n_bytes; /* in the data part */
    void *aligned_copy;     /* where tensor.data points when the file puts it at an odd address */
};

struct safetensors {
    struct safetensors_entry *entries; /* in file order of offsets */
    size_t n_entries;
    char **metadata;   /* key, value, key, value, … */
    size_t n_metadata; /* pairs */
    void *map;
    size_t map_bytes;
    const void *bytes; /* the data part, in the mapping */
    char *path;
};

/* Opens and checks. Errors: STATUS_NOT_FOUND, STATUS_IO, STATUS_CORRUPT (which rule),
 * STATUS_UNSUPPORTED (more than 8 dimensions), STATUS_NO_MEMORY. */
enum status safetensors_open(struct safetensors *out, const char *path) IBOT_WARN_UNUSED;

/* The same without copies: tensor.data may lie at an address that does not suit its type. For those
 * who copy bytes, of files larger than memory. */
enum status safetensors_map(struct safetensors *out, const char *path) IBOT_WARN_UNUSED;

/* NULL when there is none of that name. Borrowed until release. */
const struct safetensors_entry *safetensors_find(const struct safetensors *file, const char *name);
const char *safetensors_metadata(const struct safetensors *file, const char *key);
void safetensors_release(struct safetensors *file);

/* One tensor to write; data in host memory. */
struct safetensors_item {
    const char *name;
    struct tensor tensor;
};

/* Writes all items and metadata pairs to `path`, atomically; wider types come first in the file, so
 * that every tensor is aligned. The temporary name is PATH.tmp-PID-N. Errors: STATUS_IO (disk full
 * included: the old file is intact), STATUS_INVALID (a name twice, no data, not UTF-8). */
enum status safetensors_write(const char *path, const struct safetensors_item *items,
                              size_t n_items, const char *const *metadata,
                              size_t n_metadata_pairs) IBOT_WARN_UNUSED;

/* The same for tensors of any type, which need not be in memory. */
enum status safetensors_write_records(const char *path, const struct weight_record *records,
                                      size_t n_records, const char *const *metadata,
                                      size_t n_metadata_pairs) IBOT_WARN_UNUSED;

/* XXH3 over names, types, shapes and bytes of all tensors in file order. */
uint64_t safetensors_digest(const struct safetensors *file);

#ifdef __cplusplus
}
#endif

#endif
