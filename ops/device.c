/* The host as a device: plain aligned memory, and copies that are done when they return. */
#include "ops/device.h"

#include <omp.h>
#include <string.h>

#include "ops/cpu_scratch.h"
#include "proto/base/memory.h"

struct cpu_state {
    void *scratch;
    size_t scratch_bytes;
};

static enum status cpu_alloc(struct device *device, void **out, size_t bytes, const char *what)
{
    (void)device;
    return memory_alloc(out, 1, bytes, what);
}

static void cpu_free(struct device *device, void *pointer)
{
    (void)device;
    memory_free(pointer);
}

static enum status cpu_copy_in(struct device *device, void *to, const void *from, size_t bytes)
{
    (void)device;
    if (bytes > 0)
        memcpy(to, from, bytes);
    return STATUS_OK;
}

static enum status cpu_zero(struct device *device, void *pointer, size_t bytes)
{
    (void)device;
    if (bytes > 0)
        memset(pointer, 0, bytes);
    return STATUS_OK;
}

/* Everything is done when it returns: nothing to begin, join or wait for. */
static enum status cpu_nothing(struct device *device)
{
    (void)device;
    return STATUS_OK;
}

static void cpu_use_branch(struct device *device, int branch)
{
    (void)device;
    (void)branch;
}

static enum status cpu_mark(struct device *device, int which)
{
    (void)device;
    CHECK(which >= 0 && which < DEVICE_MARKS, "mark %d", which);
    return STATUS_OK;
}

static void cpu_close(struct device *device)
{
    struct cpu_state *state = device->state;

    if (state != NULL)
        memory_free(state->scratch);
    memory_free(state);
}

enum status cpu_scratch(struct device *device, void *out, size_t bytes)
{
    struct cpu_state *state = device->state;

    if (state->scratch_bytes < bytes) {
        void *grown;
        TRY(memory_alloc(&grown, 1, bytes, "working memory of the CPU ops"));
        memory_free(state->scratch);
        state->scratch = grown;
        state->scratch_bytes = bytes;
    }
    *(void **)out = state->scratch;
    return STATUS_OK;
}

enum status device_open_cpu(struct device *out, int n_threads)
{
    if (n_threads < 0)
        FAIL(STATUS_INVALID, "threads: got %d, wanted 0 (all cores) or more", n_threads);
    struct cpu_state *state;
    TRY(memory_alloc(&state, 1, sizeof(*state), "CPU device"));
    if (n_threads > 0)
        omp_set_num_threads(n_threads);
    *out = (struct device){
        .kind = DEVICE_CPU,
        .n_threads = n_threads > 0 ? n_threads : omp_get_max_threads(),
        .state = state,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .alloc_host = cpu_alloc,
        .free_host = cpu_free,
        .copy_in = cpu_copy_in,
        .copy_out = cpu_copy_in,
        .copy = cpu_copy_in,
        .zero = cpu_zero,
        .synchronize = cpu_nothing,
        .upload_begin = cpu_nothing,
        .upload = cpu_copy_in,
        .upload_end = cpu_nothing,
        .fork = cpu_nothing,
        .use_branch = cpu_use_branch,
        .join = cpu_nothing,
        .place = cpu_mark,
        .after = cpu_mark,
        .mark = cpu_mark,
        .wait_mark = cpu_mark,
        .close = cpu_close,
    };
    return STATUS_OK;
}

void device_close(struct device *device)
{
    if (device != NULL && device->close != NULL)
        device->close(device);
    if (device != NULL)
        memset(device, 0, sizeof(*device));
}
