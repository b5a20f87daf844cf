/* A column that computes nothing: what the loader's test takes for libibot_cuda.so. The ordinal of
 * the device says what it does. */
#include "tests/kernels/column_good.h"

#include "kernels/kernels.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

static void release(struct device *device)
{
    memory_free(device->state);
}

enum status kernels_device_open(struct device *out, int ordinal)
{
    char *state;

    switch (ordinal) {
    case COLUMN_FAILS:
        (void)status_set(STATUS_IO, "the cause");
        FAIL(STATUS_DEVICE, "device %d of %s: %s (%s)", ordinal, "the column", status_message(),
             status_name(STATUS_IO));
    case COLUMN_LOGS:
        log_error("device %d says: %s", ordinal, "100 %");
        return STATUS_OK;
    case COLUMN_BREAKS_A_PROMISE:
        CHECK(ordinal < 0, "ordinal %d of the column", ordinal);
        return STATUS_OK;
    default:
        TRY(memory_alloc(&state, 1, 16, "state of a device"));
        *out = (struct device){.kind = DEVICE_CUDA, .state = state, .close = release};
        return STATUS_OK;
    }
}

enum status kernels_op_table(const struct op_table **out)
{
    static const struct op_table table = {.name = "of the column"};

    *out = &table;
    return STATUS_OK;
}

enum status kernels_collective_open(struct collective *out, struct device *device,
                                    struct rank_monitor *ranks)
{
    (void)device;
    (void)ranks;
    *out = (struct collective){.rank = 3, .world = 4};
    return STATUS_OK;
}

enum status kernels_attention_by(struct device *device, enum attention_maker maker)
{
    (void)device;
    (void)maker;
    return STATUS_OK;
}
