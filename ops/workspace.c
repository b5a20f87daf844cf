/* Planned memory: slots are collected, then carved out of one allocation. */
#include "ops/workspace.h"

#include <stdint.h>
#include <string.h>

#include "proto/base/memory.h"

enum { SLOT_ALIGNMENT = 256 }; /* bytes: enough for every vector unit and for cuBLASLt */

enum status workspace_reserve(struct workspace *workspace, void *pointer, size_t bytes)
{
    CHECK(workspace->base == NULL, "a committed workspace can't grow");
    if (bytes > SIZE_MAX - SLOT_ALIGNMENT - workspace->size_bytes)
        FAIL(STATUS_NO_MEMORY, "workspace: %zu bytes more do not fit an address space", bytes);
    TRY(memory_grow(&workspace->slots, &workspace->capacity, workspace->n_slots + 1,
                    sizeof(*workspace->slots), "workspace slots"));
    workspace->slots[workspace->n_slots++] =
        (struct workspace_slot){.pointer = pointer, .offset = workspace->size_bytes};
    workspace->size_bytes += (bytes + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
    return STATUS_OK;
}

enum status workspace_commit(struct workspace *workspace, struct device *device, const char *what)
{
    CHECK(workspace->base == NULL, "a workspace is committed once");
    TRY(device->alloc(device, &workspace->base, workspace->size_bytes + SLOT_ALIGNMENT, what));
    workspace->device = device;
    TRY(device->zero(device, workspace->base, workspace->size_bytes));
    uintptr_t first = ((uintptr_t)workspace->base + SLOT_ALIGNMENT - 1) / SLOT_ALIGNMENT;
    char *start = (char *)workspace->base + (first * SLOT_ALIGNMENT - (uintptr_t)workspace->base);
    for (size_t i = 0; i < workspace->n_slots; i++)
        *workspace->slots[i].pointer = start + workspace->slots[i].offset;
    return STATUS_OK;
}

void workspace_release(struct workspace *workspace)
{
    if (workspace == NULL)
        return;
    if (workspace->base != NULL)
        workspace->device->free(workspace->device, workspace->base);
    memory_free(workspace->slots);
    memset(workspace, 0, sizeof(*workspace));
}

size_t workspace_largest_bytes(const struct workspace *workspace)
{
    size_t largest = 0;

    for (size_t i = 0; i < workspace->n_slots; i++) {
        size_t end =
            i + 1 < workspace->n_slots ? workspace->slots[i + 1].offset : workspace->size_bytes;
        size_t bytes = end - workspace->slots[i].offset;
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}
