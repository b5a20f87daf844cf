/* Planned memory: sizes first, then one allocation, then pointers. Nothing is allocated later.
 *
 *   workspace_reserve(&plan, &model->tokens, n_bytes);   // as often as needed
 *   TRY(workspace_commit(&plan, device, "activations")); // fills every pointer
 */
#ifndef IBOT_OPS_WORKSPACE_H
#define IBOT_OPS_WORKSPACE_H

#include <stddef.h>

#include "ops/device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct workspace_slot {
    void **pointer; /* borrowed: filled by commit */
    size_t offset;
};

struct workspace {
    struct workspace_slot *slots;
    size_t n_slots, capacity;
    size_t size_bytes;     /* planned so far, with padding to 256 bytes per slot */
    void *base;            /* the allocation, after commit */
    struct device *device; /* borrowed, after commit */
};

/* Plans `bytes` bytes (0 is fine) whose address goes to *pointer at commit. */
enum status workspace_reserve(struct workspace *workspace, void *pointer,
                              size_t bytes) IBOT_WARN_UNUSED;

/* Allocates all that was planned, zeroed, and fills the pointers. Once. */
enum status workspace_commit(struct workspace *workspace, struct device *device,
                             const char *what) IBOT_WARN_UNUSED;

/* The largest piece that was planned, with its padding. */
size_t workspace_largest_bytes(const struct workspace *workspace);

/* Frees the memory; the pointers that were filled are dead then. */
void workspace_release(struct workspace *workspace);

#ifdef __cplusplus
}
#endif

#endif
