/* The queued device in the place of kernels/: programs linked with it compute on it when they are
 * asked for --backend cuda. */
#include "kernels/kernels.h"
#include "tests/support/queued_device.h"

enum status kernels_device_open(struct device *out, int ordinal)
{
    (void)ordinal;
    return queued_device_open(out, 1);
}

enum status kernels_op_table(const struct op_table **out)
{
    *out = &op_table_queued;
    return STATUS_OK;
}

enum status kernels_collective_open(struct collective *out, struct device *device,
                                    struct rank_monitor *ranks)
{
    (void)out;
    (void)device;
    (void)ranks;
    FAIL(STATUS_UNSUPPORTED, "the queued device works alone");
}

enum status kernels_attention_by(struct device *device, enum attention_maker maker)
{
    (void)device;
    (void)maker;
    return STATUS_OK;
}
