/* Any bytes as a safetensors file: opened, every tensor touched, digest taken, released. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "trainer/weights/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct safetensors file;
    char path[64];
    unsigned sum = 0;
    int descriptor = memfd_create("safetensors", MFD_CLOEXEC);

    if (descriptor < 0 || write(descriptor, bytes, n_bytes) != (ssize_t)n_bytes)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    if (safetensors_open(&file, path) == STATUS_OK) {
        for (size_t i = 0; i < file.n_entries; i++) {
            const struct safetensors_entry *entry = &file.entries[i];
            const uint8_t *data = entry->tensor.data;
            for (size_t j = 0; data != NULL && j < tensor_size_bytes(&entry->tensor); j++)
                sum += data[j];
            if (safetensors_find(&file, entry->name) != entry)
                abort();
        }
        for (size_t i = 0; i < file.n_metadata; i++)
            if (safetensors_metadata(&file, file.metadata[2 * i]) == NULL)
                abort();
        sum += (unsigned)safetensors_digest(&file);
        safetensors_release(&file);
    }
    close(descriptor);
    static volatile unsigned sink;
    sink = sum;
    (void)sink;
    return 0;
}
