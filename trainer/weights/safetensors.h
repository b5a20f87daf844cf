/* Safetensors files: an 8-byte little-endian header length, a JSON header, the bytes. Reading maps
 * the file; every rule of the format is enforced (no holes, no overlap, sizes that fit, at most
 * 100 MB of header), so hostile files end in STATUS_CORRUPT. Writing is atomic: temporary name in
 * the same folder, fsync, rename, fsync of the folder. */
#ifndef IBOT_TRAINER_WEIGHTS_SAFETENSORS_H
#define IBOT_TRAINER_WEIGHTS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "ops/tensor.h"
#include "proto/base/status.h"

struct safetensors_entry {
    char *name;
    struct tensor tensor;   /* data: into the mapping, read only; rank <= 4, trailing dims of 1 */
    int32_t file_rank;      /* as in the file (0..8) */
    int64_t file_shape[8];
    char file_dtype[8];     /* "F32", "I64", …; types that enum dtype lacks have tensor.data NULL */
    size_t offset, n_bytes; /* in the data part */
};

struct safetensors {
    struct safetensors_entry *entries; /* in file order of offsets */
    size_t n_entries;
    char **metadata;                   /* key, value, key, value, … */
    size_t n_metadata;                 /* pairs */
    void *map;
    size_t map_bytes;
    char *path;
};

/* Opens and checks. Errors: STATUS_NOT_FOUND, STATUS_IO, STATUS_CORRUPT (which rule), STATUS_NO_MEMORY. */
enum status safetensors_open(struct safetensors *out, const char *path) IBOT_WARN_UNUSED;

/* NULL when there is none of that name. Borrowed until release. */
const struct safetensors_entry *safetensors_find(const struct safetensors *file, const char *name);
const char *safetensors_metadata(const struct safetensors *file, const char *key);
void safetensors_release(struct safetensors *file);

/* One tensor to write; data in host memory. */
struct safetensors_item {
    const char *name;
    struct tensor tensor;
};

/* Writes all items and metadata pairs to `path`, atomically. Errors: STATUS_IO (disk full included:
 * the old file is intact), STATUS_INVALID (a name twice). */
enum status safetensors_write(const char *path, const struct safetensors_item *items,
                              size_t n_items, const char *const *metadata, size_t n_metadata_pairs)
    IBOT_WARN_UNUSED;

/* XXH3 over names, types, shapes and bytes of all tensors in file order. */
uint64_t safetensors_digest(const struct safetensors *file);

#endif
