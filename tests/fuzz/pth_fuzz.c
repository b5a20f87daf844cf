/* Any bytes as a file of weights, most of them PyTorch's: opened, every tensor read, names turned
 * into ours. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "trainer/weights/weight_selection.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes);

static void use(const struct weight_file *file)
{
    struct weight_selection selection;
    char text[512];
    uint64_t digest;

    if (strlen(weight_file_groups(file, text, sizeof(text))) >= sizeof(text))
        abort();
    if (weight_file_digest(file, &digest) != STATUS_OK && status_message()[0] == '\0')
        abort();
    for (size_t i = 0; i < file->n_entries; i++)
        if (weight_file_find(file, file->entries[i].group, file->entries[i].name) !=
            &file->entries[i])
            abort();
    if (weight_selection_open(&selection, file, NULL) != STATUS_OK)
        return;
    for (size_t i = 0; i < selection.n; i++) {
        const struct weight_selected *selected = &selection.tensors[i];
        char name[WEIGHT_MAX_NAME];
        weight_name_timm(selected->name, name);
        if (selected->backbone && weight_selection_find(&selection, selected->name) != selected)
            abort();
    }
    weight_selection_release(&selection);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n_bytes)
{
    struct weight_file file;
    char path[64];
    int descriptor = memfd_create("pth", MFD_CLOEXEC);

    if (descriptor < 0 || write(descriptor, bytes, n_bytes) != (ssize_t)n_bytes)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
    if (weight_file_open(&file, path) == STATUS_OK) {
        use(&file);
        weight_file_release(&file);
    }
    close(descriptor);
    return 0;
}
