/* Writing a zip archive of stored entries, as torch.save does: each entry's data begin at a
 * multiple of 64 bytes, sizes and places beyond 4 GiB take the zip64 form. The file appears whole
 * (atomic_file.h). */
#ifndef IBOT_TRAINER_WEIGHTS_ZIP_STORE_H
#define IBOT_TRAINER_WEIGHTS_ZIP_STORE_H

#include "trainer/weights/atomic_file.h"

struct zip_store_entry {
    char *name;
    uint64_t n_bytes, header_at;
    uint32_t crc;
};

struct zip_store {
    struct atomic_file file;
    struct zip_store_entry *entries;
    size_t n_entries, capacity;
};

enum status zip_store_open(struct zip_store *out, const char *path) IBOT_WARN_UNUSED;
/* One entry; names must differ. Errors: STATUS_IO. */
enum status zip_store_add(struct zip_store *zip, const char *name, const void *bytes,
                          size_t n_bytes) IBOT_WARN_UNUSED;
/* Writes the directory and gives the file its name. */
enum status zip_store_commit(struct zip_store *zip) IBOT_WARN_UNUSED;
void zip_store_close(struct zip_store *zip);

#endif
